//! FastCGI 1.0: from the bytes of a connection to the events of its requests, and from responses to records.
//!
//! A [`Demux`] is fed a connection's bytes in any pieces. It holds what belongs to the connection (records, who is active,
//! PARAMS that are not whole); bodies and responses are the caller's. Rules:
//! - A request is active from BEGIN_REQUEST until the caller has queued its END_REQUEST and says so ([`Demux::end`]). Records of
//!   inactive ids are skipped (specification, section 3.3): they are what was under way when a request ended.
//! - What needs no request is answered here, in whole records: management records, roles other than the responder, more
//!   requests than allowed, an abort before the request was whole.
//! - A request that cannot be accepted is refused alone. Records that no web server may send break the connection, since
//!   nothing behind them can be trusted.
//! - A body longer or shorter than CONTENT_LENGTH is refused (section 6.2 asks to compare the two).

mod pairs;
mod record;

use super::request::{BodyLength, Refusal, Request};
use pairs::{pair, variables};
use record::*;

pub use record::{
    Ended, HEADER, MAX_CONTENT, Place, StdoutFrame, render_end, render_finish, render_stderr, render_stderr_end,
    render_stdout, stdout_header,
};

const RESPONDER: u16 = 1;
const KEEP_CONN: u8 = 1;

/// Bounds of a connection, and what GET_VALUES is answered with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Bytes of the PARAMS of one request; above it 431.
    pub max_params: usize,
    /// Requests at a time on one connection; 1: no multiplexing.
    pub max_requests: usize,
    /// Connections that the server takes (FCGI_MAX_CONNS).
    pub server_connections: u32,
    /// Requests that the server takes at a time (FCGI_MAX_REQS).
    pub server_requests: u32,
}

/// What the bytes mean. Ids tell the requests of a connection apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// The variables of a request are whole: fetch them by [`Demux::take`] before the next call.
    Request {
        /// The request.
        id: u16,
    },
    /// A piece of its body.
    Body {
        /// The request.
        id: u16,
        /// At least one byte.
        bytes: &'a [u8],
    },
    /// Its body is whole. Comes for every request, also without a body.
    BodyEnd {
        /// The request.
        id: u16,
    },
    /// The web server no longer wants the response. Answer with END_REQUEST once nobody works on it.
    Abort {
        /// The request.
        id: u16,
    },
    /// The request can't be accepted: answer with the status, then END_REQUEST. Comes before `Request`, or in the midst of the body.
    Refused {
        /// The request.
        id: u16,
        /// Why.
        refusal: Refusal,
    },
}

/// The connection cannot go on: close it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Violation {
    /// What was wrong, for the log.
    pub reason: &'static str,
}

const fn violation<T>(reason: &'static str) -> Result<T, Violation> {
    Err(Violation { reason })
}

/// An active request.
#[derive(Debug)]
struct Slot {
    id: u16,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    /// PARAMS so far.
    Params(Vec<u8>),
    /// Bytes of the body that must still come, where that is known.
    Body(Option<u64>),
    /// The body is whole.
    Whole,
    /// Refused or aborted: whatever else comes is skipped.
    Over,
}

/// What the content of the record under way is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    Skip,
    Begin,
    Params,
    Stdin,
    Values,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reading {
    Header,
    Content,
    Padding,
}

/// One connection's input.
#[derive(Debug)]
pub struct Demux {
    options: Options,
    slots: Vec<Slot>,
    reading: Reading,
    header: [u8; HEADER],
    /// Valid bytes of `header`.
    have: usize,
    purpose: Purpose,
    /// Request id of the record under way.
    id: u16,
    /// Bytes of its content and padding that are still to come.
    content: usize,
    padding: usize,
    /// Content that is looked at as a whole.
    collected: Vec<u8>,
    /// The request that was announced last.
    head: Vec<u8>,
    request: Request,
    /// A request without FCGI_KEEP_CONN has begun.
    closing: bool,
}

impl Demux {
    /// A new connection.
    pub fn new(options: Options) -> Demux {
        Demux {
            options,
            slots: Vec::new(),
            reading: Reading::Header,
            header: [0; HEADER],
            have: 0,
            purpose: Purpose::Skip,
            id: 0,
            content: 0,
            padding: 0,
            collected: Vec::new(),
            head: Vec::new(),
            request: Request::default(),
            closing: false,
        }
    }

