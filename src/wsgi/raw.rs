//! The few calls that the safe API of pyo3 does not have, and a lock that relies on the interpreter's.

#![allow(unsafe_code)]

use std::cell::UnsafeCell;
use std::ffi::{c_long, c_ulong};
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::string::PyStringData;
use pyo3::types::{PyDict, PyList, PyString, PyTuple, PyType};

/// A `str` of latin-1 bytes, as PEP 3333 wants every byte string of a request. One pass for what is all ASCII.
#[inline]
pub(super) fn latin1<'py>(py: Python<'py>, bytes: &[u8]) -> Bound<'py, PyString> {
    // SAFETY: the pointer and length are those of a slice; the errors argument may be null (latin-1 decoding cannot
    // fail). The result is a new reference to a str, or null when memory is out, which from_owned_ptr panics on.
    unsafe {
        let text = ffi::PyUnicode_DecodeLatin1(bytes.as_ptr().cast(), bytes.len() as ffi::Py_ssize_t, std::ptr::null());
        Bound::from_owned_ptr(py, text).cast_into_unchecked()
    }
}

/// The characters of a text, if all of them are latin-1 (a byte each).
#[inline]
pub(super) fn latin1_bytes<'a>(text: &'a Bound<'_, PyString>) -> Option<&'a [u8]> {
    // SAFETY: the text is alive by the reference given and texts do not change, so that its memory stays what it is. CPython
    // stores a text in the narrowest of its forms: another one holds a character above U+00FF.
    match unsafe { text.data() } {
        Ok(PyStringData::Ucs1(bytes)) => Some(bytes),
        _ => None,
    }
}

/// The two items of an object that is a plain tuple of two.
#[inline]
pub(super) fn pair<'a, 'py>(
    object: &'a Bound<'py, PyAny>,
) -> Option<(Borrowed<'a, 'py, PyAny>, Borrowed<'a, 'py, PyAny>)> {
    let tuple = object.cast_exact::<PyTuple>().ok()?;
    // SAFETY: its length is two, and it is alive by the reference given, so that its items are: tuples do not change.
    (tuple.len() == 2).then(|| unsafe { (tuple.get_borrowed_item_unchecked(0), tuple.get_borrowed_item_unchecked(1)) })
}

/// Whether a list holds these pairs and nothing else, each in a plain tuple.
#[inline]
#[cfg(not(Py_GIL_DISABLED))]
pub(super) fn holds_pairs(list: &Bound<'_, PyList>, pairs: &[(Py<PyAny>, Py<PyAny>)]) -> bool {
    list.len() == pairs.len()
        && pairs.iter().enumerate().all(|(index, (name, value))| {
            // SAFETY: this thread has the interpreter's lock and runs no Python code here, so that the list stays as long as it
            // was found. An item that C code has not set yet is null; a tuple of two has two items.
            unsafe {
                let item = ffi::PyList_GET_ITEM(list.as_ptr(), index as ffi::Py_ssize_t);
                !item.is_null()
                    && ffi::PyTuple_CheckExact(item) != 0
                    && ffi::PyTuple_GET_SIZE(item) == 2
                    && ffi::PyTuple_GET_ITEM(item, 0) == name.as_ptr()
                    && ffi::PyTuple_GET_ITEM(item, 1) == value.as_ptr()
            }
        })
}

#[inline]
#[cfg(Py_GIL_DISABLED)]
pub(super) fn holds_pairs(list: &Bound<'_, PyList>, pairs: &[(Py<PyAny>, Py<PyAny>)]) -> bool {
    holds_pairs_safely(list, pairs)
}

/// The same without an assumption.
#[cfg(any(test, Py_GIL_DISABLED))]
pub(super) fn holds_pairs_safely(list: &Bound<'_, PyList>, pairs: &[(Py<PyAny>, Py<PyAny>)]) -> bool {
    let mut known = pairs.iter();
    let same = list.iter().all(|item| {
        let found = pair(&item).zip(known.next());
        found.is_some_and(|((name, value), known)| known.0.is(name) && known.1.is(value))
    });
    same && known.next().is_none()
}

/// A number that no two states of any dicts share, as long as CPython keeps one (to 3.13).
#[inline]
#[cfg(not(any(Py_3_14, Py_GIL_DISABLED)))]
pub(super) fn version(dict: &Bound<'_, PyDict>) -> Option<u64> {
    #[allow(deprecated, reason = "where it is gone, it is not asked for")]
    // SAFETY: the object is a dict by its type, alive by the reference given, and this thread is attached.
    Some(unsafe { (*dict.as_ptr().cast::<ffi::PyDictObject>()).ma_version_tag })
}

#[inline]
#[cfg(any(Py_3_14, Py_GIL_DISABLED))]
pub(super) fn version(_dict: &Bound<'_, PyDict>) -> Option<u64> {
    None
}

/// How many references there are to an object.
#[inline]
pub(super) fn references<T>(_py: Python<'_>, object: &Py<T>) -> isize {
    // SAFETY: the object is alive by the reference given, and this thread is attached by the token.
    unsafe { ffi::Py_REFCNT(object.as_ptr()) }
}

