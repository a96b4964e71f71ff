//! `wsgi.file_wrapper` (PEP 3333, "Optional Platform-Specific File Handling"): an iterable over the blocks of a
//! file-like object, from its current position.

use pyo3::exceptions::PyStopIteration;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

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

impl FileWrapper {
    /// Whether what it sends is a file of the system.
    pub(super) fn is_file(&self, py: Python<'_>) -> bool {
        self.filelike.bind(py).call_method0(intern!(py, "fileno")).is_ok()
    }
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

fn is_seekable(file: &Bound<'_, PyAny>) -> bool {
    file.call_method0(intern!(file.py(), "seekable")).and_then(|answer| answer.is_truthy()).unwrap_or(false)
}
