//! Response fields that the application gives again and again, checked and rendered once.
//!
//! Constants of a program are the same objects at every request. A field is known by the identity of its two strings,
//! which are kept alive here, so that an address means one string. Strings made for one response are not learnt:
//! nobody else holds them.

use pyo3::prelude::*;
use pyo3::types::{PyString, PyTuple};

use super::raw::references;
use crate::protocol::response::{Head, Prepared, PreparedStatus};

/// Places in the table; a field has one place that it may stand in.
const PLACES: usize = 128;

/// Longest name and value that are learnt, in bytes.
const MAX_LINE: usize = 512;

/// What one app thread has learnt.
#[derive(Default)]
pub(super) struct Memory {
    status: Option<(Py<PyAny>, PreparedStatus)>,
    fields: Vec<Option<Known>>,
}

struct Known {
    name: Py<PyAny>,
    value: Py<PyAny>,
    field: Prepared,
}

fn place(name: *const pyo3::ffi::PyObject, value: *const pyo3::ffi::PyObject) -> usize {
    // Objects are aligned to 16 bytes.
    let mixed = (name as usize >> 4).wrapping_mul(31) ^ (value as usize >> 4);
    (mixed ^ mixed >> 7) % PLACES
}

impl Memory {
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
            self.status = Some((status.clone().unbind(), head.prepare_status()));
        }
    }

    /// Adds a field that is known. False: it is not, or stands in contradiction to another.
    #[inline]
    pub(super) fn add(&self, head: &mut Head, pair: &Bound<'_, PyAny>) -> bool {
        let Ok(pair) = pair.cast_exact::<PyTuple>() else { return false };
        if pair.len() != 2 || self.fields.is_empty() {
            return false;
        }
        let (Ok(name), Ok(value)) = (pair.get_borrowed_item(0), pair.get_borrowed_item(1)) else { return false };
        match &self.fields[place(name.as_ptr(), value.as_ptr())] {
            Some(known) if known.name.is(&*name) && known.value.is(&*value) => head.add_prepared(&known.field).is_ok(),
            _ => false,
        }
    }

    /// Remembers a field that was accepted, if it is likely to come again. `bytes`: its name and value.
    pub(super) fn learn(
        &mut self,
        pair: &Bound<'_, PyAny>,
        name: &Bound<'_, PyAny>,
        value: &Bound<'_, PyAny>,
        bytes: (&[u8], &[u8]),
    ) {
        let py = pair.py();
        // The list and the caller hold the tuple, the tuple and the caller hold the value: more is somebody who keeps it.
        let kept = references(py, pair.as_unbound()) > 2 || references(py, value.as_unbound()) > 2;
        let plain = name.is_exact_instance_of::<PyString>() && value.is_exact_instance_of::<PyString>();
        // Cookies are one client's.
        let private = bytes.0.eq_ignore_ascii_case(b"Set-Cookie");
        if !kept || !plain || private || bytes.0.len() + bytes.1.len() > MAX_LINE {
            return;
        }
        if let Ok(Some(field)) = Prepared::new(bytes.0, bytes.1) {
            if self.fields.is_empty() {
                self.fields.resize_with(PLACES, || None);
            }
            let known = Known { name: name.clone().unbind(), value: value.clone().unbind(), field };
            self.fields[place(name.as_ptr(), value.as_ptr())] = Some(known);
        }
    }
}
