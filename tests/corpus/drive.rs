//! What a connection makes of bytes, as a list of events that is the same however the bytes are split. Shared by the corpus and
//! the fuzz targets.

use std::fmt::Write;

use crate::protocol::body::{self, Reader};
use crate::protocol::fastcgi::{self, Demux, Event};
use crate::protocol::forwarded::{self, Source, Trusted};
use crate::protocol::http::chunked::Decoder;
use crate::protocol::http::head::{self, Limits};
use crate::protocol::proxy::{self, Origin, Proxied};
use crate::protocol::request::{BodyLength, Parsed, Refusal, Request};
use crate::protocol::scgi;
use crate::protocol::uwsgi::{self, Packet};

/// Limits of all cases; small, so that cases can pass them.
const LIMITS: Limits = Limits { max_head: 4096, max_line: 1024 };
const LIMIT_POST: u64 = 1000;
const FASTCGI: fastcgi::Options =
    fastcgi::Options { max_params: 4096, max_requests: 3, server_connections: 500, server_requests: 700 };

/// An event, and below it what it says.
pub(crate) type Events = Vec<Vec<String>>;

/// The events of a connection that gets `pieces` one after the other.
pub(crate) fn outcome(protocol: &str, pieces: &[&[u8]]) -> Events {
    match protocol {
        "fastcgi" => fastcgi_outcome(pieces),
        "proxy" => proxy_outcome(pieces),
        "forwarded" => forwarded_outcome(&pieces.concat()),
        "chunked" => chunked_outcome(pieces),
        _ => {
            let mut connection = Connection::new(protocol);
            for piece in pieces {
                connection.feed(piece);
            }
            connection.finish()
        }
    }
}

/// Feeds `input` whole, byte by byte, and in three pieces cut at `cuts`.
///
/// # Panics
/// When the outcomes differ.
pub(crate) fn check(protocol: &str, input: &[u8], cuts: (usize, usize)) -> Events {
    let whole = outcome(protocol, &[input]);
    let bytes: Vec<&[u8]> = input.chunks(1).collect();
    assert_eq!(outcome(protocol, &bytes), whole, "{protocol}, byte by byte: {}", show(input));
    let (first, second) = (cuts.0.min(cuts.1).min(input.len()), cuts.0.max(cuts.1).min(input.len()));
    let pieces = [&input[..first], &input[first..second], &input[second..]];
    assert_eq!(outcome(protocol, &pieces), whole, "{protocol}, cut at {first} and {second}: {}", show(input));
    whole
}

type Parse = fn(&[u8], usize, &mut Request) -> Option<Result<(), String>>;

/// A connection that takes bytes as they come and notes what they mean.
struct Connection {
    parse: Parse,
    one_request: bool,
    buffer: Vec<u8>,
    seen: usize,
    request: Request,
    body: Option<(Reader, Vec<u8>)>,
    events: Events,
    over: bool,
}

fn parsed(parsed: Parsed) -> Option<Result<(), String>> {
    match parsed {
        Parsed::Complete => Some(Ok(())),
        Parsed::Partial => None,
        Parsed::Refused(refusal) => Some(Err(refused(refusal))),
    }
}

fn parse_scgi(buf: &[u8], _seen: usize, out: &mut Request) -> Option<Result<(), String>> {
    parsed(scgi::parse(buf, &LIMITS, out))
}

fn parse_http(buf: &[u8], seen: usize, out: &mut Request) -> Option<Result<(), String>> {
    parsed(head::parse(buf, seen, &LIMITS, out))
}

fn parse_uwsgi(buf: &[u8], _seen: usize, out: &mut Request) -> Option<Result<(), String>> {
    match uwsgi::parse(buf, &LIMITS, out) {
        Packet::Request => Some(Ok(())),
        Packet::Partial => None,
        Packet::Ping => Some(Err("ping".to_owned())),
        Packet::Unsupported { modifier1 } => Some(Err(format!("unsupported {modifier1}"))),
        Packet::Refused(refusal) => Some(Err(refused(refusal))),
    }
}

fn refused(refusal: Refusal) -> String {
    format!("refused {}", refusal.status)
}

/// Bytes as the corpus writes them.
pub(crate) fn show(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string().replace("\\'", "'").replace("\\\"", "\"")
}

fn describe(request: &Request, head: &[u8]) -> Vec<String> {
    let mut event = vec!["request".to_owned()];
    let mut add = |name: &str, value: String| event.push(format!("{name}={value}"));
    add("method", show(request.method.of(head)));
    add("target", show(request.target.of(head)));
    add("path", show(&request.path));
    add("query", show(request.query.of(head)));
    add("version", request.version.name()[5..].to_owned());
    add("host", request.host.map_or("none".to_owned(), |host| show(host.of(head))));
    let body = match request.body {
        BodyLength::Absent => "none".to_owned(),
        BodyLength::Length(length) => length.to_string(),
        BodyLength::Chunked => "chunked".to_owned(),
        BodyLength::UntilEnd => "until-end".to_owned(),
    };
    add("body", body);
    add("keep-alive", if request.keep_alive { "yes" } else { "no" }.to_owned());
    add("expect", if request.expect_continue { "yes" } else { "no" }.to_owned());
    add("modifier", request.modifier1.to_string());
    let mut fields = String::new();
    for field in &request.fields {
        let _ = write!(fields, "[{}: {}]", show(field.name.of(head)), show(field.value.of(head)));
    }
    add("derived", if request.path_derived { "yes" } else { "no" }.to_owned());
    add("fields", fields);
    event
}

