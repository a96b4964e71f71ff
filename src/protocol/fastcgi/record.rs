//! FastCGI records: their types, and those that a response is made of.

/// Bytes of a record in front of its content.
pub const HEADER: usize = 8;

/// The longest content of a record.
pub const MAX_CONTENT: usize = 65_535;

pub(super) const VERSION: u8 = 1;

pub(super) const BEGIN_REQUEST: u8 = 1;
pub(super) const ABORT_REQUEST: u8 = 2;
pub(super) const END_REQUEST: u8 = 3;
pub(super) const PARAMS: u8 = 4;
pub(super) const STDIN: u8 = 5;
pub(super) const STDOUT: u8 = 6;
pub(super) const STDERR: u8 = 7;
pub(super) const DATA: u8 = 8;
pub(super) const GET_VALUES: u8 = 9;
pub(super) const GET_VALUES_RESULT: u8 = 10;
pub(super) const UNKNOWN_TYPE: u8 = 11;

/// Content of BEGIN_REQUEST, END_REQUEST and UNKNOWN_TYPE.
pub(super) const BODY: usize = 8;

/// How a request ended (`protocolStatus` of END_REQUEST).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Ended {
    /// As it should.
    RequestComplete = 0,
    /// Refused: only one request at a time on a connection.
    CannotMultiplex = 1,
    /// Refused: too many requests.
    Overloaded = 2,
    /// Refused: not a responder's task.
    UnknownRole = 3,
}

/// The header of a record without padding.
pub(super) fn record_header(kind: u8, id: u16, content: usize) -> [u8; HEADER] {
    debug_assert!(content <= MAX_CONTENT);
    let [id_high, id_low] = id.to_be_bytes();
    let [high, low] = (content as u16).to_be_bytes();
    [VERSION, kind, id_high, id_low, high, low, 0, 0]
}

/// The header of a STDOUT record with 1 to [`MAX_CONTENT`] bytes, for those who write the bytes themselves.
pub fn stdout_header(id: u16, content: usize) -> [u8; HEADER] {
    record_header(STDOUT, id, content)
}

/// Appends `bytes` as STDOUT records; nothing for no bytes (an empty record would end the stream).
pub fn render_stdout(id: u16, bytes: &[u8], out: &mut Vec<u8>) {
    render_stream(STDOUT, id, bytes, out);
}

/// Appends `bytes` as STDERR records.
pub fn render_stderr(id: u16, bytes: &[u8], out: &mut Vec<u8>) {
    render_stream(STDERR, id, bytes, out);
}

fn render_stream(kind: u8, id: u16, bytes: &[u8], out: &mut Vec<u8>) {
    for piece in bytes.chunks(MAX_CONTENT) {
        out.extend_from_slice(&record_header(kind, id, piece.len()));
        out.extend_from_slice(piece);
    }
}

/// Appends the end of STDERR, for a request that had any.
pub fn render_stderr_end(id: u16, out: &mut Vec<u8>) {
    out.extend_from_slice(&record_header(STDERR, id, 0));
}

/// Content in STDOUT records, for those who write it bit by bit: all records but the last are of full length, so that any place
/// in them can be computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StdoutFrame {
    id: u16,
    len: u64,
}

/// What stands at a place of framed content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// A record's header, whose first so many bytes lie before the place.
    Header([u8; HEADER], usize),
    /// Content from this position on, up to the end of its record.
    Content {
        /// Position in the content.
        start: u64,
        /// Bytes of it, never 0.
        len: usize,
    },
}

impl StdoutFrame {
    /// `len` bytes (not 0) for request `id`.
    pub fn new(id: u16, len: u64) -> StdoutFrame {
        StdoutFrame { id, len }
    }

    /// Bytes with all headers.
    pub fn total(&self) -> u64 {
        self.len + HEADER as u64 * self.len.div_ceil(MAX_CONTENT as u64)
    }

