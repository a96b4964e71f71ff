//! Ending a request that runs for too long: the Python stack of its thread, and an exception raised in it.
//!
//! The exception is only ever set while the thread is inside the application, and taken back when it comes out: what
//! rsgi does itself, and the next request, never meet it. Who was struck outside is stopped at its next step inside.

use std::cell::OnceCell;
use std::ffi::c_ulong;
use std::fmt::Write;
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
#[cfg(Py_GIL_DISABLED)]
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

/// One app thread, as seen by who may interrupt it. Read and written by plain loads and stores: all but `begin` do it attached
/// and in one go, so that the interpreter's lock keeps them apart, and what `begin` changes is part of what they compare.
pub struct Interrupt {
    /// Python's name of the thread.
    ident: c_ulong,
    /// The request that runs; 0: none.
    serial: AtomicU64,
    /// The application's code has the thread.
    inside: AtomicBool,
    /// The request that was struck while the thread was outside; 0: none.
    due: AtomicU64,
    /// The exception was set and may not have been raised yet.
    set: AtomicBool,
    /// Without the interpreter's lock it takes one of our own.
    #[cfg(Py_GIL_DISABLED)]
    lock: Mutex<()>,
}

/// While it lives, nobody else changes whether the thread is inside and whether it is struck.
struct Guard<'a> {
    #[cfg(Py_GIL_DISABLED)]
    _lock: MutexGuard<'a, ()>,
    _of: PhantomData<&'a Interrupt>,
}

/// How the calling thread can be interrupted; empty until somebody wants that, which may be the application itself, in the middle
/// of a request.
pub(super) type Interruptible = OnceCell<Arc<Interrupt>>;

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
        Interrupt {
            ident: raw::thread_ident(py),
            serial: AtomicU64::new(0),
            inside: AtomicBool::new(false),
            due: AtomicU64::new(0),
            set: AtomicBool::new(false),
            #[cfg(Py_GIL_DISABLED)]
            lock: Mutex::default(),
        }
    }

    /// The same, of a thread that is inside the application already.
    pub(super) fn of_this_thread_inside(py: Python<'_>) -> Interrupt {
        Interrupt { inside: AtomicBool::new(true), ..Interrupt::of_this_thread(py) }
    }

    /// The calling thread is attached, and runs no Python code before it drops this.
    fn lock(&self) -> Guard<'_> {
        Guard {
            #[cfg(Py_GIL_DISABLED)]
            _lock: self.lock.lock().unwrap_or_else(PoisonError::into_inner),
            _of: PhantomData,
        }
    }

    /// Request `serial` (not 0, and never the same again) is to run on the thread.
    pub fn begin(&self, serial: u64) {
        self.serial.store(serial, Ordering::Relaxed);
    }

    /// Request `serial` runs on the thread: what is known of it stays.
    pub fn join(&self, serial: u64) {
        self.begin(serial);
    }

    /// It is over.
    pub fn end(&self) {
        self.begin(0);
    }

    /// Stops request `serial` of this thread. Waits for the interpreter, for as long as somebody keeps it: not for a
    /// thread that others wait for.
    pub fn strike(&self, serial: u64, all: bool) -> Struck {
        Python::attach(|py| {
            let is_over = || self.serial.load(Ordering::Relaxed) != serial;
            if is_over() {
                return Struck::Over;
            }
            let exception = py.get_type::<HarakiriError>();
            let stacks = stacks(py, self.ident, all)
                .unwrap_or_else(|error| format!("its stack can't be shown: {}", errors::one_line(py, &error)));
            // Other threads may have run meanwhile.
            let _guard = self.lock();
            if is_over() {
                return Struck::Over;
            }
            if self.inside.load(Ordering::Relaxed) {
                self.set.store(true, Ordering::Relaxed);
                raw::set_async_exception(self.ident, Some(&exception));
            } else {
                // The next request may begin at this very moment: it has another number.
                self.due.store(serial, Ordering::Relaxed);
            }
            Struck::At(stacks)
        })
    }
}

