//! `wsgi.errors`, and how exceptions of the application reach the log.

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};

use super::start_response::Shared;

/// The text stream for `wsgi.errors`: `sys.stderr`, which writes UTF-8 with backslash escapes line by line (see
/// `interpreter`). It goes where the log goes.
pub(super) fn stream(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    let stream = py.import("sys")?.getattr("stderr")?;
    if !stream.is_none() {
        return Ok(stream);
    }
    // Python found descriptor 2 closed; the application may still write.
    let options = PyDict::new(py);
    options.set_item("encoding", "utf-8")?;
    options.set_item("errors", "backslashreplace")?;
    py.import("builtins")?.getattr("open")?.call(("/dev/null", "w"), Some(&options))
}

/// `wsgi.errors` of a request whose web server wants it too (`fastcgi-stderr`). Behaves like the stream of the log; what the
/// application writes when the request is over goes to the log alone.
#[pyclass(frozen, module = "rsgi")]
pub(super) struct Tee {
    stream: Py<PyAny>,
    shared: Shared,
    /// [`super::start_response::Response::serial`].
    serial: u64,
}

impl Tee {
    pub(super) fn new(py: Python<'_>, shared: &Shared, serial: u64) -> PyResult<Tee> {
        Ok(Tee { stream: stream(py)?.unbind(), shared: shared.clone(), serial })
    }

    fn pass_on(&self, text: &Bound<'_, PyAny>) -> PyResult<()> {
        let Ok(text) = text.cast::<PyString>() else { return Ok(()) };
        let encoded = text.call_method1("encode", ("utf-8", "backslashreplace"))?;
        let bytes: &[u8] = encoded.extract()?;
        // Another thread of the application may be writing the response, or this one be within a destructor: it is not worth
        // waiting for.
        if let Some(mut response) = self.shared.try_lock(text.py())
            && response.serial == self.serial
            && response.exchange.is_some()
        {
            response.add_error(bytes);
        }
        Ok(())
    }
}

#[pymethods]
impl Tee {
    fn write<'py>(&self, text: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let written = self.stream.bind(text.py()).call_method1("write", (text,))?;
        self.pass_on(text)?;
        Ok(written)
    }

    fn writelines(&self, lines: &Bound<'_, PyAny>) -> PyResult<()> {
        for line in lines.try_iter()? {
            self.write(&line?)?;
        }
        Ok(())
    }

    fn __getattr__<'py>(&self, py: Python<'py>, name: &str) -> PyResult<Bound<'py, PyAny>> {
        self.stream.bind(py).getattr(name)
    }
}

/// Messages of several lines have this target; `logging` sets further lines in.
const LINES: &str = "rsgi::lines";

/// Writes `about` and the traceback of `error` to the log, in one piece so that the lines of several workers
/// don't mix. It is the log's and not `sys.stderr`: what a client put into the exception must not look like another line, and
/// a log that takes nothing holds nobody up. SystemExit is shown like any other. Gives the text.
pub(super) fn report(py: Python<'_>, about: &str, error: &PyErr) -> String {
    let text = match format(py, error) {
        Ok(traceback) => format!("{about}\n{traceback}"),
        // The exception or the traceback module is broken beyond printing.
        Err(second) => {
            format!("{about}\n{} (its traceback can't be shown: {})\n", type_name(py, error), type_name(py, &second))
        }
    };
    // What the application printed before stays before.
    let _ = stream(py).and_then(|stream| stream.call_method0("flush"));
    log::error!(target: LINES, "{text}");
    text
}

fn format(py: Python<'_>, error: &PyErr) -> PyResult<String> {
    let lines = py
        .import("traceback")?
        .call_method1("format_exception", (error.get_type(py), error.value(py), error.traceback(py)))?;
    let text = PyString::new(py, "").call_method1("join", (lines,))?;
    // Lone surrogates (undecodable file names) have no UTF-8.
    Ok(text.cast::<PyString>()?.to_string_lossy().into_owned())
}

/// The exception's type, for lines where the exception itself can't be printed.
fn type_name(py: Python<'_>, error: &PyErr) -> String {
    error.get_type(py).name().map_or_else(|_| "an exception".into(), |name| name.to_string_lossy().into_owned())
}

/// `Type: message` on one line.
pub(super) fn one_line(py: Python<'_>, error: &PyErr) -> String {
    let name = type_name(py, error);
    match error.value(py).str() {
        Ok(text) if !text.to_string_lossy().is_empty() => {
            format!("{name}: {}", text.to_string_lossy().split_whitespace().collect::<Vec<_>>().join(" "))
        }
        _ => name,
    }
}
