//! Stub.
use std::ffi::OsString;
use std::process::ExitCode;
/// Stub.
pub fn main(_args: Vec<OsString>) -> ExitCode {
    ExitCode::from(crate::exit::ERROR)
}
