//! The master.
pub mod children;
pub mod command;
