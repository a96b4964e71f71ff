//! HTTP/1.1 (RFC 9112): request heads and the chunked transfer coding.

pub mod chunked;
pub mod head;