impl Connection {
    fn new(protocol: &str) -> Connection {
        let parse = match protocol {
            "http" => parse_http,
            "uwsgi" => parse_uwsgi,
            "scgi" => parse_scgi,
            _ => panic!("unknown protocol {protocol}"),
        };
        Connection {
            parse,
            one_request: protocol != "http",
            buffer: Vec::new(),
            seen: 0,
            request: Request::default(),
            body: None,
            events: Vec::new(),
            over: false,
        }
    }

    fn feed(&mut self, bytes: &[u8]) {
        if self.over {
            return;
        }
        self.buffer.extend_from_slice(bytes);
        while !self.over && self.step() {}
    }

    fn end(&mut self, event: String) {
        self.events.push(vec![event]);
        self.over = true;
    }

    /// One step of work on what has arrived; false when more bytes are needed.
    fn step(&mut self) -> bool {
        if let Some((reader, data)) = &mut self.body {
            match reader.feed(&self.buffer, data) {
                Ok(fed) => {
                    self.buffer.drain(..fed.consumed);
                    if !fed.done {
                        assert!(self.buffer.is_empty(), "a body that goes on takes all bytes");
                        return false;
                    }
                    let data = show(data);
                    self.events.last_mut().unwrap().push(format!("data={data}"));
                    self.body = None;
                    self.over = self.one_request;
                }
                Err(refusal) => self.end(refused(refusal)),
            }
            return true;
        }
        if self.buffer.is_empty() {
            return false;
        }
        match (self.parse)(&self.buffer, self.seen, &mut self.request) {
            None => {
                self.seen = self.buffer.len();
                false
            }
            Some(Err(event)) => {
                self.end(event);
                true
            }
            Some(Ok(())) => {
                self.events.push(describe(&self.request, &self.buffer));
                self.buffer.drain(..self.request.head_len);
                self.seen = 0;
                match body::admit(self.request.body, LIMIT_POST) {
                    Ok(()) => self.body = Some((Reader::new(self.request.body, LIMIT_POST), Vec::new())),
                    Err(refusal) => self.end(refused(refusal)),
                }
                true
            }
        }
    }

    fn finish(mut self) -> Events {
        if !self.over && (!self.buffer.is_empty() || self.body.is_some()) {
            self.events.push(vec!["partial".to_owned()]);
        }
        self.events
    }
}

/// A FastCGI connection whose requests end as soon as their bodies are whole, but for those with the query `hold`: they end
/// when they are aborted.
fn fastcgi_outcome(pieces: &[&[u8]]) -> Events {
    let mut demux = Demux::new(FASTCGI);
    let mut events = Events::new();
    let mut running: Vec<Running> = Vec::new();
    let end = |id: u16, demux: &mut Demux, events: &mut Events, running: &mut Vec<Running>| {
        demux.end(id);
        if let Some(at) = running.iter().position(|run| run.id == id) {
            let run = running.remove(at);
            events[run.event].push(format!("data={}", show(&run.data)));
        }
    };
    let (mut head, mut request) = (Vec::new(), Request::default());
    for piece in pieces {
        let mut input = *piece;
        loop {
            let mut answers = Vec::new();
            let next = demux.next(&mut input, &mut answers);
            events.extend(records(&answers));
            let event = match next {
                Ok(Some(event)) => event,
                Ok(None) => break,
                Err(_) => {
                    events.push(vec!["violation".to_owned()]);
                    return events;
                }
            };
            match event {
                Event::Request { id } => {
                    demux.take(&mut head, &mut request);
                    let mut event = describe(&request, &head);
                    event.push(format!("id={id}"));
                    events.push(event);
                    let hold = request.query.of(&head) == b"hold";
                    running.push(Running { id, event: events.len() - 1, data: Vec::new(), hold });
                }
                Event::Body { id, bytes } => {
                    assert!(!bytes.is_empty());
                    let run = running.iter_mut().find(|run| run.id == id).expect("a body has a request");
                    run.data.extend_from_slice(bytes);
                }
                Event::BodyEnd { id } => {
                    events.push(vec![format!("end {id}")]);
                    if running.iter().any(|run| run.id == id && !run.hold) {
                        end(id, &mut demux, &mut events, &mut running);
                    }
                }
                Event::Abort { id } => {
                    events.push(vec![format!("abort {id}")]);
                    end(id, &mut demux, &mut events, &mut running);
                }
                Event::Refused { id, refusal } => {
                    events.push(vec![format!("refused {id} {}", refusal.status)]);
                    end(id, &mut demux, &mut events, &mut running);
                }
            }
            assert!(demux.active() <= FASTCGI.max_requests);
            if demux.is_over() {
                events.push(vec!["over".to_owned()]);
                return events;
            }
        }
        assert!(input.is_empty());
        // A connection may also be over by an answer of the demultiplexer's own.
        if demux.is_over() {
            events.push(vec!["over".to_owned()]);
            return events;
        }
    }
    if !demux.is_idle() {
        events.push(vec!["partial".to_owned()]);
    }
    events
}

