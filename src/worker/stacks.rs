//! What every thread of the worker is doing right now: its request, and where it is in Python.
//!
//! A thread of its own asks Python. When it is not let into the interpreter, since somebody keeps it in C code,
//! faulthandler shows the stacks from a signal handler, without the interpreter's leave.

use std::ffi::c_ulong;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::Worker;
use super::clock::now;
use crate::sys::worker_signals;
use crate::wsgi::{self, AppThread, Stack};

/// How long the interpreter is waited for.
const PATIENCE: Duration = Duration::from_secs(1);

/// What has to be known to tell the threads apart.
#[derive(Default)]
pub(super) struct Witness {
    /// Python's names of the app threads.
    names: Vec<OnceLock<c_ulong>>,
    /// Where faulthandler writes to.
    file: OnceLock<Mutex<File>>,
    /// Accounts are given one after the other.
    one_at_a_time: Mutex<()>,
    /// A thread waits for the interpreter already.
    asks: AtomicBool,
    helpers: Mutex<Vec<JoinHandle<()>>>,
}

impl Witness {
    pub(super) fn new(threads: usize) -> Witness {
        Witness { names: (0..threads).map(|_| OnceLock::new()).collect(), ..Witness::default() }
    }

    /// App thread `core` introduces itself.
    pub(super) fn introduce(&self, core: usize, app: &AppThread<'_>) {
        let _ = self.names[core].set(app.python_name());
        if core > 0 {
            return;
        }
        let prepare = || {
            let file = worker_signals::report_file().map_err(|error| error.to_string())?;
            app.write_stacks_on_signal(worker_signals::report_signal(), file.as_raw_fd())?;
            Ok(File::from(file))
        };
        match prepare() {
            Ok(file) => {
                let _ = self.file.set(Mutex::new(file));
            }
            Err(error) => {
                let error: String = error;
                log::warn!("stacks of threads that keep the interpreter cannot be shown: {error}");
            }
        }
    }

    fn keep(&self, helper: JoinHandle<()>) {
        let mut helpers = self.helpers.lock().unwrap_or_else(PoisonError::into_inner);
        helpers.retain(|helper| !helper.is_finished());
        helpers.push(helper);
    }

    /// Waits for the threads that were sent out: none may need the interpreter when it ends.
    pub(super) fn join(&self) {
        let helpers = std::mem::take(&mut *self.helpers.lock().unwrap_or_else(PoisonError::into_inner));
        for helper in helpers {
            let _ = helper.join();
        }
    }

    /// The stacks by Python's own account; none when it does not answer.
    fn ask(&self, worker: &Arc<Worker>) -> Option<Result<Vec<Stack>, String>> {
        if self.asks.swap(true, Ordering::AcqRel) {
            return None;
        }
        let (tell, hear) = mpsc::channel();
        let body = {
            let worker = Arc::clone(worker);
            move || {
                let found = wsgi::stacks();
                worker.witness.asks.store(false, Ordering::Release);
                let _ = tell.send(found);
            }
        };
        match thread::Builder::new().name("stacks".into()).spawn(body) {
            Ok(helper) => self.keep(helper),
            Err(error) => {
                self.asks.store(false, Ordering::Release);
                return Some(Err(format!("no thread can be started: {error}")));
            }
        }
        match hear.recv_timeout(PATIENCE) {
            Ok(found) => Some(found),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => Some(Err("Python did not answer".into())),
        }
    }

    /// The stacks as faulthandler sees them.
    fn ask_faulthandler(&self) -> Option<String> {
        let mut file = self.file.get()?.lock().unwrap_or_else(PoisonError::into_inner);
        let read = |file: &mut File| {
            file.set_len(0)?;
            file.rewind()?;
            worker_signals::raise_report()?;
            file.rewind()?;
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes)?;
            Ok::<_, std::io::Error>(String::from_utf8_lossy(&bytes).into_owned())
        };
        read(&mut file).ok()
    }
}

/// Writes an account of all threads into `out`, in the background.
pub(super) fn write(worker: &Arc<Worker>, out: OwnedFd) {
    let body = {
        let worker = Arc::clone(worker);
        move || {
            let text = account(&worker);
            // Whoever asked may be gone.
            let _ = File::from(out).write_all(text.as_bytes());
        }
    };
    match thread::Builder::new().name("witness".into()).spawn(body) {
        Ok(helper) => worker.witness.keep(helper),
        Err(error) => log::warn!("worker {} cannot tell its stacks: {error}", worker.id),
    }
}

fn account(worker: &Arc<Worker>) -> String {
    let witness = &worker.witness;
    let _guard = witness.one_at_a_time.lock().unwrap_or_else(PoisonError::into_inner);
    match witness.ask(worker) {
        Some(Ok(stacks)) => tell(worker, Some(&stacks), "in no Python code: it may wait for the interpreter\n"),
        Some(Err(error)) => tell(worker, None, &format!("its stack cannot be shown: {error}\n")),
        None => {
            let stacks = witness.ask_faulthandler().unwrap_or_else(|| "no stack can be shown\n".into());
            let mut text = tell(worker, None, "");
            text.push_str("  somebody keeps the interpreter; the stacks as faulthandler sees them:\n");
            indent(&mut text, &stacks);
            text
        }
    }
}

/// The threads with their requests, and their stacks if they are known.
fn tell(worker: &Worker, stacks: Option<&[Stack]>, without: &str) -> String {
    let mut text = String::new();
    let slot = worker.slot();
    for (core, name) in worker.witness.names.iter().enumerate() {
        let ident = name.get().copied();
        let current = slot.thread(core).current();
        let _ = match &current {
            Some(current) => writeln!(
                text,
                "  thread {core} (0x{:016x}): {} {}{} for {:.1} s",
                ident.unwrap_or(0),
                current.method.escape_ascii(),
                current.uri.escape_ascii(),
                // Clients of unix sockets have no address.
                if current.peer.is_empty() { String::new() } else { format!(" from {}", current.peer.escape_ascii()) },
                now().saturating_sub(current.started_ms) as f64 / 1000.0,
            ),
            None => writeln!(text, "  thread {core} (0x{:016x}): free", ident.unwrap_or(0)),
        };
        match stacks.and_then(|stacks| stacks.iter().find(|stack| Some(stack.ident) == ident)) {
            Some(stack) => indent(&mut text, &stack.text),
            None if current.is_some() => indent(&mut text, without),
            None => {}
        }
    }
    let is_app = |stack: &&Stack| worker.witness.names.iter().any(|name| name.get() == Some(&stack.ident));
    for stack in stacks.unwrap_or_default().iter().filter(|stack| !is_app(stack)) {
        let name = stack.name.as_deref().unwrap_or("without a name");
        let _ = writeln!(text, "  thread of the application (0x{:016x}): {}", stack.ident, name.escape_debug());
        indent(&mut text, &stack.text);
    }
    text
}

fn indent(text: &mut String, lines: &str) {
    for line in lines.lines() {
        let _ = writeln!(text, "    {line}");
    }
}
