//! The zygote: starts CPython, imports the application, serves nothing, and forks workers when the master asks.
//!
//! A worker is forked twice: the process between ends at once, so that the master, a reaper of orphans, becomes the
//! worker's parent. CPython's fork hooks run once on each side that goes on, never in the process between.
//! What a worker does is a function given by `boot`.

mod limits;
mod modules;

pub use modules::Watched;

use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::control::{FromWorker, FromZygote, MAX_MESSAGE, ToZygote};
use crate::exit;
use crate::interpreter::{self, Spec};
use crate::scoreboard::Scoreboard;
use crate::sys;
use crate::sys::fd::{self, Received};
use crate::sys::process::{self, Fork};
use crate::sys::signal::{self, Signal};
use crate::wsgi::{self, Apps, LoadSpec};

/// How long threads of the application may hold up the end of a worker that has nothing left to do.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// What a zygote works with.
pub struct Zygote {
    /// Generation, from 1.
    pub generation: u32,
    /// Control socket to the master.
    pub control: OwnedFd,
    /// Process id of the master.
    pub master: i32,
    /// Shared by all processes.
    pub scoreboard: Arc<Scoreboard>,
    /// How to start the interpreter.
    pub interpreter: Spec,
    /// What to import.
    pub apps: LoadSpec,
    /// Whether the workers import for themselves.
    pub lazy: bool,
    /// What is to be done before the import; what stopped it, if it fails.
    pub before_import: Box<dyn Fn() -> Result<(), String>>,
    /// The same, after the import.
    pub after_import: Box<dyn Fn() -> Result<(), String>>,
    /// How modules are watched for changes; none: not at all.
    pub watched: Option<Watched>,
    /// After so long the stack of an import goes to the log. None: never.
    pub import_timeout: Option<Duration>,
    /// Points the log to another file.
    pub use_log: fn(OwnedFd),
    /// Whether the workers end with Python's `atexit` functions.
    pub at_exit: bool,
    /// Variables set (or removed) since an interpreter may have read the environment.
    pub environment: Vec<(String, Option<String>)>,
}

/// A worker that was just born, in its own process.
pub struct Birth {
    /// Worker number, from 1.
    pub id: u32,
    /// Control socket to the master.
    pub control: OwnedFd,
    /// Whether the application is imported by `load` in this process.
    pub lazy: bool,
    /// No worker of this number has served in this generation yet.
    pub first: bool,
}

/// Gives a worker its application, or the cause why there is none.
pub type Load = Box<dyn FnOnce() -> Result<Arc<Apps>, String>>;

/// Runs a zygote until the master is gone. In the workers that it forks, `worker` runs and their exit code is
/// returned.
pub fn run(zygote: Zygote, worker: impl FnOnce(Birth, Load) -> u8) -> u8 {
    if let Err(error) = leave_signals_to_the_master() {
        tell(&zygote.control, &FromZygote::StartFailed(format!("signals cannot be set up: {error}")));
        return exit::ERROR;
    }
    if let Err(cause) = start_python(&zygote.interpreter, &zygote.environment) {
        tell(&zygote.control, &FromZygote::StartFailed(cause));
        return exit::ERROR;
    }
    log::info!("CPython {}", Python::version_str().split(' ').next().unwrap_or_default());
    if let Err(cause) = (zygote.before_import)() {
        tell(&zygote.control, &FromZygote::StartFailed(cause));
        return exit::ERROR;
    }
    // A lazy import is not frozen.
    let rare = if zygote.lazy { None } else { interpreter::RareCollections::begin() };
    let apps = match zygote.lazy {
        true => None,
        false => match import(&zygote.apps, zygote.import_timeout) {
            Ok(apps) => {
                warn_of_threads();
                Some(apps)
            }
            Err(cause) => {
                tell(&zygote.control, &FromZygote::LoadFailed(cause));
                return exit::NO_APP;
            }
        },
    };
    if let Err(cause) = (zygote.after_import)() {
        tell(&zygote.control, &FromZygote::StartFailed(cause));
        return exit::ERROR;
    }
    if let Err(error) = Python::attach(interpreter::freeze) {
        log::warn!("the garbage collector cannot be frozen: {error}");
    }
    drop(rare);
    if let (Some(watched), false) = (&zygote.watched, zygote.lazy) {
        watched.announce(&zygote.control, &FromZygote::Modules.encode());
    }
    tell(&zygote.control, &FromZygote::Ready);
    match serve_forks(&zygote) {
        None => exit::OK,
        Some((id, control, first)) => {
            // Held open here, it would never come to its end for the zygote.
            let Zygote { apps: spec, lazy, watched, import_timeout, at_exit, control: zygotes_own, .. } = zygote;
            drop(zygotes_own);
            let own = watched.and_then(|watched| Some((watched, control.try_clone().ok()?)));
            let load: Load = Box::new(move || {
                let loaded = match apps {
                    Some(apps) => Ok(apps),
                    None => import(&spec, import_timeout),
                };
                if let Some((watched, control)) = own {
                    let word = FromWorker::Modules.encode();
                    if lazy {
                        watched.announce(&control, &word);
                    }
                    watched.follow(control, word);
                }
                loaded
            });
            let code = worker(Birth { id, control, lazy, first }, load);
            if code == exit::OK && !at_exit {
                Python::attach(interpreter::flush);
            } else if code == exit::OK {
                interpreter::finalize(PATIENCE);
            }
            code
        }
    }
}

