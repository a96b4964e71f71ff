//! The application side of an exchange (PEP 3333): from a parsed request to Python objects, from what the application
//! returns to pieces of a response.
//!
//! `api` is what an application can import. `loader` finds the applications and makes [`Apps`] of them; [`with_app_thread`] attaches a thread to Python for its
//! life, and [`AppThread::serve`] runs one exchange from environ to `close()`. Sockets, framing and timing are not
//! known here: all that is behind [`Exchange`](crate::gateway::Exchange).
//!
//! Rules kept here:
//! - No lock of this module is waited for while attached: a thread that holds one may need the interpreter.
//! - What the application keeps of a request (environ, `start_response`, `write`, `wsgi.input`) never reaches the next.

mod api;
mod apps;
mod draft;
mod environ;
mod errors;
mod file_wrapper;
mod input;
mod interrupt;
mod loader;
mod memory;
mod names;
mod raw;
mod result;
mod stacks;
mod start_response;
#[cfg(test)]
mod tests;
mod thread;

pub use api::{install, set_user_harakiri};
pub use apps::Apps;
pub use interrupt::{HarakiriError, Interrupt, Struck};
pub use loader::{LoadError, LoadSpec, Mount, load};
pub use stacks::{Stack, stacks};
pub use thread::{AppThread, with_app_thread};

/// What the environ says of the server, and how applications are looked up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// App threads of a worker: more than one makes `wsgi.multithread` true and adds `uwsgi.core`.
    pub threads: u32,
    /// Workers: more than one makes `wsgi.multiprocess` true.
    pub processes: u32,
    /// Take SCRIPT_NAME off PATH_INFO by the mount points.
    pub manage_script_name: bool,
    /// `wsgi.errors` and tracebacks go to FastCGI's web servers too.
    pub fastcgi_stderr: bool,
    /// Whether environs have `wsgi.file_wrapper`.
    pub file_wrapper: bool,
    /// A CGI program: one request in the life of this process, one of many processes; mount points lie below SCRIPT_NAME.
    pub run_once: bool,
}
