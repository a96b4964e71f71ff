//! Response fields that the application gives again and again, checked and rendered once.
//!
//! Constants of a program are the same objects at every request. A field is known by the identity of its two strings,
//! which are kept alive here, so that an address means one string. Strings made for one response are not learnt:
//! nobody else holds them. A response all of whose fields are known is known as a whole: one copy makes its head.

use pyo3::prelude::*;
use pyo3::types::{PyList, PyString};

use super::raw;
use crate::protocol::response::{Head, Prepared, PreparedHead};

/// Places in the table.
const PLACES_LOG: u32 = 8;

/// A field stands in one of so many places in a row.
const WINDOW: usize = 4;

/// Longest name and value that are learnt, in bytes.
const MAX_LINE: usize = 512;

/// Longest head and most fields that are learnt as a whole.
const MAX_WHOLE: (usize, usize) = (8 * 1024, 64);

/// The response known as a whole gives way to another after so many in a row that were not it.
const MOST_OTHERS: u8 = 4;

/// What one app thread has learnt.
#[derive(Default)]
pub(super) struct Memory {
    status: Option<(Py<PyAny>, PreparedHead)>,
    fields: Vec<Option<KnownField>>,
    /// Which of its places a field takes when all have one already: another each time.
    victim: usize,
    whole: Option<Whole>,
    /// Responses since the one known as a whole came last.
    others: u8,
}

struct KnownField {
    name: Py<PyAny>,
    value: Py<PyAny>,
    field: Prepared,
}

/// A response whose status and fields are all known.
struct Whole {
    status: Py<PyAny>,
    pairs: Box<[(Py<PyAny>, Py<PyAny>)]>,
    head: PreparedHead,
}

/// The places that a field may stand in.
fn places(name: *const pyo3::ffi::PyObject, value: *const pyo3::ffi::PyObject) -> impl Iterator<Item = usize> {
    // Objects made one after the other lie at regular distances: all bits of both addresses must count.
    let mixed = (name as u64 ^ (value as u64).rotate_left(24)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let first = (mixed >> (u64::BITS - PLACES_LOG)) as usize;
    (first..first + WINDOW).map(|place| place % (1 << PLACES_LOG))
}

impl Memory {
    /// Makes the head of a response that is known as a whole. False: it is another one.
    #[inline]
    pub(super) fn repeat(&mut self, head: &mut Head, status: &Bound<'_, PyAny>, headers: &Bound<'_, PyAny>) -> bool {
        if let Some(whole) = &self.whole
            && whole.status.is(status)
            && let Ok(list) = headers.cast::<PyList>()
            && raw::holds_pairs(list, &whole.pairs)
        {
            head.start_prepared(&whole.head);
            self.others = 0;
            return true;
        }
        false
    }

    /// Remembers a response all of whose fields are known, with the head that came of it.
    pub(super) fn learn_whole(&mut self, head: &Head, status: &Bound<'_, PyAny>, headers: &Bound<'_, PyAny>) {
        if self.whole.is_some() && self.others < MOST_OTHERS {
            self.others += 1;
            return;
        }
        let (max_bytes, max_fields) = MAX_WHOLE;
        let Ok(list) = headers.cast::<PyList>() else { return };
        if head.bytes().len() > max_bytes || list.len() > max_fields {
            return;
        }
        let pair = |pair: Bound<'_, PyAny>| {
            let (name, value) = raw::pair(&pair)?;
            Some((name.to_owned().unbind(), value.to_owned().unbind()))
        };
        if let (Some(pairs), Some(head)) = (list.iter().map(pair).collect::<Option<Box<[_]>>>(), head.prepare()) {
            self.whole = Some(Whole { status: status.clone().unbind(), pairs, head });
            self.others = 0;
        }
    }

    /// Begins the head with a status that is known.
    #[inline]
    pub(super) fn start(&self, head: &mut Head, status: &Bound<'_, PyAny>) -> bool {
        match &self.status {
            Some((known, prepared)) if known.is(status) => {
                head.start_prepared(prepared);
                true
            }
            _ => false,
        }
    }

    /// Remembers the status that `head` was begun with.
    pub(super) fn learn_status(&mut self, head: &Head, status: &Bound<'_, PyAny>) {
        if status.is_exact_instance_of::<PyString>() {
            self.status = head.prepare().map(|prepared| (status.clone().unbind(), prepared));
        }
    }

    /// Adds a field that is known. False: it is not, or stands in contradiction to another.
    #[inline]
    pub(super) fn add(&self, head: &mut Head, pair: &Bound<'_, PyAny>) -> bool {
        if self.fields.is_empty() {
            return false;
        }
        let Some((name, value)) = raw::pair(pair) else { return false };
        for place in places(name.as_ptr(), value.as_ptr()) {
            match &self.fields[place] {
                Some(known) if known.name.is(name) && known.value.is(value) => {
                    return head.add_prepared(&known.field).is_ok();
                }
                Some(_) => {}
                // Nothing is ever taken out.
                None => return false,
            }
        }
        false
    }

    /// Remembers a field that was accepted, if it is likely to come again. `bytes`: its name and value.
    pub(super) fn learn(&mut self, pair: &Bound<'_, PyAny>, bytes: (&[u8], &[u8])) {
        let py = pair.py();
        let Some((name, value)) = raw::pair(pair) else { return };
        // The list and the caller hold the tuple, the tuple holds the value: more is somebody who keeps it.
        let kept = raw::references(py, pair.as_unbound()) > 2 || raw::references(py, value.as_unbound()) > 1;
        if !kept || bytes.0.len() + bytes.1.len() > MAX_LINE {
            return;
        }
        let plain = name.is_exact_instance_of::<PyString>() && value.is_exact_instance_of::<PyString>();
        // Cookies are one client's.
        let private = bytes.0.eq_ignore_ascii_case(b"Set-Cookie");
        if !plain || private {
            return;
        }
        if let Ok(Some(field)) = Prepared::new(bytes.0, bytes.1) {
            if self.fields.is_empty() {
                self.fields.resize_with(1 << PLACES_LOG, || None);
            }
            self.victim += 1;
            let mut mine = places(name.as_ptr(), value.as_ptr());
            let place = mine.find(|&place| self.fields[place].is_none());
            let place = place.or_else(|| places(name.as_ptr(), value.as_ptr()).nth(self.victim % WINDOW));
            let known = KnownField { name: name.to_owned().unbind(), value: value.to_owned().unbind(), field };
            if let Some(place) = place {
                self.fields[place] = Some(known);
            }
        }
    }
}
