//! `wsgi.input`: the request body as a binary file that ends where the body ends.
//!
//! A body in memory is answered at once. One in a file or on the connection is read detached from the interpreter,
//! and its lock is taken detached too, so two threads of the application may share the object.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};

use pyo3::exceptions::{PyOSError, PyStopIteration, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList};

use crate::gateway::{Body, BodySource};

/// What is read from a file or connection at once when less is asked for.
const BLOCK: usize = 65536;

/// The object behind `wsgi.input`.
#[pyclass(frozen, module = "rsgi")]
pub(super) struct Input {
    state: Mutex<State>,
}

enum State {
    Memory { bytes: Vec<u8>, at: usize },
    Slow(Slow),
}

/// A body that must be waited for.
struct Slow {
    source: Source,
    /// A buffer whose bytes `start..end` were read ahead.
    ahead: Vec<u8>,
    start: usize,
    end: usize,
    /// Position in the body of the next byte the application gets.
    at: u64,
}

enum Source {
    /// The file has a descriptor position of its own, which is not used.
    File {
        file: File,
        len: u64,
    },
    Stream(Box<dyn BodySource>),
}

/// What a call of the application asks for.
#[derive(Clone, Copy)]
enum Wanted {
    /// Up to so many bytes, all of them when None.
    Bytes(Option<usize>),
    /// Up to and with the next line feed, but at most so many bytes.
    Line(Option<usize>),
}

impl Input {
    pub(super) fn new(body: Body) -> Input {
        let slow = |source| State::Slow(Slow { source, ahead: Vec::new(), start: 0, end: 0, at: 0 });
        let state = match body {
            Body::Empty => State::Memory { bytes: Vec::new(), at: 0 },
            Body::Memory(bytes) => State::Memory { bytes, at: 0 },
            Body::File { file, len } => slow(Source::File { file, len }),
            Body::Stream(source) => slow(Source::Stream(source)),
        };
        Input { state: Mutex::new(state) }
    }

    /// Runs `f` on the state, detached when that can block or another thread holds it.
    fn with<T: Send>(&self, py: Python<'_>, f: impl FnOnce(&mut State) -> T + Send) -> T {
        match self.state.try_lock() {
            Ok(mut state) if matches!(*state, State::Memory { .. }) => return f(&mut state),
            Err(TryLockError::Poisoned(state)) => return f(&mut state.into_inner()),
            Ok(_) | Err(TryLockError::WouldBlock) => {}
        }
        py.detach(|| f(&mut self.lock()))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn get<'py>(&self, py: Python<'py>, wanted: Wanted) -> PyResult<Bound<'py, PyBytes>> {
        if let Ok(mut state) = self.state.try_lock()
            && let State::Memory { bytes, at } = &mut *state
        {
            return Ok(PyBytes::new(py, take(bytes, at, wanted)));
        }
        let bytes = self.with(py, |state| match state {
            State::Memory { bytes, at } => Ok(take(bytes, at, wanted).to_vec()),
            State::Slow(slow) => slow.take(wanted),
        });
        Ok(PyBytes::new(py, &bytes.map_err(|error| failure(&error, wanted))?))
    }
}

/// The next bytes of a body in memory.
fn take<'a>(bytes: &'a [u8], at: &mut usize, wanted: Wanted) -> &'a [u8] {
    let rest = &bytes[*at..];
    let taken = match wanted {
        Wanted::Bytes(limit) => &rest[..limit.unwrap_or(usize::MAX).min(rest.len())],
        Wanted::Line(limit) => {
            let rest = &rest[..limit.unwrap_or(usize::MAX).min(rest.len())];
            &rest[..memchr::memchr(b'\n', rest).map_or(rest.len(), |end| end + 1)]
        }
    };
    *at += taken.len();
    taken
}

impl Slow {
    fn take(&mut self, wanted: Wanted) -> io::Result<Vec<u8>> {
        let (limit, line) = match wanted {
            Wanted::Bytes(limit) => (limit.unwrap_or(usize::MAX), false),
            Wanted::Line(limit) => (limit.unwrap_or(usize::MAX), true),
        };
        let mut out = Vec::new();
        while out.len() < limit {
            if self.start == self.end && !self.fill(limit - out.len(), line)? {
                break;
            }
            let ready = &self.ahead[self.start..self.end];
            let ready = &ready[..ready.len().min(limit - out.len())];
            let end = if line { memchr::memchr(b'\n', ready).map(|at| at + 1) } else { None };
            let ready = &ready[..end.unwrap_or(ready.len())];
            out.extend_from_slice(ready);
            self.start += ready.len();
            self.at += ready.len() as u64;
            if end.is_some() {
                break;
            }
        }
        Ok(out)
    }

