//! The module `rsgi._rsgi` of the package that pip installs: the same command, inside a Python process.
//!
//! The rule is the same as for the binary: the master runs no application code. It does not even use the
//! interpreter it happens to live in, but for telling it that it forks.

use std::ffi::OsString;
use std::io;

use pyo3::prelude::*;

use crate::boot;
use crate::interpreter;
use crate::sys::process::{self, Fork};
use crate::wsgi;

/// Forks a process with an interpreter in it.
fn fork() -> io::Result<Fork> {
    Python::attach(|py| {
        interpreter::before_fork(py);
        let side = process::fork();
        match side {
            Ok(Fork::Child) => interpreter::after_fork_child(py),
            Ok(Fork::Parent(_)) | Err(_) => interpreter::after_fork_parent(py),
        }
        side
    })
}

/// Runs the command with `argv`, the program's name first; gives its exit code.
#[pyfunction]
fn main(py: Python<'_>, argv: Vec<OsString>) -> u8 {
    let _ = boot::INSIDE_PYTHON.set(());
    py.detach(|| boot::run(&argv, fork))
}

/// The serving part of rsgi.
#[pymodule]
fn _rsgi(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add("HarakiriError", module.py().get_type::<wsgi::HarakiriError>())?;
    module.add_function(wrap_pyfunction!(wsgi::set_user_harakiri, module)?)?;
    module.add_function(wrap_pyfunction!(main, module)?)
}
