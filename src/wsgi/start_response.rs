//! `start_response` and the `write` callable that it returns (PEP 3333), and the state of the response behind them.
//!
//! Both are bound methods of objects that an app thread uses again for each request, as long as the application keeps
//! neither of them. The state is behind a lock because the application may hand them to its own threads; it is never
//! waited for while attached, and Python code never runs under it but by the destructors of what pyo3 drops late, which
//! find it locked.

use std::sync::Arc;

use pyo3::exceptions::{PyAssertionError, PyBrokenPipeError, PyRuntimeError, PyTypeError, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::{PyBytes, PyList, PyString, PyTuple};

use super::memory::Memory;
use super::raw::{self, AttachedGuard, AttachedMutex, references};
use crate::gateway::{Exchange, FilePart, Kept, Payload, Sent};
use crate::protocol::response::{Head, HeadError};

/// So much of a line of `wsgi.errors` waits for its end.
const MAX_ERROR_LINE: usize = 8 * 1024;

/// The response of the request that an app thread runs.
#[derive(Default)]
pub(super) struct Response {
    pub(super) head: Head,
    /// None between requests: then the callables refuse to work.
    pub(super) exchange: Option<Box<dyn Exchange>>,
    /// Room must be waited for before the next piece.
    pub(super) full: bool,
    /// Nothing more will be sent.
    pub(super) gone: bool,
    /// Tells the request from those before it.
    pub(super) serial: u64,
    /// What the application has written to `wsgi.errors` since the last line that was passed on.
    error_line: Vec<u8>,
    memory: Memory,
}

pub(super) type Shared = Arc<AttachedMutex<Response>>;

impl Response {
    /// Hands over a piece of body. Does nothing between requests.
    pub(super) fn send(&mut self, piece: &Bound<'_, PyBytes>, total: Option<u64>) -> Sent {
        let Some(exchange) = &mut self.exchange else { return Sent::Gone };
        let bytes = piece.as_bytes();
        let mut keep = || -> Kept {
            if piece.is_exact_instance_of::<PyBytes>() {
                Box::new(PyBackedBytes::from(piece.clone()))
            } else {
                // An instance of a subclass may have a destructor, which must not run wherever the worker drops it.
                Box::new(bytes.to_vec())
            }
        };
        let sent = exchange.send(&mut self.head, Payload { bytes, keep: &mut keep }, total);
        match sent {
            Sent::Taken => {}
            Sent::Full => self.full = true,
            Sent::Gone => self.gone = true,
        }
        sent
    }

    /// Passes whole lines of `wsgi.errors` on to the web server.
    pub(super) fn add_error(&mut self, text: &[u8]) {
        self.error_line.extend_from_slice(text);
        let end = self.error_line.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
        self.pass_errors_on(if self.error_line.len() > MAX_ERROR_LINE { self.error_line.len() } else { end });
    }

    /// Passes on the last line, which may have no end.
    pub(super) fn end_errors(&mut self) {
        self.pass_errors_on(self.error_line.len());
    }

    fn pass_errors_on(&mut self, end: usize) {
        if end > 0
            && let Some(exchange) = &mut self.exchange
        {
            exchange.write_error(&self.error_line[..end]);
            self.error_line.drain(..end);
        }
    }

    /// Hands over bytes of our own as the whole body, but no more than the application's Content-Length. The exchange is there.
    pub(super) fn send_own(&mut self, mut bytes: Vec<u8>) {
        let Some(exchange) = &mut self.exchange else { return };
        if let Some(length) = self.head.content_length() {
            bytes.truncate(usize::try_from(length).unwrap_or(usize::MAX));
        }
        let mut keep = || -> Kept { Box::new(bytes.clone()) };
        exchange.send(&mut self.head, Payload { bytes: &bytes, keep: &mut keep }, Some(bytes.len() as u64));
    }

    /// Hands over a part of a file as the whole body. To be called detached.
    pub(super) fn send_file(&mut self, part: FilePart) {
        if let Some(exchange) = &mut self.exchange {
            exchange.send_file(&mut self.head, part);
        }
    }

    /// Blocks until the client took enough of what waits. To be called detached.
    fn wait_for_room(&mut self) {
        if std::mem::take(&mut self.full)
            && let Some(exchange) = &mut self.exchange
            && !exchange.wait_for_room()
        {
            self.gone = true;
        }
    }
}

/// Waits, detached, for room for the next piece.
pub(super) fn wait_for_room(py: Python<'_>, response: &mut Response) {
    if response.full {
        py.detach(|| response.wait_for_room());
    }
}

/// What an application gets as `start_response` is a bound method of this.
#[pyclass(frozen, module = "rsgi")]
struct Responder {
    shared: Shared,
    /// The bound method `Writer.write`.
    write: Py<PyAny>,
}

/// What it gets as `write` is a bound method of this.
#[pyclass(frozen, module = "rsgi")]
struct Writer {
    shared: Shared,
}

/// The two callables with their state.
pub(super) struct Callables {
    pub(super) shared: Shared,
    pub(super) start_response: Py<PyAny>,
    responder: Py<Responder>,
    writer: Py<Writer>,
}

impl Callables {
    pub(super) fn new(py: Python<'_>) -> PyResult<Callables> {
        let shared = Shared::default();
        let writer = Bound::new(py, Writer { shared: shared.clone() })?;
        let write = writer.getattr(intern!(py, "write"))?.unbind();
        let responder = Bound::new(py, Responder { shared: shared.clone(), write })?;
        let start_response = responder.getattr(intern!(py, "start_response"))?.unbind();
        Ok(Callables { shared, start_response, responder: responder.unbind(), writer: writer.unbind() })
    }

    /// Whether nobody but this value refers to the callables.
    pub(super) fn are_ours(&self, py: Python<'_>) -> bool {
        references(py, &self.start_response) == 1
            && references(py, &self.responder.get().write) == 1
            // Our own reference and the bound method's.
            && references(py, &self.responder) == 2
            && references(py, &self.writer) == 2
    }
}

/// Why `start_response` refuses; made into an exception once the state is given back.
enum Refusal {
    Status(HeadError),
    Field { name: String, error: HeadError },
    NotLatin1(&'static str),
    NotPairs,
    NotText { what: &'static str, type_name: String },
}

impl From<Refusal> for PyErr {
    fn from(refusal: Refusal) -> PyErr {
        match refusal {
            Refusal::Status(error) => PyValueError::new_err(format!("start_response: {error}")),
            Refusal::Field { name, error } => {
                PyValueError::new_err(format!("start_response: header {name:?}: {error}"))
            }
            Refusal::NotLatin1(what) => PyValueError::new_err(format!("start_response: {what} must be latin-1 text")),
            Refusal::NotPairs => PyTypeError::new_err("start_response: headers must be (name, value) tuples"),
            Refusal::NotText { what, type_name } => {
                PyTypeError::new_err(format!("start_response: {what} must be str, not {type_name}"))
            }
        }
    }
}

#[pymethods]
impl Responder {
    #[pyo3(signature = (status, headers, exc_info = None))]
    fn start_response(
        &self,
        py: Python<'_>,
        status: &Bound<'_, PyAny>,
        headers: &Bound<'_, PyAny>,
        exc_info: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Py<PyAny>> {
        let mut response = enter(py, &self.shared, "start_response")?;
        let response = &mut *response;
        let Some(exchange) = &response.exchange else { return Err(over("start_response")) };
        if exchange.head_sent() {
            return Err(match exc_info {
                // PEP 3333: the exception goes on when it is too late for an error page.
                Some(exc_info) => reraised(exc_info)?,
                None => PyAssertionError::new_err("start_response: the headers were sent already"),
            });
        }
        if response.head.is_started() && exc_info.is_none() {
            return Err(PyAssertionError::new_err("start_response was called a second time without exc_info"));
        }
        if let Err(refusal) = fill(&mut response.head, &mut response.memory, status, headers) {
            response.head.clear();
            return Err(refusal.into());
        }
        Ok(self.write.clone_ref(py))
    }
}

#[pymethods]
impl Writer {
    fn write(&self, py: Python<'_>, data: &Bound<'_, PyAny>) -> PyResult<()> {
        let Ok(data) = data.cast::<PyBytes>() else {
            return Err(PyTypeError::new_err(format!("write() takes bytes, not {}", type_name(data))));
        };
        let mut response = enter(py, &self.shared, "write")?;
        if response.exchange.is_none() {
            return Err(over("write"));
        }
        if data.as_bytes().is_empty() {
            return Ok(());
        }
        wait_for_room(py, &mut response);
        if response.gone || response.send(data, None) == Sent::Gone {
            // The one way to end an application that writes without end.
            return Err(PyBrokenPipeError::new_err("the client is gone or has the whole response"));
        }
        Ok(())
    }
}

fn enter<'a>(py: Python<'_>, shared: &'a Shared, what: &str) -> PyResult<AttachedGuard<'a, Response>> {
    shared
        .try_lock(py)
        .ok_or_else(|| PyRuntimeError::new_err(format!("{what} was called while another thread uses this response")))
}

fn over(what: &str) -> PyErr {
    PyRuntimeError::new_err(format!("{what} was called after its request was over"))
}

/// The exception of an `exc_info` triple.
fn reraised(exc_info: &Bound<'_, PyAny>) -> PyResult<PyErr> {
    let wrong = || PyTypeError::new_err("start_response: exc_info must be a tuple of type, exception and traceback");
    let (_, value, traceback): (Bound<'_, PyAny>, Bound<'_, PyAny>, Bound<'_, PyAny>) =
        exc_info.extract().map_err(|_| wrong())?;
    if value.is_none() {
        return Err(wrong());
    }
    let error = PyErr::from_value(value);
    if let Ok(traceback) = traceback.cast_into() {
        error.set_traceback(exc_info.py(), Some(traceback));
    }
    Ok(error)
}

/// Fills an empty or started head. Runs no Python code: only exact layouts of lists, tuples and strings are read.
fn fill(
    head: &mut Head,
    memory: &mut Memory,
    status: &Bound<'_, PyAny>,
    headers: &Bound<'_, PyAny>,
) -> Result<(), Refusal> {
    if memory.repeat(head, status, headers) {
        return Ok(());
    }
    let mut known = memory.start(head, status);
    if !known {
        head.start(latin1(as_text(status, "status")?, "status")?).map_err(Refusal::Status)?;
        memory.learn_status(head, status);
    }
    for_each(headers, |pair| {
        if memory.add(head, pair) {
            return Ok(());
        }
        known = false;
        let (name, value) = pair_of(pair).ok_or(Refusal::NotPairs)?;
        let (name, value) = (as_text(&name, "a header name")?, as_text(&value, "a header value")?);
        let bytes = (latin1(name, "a header name")?, latin1(value, "a header value")?);
        head.field(bytes.0, bytes.1)
            .map_err(|error| Refusal::Field { name: name.to_string_lossy().into_owned(), error })?;
        memory.learn(pair, bytes);
        Ok(())
    })?;
    if known {
        memory.learn_whole(head, status, headers);
    }
    Ok(())
}

fn for_each<'py>(
    headers: &Bound<'py, PyAny>,
    mut f: impl FnMut(&Bound<'py, PyAny>) -> Result<(), Refusal>,
) -> Result<(), Refusal> {
    if let Ok(list) = headers.cast::<PyList>() {
        list.iter().try_for_each(|pair| f(&pair))
    } else if let Ok(tuple) = headers.cast::<PyTuple>() {
        tuple.iter_borrowed().try_for_each(|pair| f(&pair))
    } else {
        Err(Refusal::NotText { what: "headers", type_name: format!("{} (a list is wanted)", type_name(headers)) })
    }
}

#[inline]
fn pair_of<'py>(pair: &Bound<'py, PyAny>) -> Option<(Bound<'py, PyAny>, Bound<'py, PyAny>)> {
    if let Ok(tuple) = pair.cast::<PyTuple>() {
        (tuple.len() == 2).then(|| Some((tuple.get_item(0).ok()?, tuple.get_item(1).ok()?)))?
    } else {
        let list = pair.cast::<PyList>().ok()?;
        (list.len() == 2).then(|| Some((list.get_item(0).ok()?, list.get_item(1).ok()?)))?
    }
}

fn as_text<'a, 'py>(object: &'a Bound<'py, PyAny>, what: &'static str) -> Result<&'a Bound<'py, PyString>, Refusal> {
    object.cast::<PyString>().map_err(|_| Refusal::NotText { what, type_name: type_name(object) })
}

/// The bytes that latin-1 text stands for (PEP 3333: no character above U+00FF).
fn latin1<'a>(text: &'a Bound<'_, PyString>, what: &'static str) -> Result<&'a [u8], Refusal> {
    raw::latin1_bytes(text).ok_or(Refusal::NotLatin1(what))
}

/// The name of an object's type, for messages.
pub(super) fn type_name(object: &Bound<'_, PyAny>) -> String {
    object.get_type().name().map_or_else(|_| "an object".into(), |name| name.to_string_lossy().into_owned())
}
