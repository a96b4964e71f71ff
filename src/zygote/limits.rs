//! The server raises its limit of open descriptors; programs that the application starts get the original back.
//! (Some of them close every descriptor up to the limit, or use `select`.)
//!
//! `subprocess` and `multiprocessing` start programs by one function, `_posixsubprocess.fork_exec`, which uses `vfork`
//! where it can: no fork handler runs, and there is no place in the child for `setrlimit`. So the limit is
//! the original one for the moment of the call, as a child inherits what its parent has then. Children that go on as
//! Python (`os.fork`, `multiprocessing`'s fork method) take it back themselves. `os.system` is left alone: it waits for
//! its program, and the server needs its limit meanwhile.

use std::ffi::CStr;

use pyo3::prelude::*;
use pyo3::types::{PyCFunction, PyDict, PyTuple};

use crate::sys::fd;

/// Before anything imports `subprocess`.
pub(super) fn install(py: Python<'_>) -> PyResult<()> {
    if !fd::is_limit_raised() {
        return Ok(());
    }
    let fork_exec = wrap(&py.import("_posixsubprocess")?, c"fork_exec")?;
    let os = py.import("os")?;
    for name in [c"posix_spawn", c"posix_spawnp"] {
        os.setattr(&*name.to_string_lossy(), wrap(&py.import("posix")?, name)?)?;
    }
    // The command installed by pip runs where it may have been imported already.
    let modules = py.import("sys")?.getattr("modules")?;
    if let Ok(subprocess) = modules.get_item("subprocess")
        && subprocess.hasattr("_fork_exec")?
    {
        subprocess.setattr("_fork_exec", &fork_exec)?;
    }
    let lower = PyCFunction::new_closure(
        py,
        Some(c"lower_descriptor_limit"),
        None,
        |_: &Bound<'_, PyTuple>, _: Option<&Bound<'_, PyDict>>| fd::give_original_limit(0),
    )?;
    let hooks = PyDict::new(py);
    hooks.set_item("after_in_child", lower)?;
    os.call_method("register_at_fork", (), Some(&hooks))?;
    Ok(())
}

/// Puts a function in place of `module.name` that does the same with the original limit.
fn wrap<'py>(module: &Bound<'py, PyModule>, name: &'static CStr) -> PyResult<Bound<'py, PyCFunction>> {
    let text = name.to_string_lossy();
    let original = module.getattr(&*text)?.unbind();
    let start = move |args: &Bound<'_, PyTuple>, named: Option<&Bound<'_, PyDict>>| -> PyResult<Py<PyAny>> {
        let original = original.bind(args.py());
        let (outcome, was_original) = fd::with_original_limit(|| original.call(args.clone(), named));
        let pid = outcome?;
        if !was_original && let Ok(id) = pid.extract::<i32>() {
            fd::give_original_limit(id);
        }
        Ok(pid.unbind())
    };
    let wrapped = PyCFunction::new_closure(module.py(), Some(name), None, start)?;
    module.setattr(&*text, &wrapped)?;
    Ok(wrapped)
}

/// A worker has the raised limit again.
pub(super) fn raise() {
    fd::raise_limit_again();
}
