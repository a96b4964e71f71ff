//! Behaviour of the application side, with an [`Exchange`](crate::gateway::Exchange) that records.

mod draft;
mod environ;
mod failure;
pub(super) mod fake;
mod input;
mod loader;
mod memory;
mod response;
mod thread;
