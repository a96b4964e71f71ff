//! An app thread: attached to Python for its life, one request at a time until `close()` has returned.

use std::ffi::{c_int, c_ulong};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use pyo3::exceptions::PyBrokenPipeError;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::api::Current;
use super::environ::Environs;
use super::errors::Tee;
use super::interrupt::{Inside, Interrupt};
use super::start_response::Callables;
use super::{Apps, Options, errors, raw, result, stacks};
use crate::gateway::Exchange;

/// Runs `f` on this thread, attached to Python from the beginning to the end.
///
/// Thread-locals and contextvars of the application live as long: a thread state per request would throw away every
/// persistent database connection. All app threads begin with the contextvars that the import of the application left.
///
/// # Panics
/// When memory is out or the interpreter does not run.
pub fn with_app_thread<R>(
    apps: &Arc<Apps>,
    options: &Options,
    core: u32,
    f: impl FnOnce(&mut AppThread<'_>) -> R,
) -> R {
    Python::attach(|py| {
        let context = raw::enter_context_copy(apps.context.bind(py));
        if core > 0
            && let Err(error) = name_thread(py, core)
        {
            log::debug!("app thread {core} has no name: {}", errors::one_line(py, &error));
        }
        let callables = match Callables::new(py) {
            Ok(callables) => callables,
            Err(error) => panic!("app thread {core} can't be made: {}", errors::one_line(py, &error)),
        };
        let mut thread = AppThread {
            py,
            apps: Arc::clone(apps),
            environs: Environs::new(py, options, core),
            current: Current::begin(Arc::clone(&callables.shared)),
            callables,
        };
        let value = f(&mut thread);
        drop(thread);
        Current::end();
        if let Err(error) = context.and_then(|context| raw::exit_context(&context)) {
            log::debug!("app thread {core}: {}", errors::one_line(py, &error));
        }
        value
    })
}

/// What `%(threadName)s` shows in the application's log.
fn name_thread(py: Python<'_>, core: u32) -> PyResult<()> {
    let thread = py.import("threading")?.call_method0("current_thread")?;
    thread.setattr("name", format!("rsgi-core-{core}"))
}

/// One thread of a worker that runs the application.
pub struct AppThread<'py> {
    py: Python<'py>,
    apps: Arc<Apps>,
    environs: Environs,
    callables: Callables,
    /// For whoever asks for what this thread is doing.
    current: Rc<Current>,
}

/// An environ, and the application that it goes to.
type Built<'py> = (Bound<'py, PyDict>, Option<usize>);

/// How a request ended.
enum End {
    /// The response is whole, or nobody is left to want it.
    Done,
    /// The client gets this status, or a cut connection when the head is out.
    Failed(u16),
}

/// Whether the one warning about hop-by-hop headers was given.
static WARNED: AtomicBool = AtomicBool::new(false);