/// Starts CPython, ready to import an application. `environment`: variables set (or removed) since an interpreter that runs
/// already may have read the environment.
///
/// # Errors
/// One line.
pub fn start_python(spec: &Spec, environment: &[(String, Option<String>)]) -> Result<(), String> {
    interpreter::start(spec)?;
    Python::attach(|py| set_environment(py, environment))
        .map_err(|error| format!("os.environ cannot be set: {error}"))?;
    if let Err(error) = Python::attach(limits::install) {
        log::warn!("programs started by the application will have the server's limit of descriptors: {error}");
    }
    if let Err(error) = Python::attach(wsgi::install) {
        log::warn!("the application cannot import rsgi: {error}");
    }
    Ok(())
}

/// Signals that reach the whole process group are the master's business. QUIT, which means at once, is everybody's.
fn leave_signals_to_the_master() -> io::Result<()> {
    signal::set_no_effect(&[
        Signal::SIGINT,
        Signal::SIGTERM,
        Signal::SIGHUP,
        Signal::SIGUSR1,
        Signal::SIGUSR2,
        Signal::SIGTSTP,
        Signal::SIGALRM,
    ])?;
    signal::set_end(&[Signal::SIGQUIT])?;
    signal::unblock_all()
}

/// `os.environ` is a copy made when `os` was imported, which an adopted interpreter did long ago.
fn set_environment(py: Python<'_>, changes: &[(String, Option<String>)]) -> PyResult<()> {
    let environ = py.import("os")?.getattr("environ")?;
    for (name, value) in changes {
        match value {
            Some(value) => environ.set_item(name, value)?,
            None => environ.call_method1("pop", (name, py.None())).map(|_| ())?,
        }
    }
    Ok(())
}

fn tell(control: &OwnedFd, message: &FromZygote) {
    if let Err(error) = fd::send(control, &message.encode(), None) {
        log::debug!("the master does not hear the zygote: {error}");
    }
}

/// Imports the applications. `timeout`: after so long the stack of the import goes to the log.
///
/// # Errors
/// The cause in one line; the traceback is in the log.
pub fn import(spec: &LoadSpec, timeout: Option<Duration>) -> Result<Arc<Apps>, String> {
    Python::attach(|py| {
        let _watchdog = Watchdog::start(py, timeout);
        let apps = wsgi::load(py, spec).map_err(tell_whole)?;
        interpreter::flush(py);
        Ok(Arc::new(apps))
    })
}

/// The cause in a line, and after it the end of the traceback, as much of it as a message takes.
fn tell_whole(error: wsgi::LoadError) -> String {
    const MOST: usize = MAX_MESSAGE / 2;
    let cause = error.cause.replace('\n', " ");
    let text = error.traceback.trim_end();
    let begin = match text.len().checked_sub(MOST) {
        None => 0,
        // The end of a traceback tells more than its begin.
        Some(over) => {
            text.as_bytes()[over..].iter().position(|byte| *byte == b'\n').map_or(text.len(), |at| over + at + 1)
        }
    };
    if text.is_empty() { cause } else { format!("{cause}\n{}", &text[begin..]) }
}

/// Writes the stack of an import that takes too long, as long as it lives: the master ends the process only then.
struct Watchdog<'py>(Option<Bound<'py, PyModule>>);

impl<'py> Watchdog<'py> {
    fn start(py: Python<'py>, timeout: Option<Duration>) -> Watchdog<'py> {
        let start = |timeout: Duration| {
            let faulthandler = py.import("faulthandler")?;
            let options = PyDict::new(py);
            options.set_item("file", libc::STDERR_FILENO)?;
            faulthandler.call_method("dump_traceback_later", (timeout.as_secs_f64(),), Some(&options))?;
            Ok::<_, PyErr>(faulthandler)
        };
        Watchdog(timeout.and_then(|timeout| start(timeout).ok()))
    }
}

impl Drop for Watchdog<'_> {
    fn drop(&mut self) {
        if let Some(faulthandler) = &self.0 {
            let _ = faulthandler.call_method0("cancel_dump_traceback_later");
        }
    }
}