struct Running {
    id: u16,
    event: usize,
    data: Vec<u8>,
    hold: bool,
}

/// The records of an answer, one event each.
fn records(mut bytes: &[u8]) -> Events {
    let mut events = Events::new();
    while let Some((&[1, kind, a, b, high, low, 0, 0], rest)) = bytes.split_first_chunk::<{ fastcgi::HEADER }>() {
        let (content, rest) = rest.split_at(usize::from(u16::from_be_bytes([high, low])));
        events.push(vec![format!("answer {kind} {} {}", u16::from_be_bytes([a, b]), show(content))]);
        bytes = rest;
    }
    assert!(bytes.is_empty(), "answers are whole records");
    events
}

fn proxy_outcome(pieces: &[&[u8]]) -> Events {
    let mut buffer = Vec::new();
    for piece in pieces {
        buffer.extend_from_slice(piece);
        match proxy::parse(&buffer) {
            Proxied::Partial => {}
            Proxied::Invalid(_) => return vec![vec!["invalid".to_owned()]],
            Proxied::Complete { len, origin } => {
                assert!(len <= buffer.len());
                let mut event = match origin {
                    Origin::Unknown => vec!["unknown".to_owned()],
                    Origin::Unix => vec!["unix".to_owned()],
                    Origin::Client { source, destination } => {
                        vec!["client".to_owned(), format!("from={source}"), format!("to={destination}")]
                    }
                };
                event.push(format!("len={len}"));
                return vec![event];
            }
        }
    }
    vec![vec!["partial".to_owned()]]
}

/// A line with the trusted proxies, a line with the source, then a request head: HTTP, or SCGI for one that begins with a digit.
fn forwarded_outcome(input: &[u8]) -> Events {
    let event = |text: &str| vec![vec![text.to_owned()]];
    let mut lines = input.splitn(3, |&byte| byte == b'\n');
    let (Some(networks), Some(source), Some(head)) = (lines.next(), lines.next(), lines.next()) else {
        return event("partial");
    };
    let mut trusted = Trusted::default();
    let source = match source {
        b"unix" => Some(Source::Unix),
        address => str::from_utf8(address).ok().and_then(|text| text.parse().ok()).map(Source::Address),
    };
    let (Ok(()), Some(source)) = (trusted.add(&String::from_utf8_lossy(networks)), source) else {
        return event("misconfigured");
    };
    let mut request = Request::default();
    let parsed = match head.first() {
        Some(b'0'..=b'9') => scgi::parse(head, &LIMITS, &mut request),
        _ => head::parse(head, 0, &LIMITS, &mut request),
    };
    match parsed {
        Parsed::Complete => {}
        Parsed::Partial => return event("partial"),
        Parsed::Refused(refusal) => return event(&refused(refusal)),
    }
    let told = forwarded::resolve(&trusted, source, &request, head);
    let or_none = |text: Option<String>| text.unwrap_or("none".to_owned());
    vec![vec![
        "told".to_owned(),
        format!("address={}", or_none(told.address.map(|address| address.to_string()))),
        format!("port={}", or_none(told.port.map(|port| port.to_string()))),
        format!("scheme={}", told.scheme.map_or("none", |scheme| scheme.name())),
        format!("host={}", or_none(told.host.map(show))),
        format!("disputed={}", if told.disputed { "yes" } else { "no" }),
    ]]
}

/// The decoder alone, also with little room for its output.
fn chunked_outcome(pieces: &[&[u8]]) -> Events {
    let mut decoder = Decoder::default();
    let mut data = Vec::new();
    let mut consumed = 0;
    for piece in pieces {
        let mut input = *piece;
        while !input.is_empty() {
            match decoder.decode_at_most(input, &mut data, 7) {
                Ok(decoded) => {
                    consumed += decoded.consumed;
                    input = &input[decoded.consumed..];
                    if decoded.done {
                        return vec![vec![
                            "done".to_owned(),
                            format!("data={}", show(&data)),
                            format!("len={consumed}"),
                        ]];
                    }
                }
                Err(refusal) => return vec![vec![refused(refusal)]],
            }
        }
    }
    vec![vec!["partial".to_owned(), format!("data={}", show(&data))]]
}
