//! Stub.
#[derive(Debug)]
pub struct Format;
