//! The client's side of the uwsgi protocol: packets, and one exchange per connection.

use super::http::{Client, Endpoint, Response};
use super::variables::variables;

/// A packet with this modifier and these variables.
pub fn packet(modifier1: u8, vars: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in vars {
        for text in [name, value] {
            block.extend_from_slice(&(text.len() as u16).to_le_bytes());
            block.extend_from_slice(text.as_bytes());
        }
    }
    let mut out = vec![modifier1];
    out.extend_from_slice(&u16::try_from(block.len()).expect("at most 64 KiB").to_le_bytes());
    out.push(0);
    out.extend_from_slice(&block);
    out
}

/// The variables that nginx's `uwsgi_params` sends for a request, and then `more`, which may name
/// one again to replace it.
pub fn request<'a>(method: &'a str, target: &'a str, more: &[(&'a str, &'a str)]) -> Vec<u8> {
    let path = target.split_once('?').map_or(target, |(path, _)| path);
    let vars = variables(&[("CONTENT_LENGTH", ""), ("PATH_INFO", path)], method, target, more);
    packet(0, &vars)
}

/// Sends a request and its body, and reads the response.
#[track_caller]
pub fn exchange(endpoint: &Endpoint, method: &str, target: &str, body: &[u8], more: &[(&str, &str)]) -> Response {
    let length = if body.is_empty() { String::new() } else { body.len().to_string() };
    let mut vars = vec![("CONTENT_LENGTH", length.as_str())];
    vars.extend_from_slice(more);
    let mut client = endpoint.connect();
    client.send(request(method, target, &vars));
    client.send(body);
    client.response_to(method)
}

/// The answer to a ping, without judging it.
pub fn ping(client: &mut Client) -> Result<Vec<u8>, String> {
    client.try_send([100, 0, 0, 0]).map_err(|error| error.to_string())?;
    client.try_rest().map_err(|error| error.to_string())
}