/// A copy of the contextvars of this thread.
pub(super) fn copy_current_context(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    // SAFETY: returns a new reference, or null with an exception set.
    unsafe { Bound::from_owned_ptr_or_err(py, ffi::PyContext_CopyCurrent()) }
}

/// Makes a copy of `context` this thread's current one and returns it.
pub(super) fn enter_context_copy<'py>(context: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    let py = context.py();
    // SAFETY: `context` came from copy_current_context, so it is a Context, which is all that the calls demand; they
    // report failure by null and -1 with an exception set.
    unsafe {
        let copy = Bound::from_owned_ptr_or_err(py, ffi::PyContext_Copy(context.as_ptr()))?;
        if ffi::PyContext_Enter(copy.as_ptr()) < 0 { Err(PyErr::fetch(py)) } else { Ok(copy) }
    }
}

/// Leaves what `enter_context_copy` entered.
pub(super) fn exit_context(context: &Bound<'_, PyAny>) -> PyResult<()> {
    // SAFETY: as above; leaving a context that is not the current one is reported, not undefined.
    if unsafe { ffi::PyContext_Exit(context.as_ptr()) } < 0 { Err(PyErr::fetch(context.py())) } else { Ok(()) }
}

/// A descriptor of our own for what the file object `file` has open as `number` (its `fileno()`); close-on-exec.
pub(super) fn duplicate(file: &Bound<'_, PyAny>, number: RawFd) -> io::Result<OwnedFd> {
    let _alive = file;
    if number < 0 {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: not -1. The object, alive by the reference given, has told the number right before on this thread, which is
    // attached: nobody has closed it since; and fcntl(2) refuses numbers that are not open.
    unsafe { BorrowedFd::borrow_raw(number) }.try_clone_to_owned()
}

/// Python's name of this thread.
pub(super) fn thread_ident(_py: Python<'_>) -> c_ulong {
    // SAFETY: takes nothing and asks the system for this thread's name only.
    unsafe { ffi::PyThread_get_thread_ident() }
}

/// Makes a thread raise `exception` at its next step in Python code; None takes back what was not raised yet.
/// The caller is attached.
pub(super) fn set_async_exception(ident: c_ulong, exception: Option<&Bound<'_, PyType>>) {
    let exception = exception.map_or(std::ptr::null_mut(), |exception| exception.as_ptr());
    // SAFETY: the caller is attached; an unknown thread is reported, not undefined; the class is alive by the reference
    // and the call takes its own.
    unsafe { ffi::PyThreadState_SetAsyncExc(ident as c_long, exception) };
}

/// A mutex that attached threads lock and unlock: the interpreter's lock makes a plain load and store of the mark enough,
/// where another mutex costs two atomic operations for each use. Who has it may detach meanwhile.
#[derive(Default)]
pub(super) struct AttachedMutex<T> {
    locked: AtomicBool,
    waiting: AtomicBool,
    wait: Mutex<()>,
    unlocked: Condvar,
    value: UnsafeCell<T>,
}

// SAFETY: the value is only reached through `AttachedGuard`, and there is one at a time.
unsafe impl<T: Send> Sync for AttachedMutex<T> {}

/// Who may use the value of an [`AttachedMutex`]; unlocks it when dropped, attached.
pub(super) struct AttachedGuard<'a, T> {
    mutex: &'a AttachedMutex<T>,
}

impl<T: Send> AttachedMutex<T> {
    /// Locks it unless somebody has it.
    #[inline]
    pub(super) fn try_lock(&self, _py: Python<'_>) -> Option<AttachedGuard<'_, T>> {
        #[cfg(not(Py_GIL_DISABLED))]
        let free = {
            // No other attached thread runs between the two.
            let free = !self.locked.load(Ordering::Acquire);
            if free {
                self.locked.store(true, Ordering::Relaxed);
            }
            free
        };
        #[cfg(Py_GIL_DISABLED)]
        let free = !self.locked.swap(true, Ordering::Acquire);
        free.then_some(AttachedGuard { mutex: self })
    }

    /// Locks it; waits detached.
    #[inline]
    pub(super) fn lock(&self, py: Python<'_>) -> AttachedGuard<'_, T> {
        loop {
            if let Some(guard) = self.try_lock(py) {
                return guard;
            }
            self.waiting.store(true, Ordering::SeqCst);
            py.detach(|| {
                let wait = self.wait.lock().unwrap_or_else(PoisonError::into_inner);
                if self.locked.load(Ordering::SeqCst) {
                    // Looked for again now and then: without the interpreter's lock a word could be missed.
                    drop(self.unlocked.wait_timeout(wait, Duration::from_millis(10)));
                }
            });
        }
    }
}

impl<T> Drop for AttachedGuard<'_, T> {
    #[inline]
    fn drop(&mut self) {
        self.mutex.locked.store(false, Ordering::Release);
        if self.mutex.waiting.load(Ordering::Relaxed) {
            self.mutex.waiting.store(false, Ordering::Relaxed);
            drop(self.mutex.wait.lock());
            self.mutex.unlocked.notify_all();
        }
    }
}

impl<T> std::ops::Deref for AttachedGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: this is the one guard.
        unsafe { &*self.mutex.value.get() }
    }
}

impl<T> std::ops::DerefMut for AttachedGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: this is the one guard.
        unsafe { &mut *self.mutex.value.get() }
    }
}