    /// Takes bytes off the front of `input` up to the next event; none when all are used up. Appends what must be sent
    /// to the web server to `answers`, in whole records.
    ///
    /// # Errors
    /// When the web server breaks the protocol; the demultiplexer is of no use afterwards.
    pub fn next<'a>(&mut self, input: &mut &'a [u8], answers: &mut Vec<u8>) -> Result<Option<Event<'a>>, Violation> {
        loop {
            if self.is_over() {
                *input = &[];
                return Ok(None);
            }
            match self.reading {
                Reading::Header => {
                    let (part, rest) = input.split_at(input.len().min(HEADER - self.have));
                    self.header[self.have..self.have + part.len()].copy_from_slice(part);
                    self.have += part.len();
                    *input = rest;
                    if self.have > 0 && self.header[0] != VERSION {
                        return violation("not a record of FastCGI version 1");
                    }
                    if self.have < HEADER {
                        return Ok(None);
                    }
                    self.have = 0;
                    self.reading = Reading::Content;
                    if let Some(event) = self.begin_record(answers)? {
                        return Ok(Some(event));
                    }
                }
                Reading::Content if self.content == 0 => {
                    self.reading = Reading::Padding;
                    if let Some(event) = self.end_record(answers)? {
                        return Ok(Some(event));
                    }
                }
                Reading::Content => {
                    if input.is_empty() {
                        return Ok(None);
                    }
                    let (part, rest) = input.split_at(input.len().min(self.content));
                    self.content -= part.len();
                    *input = rest;
                    if let Some(event) = self.take_content(part) {
                        return Ok(Some(event));
                    }
                }
                Reading::Padding => {
                    let skipped = input.len().min(self.padding);
                    self.padding -= skipped;
                    *input = &input[skipped..];
                    if self.padding > 0 {
                        return Ok(None);
                    }
                    self.reading = Reading::Header;
                }
            }
        }
    }

    /// Fetches the request that [`Event::Request`] announced: its variables, and what they mean. What was in `head` and
    /// `request` is used for the next one.
    pub fn take(&mut self, head: &mut Vec<u8>, request: &mut Request) {
        std::mem::swap(&mut self.head, head);
        std::mem::swap(&mut self.request, request);
    }

    /// The END_REQUEST of `id` is queued: the web server may use the id again. Tells whether more of its body may come.
    pub fn end(&mut self, id: u16) -> bool {
        let Some(at) = self.slots.iter().position(|slot| slot.id == id) else { return false };
        !matches!(self.slots.remove(at).stage, Stage::Whole)
    }

    /// How many requests are active.
    pub fn active(&self) -> usize {
        self.slots.len()
    }

    /// Whether nothing is under way, neither a request nor a record.
    pub fn is_idle(&self) -> bool {
        self.slots.is_empty() && self.reading != Reading::Content && self.padding == 0 && self.have == 0
    }

    /// Whether the connection must be closed when what is queued has been written: a request came without
    /// FCGI_KEEP_CONN, and none is active any more. Further input is ignored.
    pub fn is_over(&self) -> bool {
        self.closing && self.slots.is_empty()
    }

    fn slot(&mut self, id: u16) -> Option<&mut Slot> {
        self.slots.iter_mut().find(|slot| slot.id == id)
    }

    /// A record's header is whole: decides what its content is for.
    fn begin_record(&mut self, answers: &mut Vec<u8>) -> Result<Option<Event<'static>>, Violation> {
        let [_, kind, id_high, id_low, high, low, padding, _] = self.header;
        let id = u16::from_be_bytes([id_high, id_low]);
        self.id = id;
        self.content = usize::from(u16::from_be_bytes([high, low]));
        self.padding = usize::from(padding);
        self.collected.clear();
        self.purpose = Purpose::Skip;
        let (content, max_params) = (self.content, self.options.max_params);
        match kind {
            GET_VALUES if id == 0 => self.purpose = Purpose::Values,
            // Section 4.2: every management record that is not understood.
            _ if id == 0 => {
                answers.extend_from_slice(&record_header(UNKNOWN_TYPE, 0, BODY));
                answers.extend_from_slice(&[kind, 0, 0, 0, 0, 0, 0, 0]);
            }
            BEGIN_REQUEST if content != BODY => return violation("BEGIN_REQUEST of a wrong size"),
            BEGIN_REQUEST => self.purpose = Purpose::Begin,
            ABORT_REQUEST => return Ok(self.abort(id, answers)),
            PARAMS => match self.slot(id) {
                None => {}
                Some(Slot { stage: Stage::Params(params), .. }) if params.len() + content <= max_params => {
                    self.purpose = Purpose::Params;
                }
                Some(slot @ Slot { stage: Stage::Params(_), .. }) => {
                    slot.stage = Stage::Over;
                    return Ok(Some(refused(id, 431, "FastCGI variables over buffer-size")));
                }
                Some(Slot { stage: Stage::Over, .. }) => {}
                Some(_) => return violation("PARAMS after their end"),
            },
            STDIN => match self.slot(id) {
                None => {}
                Some(slot) => match &mut slot.stage {
                    Stage::Body(Some(left)) if content as u64 > *left => {
                        slot.stage = Stage::Over;
                        return Ok(Some(refused(id, 400, "body longer than CONTENT_LENGTH")));
                    }
                    Stage::Body(_) => self.purpose = Purpose::Stdin,
                    Stage::Over => {}
                    // Some say twice that it was all.
                    Stage::Whole if content == 0 => {}
                    Stage::Whole => return violation("STDIN after its end"),
                    Stage::Params(_) => return violation("STDIN before the end of PARAMS"),
                },
            },
            // For filters; a responder has nothing to read from it.
            DATA => {}
            END_REQUEST | STDOUT | STDERR | GET_VALUES_RESULT | UNKNOWN_TYPE => {
                return violation("a record that only applications send");
            }
            GET_VALUES => return violation("GET_VALUES with a request id"),
            _ => return violation("unknown record type with a request id"),
        }
        Ok(None)
    }

    fn abort(&mut self, id: u16, answers: &mut Vec<u8>) -> Option<Event<'static>> {
        let slot = self.slot(id)?;
        match slot.stage {
            Stage::Over => None,
            Stage::Params(_) => {
                render_end(id, 0, Ended::RequestComplete, answers);
                self.end(id);
                None
            }
            Stage::Body(_) | Stage::Whole => {
                slot.stage = Stage::Over;
                Some(Event::Abort { id })
            }
        }
    }

    /// A piece of a record's content.
    fn take_content<'a>(&mut self, part: &'a [u8]) -> Option<Event<'a>> {
        let id = self.id;
        match self.purpose {
            Purpose::Skip => {}
            Purpose::Begin | Purpose::Values => self.collected.extend_from_slice(part),
            Purpose::Params => {
                if let Some(Slot { stage: Stage::Params(params), .. }) = self.slot(id) {
                    params.extend_from_slice(part);
                }
            }
            Purpose::Stdin => {
                // The request may have ended in the midst of the record.
                if let Some(Slot { stage: Stage::Body(left), .. }) = self.slot(id) {
                    if let Some(left) = left {
                        *left -= part.len() as u64;
                    }
                    return Some(Event::Body { id, bytes: part });
                }
            }
        }
        None
    }

    /// A record's content is whole.
    fn end_record(&mut self, answers: &mut Vec<u8>) -> Result<Option<Event<'static>>, Violation> {
        let empty = u16::from_be_bytes([self.header[4], self.header[5]]) == 0;
        match self.purpose {
            Purpose::Begin => self.begin_request(answers)?,
            Purpose::Values => self.answer_values(answers)?,
            Purpose::Params if empty => return Ok(self.end_params()),
            Purpose::Stdin if empty => return Ok(self.end_stdin()),
            Purpose::Params | Purpose::Stdin | Purpose::Skip => {}
        }
        Ok(None)
    }

    fn begin_request(&mut self, answers: &mut Vec<u8>) -> Result<(), Violation> {
        let id = self.id;
        if self.slot(id).is_some() {
            return violation("BEGIN_REQUEST with the id of an active request");
        }
        let role = u16::from_be_bytes([self.collected[0], self.collected[1]]);
        self.closing |= self.collected[2] & KEEP_CONN == 0;
        let declined = if role != RESPONDER {
            Ended::UnknownRole
        } else if self.slots.len() < self.options.max_requests {
            self.slots.push(Slot { id, stage: Stage::Params(Vec::new()) });
            return Ok(());
        } else if self.options.max_requests == 1 {
            Ended::CannotMultiplex
        } else {
            Ended::Overloaded
        };
        render_end(id, 0, declined, answers);
        Ok(())
    }

    fn end_params(&mut self) -> Option<Event<'static>> {
        let id = self.id;
        let slot = self.slots.iter_mut().find(|slot| slot.id == id)?;
        let Stage::Params(params) = &mut slot.stage else { return None };
        self.head = std::mem::take(params);
        Some(match variables(&self.head, &mut self.request) {
            Ok(()) => {
                let length = match self.request.body {
                    BodyLength::Length(length) => Some(length),
                    _ => None,
                };
                slot.stage = Stage::Body(length);
                Event::Request { id }
            }
            Err(refusal) => {
                slot.stage = Stage::Over;
                Event::Refused { id, refusal }
            }
        })
    }

    fn end_stdin(&mut self) -> Option<Event<'static>> {
        let id = self.id;
        let slot = self.slot(id)?;
        Some(match slot.stage {
            Stage::Body(None | Some(0)) => {
                slot.stage = Stage::Whole;
                Event::BodyEnd { id }
            }
            Stage::Body(Some(_)) => {
                slot.stage = Stage::Over;
                refused(id, 400, "body shorter than CONTENT_LENGTH")
            }
            _ => return None,
        })
    }

    /// Section 4.1: names that are not known are left out of the answer.
    fn answer_values(&self, answers: &mut Vec<u8>) -> Result<(), Violation> {
        let Options { max_requests, server_connections, server_requests, .. } = self.options;
        let known = [
            (&b"FCGI_MAX_CONNS"[..], server_connections),
            (b"FCGI_MAX_REQS", server_requests),
            (b"FCGI_MPXS_CONNS", u32::from(max_requests > 1)),
        ];
        let mut asked = [false; 3];
        let mut at = 0;
        while at < self.collected.len() {
            let Some((name, value)) = pair(&self.collected, at) else {
                return violation("GET_VALUES runs over the end of its record");
            };
            at = value.end as usize;
            if let Some(which) = known.iter().position(|(known, _)| *known == name.of(&self.collected)) {
                asked[which] = true;
            }
        }
        let mut pairs = Vec::new();
        for ((name, value), _) in known.iter().zip(asked).filter(|(_, asked)| *asked) {
            let value = value.to_string();
            pairs.extend_from_slice(&[name.len() as u8, value.len() as u8]);
            pairs.extend_from_slice(name);
            pairs.extend_from_slice(value.as_bytes());
        }
        answers.extend_from_slice(&record_header(GET_VALUES_RESULT, 0, pairs.len()));
        answers.extend_from_slice(&pairs);
        Ok(())
    }
}

