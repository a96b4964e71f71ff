//! A raw HTTP/1.1 client: it sends whatever bytes a test likes and reads responses to the byte.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::path::PathBuf;

use socket2::{Domain, SockAddr, Socket, Type};

use super::patience;

/// Where a server listens, as a client sees it.
#[derive(Clone, Debug)]
pub enum Endpoint {
    Tcp(SocketAddr),
    Unix(PathBuf),
    Abstract(String),
}

impl Endpoint {
    /// The system's form of the address.
    pub fn socket_address(&self) -> SockAddr {
        match self {
            Endpoint::Tcp(address) => (*address).into(),
            Endpoint::Unix(path) => SockAddr::unix(path).expect("a short socket path"),
            Endpoint::Abstract(name) => SockAddr::unix(format!("\0{name}")).expect("a short name"),
        }
    }

    /// A new connection.
    pub fn try_connect(&self) -> io::Result<Client> {
        self.try_connect_with(|_| Ok(()))
    }

    /// A new connection of a client that takes little at once.
    #[track_caller]
    pub fn connect_with_buffer(&self, size: usize) -> Client {
        self.try_connect_with(|socket| socket.set_recv_buffer_size(size)).expect("a connection")
    }

    fn try_connect_with(&self, prepare: impl FnOnce(&Socket) -> io::Result<()>) -> io::Result<Client> {
        let address = self.socket_address();
        let socket = Socket::new(address.domain(), Type::STREAM, None)?;
        prepare(&socket)?;
        if address.domain() == Domain::UNIX {
            socket.connect(&address)?;
        } else {
            socket.connect_timeout(&address, patience())?;
        }
        if address.domain() != Domain::UNIX {
            socket.set_tcp_nodelay(true)?;
        }
        socket.set_read_timeout(Some(patience()))?;
        socket.set_write_timeout(Some(patience()))?;
        Ok(Client { socket, unread: Vec::new() })
    }

    /// Whether nobody listens there. A listen queue that is full is no refusal.
    pub fn refuses(&self) -> bool {
        let kind = self.try_connect().map(drop).map_err(|error| error.kind());
        matches!(kind, Err(io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound))
    }

    /// A new connection; the test fails without.
    #[track_caller]
    pub fn connect(&self) -> Client {
        self.try_connect().unwrap_or_else(|error| panic!("cannot connect to {self:?}: {error}"))
    }
}

/// One connection to a server.
pub struct Client {
    pub socket: Socket,
    unread: Vec<u8>,
}

/// How the body of a response was delimited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    Nothing,
    Length,
    Chunked,
    UntilClose,
}

/// A whole response.
#[derive(Clone, Debug)]
pub struct Response {
    pub version: String,
    pub status: u16,
    pub reason: String,
    pub fields: Vec<(String, String)>,
    pub body: Vec<u8>,
    pub framing: Framing,
}

impl Response {
    /// The value of the only field of this name.
    #[track_caller]
    pub fn field(&self, name: &str) -> Option<&str> {
        let mut values = self.fields.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str());
        let first = values.next();
        assert!(values.next().is_none(), "{name} occurs more than once: {:?}", self.fields);
        first
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// Whether the server announced that it closes.
    pub fn announces_close(&self) -> bool {
        self.field("Connection").is_some_and(|value| value.eq_ignore_ascii_case("close"))
    }

    /// Fails the test unless the status is this one.
    #[track_caller]
    pub fn expect(self, status: u16) -> Response {
        assert_eq!(self.status, status, "{self:?}: {}", self.text());
        self
    }
}

/// A GET request without a body.
pub fn get(target: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: test\r\n\r\n")
}

/// A POST request with a Content-Length.
pub fn post(target: &str, body: impl AsRef<[u8]>) -> Vec<u8> {
    let body = body.as_ref();
    let mut out =
        format!("POST {target} HTTP/1.1\r\nHost: test\r\nContent-Length: {}\r\n\r\n", body.len()).into_bytes();
    out.extend_from_slice(body);
    out
}

/// A POST request with a chunked body.
pub fn post_chunked(target: &str, chunks: &[&[u8]]) -> Vec<u8> {
    let mut out = format!("POST {target} HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n").into_bytes();
    for chunk in chunks {
        out.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        out.extend_from_slice(chunk);
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"0\r\n\r\n");
    out
}

impl Client {
    /// Sends all of it.
    #[track_caller]
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> &mut Client {
        self.try_send(bytes).unwrap_or_else(|error| panic!("cannot send: {error}"));
        self
    }