    /// What stands at `offset`, which is below the total.
    pub fn at(&self, offset: u64) -> Place {
        const FULL: u64 = (HEADER + MAX_CONTENT) as u64;
        let start = offset / FULL * MAX_CONTENT as u64;
        let content = (self.len - start).min(MAX_CONTENT as u64) as usize;
        let within = (offset % FULL) as usize;
        match within.checked_sub(HEADER) {
            None => Place::Header(record_header(STDOUT, self.id, content), within),
            Some(skip) => Place::Content { start: start + skip as u64, len: content - skip },
        }
    }
}

/// Appends the end of STDOUT and the END_REQUEST of a request that was answered.
pub fn render_finish(id: u16, app_status: u32, out: &mut Vec<u8>) {
    out.extend_from_slice(&record_header(STDOUT, id, 0));
    render_end(id, app_status, Ended::RequestComplete, out);
}

/// Appends an END_REQUEST.
pub fn render_end(id: u16, app_status: u32, how: Ended, out: &mut Vec<u8>) {
    let [a, b, c, d] = app_status.to_be_bytes();
    out.extend_from_slice(&record_header(END_REQUEST, id, BODY));
    out.extend_from_slice(&[a, b, c, d, how as u8, 0, 0, 0]);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records(mut bytes: &[u8]) -> Vec<(u8, u16, usize)> {
        let mut found = Vec::new();
        while let Some((&[version, kind, a, b, high, low, padding, 0], rest)) = bytes.split_first_chunk::<HEADER>() {
            assert_eq!((version, padding), (VERSION, 0));
            let len = usize::from(u16::from_be_bytes([high, low]));
            found.push((kind, u16::from_be_bytes([a, b]), len));
            bytes = &rest[len..];
        }
        assert!(bytes.is_empty());
        found
    }

    #[test]
    fn long_output_is_split_into_records() {
        let mut out = Vec::new();
        render_stdout(7, &vec![b'x'; 2 * MAX_CONTENT + 1], &mut out);
        assert_eq!(records(&out), [(STDOUT, 7, MAX_CONTENT), (STDOUT, 7, MAX_CONTENT), (STDOUT, 7, 1)]);
        out.clear();
        render_stderr(0x1234, b"oops\n", &mut out);
        render_stderr_end(0x1234, &mut out);
        assert_eq!(out, b"\x01\x07\x12\x34\x00\x05\x00\x00oops\n\x01\x07\x12\x34\0\0\0\0");
    }

    #[test]
    fn framed_content_is_the_same_from_every_place() {
        for len in [1, 7, MAX_CONTENT - 1, MAX_CONTENT, MAX_CONTENT + 1, 2 * MAX_CONTENT, 2 * MAX_CONTENT + 5] {
            let bytes: Vec<u8> = (0..len).map(|n| (n % 251) as u8).collect();
            let mut expected = Vec::new();
            render_stdout(9, &bytes, &mut expected);
            let frame = StdoutFrame::new(9, len as u64);
            assert_eq!(frame.total(), expected.len() as u64);
            for step in [1, 3, 8, 4099, usize::MAX] {
                let mut out = Vec::new();
                while out.len() < expected.len() {
                    let piece = match frame.at(out.len() as u64) {
                        Place::Header(header, skip) => header[skip..].to_vec(),
                        Place::Content { start, len } => bytes[start as usize..start as usize + len].to_vec(),
                    };
                    out.extend_from_slice(&piece[..piece.len().min(step)]);
                }
                assert!(out == expected, "{len} bytes by {step}");
            }
        }
    }

    #[test]
    fn no_bytes_make_no_record_since_that_would_end_the_stream() {
        let mut out = Vec::new();
        render_stdout(1, b"", &mut out);
        assert!(out.is_empty());
    }

    #[test]
    fn a_response_ends_with_the_end_of_stdout_and_end_request() {
        let mut out = Vec::new();
        render_finish(0x0102, 3, &mut out);
        assert_eq!(out, b"\x01\x06\x01\x02\0\0\0\0\x01\x03\x01\x02\0\x08\0\0\0\0\0\x03\0\0\0\0");
    }
}
