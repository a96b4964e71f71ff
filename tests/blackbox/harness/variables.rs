//! What a web server tells a gateway about a request: the variables that nginx's parameter files have in common.

/// The variables of a request from 192.0.2.7 to `http://front.example`, with `own` of the protocol before them, and then
/// `more`, which may name one again to replace it.
pub fn variables<'a>(
    own: &[(&'a str, &'a str)],
    method: &'a str,
    target: &'a str,
    more: &[(&'a str, &'a str)],
) -> Vec<(&'a str, &'a str)> {
    let mut vars = own.to_vec();
    vars.extend([
        ("REQUEST_METHOD", method),
        ("REQUEST_URI", target),
        ("QUERY_STRING", target.split_once('?').map_or("", |(_, query)| query)),
        ("CONTENT_TYPE", ""),
        ("DOCUMENT_ROOT", "/srv/www"),
        ("SERVER_PROTOCOL", "HTTP/1.1"),
        ("REQUEST_SCHEME", "http"),
        ("REMOTE_ADDR", "192.0.2.7"),
        ("REMOTE_PORT", "4711"),
        ("SERVER_PORT", "80"),
        ("SERVER_NAME", "front.example"),
        ("HTTP_HOST", "front.example"),
    ]);
    for &(name, value) in more {
        vars.retain(|(known, _)| *known != name);
        vars.push((name, value));
    }
    vars
}

/// What an application sees of `GET /environ?a=%20b` with them.
pub const SEEN: [(&str, &str); 12] = [
    ("REQUEST_METHOD", "GET"),
    ("PATH_INFO", "/environ"),
    ("QUERY_STRING", "a=%20b"),
    ("REQUEST_URI", "/environ?a=%20b"),
    ("SERVER_PROTOCOL", "HTTP/1.1"),
    ("REMOTE_ADDR", "192.0.2.7"),
    ("REMOTE_PORT", "4711"),
    ("SERVER_NAME", "front.example"),
    ("SERVER_PORT", "80"),
    ("HTTP_HOST", "front.example"),
    ("DOCUMENT_ROOT", "/srv/www"),
    ("wsgi.url_scheme", "http"),
];