/// How often, and how far apart, the threads are counted again that Python does not know.
const LEAVING_LOOKS: u32 = 20;
const LEAVING_PAUSE: Duration = Duration::from_millis(1);

/// Threads do not survive a fork.
fn warn_of_threads() {
    let mut all = process::thread_count() - 1;
    let mut names = Python::attach(interpreter::other_threads);
    // The watchdog's thread has said good-bye to Python, but may still be on its way out.
    for _ in 0..LEAVING_LOOKS {
        if all <= names.len() {
            break;
        }
        std::thread::sleep(LEAVING_PAUSE);
        all = process::thread_count() - 1;
    }
    if all == 0 {
        return;
    }
    if names.len() < all {
        names.push(format!("{} that Python does not know", all - names.len()));
    }
    log::warn!(
        "{all} thread{} started at import: {}; what they do is not done in the workers, as threads do not survive a fork \
         (start them later, or set lazy-apps)",
        if all == 1 { " was" } else { "s were" },
        names.join(", ")
    );
}

/// Forks whenever the master asks. Gives the number, the control socket and whether it is the first in a worker, nothing in a zygote whose
/// master is gone.
fn serve_forks(zygote: &Zygote) -> Option<(u32, OwnedFd, bool)> {
    let mut buffer = [0; MAX_MESSAGE];
    loop {
        let (len, control) = match fd::receive(&zygote.control, &mut buffer, true) {
            Ok(Received::Message(len, control)) => (len, control),
            Ok(Received::End) => return None,
            Err(error) => {
                log::error!("the zygote cannot hear the master: {error}");
                return None;
            }
        };
        let (id, lane, first, control) = match (ToZygote::decode(&buffer[..len]), control) {
            (Some(ToZygote::Fork { id, lane, first }), Some(control)) => (id, lane, first, control),
            (Some(ToZygote::Log), Some(file)) => {
                (zygote.use_log)(file);
                continue;
            }
            _ => {
                log::warn!("the zygote does not understand the master");
                continue;
            }
        };
        match spawn(zygote.master) {
            Ok(Some(pid)) => tell(&zygote.control, &FromZygote::Forked { id, pid }),
            Ok(None) => {
                zygote.scoreboard.settle(id, lane);
                zygote.scoreboard.worker(id).reset(process::own_id(), zygote.generation);
                return Some((id, control, first));
            }
            Err(error) => tell(&zygote.control, &FromZygote::ForkFailed { id, reason: sys::describe(&error) }),
        }
    }
}

/// Forks a child of the master. Gives its process id in the zygote, nothing in the child.
fn spawn(master: i32) -> io::Result<Option<i32>> {
    let (mut reader, mut writer) =
        fd::pipe().map(|(reader, writer)| (io::PipeReader::from(reader), io::PipeWriter::from(writer)))?;
    Python::attach(|py| {
        interpreter::before_fork(py);
        let between = match process::fork() {
            Err(error) => {
                interpreter::after_fork_parent(py);
                return Err(error);
            }
            Ok(Fork::Parent(between)) => between,
            Ok(Fork::Child) => {
                let own = process::own_id();
                match process::fork() {
                    Ok(Fork::Child) => {}
                    // The process between runs nothing but this: what it shares is not its own.
                    Ok(Fork::Parent(pid)) => {
                        let _ = writer.write_all(&pid.to_le_bytes());
                        process::exit_now(exit::OK);
                    }
                    Err(error) => {
                        let _ = writer.write_all(&(-error.raw_os_error().unwrap_or(libc::EAGAIN)).to_le_bytes());
                        process::exit_now(exit::ERROR);
                    }
                }
                drop((reader, writer));
                // It may run before the process between has ended.
                while process::parent_id() == own {
                    std::thread::yield_now();
                }
                if process::parent_id() != master {
                    process::exit_now(exit::OK);
                }
                // Until it serves: then it has requests, and ends by itself when it finds the master gone.
                if let Err(error) = process::die_with_parent(master) {
                    log::debug!("a worker may outlive the master until it is ready: {error}");
                }
                interpreter::after_fork_child(py);
                // The hook gave this process the limit that programs of the application get.
                limits::raise();
                return Ok(None);
            }
        };
        drop(writer);
        let mut bytes = [0; 4];
        let told = reader.read_exact(&mut bytes);
        process::reap_one(between);
        interpreter::after_fork_parent(py);
        told?;
        match i32::from_le_bytes(bytes) {
            pid if pid > 0 => Ok(Some(pid)),
            errno => Err(io::Error::from_raw_os_error(-errno)),
        }
    })
}
