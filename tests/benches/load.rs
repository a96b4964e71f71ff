//! The load generator of tests/benches/compare: one thread, fast enough to keep a server busy that shares nothing with it.
//!
//!     load closed ADDRESS [--connections 64] [--seconds 3] [--requests N] [--path /] [--post BYTES] [--close]
//!                         [--uwsgi] [--interval-us N]
//!     load slow ADDRESS   [--connections 200] [--seconds 3]
//!     load idle ADDRESS   [--connections 10000]
//!
//! `closed`: each connection asks, waits for the whole response, and asks again; `--interval-us` apart if that is longer.
//! `slow`: as many clients that send a head byte by byte, that send a body byte by byte (of 10 bytes) or KiB by KiB (of 1 MB), and
//! that read 1 MB at 1 KiB a second.
//! `idle`: connections that have asked once, and wait; it says `ready` and holds them until its input ends.
//! ADDRESS is HOST:PORT or a path. The result is one line of JSON; times are in microseconds.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::process::exit;
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use nix::sys::resource::{Resource, UsageWho, getrlimit, getrusage, setrlimit};
use nix::sys::time::TimeValLike;
use socket2::{Domain, SockAddr, Socket, Type};

/// A request that gets no response for so long has failed.
const PATIENCE: Duration = Duration::from_secs(10);

struct Options {
    address: SockAddr,
    connections: usize,
    seconds: f64,
    requests: u64,
    path: String,
    post: Option<usize>,
    close: bool,
    uwsgi: bool,
    interval: Duration,
}

fn fail(text: &str) -> ! {
    eprintln!("load: {text}");
    exit(2)
}

fn number<T: std::str::FromStr>(text: Option<String>) -> T {
    text.and_then(|text| text.parse().ok()).unwrap_or_else(|| fail("an option needs a number"))
}

fn options(mut words: impl Iterator<Item = String>, connections: usize) -> Options {
    let address = words.next().unwrap_or_else(|| fail("an address is missing"));
    let address = match address.parse::<SocketAddr>() {
        Ok(address) => address.into(),
        Err(_) => SockAddr::unix(&address).unwrap_or_else(|error| fail(&format!("{address}: {error}"))),
    };
    let mut options = Options {
        address,
        connections,
        seconds: 3.0,
        requests: u64::MAX,
        path: "/".into(),
        post: None,
        close: false,
        uwsgi: false,
        interval: Duration::ZERO,
    };
    while let Some(word) = words.next() {
        match word.as_str() {
            "--connections" => options.connections = number(words.next()),
            "--seconds" => options.seconds = number(words.next()),
            "--requests" => options.requests = number(words.next()),
            "--path" => options.path = words.next().unwrap_or_else(|| fail("--path needs a path")),
            "--post" => options.post = Some(number(words.next())),
            "--close" => options.close = true,
            "--uwsgi" => (options.uwsgi, options.close) = (true, true),
            "--interval-us" => options.interval = Duration::from_micros(number(words.next())),
            _ => fail(&format!("unknown option {word}")),
        }
    }
    options
}

impl Options {
    fn connect(&self) -> io::Result<Socket> {
        let socket = Socket::new(self.address.domain(), Type::STREAM.nonblocking().cloexec(), None)?;
        if self.address.domain() != Domain::UNIX {
            socket.set_tcp_nodelay(true)?;
        }
        match socket.connect(&self.address) {
            Err(error) if error.raw_os_error() != Some(nix::libc::EINPROGRESS) => Err(error),
            _ => Ok(socket),
        }
    }

