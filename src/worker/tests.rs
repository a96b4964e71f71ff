//! Connections without an application: what bytes become at every split, and what is refused how.

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::clock::now;
use super::connection::{Connection, Phase, Step};
use super::migrate::Letter;
use super::reactor::Reactor;
use super::standby::Standby;
use super::work::Spare;
use super::{HarakiriLimits, Options, Worker};
use crate::config::Timeouts;
use crate::gateway::{Body, Exchange, Local, Payload, Peer, Sent};
use crate::net::stream::Stream;
use crate::protocol::Protocol;
use crate::protocol::forwarded::Trusted;
use crate::protocol::http::head::Limits;
use crate::protocol::response::Head;
use crate::scoreboard::Scoreboard;

pub(super) fn worker(change: impl FnOnce(&mut Options)) -> Arc<Worker> {
    let second = Duration::from_secs(1);
    let mut options = Options {
        threads: 1,
        processes: 1,
        shares_processors: false,
        limits: Limits { max_head: 65536, max_line: 16384 },
        limit_post: 0,
        post_buffering: Some(100),
        response_buffer: 1 << 20,
        timeouts: Timeouts {
            head: 10 * second,
            body: 30 * second,
            body_rate: 100,
            write: 60 * second,
            keep_alive: 75 * second,
            linger: second,
        },
        quota: super::Quota::default(),
        mercy: std::time::Duration::from_secs(60),
        harakiri: HarakiriLimits::default(),
        measures_busyness: false,
        keeps_time: false,
        tells_stacks: false,
        trusted: None,
        host_name: "host".into(),
        access: None,
        sendfile: true,
    };
    change(&mut options);
    let (control, _) = UnixStream::pair().unwrap();
    let local = |index, protocol| Local { index, protocol, server_name: "host".into(), server_port: "80".into() };
    Arc::new(Worker {
        id: 1,
        parent: nix::unistd::getppid(),
        meter: super::Meter::new(&options.quota),
        harakiri: OnceLock::new(),
        paused: AtomicBool::new(false),
        options,
        locals: vec![local(0, Protocol::Http), local(1, Protocol::Uwsgi), local(2, Protocol::Http)],
        proxied: vec![false, false, true],
        addresses: vec!["127.0.0.1:80".into(), "@app".into(), "127.0.0.1:81".into()],
        mailboxes: Arc::new(crate::mailbox::Mailboxes::create(1).unwrap()),
        zone: super::access::zone(),
        scoreboard: Arc::new(Scoreboard::create(1, 1).unwrap()),
        control: OwnedFd::from(control),
        retiring: AtomicBool::new(false),
        closing: AtomicBool::new(false),
        reactor: Reactor::new(false).unwrap(),
        standby: Standby::new(1),
        witness: super::stacks::Witness::new(1),
        outputs: vec![Default::default()],
    })
}

struct Client {
    socket: UnixStream,
    connection: Box<Connection>,
    spare: Spare,
}

impl Client {
    fn new(worker: &Arc<Worker>, listener: usize) -> Client {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        theirs.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let stream = Stream::new(OwnedFd::from(ours));
        let connection = Connection::new(worker, stream, listener, Peer::default());
        Client { socket: theirs, connection, spare: Spare::default() }
    }

    fn send(&mut self, bytes: &[u8]) -> Step {
        self.socket.write_all(bytes).unwrap();
        self.connection.meet(Some(false), &mut self.spare)
    }

    /// Everything the server wrote until it closed for writing.
    fn answer(&mut self) -> String {
        let mut all = Vec::new();
        self.socket.read_to_end(&mut all).unwrap();
        String::from_utf8(all).unwrap()
    }

    /// What is there right now.
    fn received(&mut self) -> String {
        let mut some = [0u8; 65536];
        let count = self.socket.read(&mut some).unwrap();
        String::from_utf8_lossy(&some[..count]).into_owned()
    }

