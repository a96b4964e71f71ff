//! What output waits as: bytes of our own, bytes of the application by reference, parts of files.
//!
//! Over FastCGI the latter two stand in records. Their headers are not stored between the content but computed where a
//! write begins, so that a response of any size waits without a copy.

use std::io::{self, IoSlice};
use std::os::unix::fs::FileExt;

use crate::gateway::{FilePart, Kept};
use crate::net::stream::Stream;
use crate::protocol::fastcgi::{HEADER, MAX_CONTENT, Place, StdoutFrame, stdout_header};

/// Bytes of a file given to the kernel at once.
const AT_ONCE: u64 = 1024 * 1024;

/// Bytes of a file copied at once where the kernel cannot send it.
const COPY: usize = 64 * 1024;

pub(super) enum Segment {
    Bytes(Vec<u8>),
    Kept(Kept),
    Records(Box<Records>),
    File(Box<FileSegment>),
}

impl Segment {
    pub(super) fn len(&self) -> usize {
        match self {
            Segment::Bytes(bytes) => bytes.len(),
            Segment::Kept(kept) => (**kept).as_ref().len(),
            Segment::Records(records) => records.frame.total() as usize,
            Segment::File(file) => file.len(),
        }
    }

    /// Puts what stands from `offset` on into `pieces`, from number `count` on, as far as they go.
    pub(super) fn gather<'a>(&'a self, offset: usize, pieces: &mut [IoSlice<'a>], count: &mut usize) {
        match self {
            Segment::Bytes(bytes) => pieces[*count] = IoSlice::new(&bytes[offset..]),
            Segment::Kept(kept) => pieces[*count] = IoSlice::new(&(**kept).as_ref()[offset..]),
            Segment::Records(records) => return records.gather(offset, pieces, count),
            Segment::File(_) => return,
        }
        *count += 1;
    }
}

/// The application's bytes as STDOUT records.
pub(super) struct Records {
    kept: Kept,
    frame: StdoutFrame,
    /// The headers of all records but the last, and of that.
    full: [u8; HEADER],
    last: [u8; HEADER],
}

impl Records {
    /// `kept` is not empty.
    pub(super) fn new(kept: Kept, id: u16) -> Records {
        let len = (*kept).as_ref().len();
        let last = match len % MAX_CONTENT {
            0 => MAX_CONTENT,
            rest => rest,
        };
        Records {
            frame: StdoutFrame::new(id, len as u64),
            full: stdout_header(id, MAX_CONTENT),
            last: stdout_header(id, last),
            kept,
        }
    }

    fn gather<'a>(&'a self, offset: usize, pieces: &mut [IoSlice<'a>], count: &mut usize) {
        let bytes = (*self.kept).as_ref();
        let mut at = offset as u64;
        while *count < pieces.len() && at < self.frame.total() {
            let piece = match self.frame.at(at) {
                Place::Header(header, skip) if header == self.full => &self.full[skip..],
                Place::Header(_, skip) => &self.last[skip..],
                Place::Content { start, len } => &bytes[start as usize..start as usize + len],
            };
            pieces[*count] = IoSlice::new(piece);
            *count += 1;
            at += piece.len() as u64;
        }
    }
}

/// A part of a file, in records or as it is.
pub(super) struct FileSegment {
    part: FilePart,
    frame: Option<StdoutFrame>,
    /// The kernel cannot send files of this kind.
    copies: bool,
}

impl FileSegment {
    /// `id`: the FastCGI request whose records it is to be. `copies`: the kernel is not even asked.
    pub(super) fn new(part: FilePart, id: Option<u16>, copies: bool) -> FileSegment {
        let frame = id.map(|id| StdoutFrame::new(id, part.len));
        FileSegment { part, frame, copies }
    }

    pub(super) fn len(&self) -> usize {
        self.frame.map_or(self.part.len, |frame| frame.total()) as usize
    }

    /// Writes some of what stands from `offset` on; the bytes taken, 0 when the socket is full.
    ///
    /// # Errors
    /// `UnexpectedEof` when the file has become too short; those of the disk; the client is gone.
    pub(super) fn send(&mut self, stream: &Stream, offset: usize) -> io::Result<usize> {
        let offset = offset as u64;
        let (start, len) = match self.frame.map(|frame| frame.at(offset)) {
            None => (offset, (self.part.len - offset).min(AT_ONCE) as usize),
            Some(Place::Header(header, skip)) => return stream.write_more(&header[skip..]),
            Some(Place::Content { start, len }) => (start, len),
        };
        let start = self.part.start + start;
        if !self.copies {
            match stream.send_file(&self.part.file, start, len) {
                Err(error) if matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported) => {
                    self.copies = true;
                }
                result => return result,
            }
        }
        let mut buffer = vec![0; len.min(COPY)];
        match self.part.file.read_at(&mut buffer, start)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            count => stream.write_one(&buffer[..count]),
        }
    }
}
