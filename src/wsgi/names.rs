//! From the bytes of header and variable names to interned environ keys.
//!
//! Names repeat from request to request, so each app thread remembers the key of every spelling it met, and with it the
//! last value: most values repeat as well (User-Agent, Accept, Host), and then no new `str` is made.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};

use pyo3::prelude::*;
use pyo3::types::PyString;

use super::raw::latin1;
use crate::protocol::request::Span;

/// Names remembered between requests; a client that invents more makes the table start afresh.
const MAX_NAMES: usize = 512;
/// Keys interned in the life of a thread: where interned strings are immortal (CPython 3.12), a client must not be able
/// to make more and more of them.
const MAX_INTERNED: usize = 256;
/// Longest value that is remembered.
const MAX_VALUE: usize = 256;
/// Fields of a request whose places are remembered.
const MAX_ORDER: usize = 64;
/// A value that changed so many times in a row is not worth remembering.
const MAX_MISSES: u8 = 16;

/// What the environ does with a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The last one counts.
    Last,
    /// Repeated ones are joined (RFC 9110 section 5.3; Cookie: RFC 9113 section 8.2.3).
    Join(&'static [u8]),
    /// Not passed on.
    Drop,
    /// Over HTTP: `Request::host` stands for it.
    Host,
    /// Variables of a front end that the server itself looks at.
    ScriptName,
    PathInfo,
    Https,
    Scheme,
}

/// Keys that the server sets by name; their index in every [`Names`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub(super) enum Known {
    RequestMethod,
    ScriptName,
    PathInfo,
    QueryString,
    RequestUri,
    ServerProtocol,
    RemoteAddr,
    RemotePort,
    HttpHost,
    ContentLength,
    UrlScheme,
    Input,
}

/// The texts of [`Known`], in its order.
const KNOWN: [&str; Known::Input as usize + 1] = [
    "REQUEST_METHOD",
    "SCRIPT_NAME",
    "PATH_INFO",
    "QUERY_STRING",
    "REQUEST_URI",
    "SERVER_PROTOCOL",
    "REMOTE_ADDR",
    "REMOTE_PORT",
    "HTTP_HOST",
    "CONTENT_LENGTH",
    "wsgi.url_scheme",
    "wsgi.input",
];

/// An environ key with the value it had last.
pub(super) struct Key {
    pub(super) text: Py<PyString>,
    pub(super) kind: Kind,
    /// The request (see [`Names::begin`]) whose environ got it last.
    pub(super) written: u64,
    /// The request (see [`Names::begin`]) in which this key was met last, and the value it had first in it.
    pub(super) met: u64,
    pub(super) first: Span,
    /// False for secrets, which are not kept beyond their request.
    pub(super) keeps: bool,
    misses: u8,
    last_bytes: Vec<u8>,
    last: Option<Py<PyString>>,
}

impl Key {
    fn with(text: Bound<'_, PyString>, name: &str, kind: Kind) -> Key {
        let keeps = !matches!(name, "HTTP_COOKIE" | "HTTP_AUTHORIZATION" | "HTTP_PROXY_AUTHORIZATION");
        Key {
            text: text.unbind(),
            kind,
            written: 0,
            met: 0,
            first: Span::default(),
            keeps,
            misses: 0,
            last_bytes: Vec::new(),
            last: None,
        }
    }

    /// Whether the last value was made of these bytes and is still known.
    #[inline]
    pub(super) fn repeats(&mut self, bytes: &[u8]) -> bool {
        let repeats = self.last.is_some() && same(&self.last_bytes, bytes);
        if repeats {
            self.misses = 0;
        }
        repeats
    }

    /// `bytes` as a `str`, after [`Key::repeats`] was asked for them.
    #[inline]
    pub(super) fn value<'py>(&mut self, py: Python<'py>, bytes: &[u8], repeats: bool) -> Bound<'py, PyString> {
        if let Some(last) = &self.last
            && repeats
        {
            return last.bind(py).clone();
        }
        let value = latin1(py, bytes);
        if self.keeps && self.misses < MAX_MISSES && bytes.len() <= MAX_VALUE {
            self.misses += u8::from(self.last.is_some());
            self.last_bytes.clear();
            self.last_bytes.extend_from_slice(bytes);
            self.last = Some(value.clone().unbind());
        } else {
            self.last = None;
        }
        value
    }

    /// The environ got a value that was not made by [`Key::value`].
    pub(super) fn forget(&mut self) {
        self.last = None;
    }
}

