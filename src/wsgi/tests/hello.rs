//! The usual case.

use super::fake::{Fake, Outcome, serve};

const HELLO: &str = "
def application(environ, start_response):
    start_response('200 OK', [('Content-Type', 'text/plain')])
    return [b'Hello ', environ['PATH_INFO'].encode()]
";

#[test]
fn hello_is_served_with_its_length() {
    let done = serve(HELLO, Fake::get("/w%6frld?x"));
    assert_eq!(done.text(), "Hello /world");
    assert_eq!(done.outcome, Outcome::Finished);
    assert!(done.head_text().starts_with("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 12\r\n"));
    assert_eq!(done.exceptions, 0);
}