    /// Runs the request as an application would that answers with `body`.
    fn respond(&mut self, body: &[u8]) -> Step {
        self.connection.begin_response(0);
        let mut head = Head::new();
        head.start(b"200 OK").unwrap();
        let mut keep = || -> crate::gateway::Kept { Box::new(body.to_vec()) };
        self.connection.send(&mut head, Payload { bytes: body, keep: &mut keep }, Some(body.len() as u64));
        self.connection.finish(&mut head);
        self.connection.after_response(&mut self.spare)
    }

    fn body(&mut self) -> Vec<u8> {
        match self.connection.take_body() {
            Body::Empty => Vec::new(),
            Body::Memory(bytes) => bytes,
            Body::File { mut file, len } => {
                let mut all = Vec::new();
                file.read_to_end(&mut all).unwrap();
                assert_eq!(all.len() as u64, len);
                all
            }
            Body::Stream(_) => panic!("streamed"),
        }
    }

    fn target(&self) -> String {
        let (request, head) = self.connection.request();
        String::from_utf8(request.target.of(head).to_vec()).unwrap()
    }
}

#[test]
fn a_request_is_the_same_however_its_bytes_are_split() {
    let worker = worker(|_| {});
    let big = "x".repeat(300);
    let chunked = format!(
        "POST /c HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n12c\r\n{big}\r\n0\r\n\r\n"
    );
    let long = format!("POST /l HTTP/1.1\r\nHost: h\r\nContent-Length: 300\r\n\r\n{big}");
    for (text, target, body) in [
        ("GET /a?b HTTP/1.1\r\nHost: h\r\n\r\n".to_string(), "/a?b", String::new()),
        ("POST /p HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello".to_string(), "/p", "hello".into()),
        (chunked, "/c", format!("abc{big}")),
        (long, "/l", big.clone()),
    ] {
        for split in 1..text.len() {
            let mut client = Client::new(&worker, 0);
            assert_eq!(client.send(&text.as_bytes()[..split]), Step::Wait, "{text:?} at {split}");
            assert_eq!(client.send(&text.as_bytes()[split..]), Step::Request, "{text:?} at {split}");
            assert_eq!(client.target(), target);
            assert_eq!(client.body(), body.as_bytes(), "{text:?} at {split}");
        }
    }
}

#[test]
fn pipelined_requests_come_one_after_the_other() {
    let worker = worker(|_| {});
    let mut client = Client::new(&worker, 0);
    let both = "POST /1 HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\noneGET /2 HTTP/1.1\r\nHost: h\r\n\r\nGET /3 HT";
    assert_eq!(client.send(both.as_bytes()), Step::Request);
    assert_eq!(client.target(), "/1");
    assert_eq!(client.body(), b"one");
    assert_eq!(client.respond(b"1"), Step::Request);
    assert_eq!(client.target(), "/2");
    assert_eq!(client.body(), b"");
    assert_eq!(client.respond(b"2"), Step::Wait);
    assert_eq!(client.send(b"TP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"), Step::Request);
    assert_eq!(client.target(), "/3");
    assert_eq!(client.respond(b"3"), Step::Close);
    drop(client.connection);
    let mut all = String::new();
    client.socket.read_to_string(&mut all).unwrap();
    assert_eq!(all.matches("HTTP/1.1 200 OK\r\n").count(), 3, "{all}");
    assert!(all.ends_with("\r\n\r\n3"), "{all}");
}

