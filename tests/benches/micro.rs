//! What the parts of a request cost, one by one: reading its head, environ with the call of the application, the
//! head of the response.
//!
//!     cargo bench --bench micro
//!
//! The clock of the standard library is enough here, and no dependency: each figure is the best of many short rounds, which
//! is what repeats on a machine that others use too; distributions of times on such a machine describe the others.
//! Whether a change made something dearer is decided by tests/benches/instructions.

use std::any::Any;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use rsgi::gateway::{Body, Exchange, FilePart, Local, Payload, Peer, Sent};
use rsgi::interpreter;
use rsgi::protocol::Protocol;
use rsgi::protocol::http::head::{self, Limits};
use rsgi::protocol::request::{Parsed, Request, Version};
use rsgi::protocol::response::{Facts, Head};
use rsgi::protocol::uwsgi::{self, Packet};
use rsgi::wsgi::{LoadSpec, Options, load, with_app_thread};

const LIMITS: Limits = Limits { max_head: 65536, max_line: 65536 };
const DATE: &[u8] = b"Thu, 01 Jan 1970 00:00:00 GMT";
const ROUNDS: u32 = 40;
const ROUND_NS: u128 = 2_000_000;

const SHORT: &[u8] = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";
const BROWSER: &[u8] = b"GET /shop/articles/1234?sort=price&page=2 HTTP/1.1\r\nHost: www.example.org\r\n\
    Connection: keep-alive\r\nCache-Control: max-age=0\r\nUpgrade-Insecure-Requests: 1\r\n\
    User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/120.0.0.0 Safari/537.36\r\n\
    Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8\r\n\
    Sec-Fetch-Site: same-origin\r\nSec-Fetch-Mode: navigate\r\nSec-Fetch-User: ?1\r\nSec-Fetch-Dest: document\r\n\
    Referer: https://www.example.org/shop/\r\nAccept-Encoding: gzip, deflate, br\r\nAccept-Language: en-GB,en;q=0.9\r\n\
    Cookie: session=0123456789abcdef0123456789abcdef; csrftoken=0123456789abcdef0123456789abcdef\r\n\r\n";

const HELLO: &str = "
def application(environ, start_response):
    start_response('200 OK', [('Content-Type', 'text/plain'), ('Content-Length', '13')])
    return [b'Hello, world\\n']
";
/// Nothing of its own: what remains are environ, the call and the response.
const TWENTY: &str = "
HEADERS = [('Content-Type', 'text/plain'), ('Content-Length', '13')] + [(f'X-Header-{n}', f'value {n}') for n in range(18)]
BODY = [b'Hello, world\\n']
def application(environ, start_response):
    start_response('200 OK', HEADERS)
    return BODY
";

/// Nanoseconds of one call, at best.
fn best(mut call: impl FnMut()) -> f64 {
    let mut count = 1;
    let mut best = f64::MAX;
    let mut rounds = 0;
    while rounds < ROUNDS {
        let start = Instant::now();
        for _ in 0..count {
            call();
        }
        let time = start.elapsed().as_nanos();
        if time < ROUND_NS {
            count *= 2;
            continue;
        }
        best = best.min(time as f64 / f64::from(count));
        rounds += 1;
    }
    best
}

fn show(name: &str, call: impl FnMut()) {
    use std::io::Write;
    let _ = writeln!(std::io::stdout(), "{name:<44} {:8.0} ns", best(call));
}

fn packet(variables: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for text in variables.iter().flat_map(|(name, value)| [name, value]) {
        block.extend_from_slice(&(text.len() as u16).to_le_bytes());
        block.extend_from_slice(text.as_bytes());
    }
    let mut out = vec![0, block.len() as u8, (block.len() >> 8) as u8, 0];
    out.extend_from_slice(&block);
    out
}

fn parsing() {
    let mut request = Request::default();
    for (name, bytes) in [("parse: HTTP, a short head", SHORT), ("parse: HTTP, a browser's head", BROWSER)] {
        show(name, || {
            assert_eq!(head::parse(black_box(bytes), 0, &LIMITS, &mut request), Parsed::Complete);
        });
    }
    let packet = packet(&[
        ("QUERY_STRING", "sort=price&page=2"),
        ("REQUEST_METHOD", "GET"),
        ("CONTENT_TYPE", ""),
        ("CONTENT_LENGTH", ""),
        ("REQUEST_URI", "/shop/articles/1234?sort=price&page=2"),
        ("PATH_INFO", "/shop/articles/1234"),
        ("DOCUMENT_ROOT", "/srv/www"),
        ("SERVER_PROTOCOL", "HTTP/1.1"),
        ("REQUEST_SCHEME", "https"),
        ("HTTPS", "on"),
        ("REMOTE_ADDR", "192.0.2.7"),
        ("REMOTE_PORT", "4711"),
        ("SERVER_PORT", "443"),
        ("SERVER_NAME", "www.example.org"),
        ("HTTP_HOST", "www.example.org"),
        ("HTTP_USER_AGENT", "Mozilla/5.0 (X11; Linux x86_64)"),
        ("HTTP_ACCEPT", "text/html,application/xhtml+xml"),
        ("HTTP_COOKIE", "session=0123456789abcdef0123456789abcdef"),
    ]);
    show("parse: uwsgi, what nginx sends", || {
        assert!(matches!(uwsgi::parse(black_box(&packet), &LIMITS, &mut request), Packet::Request));
    });
}

