//! A connection becomes a letter to another worker, and a letter a connection.

use std::fs::File;
use std::io::{Seek, Write};
use std::sync::Arc;

use super::{Connection, Phase};
use crate::gateway::{Body, Peer};
use crate::mailbox::MAX_LETTER;
use crate::net::stream::Stream;
use crate::protocol::request::BodyLength;
use crate::worker::Worker;
use crate::worker::clock::{after, now};
use crate::worker::migrate::{self, Carried, Letter, Packed};
use crate::worker::work::{READ, SLACK, Work};

impl Connection {
    /// A connection that another worker gave away; `file` came with the letter.
    pub(in crate::worker) fn adopt(
        worker: &Arc<Worker>,
        stream: Stream,
        listener: usize,
        letter: &Letter<'_>,
        file: Option<File>,
    ) -> Box<Connection> {
        let peer = Peer { addr: letter.peer_addr.into(), port: letter.peer_port.into() };
        let mut connection = Connection::new(worker, stream, listener, peer);
        connection.hops = letter.hops;
        connection.half_closed = letter.half_closed;
        connection.phase = if letter.awaits_preface { Phase::Preface } else { Phase::Idle };
        if letter.bytes.is_empty() {
            if !letter.awaits_preface {
                connection.deadline = after(now(), worker.options.timeouts.keep_alive);
            }
            return connection;
        }
        let mut work = Work::new();
        let mut bytes = letter.bytes;
        match (letter.body, file) {
            (Carried::AsSent, _) => {}
            (Carried::Decoded(len), _) => {
                let body;
                (bytes, body) = bytes.split_at(bytes.len() - len as usize);
                work.arrived = Some(if body.is_empty() { Body::Empty } else { Body::Memory(body.to_vec()) });
            }
            (Carried::File(len), Some(file)) => work.arrived = Some(Body::File { file, len }),
            // Cut, and not taken for a request without a body.
            (Carried::File(_), None) => bytes = &[],
        }
        work.input.resize(READ.max(bytes.len() + SLACK), 0);
        work.input[..bytes.len()].copy_from_slice(bytes);
        work.filled = bytes.len();
        connection.work = Some(work);
        if !letter.awaits_preface {
            connection.phase = Phase::Head;
        }
        connection
    }

    /// What takes this connection to another worker; none when it can't move.
    pub(in crate::worker) fn pack(&self, hops: u8) -> Option<Packed> {
        if !migrate::may_move(self.phase) || self.io.queue().len() > 0 {
            return None;
        }
        // A connection that several requests share moves only while there is none of them.
        if self.branch.is_some() || self.mux.as_ref().is_some_and(|mux| !mux.is_idle()) {
            return None;
        }
        let (mut bytes, mut body, mut file) = (Vec::new(), Carried::AsSent, None);
        let mut tail: &[u8] = &[];
        if let Some(work) = &self.work {
            let end_of_head = if self.phase == Phase::Application { work.request.head_len } else { work.filled };
            bytes.extend_from_slice(&work.input[..end_of_head]);
            match (&work.body, work.request.body) {
                (None, _) => {}
                // A chunked body without a chunk: its framing is gone as well.
                (Some(Body::Empty), BodyLength::Chunked) => body = Carried::Decoded(0),
                (Some(Body::Empty), _) => {}
                (Some(Body::Memory(content)), _) if bytes.len() + content.len() > MAX_LETTER / 2 => {
                    file = Some(spool(content)?);
                    body = Carried::File(content.len() as u64);
                }
                (Some(Body::Memory(content)), BodyLength::Length(_)) => bytes.extend_from_slice(content),
                // Its framing is gone.
                (Some(Body::Memory(content)), _) => {
                    body = Carried::Decoded(content.len() as u32);
                    tail = content;
                }
                (Some(Body::File { len, .. }), _) => body = Carried::File(*len),
                (Some(Body::Stream(_)), _) => bytes.extend_from_slice(&work.streamed.as_ref()?.untouched()?),
            }
            bytes.extend_from_slice(&work.input[end_of_head..work.filled]);
        }
        bytes.extend_from_slice(tail);
        let letter = Letter {
            protocol: self.protocol(),
            hops,
            half_closed: self.half_closed,
            awaits_preface: self.awaits_preface(),
            listener: &self.worker.addresses[self.listener],
            peer_addr: &self.peer.addr,
            peer_port: &self.peer.port,
            body,
            bytes: &bytes,
        };
        Some(Packed { letter: letter.encode()?, spooled: file })
    }

    /// The file that the body of a complete request lies in.
    pub(in crate::worker) fn body_file(&self) -> Option<&File> {
        match &self.work.as_ref()?.body {
            Some(Body::File { file, .. }) => Some(file),
            _ => None,
        }
    }
}

/// A body that is too long for a letter, in a file.
fn spool(content: &[u8]) -> Option<File> {
    let mut file = tempfile::tempfile().ok()?;
    file.write_all(content).ok()?;
    file.rewind().ok()?;
    Some(file)
}
