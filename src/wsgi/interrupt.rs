//! Ending a request that runs for too long: the Python stack of its thread, and an exception raised in it.
//!
//! The exception is only ever set while the thread is inside the application, and taken back when it comes out: what
//! rsgi does itself, and the next request, never meet it. Who was struck outside is stopped at its next step inside.

use std::ffi::c_ulong;
use std::fmt::Write;
use std::sync::{Mutex, MutexGuard, PoisonError};

use pyo3::create_exception;
use pyo3::exceptions::PyBaseException;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::{errors, raw};

create_exception!(
    rsgi,
    HarakiriError,
    PyBaseException,
    "The request took longer than harakiri allows. No Exception: a loop that retries after errors must not swallow it."
);

/// One app thread, as seen by who may interrupt it.
pub struct Interrupt {
    /// Python's name of the thread.
    ident: c_ulong,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The request that runs; 0: none.
    serial: u64,
    /// The application's code has the thread.
    inside: bool,
    /// The request was struck while the thread was outside.
    due: bool,
    /// The exception was set and may not have been raised yet.
    set: bool,
}

/// What became of a strike.
pub enum Struck {
    /// The stack of the thread, the application's last line at its end; of all threads if so wanted.
    At(String),
    /// The request had ended before.
    Over,
}

impl Interrupt {
    /// For the calling thread, which is attached.
    pub(super) fn of_this_thread(py: Python<'_>) -> Interrupt {
        Interrupt { ident: raw::thread_ident(py), state: Mutex::default() }
    }

    /// Nobody waits for the interpreter while he holds it.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Request `serial` (not 0) is to run on the thread.
    pub fn begin(&self, serial: u64) {
        *self.lock() = State { serial, ..State::default() };
    }

    /// It is over.
    pub fn end(&self) {
        self.begin(0);
    }

    /// Stops request `serial` of this thread. Waits for the interpreter, for as long as somebody keeps it: not for a
    /// thread that others wait for.
    pub fn strike(&self, serial: u64, all: bool) -> Struck {
        Python::attach(|py| {
            if self.lock().serial != serial {
                return Struck::Over;
            }
            let stacks = stacks(py, self.ident, all)
                .unwrap_or_else(|error| format!("its stack can't be shown: {}", errors::one_line(py, &error)));
            // Other threads may have run meanwhile.
            let mut state = self.lock();
            if state.serial != serial {
                return Struck::Over;
            }
            state.due = !state.inside;
            state.set = state.inside;
            if state.inside {
                raw::set_async_exception(self.ident, Some(&py.get_type::<HarakiriError>()));
            }
            Struck::At(stacks)
        })
    }
}

/// The thread is inside the application until this is dropped.
pub(super) struct Inside<'a>(Option<&'a Interrupt>);

impl<'a> Inside<'a> {
    /// Goes inside.
    ///
    /// # Errors
    /// The request was struck before.
    pub(super) fn enter(interrupt: Option<&'a Interrupt>) -> PyResult<Inside<'a>> {
        if let Some(interrupt) = interrupt {
            let mut state = interrupt.lock();
            if std::mem::take(&mut state.due) {
                return Err(HarakiriError::new_err("the request was too late before it came here"));
            }
            state.inside = true;
        }
        Ok(Inside(interrupt))
    }

    /// Goes inside to clean up, which an exception that is due must not prevent.
    pub(super) fn to_close(interrupt: Option<&'a Interrupt>) -> Inside<'a> {
        if let Some(interrupt) = interrupt {
            interrupt.lock().inside = true;
        }
        Inside(interrupt)
    }
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        if let Some(interrupt) = self.0 {
            let mut state = interrupt.lock();
            state.inside = false;
            if std::mem::take(&mut state.set) {
                raw::set_async_exception(interrupt.ident, None);
            }
        }
    }
}

/// The stack of one thread, or of all with that one first.
fn stacks(py: Python<'_>, ident: c_ulong, all: bool) -> PyResult<String> {
    let frames = current_frames(py)?;
    let mut text = match frames.get_item(ident)? {
        Some(frame) => format_stack(py, &frame)?,
        None => "the thread is not in Python code (it may wait for the interpreter)\n".into(),
    };
    if all {
        let threads = active_threads(py)?;
        for (other, frame) in frames.iter() {
            let other: c_ulong = other.extract()?;
            if other != ident && other != raw::thread_ident(py) {
                let name = threads.get_item(other).and_then(|thread| thread.getattr("name"));
                let name = name.map_or_else(|_| "without a name".into(), |name| name.to_string());
                let _ = writeln!(text, "thread {other} ({name}):");
                text.push_str(&format_stack(py, &frame)?);
            }
        }
    }
    Ok(text)
}

/// The frames of all threads, by their numbers.
pub(super) fn current_frames(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    Ok(py.import("sys")?.call_method0("_current_frames")?.cast_into::<PyDict>()?)
}

/// The thread objects by their numbers. Not enumerate(): it takes a lock, which may be what everybody is stuck at.
pub(super) fn active_threads(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    py.import("threading")?.getattr("_active")
}

/// The stack of a frame as text.
pub(super) fn format_stack(py: Python<'_>, frame: &Bound<'_, PyAny>) -> PyResult<String> {
    let mut text = String::new();
    for line in py.import("traceback")?.getattr("format_stack")?.call1((frame,))?.try_iter()? {
        text.push_str(&line?.str()?.to_string_lossy());
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::super::tests::fake;
    use super::*;

    fn steps(py: Python<'_>) -> PyResult<()> {
        py.run(c"for n in range(100): str(n)", None, None)
    }

    #[test]
    fn only_the_request_that_was_meant_is_hit_and_only_inside() {
        fake::python();
        Python::attach(|py| {
            let interrupt = Interrupt::of_this_thread(py);
            interrupt.begin(1);
            assert!(matches!(interrupt.strike(2, false), Struck::Over));
            let inside = Inside::enter(Some(&interrupt)).unwrap();
            assert!(matches!(interrupt.strike(1, true), Struck::At(_)));
            let error = steps(py).unwrap_err();
            assert!(error.is_instance_of::<HarakiriError>(py));
            drop(inside);

            interrupt.begin(2);
            let inside = Inside::enter(Some(&interrupt)).unwrap();
            // Set, and taken back before any Python code runs.
            let mut state = interrupt.lock();
            state.set = true;
            raw::set_async_exception(interrupt.ident, Some(&py.get_type::<HarakiriError>()));
            drop(state);
            drop(inside);
            steps(py).unwrap();
        });
    }

    #[test]
    fn a_request_struck_outside_does_not_go_inside_but_to_close() {
        fake::python();
        Python::attach(|py| {
            let interrupt = Interrupt::of_this_thread(py);
            interrupt.begin(1);
            assert!(matches!(interrupt.strike(1, false), Struck::At(_)));
            steps(py).unwrap();
            let refused = Inside::enter(Some(&interrupt)).err().unwrap();
            assert!(refused.is_instance_of::<HarakiriError>(py));
            drop(Inside::to_close(Some(&interrupt)));
            interrupt.strike(1, false);
            interrupt.begin(2);
            assert!(Inside::enter(Some(&interrupt)).is_ok());
        });
    }
}