fn refused(id: u16, status: u16, reason: &'static str) -> Event<'static> {
    Event::Refused { id, refusal: Refusal::new(status, reason) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_that_ends_in_the_midst_of_a_record_leaves_the_next_ones_alone() {
        let options = Options { max_params: 100, max_requests: 2, server_connections: 1, server_requests: 2 };
        let mut demux = Demux::new(options);
        let mut answers = Vec::new();
        let mut start = b"\x01\x01\0\x01\0\x08\0\0\0\x01\x01\0\0\0\0\0".to_vec();
        let params = b"\x0e\x03REQUEST_METHODPUT\x0e\x01CONTENT_LENGTH9";
        start.extend_from_slice(&record_header(PARAMS, 1, params.len()));
        start.extend_from_slice(params);
        start.extend_from_slice(&record_header(PARAMS, 1, 0));
        start.extend_from_slice(&record_header(STDIN, 1, 9));
        start.extend_from_slice(b"half");
        let mut input = &start[..];
        assert_eq!(demux.next(&mut input, &mut answers), Ok(Some(Event::Request { id: 1 })));
        assert_eq!(demux.next(&mut input, &mut answers), Ok(Some(Event::Body { id: 1, bytes: b"half" })));
        assert_eq!(demux.next(&mut input, &mut answers), Ok(None));
        demux.end(1);
        assert!(!demux.is_idle(), "a record is under way");
        let mut input = &b"wayX?\x01\x05\0\x01\0\0\0\0"[..];
        assert_eq!(demux.next(&mut input, &mut answers), Ok(None));
        assert!(demux.is_idle() && !demux.is_over() && answers.is_empty());
    }
}