fn facts(total: Option<u64>) -> Facts<'static> {
    Facts {
        version: Version::Http11,
        head_request: false,
        protocol: Protocol::Http,
        keep_alive: true,
        total,
        date: DATE,
    }
}

fn rendering() {
    let mut head = Head::new();
    for fields in [2, 20] {
        let names: Vec<String> = (0..fields - 1).map(|n| format!("X-Header-{n}")).collect();
        show(&format!("response head: {fields} fields"), || {
            head.clear();
            let mut field = |name: &[u8], value: &[u8]| head.field(name, value).expect("a good field");
            field(b"Content-Length", b"13");
            for name in &names {
                field(black_box(name).as_bytes(), b"a value of some length");
            }
            head.start(b"200 OK").expect("a good status");
            head.finish(&facts(Some(13)));
            black_box(head.bytes());
        });
    }
}

/// A connection that is always there: the same request again and again, and whoever listens to nothing.
struct Fake {
    request: Request,
    head: &'static [u8],
    local: Local,
    peer: Peer,
    sent: bool,
}

impl Exchange for Fake {
    fn request(&self) -> (&Request, &[u8]) {
        (&self.request, self.head)
    }
    fn local(&self) -> &Local {
        &self.local
    }
    fn peer(&self) -> &Peer {
        &self.peer
    }
    fn take_body(&mut self) -> Body {
        Body::Empty
    }
    fn send(&mut self, head: &mut Head, piece: Payload<'_>, total: Option<u64>) -> Sent {
        if !std::mem::replace(&mut self.sent, true) {
            head.finish(&facts(total));
            black_box(head.bytes());
        }
        black_box(piece.bytes);
        Sent::Taken
    }
    fn send_file(&mut self, _: &mut Head, _: FilePart) -> Sent {
        Sent::Gone
    }

    fn head_sent(&self) -> bool {
        self.sent
    }
    fn wait_for_room(&mut self) -> bool {
        true
    }
    fn finish(&mut self, _head: &mut Head) {
        self.sent = false;
    }
    fn fail(&mut self, status: u16) {
        panic!("the application failed: {status}");
    }
    fn limit_time(&mut self, _limit: std::time::Duration, _thread: Arc<dyn Any + Send + Sync>) {}

    fn count_exception(&mut self) {}
    fn into_any(self: Box<Self>) -> Box<dyn Any + Send> {
        self
    }
}

fn applications() {
    interpreter::start(&interpreter::Spec::default()).expect("Python starts");
    let options = Options {
        threads: 1,
        processes: 1,
        manage_script_name: false,
        fastcgi_stderr: false,
        file_wrapper: true,
        run_once: false,
    };
    let folder = tempfile::tempdir().expect("a temporary folder");
    for (name, source) in [("hello", HELLO), ("20 response fields", TWENTY)] {
        let file = folder.path().join(format!("{}.py", name.replace(' ', "_")));
        std::fs::write(&file, source).expect("the application");
        let spec = LoadSpec {
            wsgi_file: Some((file.display().to_string(), "here".into())),
            need_app: true,
            ..LoadSpec::default()
        };
        let apps = pyo3::Python::attach(|py| load(py, &spec)).unwrap_or_else(|error| panic!("{}", error.cause));
        let apps = Arc::new(apps);
        for (kind, bytes) in [("a short head", SHORT), ("a browser's head", BROWSER)] {
            let mut request = Request::default();
            assert_eq!(head::parse(bytes, 0, &LIMITS, &mut request), Parsed::Complete);
            let local =
                Local { index: 0, protocol: Protocol::Http, server_name: "box".into(), server_port: "8000".into() };
            let peer = Peer { addr: "192.0.2.7".into(), port: "4711".into() };
            let fake = Fake { request, head: bytes, local, peer, sent: false };
            with_app_thread(&apps, &options, 0, |thread| {
                let mut exchange: Option<Box<dyn Exchange>> = Some(Box::new(fake));
                show(&format!("environ, {name}, response head: {kind}"), || {
                    exchange = exchange.take().map(|exchange| thread.serve(exchange));
                });
            });
        }
    }
}

fn main() {
    parsing();
    rendering();
    applications();
}
