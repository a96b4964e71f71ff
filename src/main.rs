//! The `rsgi` command. Everything is in the library, so that the command installed by pip
//! (`extension.rs`) runs the very same code.

use std::process::ExitCode;

fn main() -> ExitCode {
    rsgi::boot::main(std::env::args_os().collect())
}
