//! Addresses, listening sockets and accepted streams.

pub mod address;
pub mod listener;
pub mod stream;