/// The thread is inside the application until this is dropped.
pub(super) struct Inside<'a>(&'a Interruptible);

impl<'a> Inside<'a> {
    /// Goes inside.
    ///
    /// # Errors
    /// The request was struck before.
    pub(super) fn enter(interruptible: &'a Interruptible) -> PyResult<Inside<'a>> {
        if let Some(interrupt) = interruptible.get() {
            let _guard = interrupt.lock();
            let due = interrupt.due.load(Ordering::Relaxed);
            if due != 0 {
                interrupt.due.store(0, Ordering::Relaxed);
                if due == interrupt.serial.load(Ordering::Relaxed) {
                    return Err(HarakiriError::new_err("the request was too late before it came here"));
                }
            }
            interrupt.inside.store(true, Ordering::Relaxed);
        }
        Ok(Inside(interruptible))
    }

    /// Goes inside to clean up, which an exception that is due must not prevent.
    pub(super) fn to_close(interruptible: &'a Interruptible) -> Inside<'a> {
        if let Some(interrupt) = interruptible.get() {
            let _guard = interrupt.lock();
            interrupt.inside.store(true, Ordering::Relaxed);
        }
        Inside(interruptible)
    }
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        if let Some(interrupt) = self.0.get() {
            let _guard = interrupt.lock();
            interrupt.inside.store(false, Ordering::Relaxed);
            if interrupt.set.load(Ordering::Relaxed) {
                interrupt.set.store(false, Ordering::Relaxed);
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
            let interruptible = Interruptible::new();
            let interrupt = interruptible.get_or_init(|| Arc::new(Interrupt::of_this_thread(py)));
            interrupt.begin(1);
            assert!(matches!(interrupt.strike(2, false), Struck::Over));
            let inside = Inside::enter(&interruptible).unwrap();
            assert!(matches!(interrupt.strike(1, true), Struck::At(_)));
            let error = steps(py).unwrap_err();
            assert!(error.is_instance_of::<HarakiriError>(py));
            drop(inside);

            interrupt.begin(2);
            let inside = Inside::enter(&interruptible).unwrap();
            // Set, and taken back before any Python code runs.
            interrupt.set.store(true, Ordering::Relaxed);
            raw::set_async_exception(interrupt.ident, Some(&py.get_type::<HarakiriError>()));
            drop(inside);
            steps(py).unwrap();
        });
    }

    #[test]
    fn who_asks_for_it_inside_is_hit_there_and_no_longer_outside() {
        fake::python();
        Python::attach(|py| {
            let interruptible = Interruptible::new();
            let inside = Inside::enter(&interruptible).unwrap();
            let interrupt = interruptible.get_or_init(|| Arc::new(Interrupt::of_this_thread_inside(py)));
            interrupt.join(1);
            assert!(matches!(interrupt.strike(1, false), Struck::At(_)));
            assert!(steps(py).unwrap_err().is_instance_of::<HarakiriError>(py));
            drop(inside);
            assert!(matches!(interrupt.strike(1, false), Struck::At(_)));
            steps(py).unwrap();
        });
    }

    #[test]
    fn a_request_struck_outside_does_not_go_inside_but_to_close() {
        fake::python();
        Python::attach(|py| {
            let interruptible = Interruptible::new();
            let interrupt = interruptible.get_or_init(|| Arc::new(Interrupt::of_this_thread(py)));
            interrupt.begin(1);
            assert!(matches!(interrupt.strike(1, false), Struck::At(_)));
            steps(py).unwrap();
            let refused = Inside::enter(&interruptible).err().unwrap();
            assert!(refused.is_instance_of::<HarakiriError>(py));
            drop(Inside::to_close(&interruptible));
            interrupt.strike(1, false);
            interrupt.begin(2);
            assert!(Inside::enter(&interruptible).is_ok());
            // Between two requests nobody is hit.
            interrupt.end();
            assert!(matches!(interrupt.strike(2, false), Struck::Over));
        });
    }
}
