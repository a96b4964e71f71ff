//! Response heads and framing (stub with the agreed surface).

/// A response head under construction.
#[derive(Debug, Default)]
pub struct Head;