    /// Sends all of it, or says what failed.
    pub fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        (&self.socket).write_all(bytes.as_ref())
    }

    /// Closes the sending side only.
    #[track_caller]
    pub fn finish_sending(&mut self) -> &mut Client {
        self.socket.shutdown(Shutdown::Write).expect("half-close");
        self
    }

    fn fill(&mut self) -> io::Result<usize> {
        let mut piece = [0; 65536];
        let n = (&self.socket).read(&mut piece)?;
        self.unread.extend_from_slice(&piece[..n]);
        Ok(n)
    }

    fn need(&mut self, what: &str) -> Result<(), String> {
        match self.fill() {
            Ok(0) => Err(format!("the connection was closed within {what}, after {}", show(&self.unread))),
            Ok(_) => Ok(()),
            Err(error) => Err(format!("{error} within {what}, after {}", show(&self.unread))),
        }
    }

    fn line(&mut self, what: &str) -> Result<Vec<u8>, String> {
        loop {
            if let Some(at) = self.unread.windows(2).position(|pair| pair == b"\r\n") {
                let line = self.unread[..at].to_vec();
                self.unread.drain(..at + 2);
                return Ok(line);
            }
            self.need(what)?;
        }
    }

    fn exactly(&mut self, count: usize, what: &str) -> Result<Vec<u8>, String> {
        while self.unread.len() < count {
            self.need(what)?;
        }
        Ok(self.unread.drain(..count).collect())
    }

    /// Reads the response to a GET or POST.
    #[track_caller]
    pub fn response(&mut self) -> Response {
        self.response_to("GET")
    }

    /// Reads the response to a request with this method.
    #[track_caller]
    pub fn response_to(&mut self, method: &str) -> Response {
        self.try_response_to(method).unwrap_or_else(|what| panic!("{what}"))
    }

    /// Reads the head of a response; its body is still to come.
    pub fn try_head(&mut self) -> Result<Response, String> {
        let line = self.line("the status line")?;
        let line = String::from_utf8(line).map_err(|_| "the status line is not text".to_owned())?;
        let mut words = line.splitn(3, ' ');
        let (Some(version), Some(status), Some(reason)) = (words.next(), words.next(), words.next()) else {
            return Err(format!("not a status line: {line:?}"));
        };
        let mut response = Response {
            version: version.to_owned(),
            status: status.parse().map_err(|_| format!("not a status line: {line:?}"))?,
            reason: reason.to_owned(),
            fields: Vec::new(),
            body: Vec::new(),
            framing: Framing::Nothing,
        };
        loop {
            let line = self.line("the head")?;
            if line.is_empty() {
                return Ok(response);
            }
            // Latin-1, so that every byte survives.
            let line: String = line.iter().map(|&byte| byte as char).collect();
            let Some((name, value)) = line.split_once(':') else {
                return Err(format!("not a header field: {line:?}"));
            };
            response.fields.push((name.to_owned(), value.trim().to_owned()));
        }
    }

    /// Reads one chunk; empty is the last one.
    pub fn try_chunk(&mut self) -> Result<Vec<u8>, String> {
        let line = self.line("a chunk's size")?;
        let text = String::from_utf8_lossy(&line).into_owned();
        let size = usize::from_str_radix(&text, 16).map_err(|_| format!("not a chunk size: {text:?}"))?;
        let chunk = self.exactly(size, "a chunk")?;
        let end = self.exactly(2, "a chunk's end")?;
        if end != b"\r\n" {
            return Err(format!("a chunk ends with {}", show(&end)));
        }
        Ok(chunk)
    }

    /// Reads a whole response, or says what is wrong with it.
    pub fn try_response_to(&mut self, method: &str) -> Result<Response, String> {
        let mut response = self.try_head()?;
        let length = response.field("Content-Length").map(|text| text.parse::<usize>().map_err(|e| e.to_string()));
        let coding = response.field("Transfer-Encoding").map(str::to_owned);
        if method == "HEAD" || response.status < 200 || response.status == 204 || response.status == 304 {
            return Ok(response);
        }
        match (coding, length) {
            (Some(_), Some(_)) => return Err(format!("a length and a transfer coding: {response:?}")),
            (Some(coding), None) => {
                if coding != "chunked" {
                    return Err(format!("transfer coding {coding:?}"));
                }
                response.framing = Framing::Chunked;
                loop {
                    let chunk = self.try_chunk()?;
                    if chunk.is_empty() {
                        break;
                    }
                    response.body.extend_from_slice(&chunk);
                }
            }
            (None, Some(length)) => {
                response.framing = Framing::Length;
                response.body = self.exactly(length?, "a body with a length")?;
            }
            (None, None) => {
                response.framing = Framing::UntilClose;
                response.body = self.try_rest().map_err(|error| format!("{error} within {response:?}"))?;
            }
        }
        Ok(response)
    }

    /// Everything until the server closes.
    pub fn try_rest(&mut self) -> io::Result<Vec<u8>> {
        while self.fill()? > 0 {}
        Ok(std::mem::take(&mut self.unread))
    }

    /// What has come, if anything comes within the read time-out.
    pub fn if_any(&mut self) -> Option<Vec<u8>> {
        self.fill().is_ok_and(|count| count > 0).then(|| std::mem::take(&mut self.unread))
    }

    /// At least one byte, whatever has come.
    #[track_caller]
    pub fn some(&mut self) -> Vec<u8> {
        if self.unread.is_empty() {
            self.need("the first bytes").unwrap_or_else(|what| panic!("{what}"));
        }
        std::mem::take(&mut self.unread)
    }

    /// Waits for and keeps at most so many bytes; tells how many came.
    pub fn try_part(&mut self, most: usize) -> io::Result<usize> {
        let mut piece = vec![0; most];
        let n = (&self.socket).read(&mut piece)?;
        self.unread.extend_from_slice(&piece[..n]);
        Ok(n)
    }

    /// Whatever comes next; nothing when the server has closed.
    pub fn try_some(&mut self) -> io::Result<Vec<u8>> {
        if self.unread.is_empty() {
            self.fill()?;
        }
        Ok(std::mem::take(&mut self.unread))
    }

    /// Fails the test unless the server closes now, without one more byte.
    #[track_caller]
    pub fn expect_closed(&mut self) {
        match self.try_rest() {
            Ok(rest) => assert!(rest.is_empty(), "bytes before the close: {}", show(&rest)),
            // Closed with unread bytes of ours in its buffers: a reset, which is a close too.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                assert!(self.unread.is_empty(), "bytes before the close: {}", show(&self.unread));
            }
            Err(error) => panic!("the server does not close: {error}"),
        }
    }
}

/// Bytes for a message, cut to a readable length.
pub fn show(bytes: &[u8]) -> String {
    let cut = &bytes[..bytes.len().min(300)];
    format!("{} bytes: \"{}\"", bytes.len(), cut.escape_ascii())
}
