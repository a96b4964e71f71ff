//! The client's side of SCGI: one request a connection.

use super::http::{Endpoint, Response};

/// A netstring of these variables.
pub fn netstring(vars: &[(&str, &str)]) -> Vec<u8> {
    let block: String = vars.iter().map(|(name, value)| format!("{name}\0{value}\0")).collect();
    format!("{}:{block},", block.len()).into_bytes()
}

/// A request with the variables that nginx's `scgi_params` sends, and then `more`, which may name one again to replace it.
pub fn request(method: &str, target: &str, body: &[u8], more: &[(&str, &str)]) -> Vec<u8> {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let length = body.len().to_string();
    let mut vars = vec![
        ("CONTENT_LENGTH", length.as_str()),
        ("REQUEST_METHOD", method),
        ("REQUEST_URI", target),
        ("QUERY_STRING", query),
        ("CONTENT_TYPE", ""),
        ("DOCUMENT_URI", path),
        ("DOCUMENT_ROOT", "/srv/www"),
        ("SCGI", "1"),
        ("SERVER_PROTOCOL", "HTTP/1.1"),
        ("REQUEST_SCHEME", "http"),
        ("REMOTE_ADDR", "192.0.2.7"),
        ("REMOTE_PORT", "4711"),
        ("SERVER_PORT", "80"),
        ("SERVER_NAME", "front.example"),
        ("HTTP_HOST", "front.example"),
    ];
    for &(name, value) in more {
        vars.retain(|(known, _)| *known != name);
        vars.push((name, value));
    }
    let mut bytes = netstring(&vars);
    bytes.extend_from_slice(body);
    bytes
}

/// Sends a request and its body, and reads the response.
#[track_caller]
pub fn exchange(endpoint: &Endpoint, method: &str, target: &str, body: &[u8], more: &[(&str, &str)]) -> Response {
    endpoint.connect().send(request(method, target, body, more)).response_to(method)
}
