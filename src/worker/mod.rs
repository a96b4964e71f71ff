//! The worker process: it owns connections, runs requests on its app threads, and retires when told.
//!
//! - `reactor`: who waits for whom; the connections, the events, the deadlines; in it the listening sockets, the orders of the
//!   master, and the end. `migrate`: what goes along with a connection to another worker.
//! - `connection`, `work` (its buffers), `reading`, `incoming`: a client's bytes become requests. `exchange`, `output`,
//!   `segment`: responses become bytes.
//! - `pace`: how slow a body may be.
//! - `believe`: what proxies say about where a connection or a request comes from.
//! - `mux`: FastCGI connections, which carry several requests at once. `pipe`: their bodies when they are streamed.
//! - `threads`: app threads. `standby`: the thread that does the I/O while all of them are in the application; `run_delay`: how
//!   it knows who only waits for a processor.
//! - `harakiri`: requests that run for too long.
//! - `stacks`: what every thread is doing, for whoever asks the master.
//! - `time_slice`: how workers share a processor.
//! - `access`: the request line. `quota`: when this worker should be replaced. `clock`: time.
//!
//! The rules these keep are in `src/README.md`, "Life of a worker".

mod access;
mod believe;
mod clock;
mod connection;
mod exchange;
mod harakiri;
mod incoming;
mod migrate;
mod mux;
mod output;
mod pace;
mod pipe;
mod quota;
mod reactor;
mod reading;
mod run_delay;
mod segment;
mod stacks;
mod standby;
mod threads;
mod time_slice;
mod work;

#[cfg(test)]
mod tests;

use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use crate::config::Timeouts;
use crate::control::FromWorker;
use crate::gateway::Local;
use crate::logging::access::Access;
use crate::mailbox::Mailboxes;
use crate::net::address::Address;
use crate::net::listener::Listener;
use crate::protocol::Protocol;
use crate::protocol::forwarded::Trusted;
use crate::protocol::http::head::Limits;
use crate::scoreboard::{Scoreboard, State, WorkerSlot};
use crate::{sys, wsgi};

pub use believe::hear;
use harakiri::Harakiri;
pub use harakiri::Limits as HarakiriLimits;
pub(crate) use incoming::{Broken, Incoming};
use output::Io;
use quota::Meter;
pub use quota::Quota;
use reactor::Reactor;
use standby::Standby;

/// How a worker treats requests and connections.
#[derive(Clone, Debug)]
pub struct Options {
    /// App threads.
    pub threads: u32,
    /// Workers of this server; with more than one, each accepts in turn.
    pub processes: u32,
    /// There are more workers on its processors than those.
    pub shares_processors: bool,
    /// Longest request head and request line, in bytes.
    pub limits: Limits,
    /// Longest request body in bytes, 0 without limit.
    pub limit_post: u64,
    /// Bodies above it go to a temporary file; none: bodies are streamed.
    pub post_buffering: Option<u64>,
    /// How far a response may run ahead of its client, in bytes.
    pub response_buffer: usize,
    /// Deadlines of connections.
    pub timeouts: Timeouts,
    /// After which it asks to be replaced.
    pub quota: Quota,
    /// How long it may take to finish when nobody is there to end it.
    pub mercy: Duration,
    /// How long requests may run.
    pub harakiri: HarakiriLimits,
    /// Whether the master wants to know how long requests took.
    pub measures_busyness: bool,
    /// Whether somebody may ask how long requests take.
    pub keeps_time: bool,
    /// Whether somebody may ask what the threads are doing.
    pub tells_stacks: bool,
    /// Whose words about clients are believed; none: nobody's.
    pub trusted: Option<Trusted>,
    /// SERVER_NAME over HTTP.
    pub host_name: String,
    /// The request line; none: requests are not logged.
    pub access: Option<Arc<Access>>,
    /// Whether the kernel sends files.
    pub sendfile: bool,
}

impl Options {
    /// Whether anybody wants to know how long a request took.
    fn is_timed(&self) -> bool {
        self.access.is_some() || self.keeps_time
    }

    /// Longest request body in bytes.
    fn body_limit(&self) -> u64 {
        if self.limit_post == 0 { u64::MAX } else { self.limit_post }
    }
}

/// What a new worker is given.
pub struct Context {
    /// Worker number, from 1.
    pub id: u32,
    /// Generation of the application it belongs to, from 1.
    pub generation: u32,
    /// Control socket to the master (SOCK_SEQPACKET, `control.rs`); its end of file is the master's.
    pub control: OwnedFd,
    /// Listening sockets.
    pub listeners: Vec<Listener>,
    /// Where workers give connections to each other.
    pub mailboxes: Arc<Mailboxes>,
    /// Shared with the master.
    pub scoreboard: Arc<Scoreboard>,
    /// See [`Options`].
    pub options: Options,
    /// For the application side.
    pub wsgi: wsgi::Options,
}

/// What all threads of a worker share.
struct Worker {
    id: u32,
    /// The master, as long as it lives.
    parent: nix::unistd::Pid,
    options: Options,
    locals: Vec<Local>,
    /// By listener: connections begin with a header of the PROXY protocol.
    proxied: Vec<bool>,
    /// Addresses of the listeners, as letters name them.
    addresses: Vec<String>,
    mailboxes: Arc<Mailboxes>,
    zone: jiff::tz::TimeZone,
    scoreboard: Arc<Scoreboard>,
    control: OwnedFd,
    retiring: AtomicBool,
    /// No request begins until the master says so.
    paused: AtomicBool,
    /// No other worker takes over its connections: each ends with its next response.
    closing: AtomicBool,
    reactor: Reactor,
    standby: Standby,
    meter: Meter,
    /// Not there until requests are limited, by the configuration or by the application.
    harakiri: OnceLock<Harakiri>,
    /// For those who ask what the app threads are doing.
    witness: stacks::Witness,
    /// One for each app thread: output of its running request that waits to be written.
    outputs: Vec<Mutex<Option<Arc<Io>>>>,
}