/// The names of one protocol and their keys.
pub(super) struct Names {
    /// Whether names are CGI variables already.
    cgi: bool,
    seed: u64,
    /// Open addressing over a power of two: index + 1 into `spellings`, 0 is free.
    table: Vec<u32>,
    spellings: Vec<Spelling>,
    /// By the place in a request: the spelling that stood there last. Clients and front ends keep their order.
    order: Vec<u32>,
    keys: Vec<Key>,
    by_text: HashMap<String, u32>,
    interned: usize,
    request: u64,
}

struct Spelling {
    hash: u64,
    name: Box<[u8]>,
    key: u32,
}

impl Names {
    pub(super) fn new(py: Python<'_>, cgi: bool) -> Names {
        let kind = |name: &str| match (cgi, name) {
            (true, name) => variable(name.as_bytes()).1,
            (false, "HTTP_HOST") => Kind::Host,
            (false, _) => Kind::Last,
        };
        Names {
            cgi,
            seed: RandomState::new().hash_one(0),
            table: vec![0; MAX_NAMES * 2],
            spellings: Vec::new(),
            order: vec![0; MAX_ORDER],
            keys: KNOWN.iter().map(|name| Key::with(PyString::intern(py, name), name, kind(name))).collect(),
            by_text: KNOWN.iter().enumerate().map(|(index, name)| ((*name).into(), index as u32)).collect(),
            interned: 0,
            request: 0,
        }
    }

    /// Begins a request and returns its number, to compare [`Key::met`] and [`Key::written`] with. False: indices of earlier
    /// requests mean nothing any more.
    pub(super) fn begin(&mut self, py: Python<'_>) -> (u64, bool) {
        let full = self.spellings.len() > MAX_NAMES;
        if full {
            *self = Names { request: self.request, interned: self.interned, ..Names::new(py, self.cgi) };
        }
        self.request += 1;
        (self.request, !full)
    }

    /// The key at an index that [`Names::find`] gave in this request, or [`Known`] has.
    #[inline]
    pub(super) fn key(&mut self, index: usize) -> &mut Key {
        &mut self.keys[index]
    }

    /// The index of the key for `name`, which stands at `place` among the fields of its request.
    #[inline]
    pub(super) fn find(&mut self, py: Python<'_>, place: usize, name: &[u8]) -> usize {
        let expected = self.order.get(place).and_then(|&last| self.spellings.get(last as usize));
        if let Some(expected) = expected
            && same(&expected.name, name)
        {
            return expected.key as usize;
        }
        let spelling = self.look_up(py, name);
        if let Some(last) = self.order.get_mut(place) {
            *last = spelling as u32;
        }
        self.spellings[spelling].key as usize
    }

    /// The index of the spelling `name`.
    fn look_up(&mut self, py: Python<'_>, name: &[u8]) -> usize {
        let hash = hash(self.seed, name);
        let mask = self.table.len() - 1;
        let mut at = hash as usize & mask;
        loop {
            match self.table[at] {
                0 => return self.add(py, name, hash),
                entry => {
                    let spelling = &self.spellings[entry as usize - 1];
                    if spelling.hash == hash && *spelling.name == *name {
                        return entry as usize - 1;
                    }
                }
            }
            at = (at + 1) & mask;
        }
    }

    #[cold]
    fn add(&mut self, py: Python<'_>, name: &[u8], hash: u64) -> usize {
        let (text, kind) = if self.cgi { variable(name) } else { header(name) };
        let text: String = text.iter().map(|&byte| byte as char).collect();
        let key = match self.by_text.get(&text) {
            Some(&key) => key,
            None => {
                let object = if self.interned < MAX_INTERNED {
                    self.interned += 1;
                    PyString::intern(py, &text)
                } else {
                    PyString::new(py, &text)
                };
                let key = self.keys.len() as u32;
                self.keys.push(Key::with(object, &text, kind));
                self.by_text.insert(text, key);
                key
            }
        };
        self.spellings.push(Spelling { hash, name: name.into(), key });
        if self.spellings.len() * 2 > self.table.len() {
            self.table = vec![0; self.table.len() * 2];
            for index in 0..self.spellings.len() {
                self.place(index);
            }
        } else {
            self.place(self.spellings.len() - 1);
        }
        self.spellings.len() - 1
    }