    /// The request, as it goes over the wire.
    fn request(&self) -> Vec<u8> {
        let body = vec![b'x'; self.post.unwrap_or(0)];
        let method = if self.post.is_some() { "POST" } else { "GET" };
        let length = body.len().to_string();
        let mut out = Vec::new();
        if self.uwsgi {
            let (path, query) = self.path.split_once('?').unwrap_or((&self.path, ""));
            let variables = [
                ("QUERY_STRING", query),
                ("REQUEST_METHOD", method),
                ("CONTENT_TYPE", ""),
                ("CONTENT_LENGTH", if body.is_empty() { "" } else { &length }),
                ("REQUEST_URI", &self.path),
                ("PATH_INFO", path),
                ("DOCUMENT_ROOT", "/srv/www"),
                ("SERVER_PROTOCOL", "HTTP/1.1"),
                ("REQUEST_SCHEME", "http"),
                ("REMOTE_ADDR", "192.0.2.7"),
                ("REMOTE_PORT", "4711"),
                ("SERVER_PORT", "80"),
                ("SERVER_NAME", "localhost"),
                ("HTTP_HOST", "localhost"),
            ];
            let mut block = Vec::new();
            for text in variables.iter().flat_map(|(name, value)| [name, value]) {
                block.extend_from_slice(&(text.len() as u16).to_le_bytes());
                block.extend_from_slice(text.as_bytes());
            }
            out.push(0);
            out.extend_from_slice(&(block.len() as u16).to_le_bytes());
            out.push(0);
            out.extend_from_slice(&block);
        } else {
            out.extend_from_slice(format!("{method} {} HTTP/1.1\r\nHost: localhost\r\n", self.path).as_bytes());
            if self.post.is_some() {
                out.extend_from_slice(format!("Content-Length: {length}\r\n").as_bytes());
            }
            out.extend_from_slice(if self.close { b"Connection: close\r\n\r\n" } else { b"\r\n" });
        }
        out.extend_from_slice(&body);
        out
    }
}

/// How far a response has been read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Head,
    /// So many bytes are still to come.
    Body(u64),
    /// A chunk's size line comes next, or with so many bytes before it.
    Chunks(u64),
    UntilClose,
    Done,
}

/// Reads one response.
struct Response {
    part: Part,
    kept: Vec<u8>,
    status_is_200: bool,
    closes: bool,
    bytes: u64,
}

impl Response {
    fn new() -> Response {
        Response { part: Part::Head, kept: Vec::new(), status_is_200: false, closes: false, bytes: 0 }
    }

    /// Takes what came; false when it is no response.
    fn take(&mut self, mut bytes: &[u8]) -> bool {
        self.bytes += bytes.len() as u64;
        loop {
            match self.part {
                Part::Head => {
                    let Some(rest) = self.head(bytes) else { return self.kept.len() < 65536 };
                    bytes = &bytes[rest..];
                    if self.part == Part::Head {
                        return false;
                    }
                }
                Part::Body(left) => {
                    let now = left.min(bytes.len() as u64);
                    self.part = if now == left { Part::Done } else { Part::Body(left - now) };
                    bytes = &bytes[now as usize..];
                    if self.part != Part::Done {
                        return true;
                    }
                }
                Part::Chunks(left) if left > 0 => {
                    let now = left.min(bytes.len() as u64);
                    self.part = Part::Chunks(left - now);
                    bytes = &bytes[now as usize..];
                    if left > now {
                        return true;
                    }
                }
                Part::Chunks(_) => {
                    let Some(end) = memchr::memchr(b'\n', bytes) else {
                        self.kept.extend_from_slice(bytes);
                        return self.kept.len() < 100;
                    };
                    self.kept.extend_from_slice(&bytes[..=end]);
                    bytes = &bytes[end + 1..];
                    let digits = self.kept.iter().take_while(|byte| byte.is_ascii_hexdigit());
                    let size =
                        digits.fold(0, |sum, digit| sum * 16 + u64::from((*digit as char).to_digit(16).unwrap_or(0)));
                    let blank = self.kept.iter().all(|byte| matches!(byte, b'\r' | b'\n'));
                    let last = size == 0 && !blank && self.kept.starts_with(b"0");
                    self.kept.clear();
                    // The line behind the last chunk's size is blank: trailers are not expected here.
                    self.part = if last { Part::Body(2) } else { Part::Chunks(if blank { 0 } else { size }) };
                }
                Part::UntilClose => return true,
                // More than was asked for.
                Part::Done => return bytes.is_empty(),
            }
        }
    }

    /// Looks for the end of the head; gives the number of bytes of `bytes` that belong to it.
    fn head(&mut self, bytes: &[u8]) -> Option<usize> {
        let before = self.kept.len();
        let whole: &[u8] = if before == 0 {
            bytes
        } else {
            self.kept.extend_from_slice(bytes);
            &self.kept
        };
        let Some(end) = memchr::memmem::find(whole, b"\r\n\r\n") else {
            if before == 0 {
                self.kept.extend_from_slice(bytes);
            }
            return None;
        };
        let head = &whole[..end + 4];
        self.status_is_200 = head.get(8..12) == Some(b" 200");
        let mut part = Part::UntilClose;
        for line in head.split(|byte| *byte == b'\n').skip(1) {
            let Some(colon) = memchr::memchr(b':', line) else { continue };
            let value = line[colon + 1..].trim_ascii();
            match colon {
                14 if line[..colon].eq_ignore_ascii_case(b"content-length") => {
                    let Ok(length) = std::str::from_utf8(value).unwrap_or("").parse() else {
                        return Some(end + 4 - before);
                    };
                    part = Part::Body(length);
                }
                17 if line[..colon].eq_ignore_ascii_case(b"transfer-encoding") => part = Part::Chunks(0),
                10 if line[..colon].eq_ignore_ascii_case(b"connection") => {
                    self.closes = value.eq_ignore_ascii_case(b"close");
                }
                _ => {}
            }
        }
        self.part = if head.starts_with(b"HTTP/1.") { part } else { Part::Head };
        self.kept.clear();
        Some(end + 4 - before)
    }