impl Worker {
    fn slot(&self) -> WorkerSlot<'_> {
        self.scoreboard.worker(self.id)
    }

    fn is_retiring(&self) -> bool {
        self.retiring.load(Ordering::Relaxed)
    }

    /// The listener of this address; after a reload without it, one that speaks the same.
    fn listener_named(&self, address: &str, protocol: Protocol) -> usize {
        let same = |at: &usize| self.locals[*at].protocol == protocol;
        let all = 0..self.locals.len();
        let named = all.clone().find(|at| self.addresses[*at] == address && same(at));
        named.or_else(|| all.clone().find(same)).unwrap_or(0)
    }

    fn is_paused(&self) -> bool {
        self.paused.load(Ordering::Relaxed)
    }

    fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Relaxed) || self.reactor.crowded.load(Ordering::Relaxed)
    }

    fn count_exception(&self) {
        self.slot().add_exception();
    }

    fn output(&self, core: usize) -> std::sync::MutexGuard<'_, Option<Arc<Io>>> {
        self.outputs[core].lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn announce_output(&self, core: usize, io: Arc<Io>) {
        *self.output(core) = Some(io);
    }

    fn withdraw_output(&self, core: usize) {
        *self.output(core) = None;
    }

    /// Writes out what running requests produced. True: some of it still waits.
    fn flush_outputs(&self) -> bool {
        let mut waits = false;
        for core in 0..self.outputs.len() {
            // Cloned, so that the slot's lock is not held during the system call.
            let io = self.output(core).clone();
            if let Some(io) = io {
                waits |= !io.flush();
            }
        }
        waits
    }

    /// Stops requests that run for too long.
    fn look_at_deadlines(&self) {
        if let Some(harakiri) = self.harakiri.get() {
            harakiri.look(self);
        }
    }

    /// How long no request can be due.
    fn nothing_due_for(&self) -> Option<std::time::Duration> {
        self.harakiri.get().and_then(|harakiri| harakiri.nothing_due_for(self.standby.somebody_is_inside()))
    }

    /// Sends a word to the master; when the master is gone nobody needs it.
    fn tell(&self, message: &FromWorker) {
        let _ = sys::fd::send(&self.control, &message.encode(), None);
    }
}

/// Runs a worker until it has retired; returns its exit code.
///
/// `load` gives the application: what the zygote imported, or with `lazy-apps` the import itself. When it fails, the
/// cause is sent to the master and the code is [`crate::exit::NO_APP`].
pub fn run(context: Context, load: impl FnOnce() -> Result<Arc<wsgi::Apps>, String>) -> u8 {
    let Context { id, generation, control, listeners, mailboxes, scoreboard, options, wsgi } = context;
    let slot = scoreboard.worker(id);
    slot.reset(std::process::id() as i32, generation);
    slot.begin_life(clock::wall().as_secs());
    let threads = options.threads.max(1) as usize;
    let locals = listeners.iter().enumerate().map(|(index, listener)| local(index, listener, &options)).collect();
    let proxied = listeners.iter().map(|listener| listener.proxy_protocol).collect();
    let addresses = listeners.iter().map(|listener| listener.address.to_string()).collect();
    let apps = match load() {
        Ok(apps) => apps,
        Err(cause) => {
            let _ = sys::fd::send(&control, &FromWorker::LoadFailed(cause).encode(), None);
            return crate::exit::NO_APP;
        }
    };
    if options.shares_processors {
        time_slice::shorten();
    }
    let prepared = sys::worker_signals::install()
        .and_then(|signals| Reactor::new(options.shares_processors).map(|reactor| (signals, reactor)))
        .and_then(|(signals, reactor)| {
            reactor.watch(control.as_fd(), mailboxes.reader(id), signals, listeners).map(|()| reactor)
        });
    let reactor = match prepared {
        Ok(reactor) => reactor,
        Err(error) => {
            log::error!("worker {id} cannot watch its sockets: {error}");
            return crate::exit::ERROR;
        }
    };
    let worker = Arc::new(Worker {
        id,
        parent: nix::unistd::getppid(),
        locals,
        proxied,
        addresses,
        mailboxes,
        zone: access::zone(),
        scoreboard: Arc::clone(&scoreboard),
        control,
        retiring: AtomicBool::new(false),
        paused: AtomicBool::new(false),
        closing: AtomicBool::new(false),
        reactor,
        standby: Standby::new(threads),
        meter: Meter::new(&options.quota),
        harakiri: match options.harakiri.limit.is_zero() {
            true => OnceLock::new(),
            false => Harakiri::new(&options.harakiri, threads).into(),
        },
        witness: stacks::Witness::new(threads),
        outputs: (0..threads).map(|_| Mutex::default()).collect(),
        options,
    });
    scoreboard.worker(id).set_state(State::Ready);
    // The end of the control socket, which is watched from here on, tells of the master's.
    sys::process::outlive_parent();
    worker.tell(&FromWorker::Ready);
    let code = threads::run(&worker, &apps, &wsgi);
    scoreboard.worker(id).set_state(State::Empty);
    code
}

fn local(index: usize, listener: &Listener, options: &Options) -> Local {
    let server_port = match &listener.address {
        Address::Tcp { port, .. } => port.to_string(),
        _ => "80".into(),
    };
    Local { index, protocol: listener.protocol, server_name: options.host_name.clone(), server_port }
}
