//! What the threads of this process do in Python, for whoever asks; and the way to tell it when nobody is let into the
//! interpreter.

use std::ffi::{c_int, c_ulong};

use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::interrupt::{active_threads, current_frames, format_stack};
use super::{errors, raw};

/// The stack of one thread.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stack {
    /// Python's name for the thread, a number.
    pub ident: c_ulong,
    /// The application's name for it.
    pub name: Option<String>,
    /// As in a traceback, the newest call at its end.
    pub text: String,
}

/// The stacks of all threads that run Python code. Waits for the interpreter, for as long as somebody keeps it.
///
/// # Errors
/// One line, when Python cannot tell, or is about to end.
pub fn stacks() -> Result<Vec<Stack>, String> {
    let found = Python::try_attach(|py| find(py).map_err(|error| errors::one_line(py, &error)));
    found.unwrap_or_else(|| Err("the interpreter ends".into()))
}

fn find(py: Python<'_>) -> PyResult<Vec<Stack>> {
    let frames = current_frames(py)?;
    let threads = active_threads(py)?;
    let own = raw::thread_ident(py);
    let mut found = Vec::new();
    for (ident, frame) in frames.iter() {
        let ident: c_ulong = ident.extract()?;
        if ident != own {
            let name = threads.get_item(ident).and_then(|thread| thread.getattr("name"));
            found.push(Stack { ident, name: name.ok().map(|name| name.to_string()), text: format_stack(py, &frame)? });
        }
    }
    Ok(found)
}

/// From now on `signal` writes the stacks of all threads into `file`, without the interpreter's leave. The calling
/// thread is attached.
///
/// # Errors
/// One line.
pub(super) fn write_on_signal(py: Python<'_>, signal: c_int, file: c_int) -> Result<(), String> {
    let register = || {
        let options = PyDict::new(py);
        options.set_item("file", file)?;
        options.set_item("all_threads", true)?;
        py.import("faulthandler")?.call_method("register", (signal,), Some(&options))?;
        Ok(())
    };
    register().map_err(|error: PyErr| errors::one_line(py, &error))
}

#[cfg(test)]
mod tests {
    use super::super::tests::fake;
    use super::*;

    #[test]
    fn other_threads_are_shown_with_their_names() {
        fake::python();
        let code = c"import threading\ngo = threading.Event()\n\
            thread = threading.Thread(target=go.wait, name='patient', daemon=True)\nthread.start()";
        let names = Python::attach(|py| {
            let names = PyDict::new(py);
            py.run(code, Some(&names), None).unwrap();
            names.unbind()
        });
        let found = stacks().unwrap();
        let patient = found.iter().find(|stack| stack.name.as_deref() == Some("patient")).unwrap();
        assert!(patient.text.contains("in wait"), "{}", patient.text);
        Python::attach(|py| py.run(c"go.set(); thread.join()", Some(names.bind(py)), None).unwrap());
    }
}