    fn closed(&mut self) {
        if self.part == Part::UntilClose {
            self.part = Part::Done;
        }
    }
}

/// One client of a closed loop.
struct Client {
    socket: Option<Socket>,
    /// Bytes of the request that are out.
    sent: usize,
    response: Response,
    /// When the request was due, which is when its time begins.
    began: Instant,
    waits: bool,
}

#[derive(Default)]
struct Totals {
    /// Nanoseconds of each.
    times: Vec<u32>,
    bytes: u64,
    errors: u64,
    connects: u64,
    first_error: Option<String>,
}

impl Totals {
    fn error(&mut self, what: impl std::fmt::Display) {
        self.errors += 1;
        self.first_error.get_or_insert_with(|| what.to_string());
    }
}

struct Closed<'a> {
    options: &'a Options,
    poll: Poll,
    request: Vec<u8>,
    clients: Vec<Client>,
    due: BinaryHeap<Reverse<(Instant, usize)>>,
    totals: Totals,
    buffer: Vec<u8>,
}

impl Closed<'_> {
    /// Sends the next request of a client.
    fn begin(&mut self, number: usize, now: Instant) {
        let client = &mut self.clients[number];
        client.began = now;
        client.sent = 0;
        client.response.part = Part::Head;
        client.response.kept.clear();
        client.response.bytes = 0;
        client.waits = true;
        let fresh = client.socket.is_none();
        if fresh {
            match self.options.connect() {
                Ok(socket) => {
                    client.socket = Some(socket);
                    self.totals.connects += 1;
                }
                // The listen queue of a unix socket is full.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    client.waits = false;
                    self.due.push(Reverse((now + Duration::from_micros(200), number)));
                    return;
                }
                Err(error) => {
                    self.totals.error(format!("connect: {error}"));
                    client.waits = false;
                    self.due.push(Reverse((now + Duration::from_millis(5), number)));
                    return;
                }
            }
        }
        self.send(number);
        if fresh && let Some(socket) = &self.clients[number].socket {
            // What is out needs no word that there is room: each would cost the server a wake-up.
            let all_sent = self.clients[number].sent == self.request.len() && self.options.post.is_none();
            let interest = if all_sent { Interest::READABLE } else { Interest::READABLE | Interest::WRITABLE };
            let fd = socket.as_raw_fd();
            if let Err(error) = self.poll.registry().register(&mut SourceFd(&fd), Token(number), interest) {
                fail(&format!("a connection cannot be watched: {error}"));
            }
        }
    }

    fn send(&mut self, number: usize) {
        let client = &mut self.clients[number];
        let Some(socket) = &client.socket else { return };
        while client.sent < self.request.len() {
            let mut socket = socket;
            match socket.write(&self.request[client.sent..]) {
                Ok(taken) => client.sent += taken,
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::NotConnected) => return,
                Err(error) => return self.lose(number, &format!("send: {error}")),
            }
        }
    }

    fn lose(&mut self, number: usize, what: &str) {
        let client = &mut self.clients[number];
        client.socket = None;
        if client.waits {
            self.totals.error(what);
            self.due.push(Reverse((Instant::now(), number)));
        }
        self.clients[number].waits = false;
    }

    /// Reads what is there. `ended`: the server is known to have closed.
    fn receive(&mut self, number: usize, ended: bool) {
        loop {
            let client = &mut self.clients[number];
            let Some(mut socket) = client.socket.as_ref() else { return };
            let count = match socket.read(&mut self.buffer) {
                Ok(count) => count,
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::NotConnected) => return,
                Err(error) => return self.lose(number, &format!("receive: {error}")),
            };
            if count == 0 {
                client.response.closed();
                if client.waits && client.response.part == Part::Done {
                    client.socket = None;
                    return self.complete(number);
                }
                return self.lose(number, "closed before the response was whole");
            }
            if !client.waits || !client.response.take(&self.buffer[..count]) {
                client.waits = true;
                return self.lose(number, "not a response");
            }
            // A connection that closes is read to its end: the close belongs to the request.
            if client.response.part == Part::Done && !self.options.close && !client.response.closes {
                return self.complete(number);
            }
            if client.response.part == Part::Done {
                client.response.part = Part::UntilClose;
                if ended {
                    continue;
                }
                // The close is an event of its own.
                return;
            }
            if count < self.buffer.len() {
                return;
            }
        }
    }

    fn complete(&mut self, number: usize) {
        let now = Instant::now();
        let client = &mut self.clients[number];
        client.waits = false;
        self.totals.bytes += client.response.bytes;
        if client.response.status_is_200 {
            let time = now - client.began;
            self.totals.times.push(u32::try_from(time.as_nanos()).unwrap_or(u32::MAX));
        } else {
            self.totals.error("a status that is not 200");
        }
        if client.response.closes {
            client.socket = None;
        }
        if self.options.interval.is_zero() {
            self.begin(number, now);
        } else {
            // On schedule; a schedule that was missed is not caught up with.
            let due = (client.began + self.options.interval).max(now);
            self.due.push(Reverse((due, number)));
        }
    }

    fn run(&mut self) -> Duration {
        let start = Instant::now();
        let end = start + Duration::from_secs_f64(self.options.seconds);
        for number in 0..self.options.connections {
            let apart = self.options.interval / self.options.connections as u32 * number as u32;
            self.due.push(Reverse((start + apart, number)));
        }
        let mut events = Events::with_capacity(1024);
        let mut looked = start;
        loop {
            let now = Instant::now();
            if now >= end || self.totals.times.len() as u64 + self.totals.errors >= self.options.requests {
                return now - start;
            }
            if now - looked > Duration::from_secs(1) {
                looked = now;
                for number in 0..self.clients.len() {
                    if self.clients[number].waits && now - self.clients[number].began > PATIENCE {
                        self.lose(number, "no response");
                    }
                }
            }
            while self.due.peek().is_some_and(|Reverse((due, _))| *due <= now) {
                if let Some(Reverse((due, number))) = self.due.pop() {
                    let began = if self.options.interval.is_zero() { now } else { due };
                    self.begin(number, began);
                }
            }
            let until = self.due.peek().map_or(end, |Reverse((due, _))| (*due).min(end));
            let limit = until.saturating_duration_since(Instant::now()).min(Duration::from_secs(1));
            // epoll counts in milliseconds and mio rounds up: what is due sooner is waited for awake.
            let limit = if limit < Duration::from_millis(1) { Duration::ZERO } else { limit - limit / 8 };
            if let Err(error) = self.poll.poll(&mut events, Some(limit))
                && error.kind() != io::ErrorKind::Interrupted
            {
                fail(&format!("poll: {error}"));
            }
            for event in &events {
                let number = event.token().0;
                if event.is_writable() && self.clients[number].sent < self.request.len() && self.clients[number].waits {
                    self.send(number);
                }
                if event.is_readable() {
                    self.receive(number, event.is_read_closed());
                }
            }
        }
    }
}

