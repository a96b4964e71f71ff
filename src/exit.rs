//! Exit codes of the `rsgi` command, the same as uWSGI's where uWSGI has one.

/// Stopped in order.
pub const OK: u8 = 0;
/// A configuration or start-up error; the message says what, where and what to do.
pub const ERROR: u8 = 1;
/// The application could not be loaded at the first boot (uWSGI's `need-app` code).
pub const NO_APP: u8 = 22;
