//! A CGI program's request and response (RFC 3875): variables of the environment and a body on standard input, an answer that
//! begins with a Status field on standard output.
//!
//! Both streams are taken out of everybody else's reach first: what the application or a program of its own prints goes to
//! standard error, as the log does, and cannot get into the answer.

use std::any::Any;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;

use crate::gateway::{Body, BodySource, Exchange, FilePart, Local, Payload, Peer, Sent, Told};
use crate::protocol::Protocol;
use crate::protocol::body::{Reader, admit};
use crate::protocol::forwarded::Trusted;
use crate::protocol::request::{BodyLength, Refusal, Request, Version};
use crate::protocol::response::{self, BodyFraming, Facts, Head};
use crate::sys::fd;
use crate::worker::{Broken, Incoming, hear};

/// Bytes read of a body at once.
const BLOCK: usize = 64 * 1024;

/// What the web server gave this program to talk by.
pub struct Streams {
    input: File,
    output: File,
}

impl Streams {
    /// Takes standard input and output over. Afterwards the one is empty, and the other is standard error.
    ///
    /// # Errors
    /// The system's.
    pub fn take() -> io::Result<Streams> {
        let own = |stream: &dyn AsFd| -> io::Result<File> {
            let own: OwnedFd = stream.as_fd().try_clone_to_owned()?;
            fd::set_nonblocking(&own, false)?;
            Ok(own.into())
        };
        let streams = Streams { input: own(&io::stdin())?, output: own(&io::stdout())? };
        fd::replace(0, File::open("/dev/null")?)?;
        fd::replace(1, io::stderr())?;
        Ok(streams)
    }

    /// Answers with an error of our own.
    pub fn refuse(mut self, status: u16, head_request: bool) {
        // Whoever does not listen any more needs no answer.
        let _ = self.output.write_all(&plain(status, head_request));
    }
}

/// The request of this process, ready to run.
pub struct Once {
    request: Request,
    head: Vec<u8>,
    local: Local,
    peer: Peer,
    told: Option<Box<Told>>,
    body: Body,
    output: File,
    framing: Option<BodyFraming>,
    remaining: u64,
    /// Nobody reads the answer.
    gone: bool,
    /// The answer is not what the application wanted to give, or not whole.
    failed: bool,
}

/// How bodies are received, as for other protocols.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The longest body.
    pub body: u64,
    /// Longer ones go to a file; none: the application reads them as they come.
    pub buffering: Option<u64>,
}

impl Once {
    /// Reads the body, unless it is streamed. The web server, whose word all of the environment is, is no hop: the first one is
    /// REMOTE_ADDR, which is believed about others when it is among `trusted`.
    ///
    /// # Errors
    /// The streams, and what to answer with.
    pub fn receive(
        request: Request,
        head: Vec<u8>,
        mut streams: Streams,
        limits: Limits,
        trusted: &Trusted,
    ) -> Result<Once, (Streams, Refusal)> {
        let body = match body(&request, &mut streams.input, limits) {
            Ok(body) => body,
            Err(refusal) => return Err((streams, refusal)),
        };
        let variable = |name: &[u8]| {
            let field = request.fields.iter().find(|field| field.name.of(&head) == name);
            field.map(|field| String::from_utf8_lossy(field.value.of(&head)).into_owned()).unwrap_or_default()
        };
        let local = Local {
            index: 0,
            protocol: Protocol::Scgi,
            server_name: variable(b"SERVER_NAME"),
            server_port: variable(b"SERVER_PORT"),
        };
        let peer = Peer { addr: variable(b"REMOTE_ADDR"), port: variable(b"REMOTE_PORT") };
        let told = hear(trusted, &peer, &request, &head);
        let (output, framing) = (streams.output, None);
        Ok(Once { request, head, local, peer, told, body, output, framing, remaining: 0, gone: false, failed: false })
    }

    /// Whether the application's answer went out whole.
    pub fn is_answered(&self) -> bool {
        self.framing.is_some() && !self.failed
    }

    fn write(&mut self, bytes: &[u8]) {
        if !self.gone && !bytes.is_empty() {
            let written = self.output.write_all(bytes);
            self.note(written);
        }
    }

    fn note(&mut self, written: io::Result<()>) {
        if let Err(error) = written {
            (self.gone, self.failed) = (true, true);
            if error.kind() != io::ErrorKind::BrokenPipe {
                log::error!("the response cannot be written: {error}");
            }
        }
    }

    /// Fixes the framing; gives the number of bytes of a piece of `len` that go out.
    fn begin(&mut self, head: &mut Head, total: Option<u64>) {
        let facts = Facts {
            version: self.request.version,
            head_request: self.request.is_head(&self.head),
            protocol: Protocol::Scgi,
            keep_alive: false,
            total,
            date: b"",
        };
        let framing = head.finish(&facts).body;
        self.framing = Some(framing);
        self.remaining = match framing {
            BodyFraming::Length(len) => len,
            BodyFraming::Nothing => 0,
            BodyFraming::Chunked | BodyFraming::UntilClose => u64::MAX,
        };
    }
}