fn closed(options: &Options) {
    raise_limit();
    let poll = Poll::new().unwrap_or_else(|error| fail(&format!("epoll: {error}")));
    let now = Instant::now();
    let client = || Client { socket: None, sent: 0, response: Response::new(), began: now, waits: false };
    let mut run = Closed {
        options,
        poll,
        request: options.request(),
        clients: (0..options.connections).map(|_| client()).collect(),
        due: BinaryHeap::new(),
        totals: Totals::default(),
        buffer: vec![0; 256 * 1024],
    };
    let seconds = run.run().as_secs_f64();
    let mut totals = run.totals;
    totals.times.sort_unstable();
    let at = |share: f64| match totals.times.len() {
        0 => 0.0,
        count => f64::from(totals.times[((count as f64 * share) as usize).min(count - 1)]) / 1000.0,
    };
    let cpu = getrusage(UsageWho::RUSAGE_SELF)
        .map_or(0, |usage| usage.user_time().num_microseconds() + usage.system_time().num_microseconds());
    let report = serde_json::json!({
        "requests": totals.times.len(), "seconds": seconds, "rate": totals.times.len() as f64 / seconds,
        "p50": at(0.5), "p90": at(0.9), "p99": at(0.99), "p999": at(0.999), "max": at(1.0),
        "errors": totals.errors, "first_error": totals.first_error, "connects": totals.connects,
        "bytes": totals.bytes, "client_cpu": cpu,
    });
    say(&report.to_string());
}

