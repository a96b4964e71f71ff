//! The client's side of SCGI: one request a connection.

use super::http::{Endpoint, Response};
use super::variables::variables;

/// A netstring of these variables.
pub fn netstring(vars: &[(&str, &str)]) -> Vec<u8> {
    let block: String = vars.iter().map(|(name, value)| format!("{name}\0{value}\0")).collect();
    format!("{}:{block},", block.len()).into_bytes()
}

/// A request with the variables that nginx's `scgi_params` sends, and then `more`, which may name one again to replace it.
pub fn request(method: &str, target: &str, body: &[u8], more: &[(&str, &str)]) -> Vec<u8> {
    let path = target.split_once('?').map_or(target, |(path, _)| path);
    let length = body.len().to_string();
    // SCGI wants the length first.
    let own = [("CONTENT_LENGTH", length.as_str()), ("DOCUMENT_URI", path), ("SCGI", "1")];
    let vars = variables(&own, method, target, more);
    let mut bytes = netstring(&vars);
    bytes.extend_from_slice(body);
    bytes
}

/// Sends a request and its body, and reads the response.
#[track_caller]
pub fn exchange(endpoint: &Endpoint, method: &str, target: &str, body: &[u8], more: &[(&str, &str)]) -> Response {
    endpoint.connect().send(request(method, target, body, more)).response_to(method)
}
