//! The narrow waist between a connection and an application.
//!
//! `worker` implements [`Exchange`] for its connections, `wsgi` drives one for each request; neither
//! knows the other. One exchange is one request and its response.

use std::any::Any;
use std::fs::File;
use std::io;

use crate::protocol::Protocol;
use crate::protocol::request::Request;
use crate::protocol::response::Head;

/// What is the same for every request of a listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Local {
    /// Index of the listener, from 0; the application side keeps an environ template for each.
    pub index: usize,
    /// What the listener speaks.
    pub protocol: Protocol,
    /// SERVER_NAME over HTTP: the name of this machine.
    pub server_name: String,
    /// SERVER_PORT over HTTP: the listener's port, `80` on a unix socket.
    pub server_port: String,
}

/// Who sent the request; both empty on a unix socket, where nothing else tells.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peer {
    /// REMOTE_ADDR over HTTP; IPv4-mapped IPv6 addresses are shown as IPv4.
    pub addr: String,
    /// REMOTE_PORT over HTTP.
    pub port: String,
}

/// What trusted proxies say of a request; what they do not say is as without them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// The client. Its port is empty when nobody knows it.
    pub client: Option<Peer>,
    /// `wsgi.url_scheme`.
    pub scheme: Option<&'static str>,
    /// HTTP_HOST.
    pub host: Option<Vec<u8>>,
}

/// The request body, as it stands when the application is called.
pub enum Body {
    /// No body, or an empty one.
    Empty,
    /// The whole body, in memory.
    Memory(Vec<u8>),
    /// The whole body, in an unlinked temporary file positioned at its start.
    File {
        /// The file, opened for reading and writing.
        file: File,
        /// Body length in bytes.
        len: u64,
    },
    /// `post-buffering = 0`: the body is read from the connection as the application asks for it.
    Stream(Box<dyn BodySource>),
}

impl Body {
    /// Length in bytes where it is known: everywhere but for a chunked body that is streamed.
    pub fn known_len(&self) -> Option<u64> {
        match self {
            Body::Empty => Some(0),
            Body::Memory(bytes) => Some(bytes.len() as u64),
            Body::File { len, .. } => Some(*len),
            Body::Stream(_) => None,
        }
    }
}

/// A body that is still arriving. It may outlive its exchange (the application can keep
/// `wsgi.input`); then every read is an error.
pub trait BodySource: Send + Sync {
    /// Reads at least one and at most `buf.len()` bytes; 0 is the end of the body. Blocks: call it
    /// detached from the interpreter.
    ///
    /// # Errors
    /// `TimedOut` when the client sends nothing for too long, `UnexpectedEof` when it left,
    /// `InvalidData` for a broken chunked coding.
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize>;
}

/// Bytes of the application that outlive the call that handed them over (a Python `bytes` object).
pub type Kept = Box<dyn AsRef<[u8]> + Send + Sync>;

/// A piece of response body, lent. `keep` is asked for an owner of the same bytes only when the socket
/// did not take all of them at once.
pub struct Payload<'a> {
    /// The bytes.
    pub bytes: &'a [u8],
    /// Makes an owner of exactly `bytes`.
    pub keep: &'a mut dyn FnMut() -> Kept,
}

/// A part of a regular file that is the whole body of a response. The descriptor is the worker's own: what the application
/// does to its file object, closing it included, changes nothing, and the position of the file is not used.
#[derive(Debug)]
pub struct FilePart {
    /// Opened for reading.
    pub file: File,
    /// Where the part begins.
    pub start: u64,
    /// Bytes of it, more than none.
    pub len: u64,
}

/// What came of handing over a piece of the response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// Taken; go on.
    Taken,
    /// Taken, but more than `response-buffer` bytes wait for the client: call
    /// [`Exchange::wait_for_room`] before the next piece.
    Full,
    /// The client is gone or the response is over its Content-Length: stop iterating, nothing more
    /// will be sent. Not an error of the application.
    Gone,
}

/// One request and its response, seen from the application's side.
///
/// Order of calls: `request`, `take_body`, then `send` any number of times (the first one with a head
/// that was filled by `start_response`) or `send_file` once, then exactly one of `finish` and `fail`.
pub trait Exchange: Send {
    /// The parsed head and the bytes its spans refer to.
    fn request(&self) -> (&Request, &[u8]);

    /// The listener the request came in by.
    fn local(&self) -> &Local;

    /// The client, as far as it is known.
    fn peer(&self) -> &Peer;

    /// What trusted proxies say of the request.
    fn told(&self) -> Option<&Told> {
        None
    }

    /// Passes on what the application wrote to `wsgi.errors`, to a web server that wants it. The log has it already.
    fn write_error(&mut self, _text: &[u8]) {}

    /// Takes the request body; the second call gives [`Body::Empty`].
    fn take_body(&mut self) -> Body;

    /// Sends a piece of the response. The first call fixes the head: framing is added to `head`
    /// (Content-Length when `total` is known, else chunked or close-delimited), later calls
    /// ignore `head` and `total`. Never blocks and never needs the interpreter; empty pieces are
    /// ignored once the head is out.
    fn send(&mut self, head: &mut Head, piece: Payload<'_>, total: Option<u64>) -> Sent;

    /// Sends a part of a file as the whole body: as `send` of all its bytes, but of no more than the head's Content-Length. To be
    /// called instead of the first `send`. It does not wait for the client, but it may wait for the disk: call it detached.
    fn send_file(&mut self, head: &mut Head, part: FilePart) -> Sent;

    /// Whether the head was fixed by a `send` (`start_response` may no longer replace it).
    fn head_sent(&self) -> bool;

    /// Blocks until the client has taken enough of what waits, or is given up. Call it detached.
    /// False: the client is gone.
    fn wait_for_room(&mut self) -> bool;

    /// Ends a response in order. Sends the head alone when there was no body. A response shorter than its
    /// own Content-Length cuts the connection.
    fn finish(&mut self, head: &mut Head);

    /// The application failed: a plain answer with `status` when the head is not out, else the connection is cut,
    /// so that the client cannot take the response for a whole one.
    fn fail(&mut self, status: u16);

    /// Counts an exception that the application raised.
    fn count_exception(&mut self);

    /// Gives the concrete value back to the worker that made it.
    fn into_any(self: Box<Self>) -> Box<dyn Any + Send>;
}