fn say(text: &str) {
    let mut out = io::stdout().lock();
    if writeln!(out, "{text}").and_then(|()| out.flush()).is_err() {
        exit(1);
    }
}

/// As many descriptors as the system allows.
fn raise_limit() {
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}

/// What a slow client does each second.
enum Slow {
    /// Sends the next so many bytes of this.
    Sends(Vec<u8>, usize, usize),
    /// Reads 1 KiB.
    Reads,
}

fn slow(options: &Options) {
    raise_limit();
    let head = format!("GET / HTTP/1.1\r\nHost: localhost\r\nX-Slow: {}", "a".repeat(500)).into_bytes();
    let mut clients = Vec::new();
    for number in 0..options.connections {
        for kind in 0..3 {
            let Ok(socket) = options.connect() else { continue };
            let client = match kind {
                0 => Slow::Sends(head.clone(), 0, 1),
                1 => {
                    let (length, piece) = if number % 2 == 0 { (10, 1) } else { (1_000_000, 1024) };
                    let head = format!("POST /post HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n");
                    let _ = (&socket).write(head.as_bytes());
                    Slow::Sends(vec![b'b'; length], 0, piece)
                }
                _ => {
                    let _ = socket.set_recv_buffer_size(4096);
                    let page = if number % 2 == 0 { "large" } else { "pieces" };
                    let _ = (&socket).write(format!("GET /{page} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes());
                    Slow::Reads
                }
            };
            clients.push((socket, client));
        }
    }
    let count = clients.len();
    say(&format!("ready {count}"));
    let end = Instant::now() + Duration::from_secs_f64(options.seconds);
    let mut bin = [0u8; 1024];
    let mut next = 0;
    while Instant::now() < end {
        // Evenly over the second, so that they do not come in bursts.
        std::thread::sleep(Duration::from_millis(5));
        for _ in 0..(count / 200).max(1) {
            let (socket, client) = &mut clients[next % count];
            next += 1;
            let mut socket = &*socket;
            match client {
                Slow::Sends(text, at, piece) => {
                    let end = (*at + *piece).min(text.len());
                    *at += socket.write(&text[*at..end]).unwrap_or(0);
                }
                Slow::Reads => {
                    let _ = socket.read(&mut bin);
                }
            }
        }
    }
    // How many the server has given up.
    let closed = clients.iter().filter(|(socket, client)| match client {
        Slow::Reads => false,
        Slow::Sends(..) => {
            let mut socket: &Socket = socket;
            !matches!(socket.read(&mut bin), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
        }
    });
    let closed = closed.count();
    say(&serde_json::json!({ "connections": count, "closed": closed }).to_string());
}

fn idle(options: &Options) {
    raise_limit();
    let request = options.request();
    let mut bin = [0u8; 4096];
    let start = Instant::now();
    let connections: Vec<Socket> = (0..options.connections)
        .map(|number| {
            let mut connect = || -> io::Result<Socket> {
                if start.elapsed() > 3 * PATIENCE {
                    return Err(io::ErrorKind::TimedOut.into());
                }
                let socket = options.connect()?;
                socket.set_nonblocking(false)?;
                socket.set_read_timeout(Some(PATIENCE))?;
                (&socket).write_all(&request)?;
                if (&socket).read(&mut bin)? == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                Ok(socket)
            };
            connect().unwrap_or_else(|error| fail(&format!("connection {number}: {error}")))
        })
        .collect();
    say("ready");
    let _ = io::stdin().read(&mut bin);
    // How many the server has closed in the meantime.
    let closed = connections
        .iter()
        .filter(|socket| {
            let _ = socket.set_nonblocking(true);
            let mut socket: &Socket = socket;
            !matches!(socket.read(&mut bin), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
        })
        .count();
    say(&serde_json::json!({ "connections": connections.len(), "closed": closed }).to_string());
}

fn main() {
    let mut words = std::env::args().skip(1);
    match words.next().as_deref() {
        Some("closed") => closed(&options(words, 64)),
        Some("slow") => slow(&options(words, 200)),
        Some("idle") => idle(&options(words, 10_000)),
        _ => fail("the first word is closed, slow or idle; see the head of tests/benches/load.rs"),
    }
}