#[test]
fn a_client_with_many_requests_lets_others_go_first_now_and_then() {
    let worker = worker(|_| {});
    let mut client = Client::new(&worker, 0);
    assert_eq!(client.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n".repeat(100).as_bytes()), Step::Request);
    let steps: Vec<Step> = (0..99)
        .map(|_| match client.respond(b"1") {
            Step::Again => {
                assert_eq!(client.connection.meet(Some(false), &mut client.spare), Step::Request);
                Step::Again
            }
            step => step,
        })
        .collect();
    assert!(steps.iter().filter(|step| **step == Step::Again).count() >= 5, "{steps:?}");
    assert!(steps.iter().filter(|step| **step == Step::Request).count() >= 80, "{steps:?}");
    assert_eq!(client.respond(b"1"), Step::Wait);
}

#[test]
fn a_request_that_cannot_be_accepted_gets_its_status_and_the_rest_is_drained() {
    let worker = worker(|options| options.limit_post = 10);
    for (text, status) in [
        ("GET / HTTP/1.1\r\n\r\n", "400"),
        ("GET / HTTP/3.0\r\nHost: h\r\n\r\n", "505"),
        ("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 11\r\n\r\n", "413"),
        ("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nff\r\n12345678901", "413"),
        ("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n", "400"),
    ] {
        let mut client = Client::new(&worker, 0);
        assert_eq!(client.send(text.as_bytes()), Step::Wait, "{text:?}");
        assert_eq!(client.connection.phase, Phase::Linger);
        assert_eq!(client.send(&[b'x'; 100_000]), Step::Wait);
        let answer = client.answer();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{text:?}: {answer}");
        assert!(answer.to_lowercase().contains("connection: close"), "{answer}");
        drop(client.socket.shutdown(std::net::Shutdown::Both));
        assert_eq!(client.connection.meet(Some(true), &mut client.spare), Step::Close);
    }
}

#[test]
fn an_expected_100_is_sent_once_the_length_is_allowed() {
    let worker = worker(|options| options.limit_post = 10);
    let head = |len| format!("POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: {len}\r\n\r\n");
    let mut client = Client::new(&worker, 0);
    assert_eq!(client.send(head(4).as_bytes()), Step::Wait);
    assert_eq!(client.received(), "HTTP/1.1 100 Continue\r\n\r\n");
    assert_eq!(client.send(b"body"), Step::Request);
    assert_eq!(client.body(), b"body");
    let mut refused = Client::new(&worker, 0);
    refused.send(head(11).as_bytes());
    assert!(refused.answer().starts_with("HTTP/1.1 413 "));
}

#[test]
fn deadlines_answer_408_for_a_slow_head_or_body_and_nothing_when_idle() {
    let worker = worker(|_| {});
    for text in ["GET / HTT", "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nab"] {
        let mut client = Client::new(&worker, 0);
        assert_eq!(client.send(text.as_bytes()), Step::Wait);
        client.connection.meet(None, &mut client.spare);
        assert!(client.answer().starts_with("HTTP/1.1 408 "), "{text}");
    }
    let mut idle = Client::new(&worker, 0);
    assert_eq!(idle.send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"), Step::Request);
    assert_eq!(idle.respond(b"x"), Step::Wait);
    assert!(idle.connection.work.is_none(), "an idle connection keeps no buffers");
    assert_eq!(idle.connection.meet(None, &mut idle.spare), Step::Close);
}

#[test]
fn a_request_that_came_before_the_end_of_its_connection_is_served() {
    let mut client = Client::new(&worker(|_| ()), 0);
    client.socket.write_all(b"GET /late HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    // Nobody had looked before the time was over.
    assert_eq!(client.connection.meet(None, &mut client.spare), Step::Request);
    assert_eq!(client.target(), "/late");
    let mut client = Client::new(&worker(|_| ()), 0);
    assert_eq!(client.connection.meet(None, &mut client.spare), Step::Close);
}

#[test]
fn a_slow_head_keeps_little_more_memory_than_it_sent() {
    let worker = worker(|_| {});
    let mut client = Client::new(&worker, 0);
    client.send(b"GET / HTTP/1.1\r\nHos");
    assert!(client.connection.work().input.len() < 4096);
}

#[test]
fn uwsgi_packets_are_requests_and_the_connection_ends_with_the_response() {
    let worker = worker(|_| {});
    let vars = [("REQUEST_METHOD", "POST"), ("REQUEST_URI", "/u"), ("PATH_INFO", "/u"), ("CONTENT_LENGTH", "4")];
    let mut block = Vec::new();
    for text in vars.iter().flat_map(|(name, value)| [name, value]) {
        block.extend_from_slice(&(text.len() as u16).to_le_bytes());
        block.extend_from_slice(text.as_bytes());
    }
    let mut packet = vec![0];
    packet.extend_from_slice(&(block.len() as u16).to_le_bytes());
    packet.push(0);
    packet.extend_from_slice(&block);
    packet.extend_from_slice(b"body");
    for split in 1..packet.len() {
        let mut client = Client::new(&worker, 1);
        assert_eq!(client.send(&packet[..split]), Step::Wait);
        assert_eq!(client.send(&packet[split..]), Step::Request);
        assert_eq!(client.target(), "/u");
        assert_eq!(client.body(), b"body");
        assert_eq!(client.respond(b"done"), Step::Close);
    }
    let mut ping = Client::new(&worker, 1);
    ping.send(&[100, 0, 0, 0]);
    let mut pong = [0u8; 4];
    ping.socket.read_exact(&mut pong).unwrap();
    assert_eq!(pong, [100, 0, 0, 1]);
    let mut other = Client::new(&worker, 1);
    other.send(&[5, 0, 0, 0]);
    assert!(other.answer().contains(" 501 "));
}

#[test]
fn a_response_longer_than_its_length_is_cut_to_it_and_a_shorter_one_cuts_the_connection() {
    let worker = worker(|_| {});
    for (body, expected) in [(&b"hello world"[..], Sent::Gone), (&b"hi"[..], Sent::Taken)] {
        let mut client = Client::new(&worker, 0);
        client.send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n");
        client.connection.begin_response(0);
        let mut head = Head::new();
        head.start(b"200 OK").unwrap();
        head.field(b"Content-Length", b"5").unwrap();
        let mut keep = || -> crate::gateway::Kept { Box::new(body.to_vec()) };
        assert_eq!(client.connection.send(&mut head, Payload { bytes: body, keep: &mut keep }, None), expected);
        client.connection.finish(&mut head);
        let step = client.connection.after_response(&mut client.spare);
        let received = client.received();
        if body.len() > 5 {
            assert_eq!(step, Step::Wait, "the connection goes on");
            assert!(received.ends_with("\r\n\r\nhello"), "{received}");
        } else {
            assert_eq!(step, Step::Close);
            assert!(received.ends_with("\r\n\r\nhi"), "{received}");
        }
    }
}

#[test]
fn a_streamed_body_is_read_by_the_application_and_errors_when_the_request_is_over() {
    let worker = worker(|options| options.post_buffering = None);
    let mut client = Client::new(&worker, 0);
    let text = "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n";
    assert_eq!(client.send(text.as_bytes()), Step::Request);
    let Body::Stream(mut source) = client.connection.take_body() else { panic!("not streamed") };
    let mut buf = [0u8; 10];
    assert_eq!(source.read(&mut buf).unwrap(), 3);
    client.socket.write_all(b"2\r\nde\r\n0\r\n\r\nGET /next HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
    assert_eq!(source.read(&mut buf).unwrap(), 2);
    assert_eq!(source.read(&mut buf).unwrap(), 0);
    assert_eq!(client.respond(b"ok"), Step::Request);
    assert_eq!(client.target(), "/next");
    assert!(source.read(&mut buf).is_err());
}

#[test]
fn a_connection_moves_with_what_was_read_of_it() {
    let worker = worker(|_| {});
    let whole = "POST /m HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\nbodyGET /next HTTP/1.1\r\nHost: h\r\n\r\n";
    for split in 0..whole.len() {
        let mut client = Client::new(&worker, 0);
        client.send(&whole.as_bytes()[..split]);
        let Some(packed) = client.connection.pack(1) else {
            assert_eq!(client.connection.phase, Phase::Body, "only a body on its way stays");
            continue;
        };
        let letter = Letter::decode(&packed.letter).unwrap();
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let connection = Connection::adopt(&worker, Stream::new(OwnedFd::from(ours)), 0, &letter, None);
        let mut moved = Client { socket: theirs, connection, spare: Spare::default() };
        assert_eq!(moved.send(&whole.as_bytes()[split..]), Step::Request);
        assert_eq!(moved.target(), "/m");
        assert_eq!(moved.body(), b"body");
        assert_eq!(moved.respond(b""), Step::Request);
        assert_eq!(moved.target(), "/next");
    }
}

/// What becomes of a connection with this complete request, given away and taken over.
fn moved(worker: &Arc<Worker>, request: &[u8]) -> Client {
    let mut client = Client::new(worker, 0);
    assert_eq!(client.send(request), Step::Request);
    let packed = client.connection.pack(1).expect("it can move");
    let letter = Letter::decode(&packed.letter).unwrap();
    let file = packed.spooled.or_else(|| client.connection.body_file().map(|file| file.try_clone().unwrap()));
    let (ours, theirs) = UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    let stream = Stream::new(OwnedFd::from(ours));
    Client { socket: theirs, connection: Connection::adopt(worker, stream, 0, &letter, file), spare: Spare::default() }
}

#[test]
fn a_request_moves_whatever_its_body_is() {
    let long = vec![b'x'; 200_000];
    let mut of_long = format!("POST /m HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n\r\n", long.len()).into_bytes();
    of_long.extend_from_slice(&long);
    let of_chunks = b"POST /m HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n".to_vec();
    let of_none = b"POST /m HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".to_vec();
    for (buffering, mut request, body) in [
        (Some(65536), of_none, &b""[..]),
        (Some(65536), of_chunks.clone(), b"body"),
        (Some(65536), of_long.clone(), &long),
        (Some(1 << 20), of_long, &long),
        (Some(2), of_chunks, b"body"),
    ] {
        let worker = worker(|options| options.post_buffering = buffering);
        request.extend_from_slice(b"GET /next HTTP/1.1\r\nHost: h\r\n\r\n");
        let mut moved = moved(&worker, &request);
        assert_eq!(moved.connection.step(&mut moved.spare), Step::Request);
        assert_eq!(moved.target(), "/m");
        assert!(moved.body() == body, "{buffering:?}");
        assert_eq!(moved.respond(b""), Step::Request);
        assert_eq!(moved.target(), "/next");
    }
}

#[test]
fn a_request_whose_body_the_application_will_read_moves_before_it_does() {
    let worker = worker(|options| options.post_buffering = None);
    let text = b"POST /m HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n";
    let mut moved = moved(&worker, text);
    assert_eq!(moved.connection.step(&mut moved.spare), Step::Request);
    let Body::Stream(mut source) = moved.connection.take_body() else { panic!("not streamed") };
    let mut buf = [0u8; 10];
    assert_eq!(source.read(&mut buf).unwrap(), 3);
}

#[test]
fn nothing_of_a_refused_client_is_left_for_the_next() {
    let worker = worker(|_| {});
    let mut refused = Client::new(&worker, 0);
    refused.send(b"GET / HTTP/1.1\r\nBroken\r\n\r\n");
    let mut next = Client::new(&worker, 0);
    next.spare = std::mem::take(&mut refused.spare);
    assert_eq!(next.send(b"GET /next HTTP/1.1\r\nHost: h\r\n\r\n"), Step::Request);
    assert_eq!(next.target(), "/next");
}

/// What a connection is told by a header of the PROXY protocol.
const V2: &[u8] =
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x13\xc0\x00\x02\x07\x0a\x00\x00\x01\x12\x67\x00\x50\x04\x00\x04abcd";

#[test]
fn a_proxy_header_may_be_split_anywhere_and_moves_with_its_connection() {
    let (one, two) = (worker(|_| {}), worker(|_| {}));
    for header in [&b"PROXY TCP4 192.0.2.7 10.0.0.1 4711 80\r\n"[..], V2] {
        let text = [header, b"GET /a HTTP/1.1\r\nHost: h\r\n\r\nGET /b HTTP/1.1\r\nHost: h\r\n\r\n"].concat();
        for split in 0..header.len() + 28 {
            let mut client = Client::new(&one, 2);
            assert_eq!(client.send(&text[..split]), Step::Wait, "{split}");
            // To another worker, whatever has come.
            let letter = client.connection.pack(1).unwrap().letter;
            let stream = Stream::new(nix::unistd::dup(std::os::fd::AsFd::as_fd(&client.connection.io.stream)).unwrap());
            client.connection = Connection::adopt(&two, stream, 2, &Letter::decode(&letter).unwrap(), None);
            client.connection.meet(Some(false), &mut client.spare);
            assert_eq!(client.send(&text[split..]), Step::Request, "{split}");
            assert_eq!(
                (client.target().as_str(), client.connection.peer().addr.as_str()),
                ("/a", "192.0.2.7"),
                "{split}"
            );
            assert_eq!(client.connection.peer().port, "4711");
            // The next request has no header of its own.
            assert_eq!(client.respond(b"a"), Step::Request);
            assert_eq!((client.target().as_str(), client.connection.peer().addr.as_str()), ("/b", "192.0.2.7"));
        }
    }
}

#[test]
fn without_a_proxy_header_a_connection_is_closed_in_silence() {
    let worker = worker(|_| {});
    for bytes in [&b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"[..], b"PROXY nonsense\r\n", b"\r\n\r\n\0\r\nQUIT\n\x41"] {
        let mut client = Client::new(&worker, 2);
        assert_eq!(client.send(bytes), Step::Close);
        drop(client.connection);
        let mut all = Vec::new();
        // Bytes that nobody has read may make it a reset.
        let _ = client.socket.read_to_end(&mut all);
        assert!(all.is_empty());
    }
    // It has as long as a head.
    let mut client = Client::new(&worker, 2);
    assert_eq!(client.send(b"PROXY TCP4 192"), Step::Wait);
    assert!(client.connection.deadline <= now() + 10_000);
    assert_eq!(client.connection.meet(None, &mut client.spare), Step::Close);
    // What the proxy asks for itself has the socket's address.
    for header in [&b"PROXY UNKNOWN\r\n"[..], b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00"] {
        let mut client = Client::new(&worker, 2);
        assert_eq!(client.send(&[header, b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"].concat()), Step::Request);
        assert_eq!(client.connection.peer(), &Peer::default());
    }
}

#[test]
fn trusted_proxies_are_believed_anew_in_each_request() {
    let worker = worker(|options| {
        let mut trusted = Trusted::default();
        trusted.add("unix 10.0.0.0/8").unwrap();
        options.trusted = Some(trusted);
    });
    let mut client = Client::new(&worker, 0);
    let with = |fields: &str| format!("GET / HTTP/1.1\r\nHost: h\r\n{fields}\r\n").into_bytes();
    assert_eq!(
        client.send(&with("X-Forwarded-For: 192.0.2.7, 10.1.1.1\r\nX-Forwarded-Proto: https\r\n")),
        Step::Request
    );
    assert_eq!(client.connection.peer().addr, "192.0.2.7");
    assert_eq!(client.connection.told().and_then(|told| told.scheme), Some("https"));
    assert_eq!(client.respond(b"1"), Step::Wait);
    assert_eq!(client.send(&with("")), Step::Request);
    assert_eq!((client.connection.peer().addr.as_str(), client.connection.told()), ("", None));
}

#[test]
fn a_body_below_its_rate_is_too_late_whatever_comes() {
    let worker = worker(|options| {
        options.timeouts.body = Duration::from_millis(1);
        options.timeouts.body_rate = 1;
    });
    let mut client = Client::new(&worker, 0);
    let head = b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 100\r\n\r\n";
    assert_eq!(client.send(head), Step::Wait);
    // Three seconds' worth of bytes do not lengthen the silence that may follow.
    assert_eq!(client.send(b"abc"), Step::Wait);
    assert!(client.connection.deadline <= now() + 1);
    assert_eq!(client.connection.meet(None, &mut client.spare), Step::Wait);
    assert!(client.answer().starts_with("HTTP/1.1 408 "));
}
