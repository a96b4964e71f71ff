//! What one app thread tells: the request that it serves, behind a sequence lock with one writer.

use std::sync::atomic::{AtomicU64, Ordering, fence};

use super::layout::*;

/// What one app thread tells. Only the thread itself writes to it.
#[derive(Clone, Copy)]
pub struct ThreadSlot<'a> {
    pub(super) words: &'a [AtomicU64; THREAD_WORDS],
}

/// A request that is being served, as its thread noted it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Current {
    /// When it began, on [`crate::sys::clock::monotonic_ms`].
    pub started_ms: u64,
    /// Request method, cut to 16 bytes.
    pub method: Vec<u8>,
    /// Request target, cut to 224 bytes.
    pub uri: Vec<u8>,
    /// The client, cut to 48 bytes.
    pub peer: Vec<u8>,
}

impl ThreadSlot<'_> {
    /// A request begins, at `now_ms` of [`crate::sys::clock::monotonic_ms`].
    pub fn enter(self, now_ms: u64, method: &[u8], uri: &[u8], peer: &[u8]) {
        // A sequence lock with one writer: odd while the words change.
        let sequence = self.words[SEQUENCE].load(Ordering::Relaxed);
        self.words[SEQUENCE].store(sequence.wrapping_add(1), Ordering::Relaxed);
        fence(Ordering::Release);
        let method = write(&self.words[METHOD..METHOD + METHOD_WORDS], method);
        let peer = write(&self.words[PEER..PEER + PEER_WORDS], peer);
        let uri = write(&self.words[URI..URI + URI_WORDS], uri);
        self.words[LENGTHS].store((method | peer << 16 | uri << 32) as u64, Ordering::Relaxed);
        // 0 is idle.
        self.words[STARTED].store(now_ms.max(1), Ordering::Relaxed);
        self.words[SEQUENCE].store(sequence.wrapping_add(2), Ordering::Release);
    }

    /// The request is over.
    pub fn leave(self) {
        self.words[STARTED].store(0, Ordering::Release);
        let served = self.words[SERVED].load(Ordering::Relaxed);
        self.words[SERVED].store(served + 1, Ordering::Relaxed);
    }

    /// When the request that is being served began.
    pub(super) fn started(self) -> Option<u64> {
        Some(self.words[STARTED].load(Ordering::Relaxed)).filter(|began| *began != 0)
    }

    /// The client left before it had the whole response.
    pub fn add_write_error(self) {
        self.words[WRITE_ERRORS].fetch_add(1, Ordering::Relaxed);
    }

    /// Responses that clients did not wait for.
    pub fn write_errors(self) -> u64 {
        self.words[WRITE_ERRORS].load(Ordering::Relaxed)
    }

    /// Requests that this thread has served.
    pub fn requests(self) -> u64 {
        self.words[SERVED].load(Ordering::Relaxed)
    }

    /// The request that is being served, if any. Torn reads are never returned; a thread that
    /// changes requests too fast to be read, or that was killed in the act, counts as idle.
    pub fn current(self) -> Option<Current> {
        for _ in 0..64 {
            let before = self.words[SEQUENCE].load(Ordering::Acquire);
            if before % 2 == 1 {
                std::hint::spin_loop();
                continue;
            }
            let started_ms = self.words[STARTED].load(Ordering::Relaxed);
            if started_ms == 0 {
                return None;
            }
            let lengths = self.words[LENGTHS].load(Ordering::Relaxed) as usize;
            let current = Current {
                started_ms,
                method: read(&self.words[METHOD..METHOD + METHOD_WORDS], lengths & 0xffff),
                peer: read(&self.words[PEER..PEER + PEER_WORDS], lengths >> 16 & 0xffff),
                uri: read(&self.words[URI..URI + URI_WORDS], lengths >> 32 & 0xffff),
            };
            fence(Ordering::Acquire);
            if self.words[SEQUENCE].load(Ordering::Relaxed) == before {
                return Some(current);
            }
        }
        None
    }
}

/// Stores as much of `bytes` as fits; how much that was.
fn write(words: &[AtomicU64], bytes: &[u8]) -> usize {
    let len = bytes.len().min(words.len() * 8);
    let mut chunks = bytes[..len].chunks_exact(8);
    let mut words = words.iter();
    for (chunk, word) in chunks.by_ref().zip(words.by_ref()) {
        let mut eight = [0; 8];
        eight.copy_from_slice(chunk);
        word.store(u64::from_ne_bytes(eight), Ordering::Relaxed);
    }
    let rest = chunks.remainder();
    if let Some(word) = words.next()
        && !rest.is_empty()
    {
        let mut eight = [0; 8];
        eight[..rest.len()].copy_from_slice(rest);
        word.store(u64::from_ne_bytes(eight), Ordering::Relaxed);
    }
    len
}

fn read(words: &[AtomicU64], len: usize) -> Vec<u8> {
    let len = len.min(words.len() * 8);
    let mut out = Vec::with_capacity(len + 8);
    for word in &words[..len.div_ceil(8)] {
        out.extend_from_slice(&word.load(Ordering::Relaxed).to_ne_bytes());
    }
    out.truncate(len);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scoreboard::Scoreboard;

    #[test]
    fn a_request_is_seen_while_it_runs() {
        let board = Scoreboard::create(2, 2).unwrap();
        let thread = board.worker(2).thread(1);
        assert_eq!(thread.current(), None);
        thread.enter(7, b"POST", b"/import", b"10.0.0.1");
        let current = board.worker(2).oldest().unwrap();
        assert_eq!((current.method.as_slice(), current.uri.as_slice()), (&b"POST"[..], &b"/import"[..]));
        assert_eq!((current.peer.as_slice(), current.started_ms), (&b"10.0.0.1"[..], 7));
        assert_eq!(board.worker(1).oldest(), None);
        thread.leave();
        assert_eq!((thread.current(), thread.requests()), (None, 1));
    }

    #[test]
    fn long_texts_are_cut_and_short_ones_exact() {
        let board = Scoreboard::create(1, 1).unwrap();
        let thread = board.worker(1).thread(0);
        let long = [b'x'; 1000];
        thread.enter(0, &long, &long, &long);
        let current = thread.current().unwrap();
        assert_eq!((current.method.len(), current.uri.len(), current.peer.len()), (16, 224, 48));
        for len in 0..=224 {
            thread.enter(1, b"GET", &long[..len], b"");
            assert_eq!(thread.current().unwrap().uri, &long[..len]);
        }
    }

    #[test]
    fn a_process_killed_in_the_act_locks_nothing() {
        let board = Scoreboard::create(1, 1).unwrap();
        let thread = board.worker(1).thread(0);
        thread.words[SEQUENCE].store(1, Ordering::Relaxed);
        assert_eq!(thread.current(), None);
        board.worker(1).reset(5, 1);
        thread.enter(3, b"GET", b"/", b"");
        assert!(thread.current().is_some());
    }

    #[test]
    fn a_reader_never_sees_two_requests_mixed() {
        let board = Scoreboard::create(1, 1).unwrap();
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| {
                for n in 0..20_000_u64 {
                    let byte = [b'a' + (n % 26) as u8; 100];
                    board.worker(1).thread(0).enter(n, &byte[..10], &byte, &byte[..20]);
                }
            });
            while !writer.is_finished() {
                if let Some(current) = board.worker(1).thread(0).current() {
                    let first = current.uri[0];
                    assert!(current.uri.iter().chain(&current.method).chain(&current.peer).all(|b| *b == first));
                }
            }
        });
    }
}
