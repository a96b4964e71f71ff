//! Stub.

pub mod access;