impl AppThread<'_> {
    /// Runs one request from environ to `close()` and ends the response, in order or not. Never panics, whatever the
    /// application does.
    pub fn serve(&mut self, exchange: Box<dyn Exchange>) -> Box<dyn Exchange> {
        let py = self.py;
        if !self.callables.are_ours(py) {
            // The application kept start_response or write of an earlier request: let it have them.
            match Callables::new(py) {
                Ok(fresh) => {
                    self.current.shared.replace(Arc::clone(&fresh.shared));
                    self.callables = fresh;
                }
                Err(error) => {
                    log::error!("no start_response can be made: {}", errors::one_line(py, &error));
                    let mut exchange = exchange;
                    exchange.fail(500);
                    return exchange;
                }
            }
        }
        let mut exchange = exchange;
        let tees = self.environs.passes_errors_on(exchange.local());
        let built = catch_unwind(AssertUnwindSafe(|| self.environs.build(py, &self.apps, &mut *exchange)));
        let serial;
        {
            let mut response = self.callables.shared.lock(py);
            response.head.clear();
            response.full = false;
            response.gone = false;
            response.exchange = Some(exchange);
            response.serial += 1;
            serial = response.serial;
        }
        let built = built.map(|built| if tees { self.tee(built, serial) } else { built });
        // A panic below an application's frame arrives here as one too, and is a fault of rsgi.
        let run = built.and_then(|built| {
            catch_unwind(AssertUnwindSafe(|| match built {
                Ok((environ, app)) => (self.run(&environ, app), Some(environ)),
                Err(error) => (self.failed(&error), None),
            }))
        });
        let (end, environ) = run.unwrap_or_else(|_| {
            log::error!("rsgi panicked while it served {}", self.describe());
            (End::Failed(500), None)
        });
        if let Some(environ) = environ {
            self.environs.keep(environ);
        }
        let mut response = self.callables.shared.lock(py);
        let response = &mut *response;
        response.end_errors();
        let Some(mut exchange) = response.exchange.take() else { unreachable!("only this thread takes it") };
        match end {
            End::Done => exchange.finish(&mut response.head),
            End::Failed(status) => exchange.fail(status),
        }
        if let Some(name) = response.head.dropped()
            && !WARNED.swap(true, Ordering::Relaxed)
        {
            log::warn!("the application's {name} header is not passed on: the server frames responses (said once)");
        }
        exchange
    }

    /// Lets the web server have what the application writes to `wsgi.errors`.
    fn tee<'py>(&self, built: PyResult<Built<'py>>, serial: u64) -> PyResult<Built<'py>> {
        let (environ, app) = built?;
        let tee = Bound::new(environ.py(), Tee::new(environ.py(), &self.callables.shared, serial)?)?;
        environ.set_item("wsgi.errors", tee)?;
        Ok((environ, app))
    }

    /// From now on requests of this thread can be interrupted.
    pub fn interruptible(&mut self) -> Arc<Interrupt> {
        Arc::clone(self.current.interrupt.get_or_init(|| Arc::new(Interrupt::of_this_thread(self.py))))
    }

    /// Python's name for this thread.
    pub fn python_name(&self) -> c_ulong {
        raw::thread_ident(self.py)
    }

    /// From now on `signal` writes the stacks of all threads of this process into `file`, whoever has the interpreter.
    ///
    /// # Errors
    /// One line: why Python does not do that.
    pub fn write_stacks_on_signal(&self, signal: c_int, file: c_int) -> Result<(), String> {
        stacks::write_on_signal(self.py, signal, file)
    }

    /// Runs `f` detached from Python: for everything that waits.
    pub fn detached<T: Send>(&self, f: impl FnOnce() -> T + Send) -> T {
        self.py.detach(f)
    }

    fn run(&self, environ: &Bound<'_, PyDict>, app: Option<usize>) -> End {
        let py = self.py;
        let Some(callable) = app.and_then(|index| self.apps.get(index)) else {
            let mount = app.map_or("", |index| self.apps.mount(index));
            log::error!("{}: no application was loaded for {:?}, see the log of the start", self.describe(), mount);
            return End::Failed(500);
        };
        let interrupt = &self.current.interrupt;
        let called = Inside::enter(interrupt).and_then(|inside| {
            let called = callable.bind(py).call1((environ, self.callables.start_response.bind(py)));
            drop(inside);
            called
        });
        let result = match called {
            Ok(result) => result,
            Err(error) => return self.failed(&error),
        };
        let end = match result::send(py, &self.callables.shared, &result, interrupt) {
            Ok(()) => End::Done,
            Err(error) => self.failed(&error),
        };
        let closed = {
            let _inside = Inside::to_close(interrupt);
            result::close(py, &result)
        };
        match closed {
            Ok(()) => end,
            Err(error) => {
                let failed = self.failed(&error);
                // All that the client was promised is on its way: only without a length can it be told.
                if self.callables.shared.lock(py).head.content_length().is_some() { end } else { failed }
            }
        }
    }

    /// Logs what the application raised. SystemExit and KeyboardInterrupt are no exceptions to that: the service
    /// goes on.
    fn failed(&self, error: &PyErr) -> End {
        let py = self.py;
        {
            let mut response = self.callables.shared.lock(py);
            if response.gone && error.is_instance_of::<PyBrokenPipeError>(py) {
                // Our own word from write() that nobody listens any more.
                return End::Done;
            }
            if let Some(exchange) = &mut response.exchange {
                exchange.count_exception();
            }
        }
        let text = errors::report(py, &format!("exception in {}", self.describe()), error);
        let mut response = self.callables.shared.lock(py);
        if let Some(exchange) = &response.exchange
            && self.environs.passes_errors_on(exchange.local())
        {
            response.add_error(text.as_bytes());
        }
        End::Failed(500)
    }

    /// `GET /path?query from 192.0.2.1`, for the log.
    fn describe(&self) -> String {
        const MAX_URI: usize = 1000;
        let response = self.callables.shared.lock(self.py);
        let Some(exchange) = &response.exchange else { return "a request".into() };
        let (request, head) = exchange.request();
        let uri = request.target.of(head);
        let cut = &uri[..uri.len().min(MAX_URI)];
        let mut text = format!("{} {}", request.method.of(head).escape_ascii(), cut.escape_ascii());
        if cut.len() < uri.len() {
            text.push_str("...");
        }
        if !exchange.peer().addr.is_empty() {
            text.push_str(" from ");
            text.push_str(&exchange.peer().addr);
        }
        text
    }
}
