//! Behaviour of the application side, with an [`Exchange`](crate::gateway::Exchange) that records.

mod fake;
mod hello;