    /// Reads a block ahead; false at the end of the body.
    fn fill(&mut self, wanted: usize, line: bool) -> io::Result<bool> {
        let size = if line { BLOCK } else { wanted.clamp(BLOCK, 16 * BLOCK) };
        if self.ahead.len() < size {
            self.ahead.resize(size, 0);
        }
        (self.start, self.end) = (0, 0);
        loop {
            let got = match &mut self.source {
                Source::File { file, len } => {
                    let left = usize::try_from(len.saturating_sub(self.at)).unwrap_or(usize::MAX);
                    let size = self.ahead.len().min(left);
                    file.read_at(&mut self.ahead[..size], self.at)
                }
                Source::Stream(source) => source.read(&mut self.ahead),
            };
            match got {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
                Ok(got) => {
                    self.end = got;
                    return Ok(got > 0);
                }
            }
        }
    }
}

/// A failed read, as the application sees it: `OSError`, or the subclass that fits.
fn failure(error: &io::Error, wanted: Wanted) -> PyErr {
    let what = match wanted {
        Wanted::Bytes(_) => "read()",
        Wanted::Line(_) => "readline()",
    };
    let why = match error.kind() {
        io::ErrorKind::TimedOut => "the client sent nothing for too long".to_string(),
        io::ErrorKind::UnexpectedEof => "the client left before the end of the body".to_string(),
        _ => error.to_string(),
    };
    PyOSError::new_err(format!("wsgi.input: {what} failed: {why}"))
}

/// A size argument: None and what is negative mean "all".
fn limit(size: Option<isize>) -> Option<usize> {
    size.and_then(|size| usize::try_from(size).ok())
}

#[pymethods]
impl Input {
    #[pyo3(signature = (size = None, /))]
    fn read<'py>(&self, py: Python<'py>, size: Option<isize>) -> PyResult<Bound<'py, PyBytes>> {
        self.get(py, Wanted::Bytes(limit(size)))
    }

    #[pyo3(signature = (size = None, /))]
    fn readline<'py>(&self, py: Python<'py>, size: Option<isize>) -> PyResult<Bound<'py, PyBytes>> {
        self.get(py, Wanted::Line(limit(size)))
    }

    /// All lines that are left, or as many as it takes to reach `hint` bytes.
    #[pyo3(signature = (hint = None, /))]
    fn readlines<'py>(&self, py: Python<'py>, hint: Option<isize>) -> PyResult<Bound<'py, PyList>> {
        let hint = limit(hint).filter(|&hint| hint > 0).unwrap_or(usize::MAX);
        let lines = PyList::empty(py);
        let mut total = 0;
        while total < hint {
            let line = self.get(py, Wanted::Line(None))?;
            if line.as_bytes().is_empty() {
                break;
            }
            total += line.as_bytes().len();
            lines.append(line)?;
        }
        Ok(lines)
    }

    fn __iter__(slf: Py<Input>) -> Py<Input> {
        slf
    }

    fn __next__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        let line = self.get(py, Wanted::Line(None))?;
        if line.as_bytes().is_empty() { Err(PyStopIteration::new_err(())) } else { Ok(line) }
    }

    /// Moves to a position of a body that was received whole.
    #[pyo3(signature = (offset, whence = 0, /))]
    fn seek(&self, py: Python<'_>, offset: i64, whence: i32) -> PyResult<u64> {
        self.with(py, |state| {
            let (now, len) = match state {
                State::Memory { bytes, at } => (*at as u64, bytes.len() as u64),
                State::Slow(Slow { source: Source::File { len, .. }, at, .. }) => (*at, *len),
                State::Slow(Slow { source: Source::Stream(_), .. }) => {
                    return Err(PyOSError::new_err("wsgi.input can't seek: the body is streamed (post-buffering = 0)"));
                }
            };
            let base = match whence {
                0 => 0,
                1 => now,
                2 => len,
                _ => return Err(PyValueError::new_err(format!("whence must be 0, 1 or 2, not {whence}"))),
            };
            let Some(target) = base.checked_add_signed(offset) else {
                return Err(PyValueError::new_err(format!("position {offset} is out of range")));
            };
            // There is nothing behind the end to read or write, so nothing can tell it from the end.
            let target = target.min(len);
            match state {
                State::Memory { at, .. } => *at = target as usize,
                State::Slow(slow) => {
                    (slow.start, slow.end) = (0, 0);
                    slow.at = target;
                }
            }
            Ok(target)
        })
    }

    fn tell(&self, py: Python<'_>) -> u64 {
        self.with(py, |state| match state {
            State::Memory { at, .. } => *at as u64,
            State::Slow(slow) => slow.at,
        })
    }

    fn seekable(&self, py: Python<'_>) -> bool {
        self.with(py, |state| !matches!(state, State::Slow(Slow { source: Source::Stream(_), .. })))
    }

    fn readable(&self) -> bool {
        true
    }

    fn writable(&self) -> bool {
        false
    }

    /// Does nothing: the body belongs to the server.
    fn close(&self) {}
}
