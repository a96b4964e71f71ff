//! The environ that is being made. It begins as a copy of its listener's template, or as the environ of the thread's last
//! request, where the application neither kept nor changed it: then what both requests say need not be set again.

use pyo3::prelude::*;
use pyo3::types::{PyAny, PyDict};

use super::names::{Key, Known, Names};
use super::raw;

/// What the last request left.
#[derive(Default)]
pub(super) struct Last {
    kept: Option<Reusable>,
    made: Option<Made>,
    /// The keys that the request at hand has set, by their index in its [`Names`].
    filled: Vec<u32>,
    /// Those of the request before it, whose environ is used again.
    former: Vec<u32>,
}

/// Where an environ comes from.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Origin {
    /// The index of its listener.
    pub(super) listener: usize,
    /// Whether its keys are those of the names of CGI variables, or of header fields.
    pub(super) cgi: bool,
}

/// An environ that may be used again.
struct Reusable {
    environ: Py<PyDict>,
    origin: Origin,
    /// The number of its request.
    number: u64,
}

/// The environ that the application has now.
struct Made {
    origin: Origin,
    number: u64,
    /// As [`raw::version`] told it: another one says that it was changed.
    version: Option<u64>,
    has_body: bool,
    has_secrets: bool,
}

/// An environ between template and application.
pub(super) struct Draft<'a, 'py> {
    pub(super) environ: Bound<'py, PyDict>,
    pub(super) names: &'a mut Names,
    last: &'a mut Last,
    made: Made,
    /// The request whose values stand in it; 0: none.
    before: u64,
    /// Whether the next request may have it.
    lasts: bool,
}

impl Last {
    /// Begins an environ.
    pub(super) fn begin<'a, 'py>(
        &'a mut self,
        names: &'a mut Names,
        template: &Bound<'py, PyDict>,
        origin: Origin,
    ) -> PyResult<Draft<'a, 'py>> {
        let py = template.py();
        let (number, same_names) = names.begin(py);
        self.made = None;
        self.former.clear();
        std::mem::swap(&mut self.filled, &mut self.former);
        let (environ, before) = match self.kept.take() {
            Some(kept) if kept.origin == origin && kept.number + 1 == number && same_names => {
                (kept.environ.into_bound(py), kept.number)
            }
            _ => {
                self.former.clear();
                (template.copy()?, 0)
            }
        };
        let made = Made { origin, number, version: None, has_body: false, has_secrets: false };
        Ok(Draft { environ, names, last: self, made, before, lasts: true })
    }

    /// Where the environ comes from that the application has now, if the next request may have it.
    #[inline]
    pub(super) fn origin(&self) -> Option<Origin> {
        self.made.as_ref().map(|made| made.origin)
    }

    /// Takes an environ back from the application.
    #[inline]
    pub(super) fn keep(&mut self, environ: Bound<'_, PyDict>, names: &mut Names, template: &Bound<'_, PyDict>) {
        let Some(made) = self.made.take() else { return };
        if made.version.is_none()
            || raw::version(&environ) != made.version
            || raw::references(environ.py(), environ.as_unbound()) != 1
        {
            return;
        }
        if (made.has_body || made.has_secrets) && self.clean(&environ, names, template, &made).is_err() {
            return;
        }
        self.kept = Some(Reusable { environ: environ.unbind(), origin: made.origin, number: made.number });
    }

    /// Takes away what is not to stay until the next request comes.
    fn clean(
        &mut self,
        environ: &Bound<'_, PyDict>,
        names: &mut Names,
        template: &Bound<'_, PyDict>,
        made: &Made,
    ) -> PyResult<()> {
        if made.has_body {
            restore(environ, names, template, Known::Input as usize)?;
        }
        for at in (0..self.filled.len()).rev() {
            let index = self.filled[at] as usize;
            if !names.key(index).keeps {
                restore(environ, names, template, index)?;
                self.filled.swap_remove(at);
            }
        }
        Ok(())
    }
}

impl<'py> Draft<'_, 'py> {
    /// The number of this request.
    pub(super) fn number(&self) -> u64 {
        self.made.number
    }

    /// Sets a key that the server sets by name.
    #[inline]
    pub(super) fn set(&mut self, known: Known, bytes: &[u8]) -> PyResult<()> {
        self.set_key(known as usize, bytes)
    }

    /// Sets the key at an index of the names.
    #[inline]
    pub(super) fn set_key(&mut self, index: usize, bytes: &[u8]) -> PyResult<()> {
        let Draft { environ, names, last, made, before, .. } = self;
        let key = names.key(index);
        let stands = enter(key, index, *before, made, last);
        let repeats = key.repeats(bytes);
        if stands && repeats {
            return Ok(());
        }
        let py = environ.py();
        let value = key.value(py, bytes, repeats);
        environ.set_item(key.text.bind(py), value)
    }

    /// Sets the key at an index of the names to a value that is hardly the same the next time.
    pub(super) fn set_once(&mut self, index: usize, bytes: &[u8]) -> PyResult<()> {
        self.enter(index);
        let key = self.names.key(index);
        key.forget();
        let py = self.environ.py();
        self.environ.set_item(key.text.bind(py), raw::latin1(py, bytes))
    }

    fn enter(&mut self, index: usize) {
        enter(self.names.key(index), index, self.before, &mut self.made, self.last);
    }

    /// The body, for a request that has one.
    pub(super) fn set_input(&mut self, input: Bound<'_, PyAny>) -> PyResult<()> {
        self.made.has_body = true;
        self.environ.set_item(self.names.key(Known::Input as usize).text.bind(self.environ.py()), input)
    }

    /// Takes a key out that may be there.
    pub(super) fn remove(&mut self, known: Known) -> PyResult<()> {
        self.lasts = false;
        // What the request before left of it is gone as well: nothing to restore.
        self.enter(known as usize);
        self.names.key(known as usize).forget();
        let key = self.names.key(known as usize).text.bind(self.environ.py());
        if self.environ.contains(key)? { self.environ.del_item(key) } else { Ok(()) }
    }

    /// The finished environ: what the request before said and this one did not is as in the template.
    pub(super) fn finish(mut self, template: &Bound<'_, PyDict>) -> PyResult<Bound<'py, PyDict>> {
        for &index in &self.last.former {
            if self.names.key(index as usize).written != self.made.number {
                restore(&self.environ, self.names, template, index as usize)?;
            }
        }
        if self.lasts {
            self.made.version = raw::version(&self.environ);
            self.last.made = Some(self.made);
        }
        Ok(self.environ)
    }
}

/// Notes that a key is set, and tells whether its last value stands in the environ.
#[inline]
fn enter(key: &mut Key, index: usize, before: u64, made: &mut Made, last: &mut Last) -> bool {
    let written = key.written;
    if written != made.number {
        key.written = made.number;
        made.has_secrets |= !key.keeps;
        last.filled.push(index as u32);
    }
    written == made.number || written == before && written != 0
}

/// Makes a key what it is in the template.
fn restore(environ: &Bound<'_, PyDict>, names: &mut Names, template: &Bound<'_, PyDict>, index: usize) -> PyResult<()> {
    let key = names.key(index).text.bind(environ.py());
    match template.get_item(key)? {
        Some(value) => environ.set_item(key, value),
        None => environ.del_item(key),
    }
}
