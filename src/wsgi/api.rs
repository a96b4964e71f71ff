//! What an application can ask of the server: the module `rsgi`.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;

use super::interrupt::{HarakiriError, Interrupt, Interruptible};
use super::start_response::Shared;

/// What the calling app thread is doing.
pub(super) struct Current {
    /// The response of its request.
    pub(super) shared: RefCell<Shared>,
    /// How it can be interrupted; empty until somebody wants that.
    pub(super) interrupt: Interruptible,
}

thread_local! {
    static CURRENT: RefCell<Option<Rc<Current>>> = const { RefCell::new(None) };
}

impl Current {
    /// Of the calling thread, until it is dropped.
    pub(super) fn begin(shared: Shared) -> Rc<Current> {
        let current = Rc::new(Current { shared: RefCell::new(shared), interrupt: Interruptible::new() });
        CURRENT.set(Some(Rc::clone(&current)));
        current
    }

    /// The thread serves no requests any more.
    pub(super) fn end() {
        CURRENT.set(None);
    }
}

/// Stop the running request when it takes longer than ``seconds`` from now; 0 takes that back.
#[pyfunction]
pub fn set_user_harakiri(py: Python<'_>, seconds: f64) -> PyResult<()> {
    let limit = Duration::try_from_secs_f64(seconds)
        .map_err(|_| PyValueError::new_err("set_user_harakiri() takes seconds, 0 or more"))?;
    let nobody = || PyRuntimeError::new_err("set_user_harakiri() is for the thread that serves a request, during it");
    let current = CURRENT.with_borrow(Option::clone).ok_or_else(nobody)?;
    let shared = current.shared.borrow().clone();
    let mut response = shared.lock(py);
    let exchange = response.exchange.as_mut().ok_or_else(nobody)?;
    let interrupt = current.interrupt.get_or_init(|| Arc::new(Interrupt::of_this_thread_inside(py)));
    exchange.limit_time(limit, Arc::clone(interrupt) as _);
    Ok(())
}

/// Lets the application import `rsgi`, whoever has installed what.
///
/// # Errors
/// Python's.
pub fn install(py: Python<'_>) -> PyResult<()> {
    let modules = py.import("sys")?.getattr("modules")?;
    // The command that pip installed runs in the package of this name already.
    let module = match modules.get_item("rsgi") {
        Ok(module) => module,
        Err(_) => {
            let module = PyModule::new(py, "rsgi")?;
            module.add("__version__", env!("CARGO_PKG_VERSION"))?;
            modules.set_item("rsgi", &module)?;
            module.into_any()
        }
    };
    module.setattr("set_user_harakiri", wrap_pyfunction!(set_user_harakiri, py)?)?;
    module.setattr("HarakiriError", py.get_type::<HarakiriError>())
}