fn body(request: &Request, input: &mut File, limits: Limits) -> Result<Body, Refusal> {
    if matches!(request.body, BodyLength::Absent | BodyLength::Length(0)) {
        return Ok(Body::Empty);
    }
    admit(request.body, limits.body)?;
    let Some(threshold) = limits.buffering else {
        let input = input.try_clone().map_err(|_| Refusal::new(500, "standard input cannot be read"))?;
        let reader = Reader::new(request.body, limits.body);
        return Ok(Body::Stream(Box::new(Source { input, reader })));
    };
    let refusal = |broken| match broken {
        Broken::Refused(refusal) => refusal,
        Broken::Disk(error) => {
            log::error!("the request's body cannot be stored in {}: {error}", std::env::temp_dir().display());
            Refusal::new(500, "the body cannot be stored")
        }
    };
    let mut incoming = Incoming::new(request.body, limits.body, threshold).map_err(refusal)?;
    let mut block = vec![0; BLOCK];
    loop {
        // Not a byte more than that: the web server need not end the stream (RFC 3875 section 4.2).
        let most = incoming.remaining().map_or(BLOCK, |left| left.min(BLOCK as u64) as usize);
        match input.read(&mut block[..most]) {
            Ok(0) if request.body == BodyLength::UntilEnd => break,
            Ok(0) => return Err(Refusal::new(400, "standard input ends before CONTENT_LENGTH")),
            Ok(count) => {
                if incoming.feed(&block[..count]).map_err(refusal)?.1 {
                    break;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return Err(Refusal::new(400, "standard input cannot be read")),
        }
    }
    incoming.into_body().map_err(refusal)
}

/// A body that the application reads from standard input.
struct Source {
    input: File,
    reader: Reader,
}

impl BodySource for Source {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.reader.is_done() {
            return Ok(0);
        }
        let most = self.reader.remaining().map_or(buf.len(), |left| buf.len().min(left as usize));
        let count = self.input.read(&mut buf[..most])?;
        if count == 0 && self.reader.remaining().is_some() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if count == 0 {
            self.reader.end();
        }
        let mut taken = Vec::with_capacity(count);
        let fed = self.reader.feed(&buf[..count], &mut taken);
        fed.map_err(|refusal| io::Error::new(io::ErrorKind::InvalidData, refusal.reason))?;
        Ok(count)
    }
}

/// A whole response that says no more than its status.
fn plain(status: u16, head_request: bool) -> Vec<u8> {
    let facts = Facts {
        version: Version::Http10,
        head_request,
        protocol: Protocol::Scgi,
        keep_alive: false,
        total: None,
        date: b"",
    };
    let mut out = Vec::new();
    response::plain_error(status, &facts, &mut out);
    out
}

impl Exchange for Once {
    fn request(&self) -> (&Request, &[u8]) {
        (&self.request, &self.head)
    }

    fn local(&self) -> &Local {
        &self.local
    }

    fn peer(&self) -> &Peer {
        &self.peer
    }

    fn told(&self) -> Option<&Told> {
        self.told.as_deref()
    }

    fn take_body(&mut self) -> Body {
        std::mem::replace(&mut self.body, Body::Empty)
    }

    fn send(&mut self, head: &mut Head, piece: Payload<'_>, total: Option<u64>) -> Sent {
        let first = self.framing.is_none();
        if first {
            self.begin(head, total);
        }
        let len = self.remaining.min(piece.bytes.len() as u64) as usize;
        self.remaining -= if self.remaining == u64::MAX { 0 } else { len as u64 };
        if first {
            self.write(&[head.bytes(), &piece.bytes[..len]].concat());
        } else {
            self.write(&piece.bytes[..len]);
        }
        let discarded = self.framing == Some(BodyFraming::Nothing);
        if len < piece.bytes.len() && !discarded {
            log::error!("the application sends more than its Content-Length says; the rest is dropped");
            return Sent::Gone;
        }
        if self.gone { Sent::Gone } else { Sent::Taken }
    }

    fn send_file(&mut self, head: &mut Head, part: FilePart) -> Sent {
        self.begin(head, Some(part.len));
        self.write(head.bytes());
        let len = self.remaining.min(part.len);
        if len > 0 && !self.gone {
            let copied = copy(&part, len, &mut self.output);
            self.remaining -= copied.as_ref().map_or(0, |count| *count);
            self.note(copied.map(|_| ()));
        }
        if self.gone { Sent::Gone } else { Sent::Taken }
    }

    fn head_sent(&self) -> bool {
        self.framing.is_some()
    }

    fn wait_for_room(&mut self) -> bool {
        !self.gone
    }

    fn finish(&mut self, head: &mut Head) {
        if self.framing.is_none() {
            self.begin(head, Some(0));
            self.write(head.bytes());
        }
        if matches!(self.framing, Some(BodyFraming::Length(_))) && self.remaining > 0 && !self.gone {
            log::error!("the application sent {} bytes less than its Content-Length says", self.remaining);
            self.failed = true;
        }
    }

    fn fail(&mut self, status: u16) {
        self.failed = true;
        if self.framing.is_none() {
            self.framing = Some(BodyFraming::Nothing);
            let answer = plain(status, self.request.is_head(&self.head));
            self.write(&answer);
        }
    }

    /// Whoever started this program limits its time.
    fn limit_time(&mut self, _limit: std::time::Duration, _thread: std::sync::Arc<dyn Any + Send + Sync>) {}

    fn count_exception(&mut self) {}

    fn into_any(self: Box<Self>) -> Box<dyn Any + Send> {
        self
    }
}

/// Copies a part of a file, whose position is not used; fewer bytes when the file has become shorter.
fn copy(part: &FilePart, len: u64, output: &mut File) -> io::Result<u64> {
    let mut block = vec![0; BLOCK];
    let mut copied = 0;
    while copied < len {
        let most = (len - copied).min(BLOCK as u64) as usize;
        match part.file.read_at(&mut block[..most], part.start + copied) {
            Ok(0) => break,
            Ok(count) => {
                output.write_all(&block[..count])?;
                copied += count as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(copied)
}