    fn place(&mut self, index: usize) {
        let mask = self.table.len() - 1;
        let mut at = self.spellings[index].hash as usize & mask;
        while self.table[at] != 0 {
            at = (at + 1) & mask;
        }
        self.table[at] = index as u32 + 1;
    }
}

/// Whether two texts are the same. They are mostly short: a call of memcmp costs more than the comparison.
#[inline]
fn same(one: &[u8], other: &[u8]) -> bool {
    let len = one.len();
    if len != other.len() {
        return false;
    }
    let ones = |at: usize| one.get(at..at + 8) == other.get(at..at + 8);
    match len {
        0..8 => one.iter().zip(other).all(|(a, b)| a == b),
        8..=64 => (0..len / 8).all(|group| ones(group * 8)) && ones(len - 8),
        _ => one == other,
    }
}

/// Folded multiplication over eight bytes at a time, with a seed of its own per thread: names come from strangers.
#[inline]
fn hash(seed: u64, name: &[u8]) -> u64 {
    const MIX: u64 = 0x9e37_79b9_7f4a_7c15;
    let fold = |a: u64, b: u64| {
        let product = u128::from(a) * u128::from(b);
        (product as u64) ^ (product >> 64) as u64
    };
    let mut state = seed ^ name.len() as u64;
    let mut chunks = name.chunks_exact(8);
    for chunk in &mut chunks {
        let mut word = [0; 8];
        word.copy_from_slice(chunk);
        state = fold(state ^ u64::from_le_bytes(word), MIX ^ seed.rotate_left(32));
    }
    let mut word = [0; 8];
    word[..chunks.remainder().len()].copy_from_slice(chunks.remainder());
    fold(state ^ u64::from_le_bytes(word), MIX ^ seed)
}

/// The environ key of an HTTP header field (RFC 3875 section 4.1.18).
fn header(name: &[u8]) -> (Vec<u8>, Kind) {
    let upper: Vec<u8> = name.iter().map(|&b| if b == b'-' { b'_' } else { b.to_ascii_uppercase() }).collect();
    match &upper[..] {
        b"CONTENT_TYPE" | b"CONTENT_LENGTH" => (upper, Kind::Last),
        b"HOST" => (b"HTTP_HOST".to_vec(), Kind::Host),
        b"COOKIE" => (b"HTTP_COOKIE".to_vec(), Kind::Join(b"; ")),
        _ => ([b"HTTP_", &upper[..]].concat(), Kind::Join(b",")),
    }
}

#[cfg(test)]
#[test]
fn texts_are_the_same_when_all_of_their_bytes_are() {
    let text: Vec<u8> = (0..100).collect();
    for len in 0..text.len() {
        assert!(same(&text[..len], &text[..len]));
        assert!(!same(&text[..len], &text[..len + 1]) && !same(&text[..len + 1], &text[..len]));
        for at in 0..len {
            let mut other = text[..len].to_vec();
            other[at] ^= 0x80;
            assert!(!same(&text[..len], &other), "{at} of {len}");
        }
    }
}

/// What becomes of a variable that a front end sent.
fn variable(name: &[u8]) -> (Vec<u8>, Kind) {
    let kind = match name {
        b"SCRIPT_NAME" => Kind::ScriptName,
        b"PATH_INFO" => Kind::PathInfo,
        b"HTTPS" => Kind::Https,
        b"UWSGI_SCHEME" => Kind::Scheme,
        b"HTTP_COOKIE" => Kind::Join(b"; "),
        // The real ones come without the prefix; these could only contradict them.
        b"HTTP_CONTENT_TYPE" | b"HTTP_CONTENT_LENGTH" => Kind::Drop,
        // Keys that are the server's to say.
        _ if [&b"wsgi."[..], b"uwsgi.", b"rsgi."].iter().any(|prefix| name.starts_with(prefix)) => Kind::Drop,
        _ if name.starts_with(b"HTTP_") => Kind::Join(b","),
        _ => Kind::Last,
    };
    (name.to_vec(), kind)
}
