//! `wsgi.file_wrapper` (PEP 3333, "Optional Platform-Specific File Handling"): an iterable over the blocks of a
//! file-like object, from its current position.
//!
//! A regular file is sent by the worker itself, on a descriptor of its own, when reading it could give nothing but its
//! bytes: Python's own classes for binary files, and no instance whose `read` was replaced. Everything else is read.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use pyo3::exceptions::PyStopIteration;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBytes, PyDict, PyType};

use super::raw;
use crate::gateway::FilePart;

/// Block size when the application gives none, and the least that is read from a file proper.
const BLOCK: usize = 65536;

/// The class behind `wsgi.file_wrapper`.
#[pyclass(frozen, module = "rsgi")]
pub(super) struct FileWrapper {
    /// The object given, as other WSGI software calls it.
    #[pyo3(get)]
    filelike: Py<PyAny>,
    /// Bytes asked of each `read`.
    #[pyo3(get)]
    blksize: usize,
}

#[pymethods]
impl FileWrapper {
    #[new]
    #[pyo3(signature = (filelike, blksize = None))]
    fn new(filelike: &Bound<'_, PyAny>, blksize: Option<isize>) -> FileWrapper {
        let asked = blksize.and_then(|size| usize::try_from(size).ok()).filter(|&size| size > 0);
        let blksize = match asked {
            // Reading ahead only saves calls where a read cannot wait for a writer at the other end.
            Some(size) if size < BLOCK && is_seekable(filelike) => BLOCK,
            Some(size) => size,
            None => BLOCK,
        };
        FileWrapper { filelike: filelike.clone().unbind(), blksize }
    }

    fn __iter__(slf: Py<FileWrapper>) -> Py<FileWrapper> {
        slf
    }

    fn __next__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let block = self.filelike.bind(py).call_method1(intern!(py, "read"), (self.blksize,))?;
        // What is not bytes is passed on: the iteration of the result says what is wrong with it.
        if block.cast::<PyBytes>().is_ok_and(|bytes| bytes.as_bytes().is_empty()) {
            return Err(PyStopIteration::new_err(()));
        }
        Ok(block)
    }

    /// Closes the file, if it can be closed.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        if let Some(close) = self.filelike.bind(py).getattr_opt(intern!(py, "close"))? {
            close.call0()?;
        }
        Ok(())
    }
}

/// What a wrapped file comes to.
pub(super) enum Direct {
    /// All of it.
    Bytes(Vec<u8>),
    /// More than is worth reading.
    Part(FilePart),
}

/// Files up to this size are read at once: cheaper than two system calls for head and body, and right for files whose size
/// does not tell what they hold (those of /proc and /sys).
const SMALL: u64 = 64 * 1024;

impl FileWrapper {
    /// The rest of the file for the worker to send. None: it must be read as the application's object reads.
    pub(super) fn direct(&self, py: Python<'_>) -> Option<Direct> {
        // What fails here fails again in `read`, where it is the application's exception.
        let (file, start) = open_part(self.filelike.bind(py)).ok().flatten()?;
        py.detach(|| examine(file, start).ok().flatten())
    }
}

/// A descriptor of our own, and where the next `read` would begin.
fn open_part(file: &Bound<'_, PyAny>) -> PyResult<Option<(File, u64)>> {
    let py = file.py();
    let Some([file_io, reader, random]) = classes(py) else { return Ok(None) };
    let raw = if file.is_exact_instance(file_io.bind(py)) {
        file.clone()
    } else if file.is_exact_instance(reader.bind(py)) || file.is_exact_instance(random.bind(py)) {
        file.getattr(intern!(py, "raw"))?
    } else {
        return Ok(None);
    };
    if !raw.is_exact_instance(file_io.bind(py)) || is_changed(file)? || is_changed(&raw)? {
        return Ok(None);
    }
    if !raw.call_method0(intern!(py, "readable"))?.is_truthy()? {
        return Ok(None);
    }
    if file.is_exact_instance(random.bind(py)) {
        file.call_method0(intern!(py, "flush"))?;
    }
    let start: u64 = file.call_method0(intern!(py, "tell"))?.extract()?;
    let number: i32 = raw.call_method0(intern!(py, "fileno"))?.extract()?;
    Ok(Some((File::from(raw::duplicate(&raw, number)?), start)))
}

/// FileIO, BufferedReader, BufferedRandom.
fn classes(py: Python<'_>) -> Option<&[Py<PyType>; 3]> {
    static CLASSES: PyOnceLock<[Py<PyType>; 3]> = PyOnceLock::new();
    let find = || -> PyResult<[Py<PyType>; 3]> {
        let io = py.import("io")?;
        let class = |name| -> PyResult<Py<PyType>> { Ok(io.getattr(name)?.cast_into::<PyType>()?.unbind()) };
        Ok([class("FileIO")?, class("BufferedReader")?, class("BufferedRandom")?])
    };
    CLASSES.get_or_try_init(py, find).ok()
}

/// Whether somebody put methods of his own onto this very object.
fn is_changed(file: &Bound<'_, PyAny>) -> PyResult<bool> {
    let py = file.py();
    let Some(attributes) = file.getattr_opt(intern!(py, "__dict__"))? else { return Ok(false) };
    let Ok(attributes) = attributes.cast::<PyDict>() else { return Ok(true) };
    Ok(attributes.contains(intern!(py, "read"))? || attributes.contains(intern!(py, "readinto"))?)
}

/// Only regular files have a length that can be told before they are read.
fn examine(file: File, start: u64) -> io::Result<Option<Direct>> {
    let facts = file.metadata()?;
    if !facts.is_file() {
        return Ok(None);
    }
    let len = facts.len().saturating_sub(start);
    if len > SMALL {
        return Ok(Some(Direct::Part(FilePart { file, start, len })));
    }
    let mut bytes = vec![0; SMALL as usize + 1];
    let mut filled = 0;
    while filled < bytes.len() {
        match file.read_at(&mut bytes[filled..], start + filled as u64) {
            Ok(0) => {
                bytes.truncate(filled);
                return Ok(Some(Direct::Bytes(bytes)));
            }
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    // It grows, or its size tells nothing.
    Ok(None)
}

fn is_seekable(file: &Bound<'_, PyAny>) -> bool {
    file.call_method0(intern!(file.py(), "seekable")).and_then(|answer| answer.is_truthy()).unwrap_or(false)
}
