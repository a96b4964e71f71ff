//! Stub.
pub mod access;
