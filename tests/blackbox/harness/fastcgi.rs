//! The web server's side of FastCGI: records out, records in.

use super::http::Client;
use super::variables::variables;

pub const BEGIN: u8 = 1;
pub const ABORT: u8 = 2;
pub const END: u8 = 3;
pub const PARAMS: u8 = 4;
pub const STDIN: u8 = 5;
pub const STDOUT: u8 = 6;
pub const STDERR: u8 = 7;
pub const GET_VALUES: u8 = 9;
pub const GET_VALUES_RESULT: u8 = 10;
pub const UNKNOWN_TYPE: u8 = 11;

/// One record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub kind: u8,
    pub id: u16,
    pub content: Vec<u8>,
}

pub fn record(kind: u8, id: u16, content: &[u8]) -> Vec<u8> {
    let mut out = vec![1, kind];
    out.extend_from_slice(&id.to_be_bytes());
    out.extend_from_slice(&u16::try_from(content.len()).expect("a short record").to_be_bytes());
    out.extend_from_slice(&[0, 0]);
    out.extend_from_slice(content);
    out
}

pub fn pair(name: &str, value: &str) -> Vec<u8> {
    let mut out = Vec::new();
    for text in [name, value] {
        out.extend_from_slice(&(text.len() as u32 | 1 << 31).to_be_bytes());
    }
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(value.as_bytes());
    out
}

/// A request with the variables of nginx's `fastcgi_params`.
pub fn request(id: u16, method: &str, path: &str, body: &[u8], keep: bool) -> Vec<u8> {
    request_with(id, method, path, body, keep, &[])
}

/// The same with `more` variables, which may name one again to replace it.
pub fn request_with(id: u16, method: &str, path: &str, body: &[u8], keep: bool, more: &[(&str, &str)]) -> Vec<u8> {
    let length = body.len().to_string();
    let mut params = Vec::new();
    let own = [
        ("CONTENT_LENGTH", length.as_str()),
        ("SCRIPT_NAME", path),
        ("DOCUMENT_URI", path),
        ("GATEWAY_INTERFACE", "CGI/1.1"),
    ];
    let vars = variables(&own, method, path, more);
    for (name, value) in vars {
        params.extend_from_slice(&pair(name, value));
    }
    let mut out = record(BEGIN, id, &[0, 1, u8::from(keep), 0, 0, 0, 0, 0]);
    out.extend_from_slice(&record(PARAMS, id, &params));
    out.extend_from_slice(&record(PARAMS, id, b""));
    for piece in body.chunks(60_000) {
        out.extend_from_slice(&record(STDIN, id, piece));
    }
    out.extend_from_slice(&record(STDIN, id, b""));
    out
}

/// A connection that is read record by record.
pub struct Records {
    pub client: Client,
    bytes: Vec<u8>,
}

impl Records {
    pub fn new(client: Client) -> Records {
        Records { client, bytes: Vec::new() }
    }

    /// The next record; waits for it.
    #[track_caller]
    pub fn next(&mut self) -> Record {
        loop {
            if let [_, kind, id_high, id_low, high, low, padding, _, rest @ ..] = &self.bytes[..] {
                let len = usize::from(u16::from_be_bytes([*high, *low]));
                let all = 8 + len + usize::from(*padding);
                if self.bytes.len() >= all {
                    let id = u16::from_be_bytes([*id_high, *id_low]);
                    let found = Record { kind: *kind, id, content: rest[..len].to_vec() };
                    self.bytes.drain(..all);
                    return found;
                }
            }
            self.bytes.extend_from_slice(&self.client.some());
        }
    }

    /// STDOUT of request `id` up to its END_REQUEST, and the status in that. Others must not come between.
    #[track_caller]
    pub fn response(&mut self, id: u16) -> (Vec<u8>, u32) {
        let mut out = Vec::new();
        loop {
            let record = self.next();
            assert_eq!(record.id, id, "{record:?}");
            match record.kind {
                STDOUT => out.extend_from_slice(&record.content),
                END => {
                    let status = u32::from_be_bytes(record.content[..4].try_into().expect("four bytes"));
                    return (out, status);
                }
                _ => panic!("{record:?}"),
            }
        }
    }
}
