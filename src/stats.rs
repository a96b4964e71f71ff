//! What the master tells whoever asks: uWSGI's statistics, key for key, with some of our own after them, and the same as
//! metrics for Prometheus. Pure: from the scoreboard, and from what the master knows of its children.

pub mod metrics;

use std::io;
use std::sync::atomic::Ordering;

use serde::Serialize;
use serde_json::ser::{CompactFormatter, Formatter, PrettyFormatter, Serializer};

use crate::scoreboard::{Current, DURATIONS, LANES, Scoreboard, WorkerSlot};

/// The server.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Stats {
    /// Of rsgi.
    pub version: &'static str,
    /// The longest queue of its sockets.
    pub listen_queue: u64,
    /// Always 0: the kernel does not tell.
    pub listen_queue_errors: u64,
    /// Always 0: there are no uwsgi signals.
    pub signal_queue: u64,
    /// As `listen_queue`.
    pub load: u64,
    /// Of the master.
    pub pid: i32,
    /// Of the master.
    pub uid: u32,
    /// Of the master.
    pub gid: u32,
    /// Where the master is.
    pub cwd: String,
    /// Programs beside the workers, where there are any.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub daemons: Vec<Daemon>,
    /// Always empty: there are no locks.
    pub locks: Vec<()>,
    /// Listening sockets.
    pub sockets: Vec<Socket>,
    /// One for each worker number.
    pub workers: Vec<Worker>,
    /// Generation that serves; ours from here on.
    pub generation: u32,
    /// Whether requests are answered.
    pub ready: bool,
    /// Old workers that finish what they have.
    pub retiring: u64,
    /// How reloads went.
    pub reloads: Reloads,
}

/// A program that runs beside the workers.
#[derive(Clone, Debug, Serialize)]
pub struct Daemon {
    /// Its command line.
    pub cmd: String,
    /// 0 when it does not run.
    pub pid: i32,
    /// How often it was started again.
    pub respawns: u64,
}

/// A listening socket.
#[derive(Clone, Debug, Serialize)]
pub struct Socket {
    /// Its address.
    pub name: String,
    /// What it speaks.
    pub proto: &'static str,
    /// Connections that wait to be accepted; TCP only.
    pub queue: u64,
    /// How many may wait; 0 for unix sockets.
    pub max_queue: u64,
    /// Always 0.
    pub shared: u8,
    /// Always 0.
    pub can_offload: u8,
}

/// A worker number, and the process that bears it.
#[derive(Clone, Debug, Serialize)]
pub struct Worker {
    /// From 1.
    pub id: u32,
    /// 0 when there is no process.
    pub pid: i32,
    /// Whether it accepts connections.
    pub accepting: u8,
    /// Requests of all processes of this number.
    pub requests: u64,
    /// Requests of this process.
    pub delta_requests: u64,
    /// Exceptions of all processes.
    pub exceptions: u64,
    /// Requests that took too long.
    pub harakiri_count: u64,
    /// Always 0: there are no uwsgi signals.
    pub signals: u64,
    /// Always 0.
    pub signal_queue: u64,
    /// `busy`, `idle`, or `cheap`: there is no process because none is needed.
    pub status: &'static str,
    /// Resident memory in bytes.
    pub rss: u64,
    /// Address space in bytes.
    pub vsz: u64,
    /// Microseconds that all requests took.
    pub running_time: u64,
    /// Second of the epoch at which the process began.
    pub last_spawn: u64,
    /// How many processes have borne this number.
    pub respawn_count: u64,
    /// Bytes sent.
    pub tx: u64,
    /// Microseconds that a request takes, a running mean.
    pub avg_rt: u64,
    /// Applications.
    pub apps: Vec<App>,
    /// App threads; left out with `stats-no-cores`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cores: Option<Vec<Core>>,
    /// Generation of the process; ours from here on.
    pub generation: u32,
    /// Where it stands: `none`, `starting`, `ready` or `retiring`.
    pub state: &'static str,
    /// App threads inside a request.
    pub busy_threads: usize,
    /// App threads.
    pub threads: usize,
    /// Open connections.
    pub connections: u64,
    /// Complete requests that wait for an app thread.
    pub waiting: u64,
    /// Requests by how long they took, see [`crate::scoreboard::WorkerSlot::durations`]; for metrics only.
    #[serde(skip)]
    pub durations: [u64; DURATIONS.len() + 1],
}

/// An application.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct App {
    /// From 0.
    pub id: usize,
    /// Always 0: Python.
    pub modifier1: u8,
    /// Where it is mounted.
    pub mountpoint: String,
    /// Seconds that the import took.
    pub startup_time: u64,
    /// Its requests, where it is the only application; else 0.
    pub requests: u64,
    /// Its exceptions, as `requests`.
    pub exceptions: u64,
    /// Always empty.
    pub chdir: String,
}

/// An app thread.
#[derive(Clone, Debug, Serialize)]
pub struct Core {
    /// From 0.
    pub id: usize,
    /// Requests of all threads that have borne this number.
    pub requests: u64,
    /// Always 0.
    pub static_requests: u64,
    /// Always 0.
    pub routed_requests: u64,
    /// Always 0.
    pub offloaded_requests: u64,
    /// Responses that their clients did not wait for.
    pub write_errors: u64,
    /// Always 0: requests are complete when a thread gets them.
    pub read_errors: u64,
    /// Whether it is in a request.
    pub in_request: u8,
    /// `NAME=value` of the request: method, target and client, and never a field of its head.
    pub vars: Vec<String>,
    /// Empty when it is in none.
    pub req_info: RequestInfo,
}

/// Of a request that runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RequestInfo {
    /// Second of the epoch at which it began.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_start: Option<u64>,
}

/// How reloads went.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Reloads {
    /// Those whose generation serves or has served.
    pub done: u64,
    /// Those that were given up.
    pub failed: u64,
    /// `none`, `running`, `done` or `failed`: the last one.
    pub last: &'static str,
    /// Why the last one failed; empty when it did not.
    pub reason: String,
    /// The end of the traceback, of an application that could not be imported.
    pub traceback: String,
}

impl Reloads {
    /// One that was given up.
    pub fn fail(&mut self, reason: &str, traceback: &str) {
        *self = Reloads {
            done: self.done,
            failed: self.failed + 1,
            last: "failed",
            reason: reason.into(),
            traceback: traceback.into(),
        };
    }

    /// One whose generation serves.
    pub fn succeed(&mut self) {
        *self = Reloads { done: self.done + 1, failed: self.failed, last: "done", ..Reloads::default() };
    }
}

/// The same moment on two clocks.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// On [`crate::sys::clock::monotonic_ms`].
    pub monotonic_ms: u64,
    /// Since the epoch.
    pub wall_ms: u64,
}

/// What the master knows of the process that bears a worker number.
#[derive(Clone, Copy, Debug, Default)]
pub struct Holder {
    /// Scoreboard lane.
    pub lane: u32,
    /// Process id.
    pub pid: i32,
    /// Generation.
    pub generation: u32,
    /// See [`Worker::state`].
    pub state: &'static str,
    /// Resident memory and address space.
    pub memory: (u64, u64),
}

impl Worker {
    /// A worker number as the scoreboard has it. Without a holder, `cheap` tells whether none is needed.
    pub fn new(board: &Scoreboard, id: u32, holder: Option<Holder>, cheap: bool, now: Moment) -> Worker {
        let lanes: Vec<WorkerSlot<'_>> = (0..LANES).map(|lane| board.slot(id, lane)).collect();
        let sum = |of: fn(&WorkerSlot<'_>) -> u64| lanes.iter().map(of).sum::<u64>();
        let process = holder.map(|holder| board.slot(id, holder.lane));
        let of_process = |of: fn(WorkerSlot<'_>) -> u64| process.map_or(0, of);
        let known = holder.unwrap_or(Holder { state: "none", ..Holder::default() });
        let busy = process.map_or(0, WorkerSlot::busy_threads);
        Worker {
            id,
            pid: known.pid,
            accepting: u8::from(known.state == "ready"),
            requests: sum(|slot| slot.requests().load(Ordering::Relaxed)),
            delta_requests: of_process(|slot| slot.requests_of_life()),
            exceptions: sum(|slot| slot.exceptions().load(Ordering::Relaxed)),
            harakiri_count: sum(|slot| slot.harakiris()),
            signals: 0,
            signal_queue: 0,
            status: match holder {
                None if cheap => "cheap",
                _ if busy > 0 => "busy",
                _ => "idle",
            },
            rss: known.memory.0,
            vsz: known.memory.1,
            running_time: sum(|slot| slot.running_micros()),
            last_spawn: of_process(|slot| slot.born()),
            respawn_count: sum(|slot| slot.births()),
            tx: sum(|slot| slot.tx_bytes().load(Ordering::Relaxed)),
            avg_rt: of_process(|slot| slot.average_micros()),
            apps: Vec::new(),
            cores: Some((0..board.threads_per_worker()).map(|core| Core::new(&lanes, process, core, now)).collect()),
            generation: known.generation,
            state: known.state,
            busy_threads: busy,
            threads: board.threads_per_worker(),
            connections: of_process(|slot| slot.connections()),
            waiting: of_process(|slot| slot.waiting()),
            durations: lanes
                .iter()
                .map(|slot| slot.durations())
                .fold([0; DURATIONS.len() + 1], |sum, of| std::array::from_fn(|at| sum[at] + of[at])),
        }
    }

    /// Puts the applications in, as every process has them.
    pub fn with_apps(mut self, apps: &[App]) -> Worker {
        self.apps = apps.to_vec();
        if let [app] = self.apps.as_mut_slice() {
            (app.requests, app.exceptions) = (self.requests, self.exceptions);
        }
        self
    }
}

impl Core {
    fn new(lanes: &[WorkerSlot<'_>], process: Option<WorkerSlot<'_>>, core: usize, now: Moment) -> Core {
        let current = process.and_then(|slot| slot.thread(core).current());
        Core {
            id: core,
            requests: lanes.iter().map(|slot| slot.thread(core).requests()).sum(),
            static_requests: 0,
            routed_requests: 0,
            offloaded_requests: 0,
            write_errors: lanes.iter().map(|slot| slot.thread(core).write_errors()).sum(),
            read_errors: 0,
            in_request: u8::from(current.is_some()),
            vars: current.as_ref().map(vars).unwrap_or_default(),
            req_info: RequestInfo {
                request_start: current.map(|current| {
                    let age = now.monotonic_ms.saturating_sub(current.started_ms);
                    now.wall_ms.saturating_sub(age) / 1000
                }),
            },
        }
    }
}

fn vars(current: &Current) -> Vec<String> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    vec![
        format!("REQUEST_METHOD={}", text(&current.method)),
        format!("REQUEST_URI={}", text(&current.uri)),
        format!("REMOTE_ADDR={}", text(&current.peer)),
    ]
}

/// The layout of uWSGI: a tab for each level, no blank behind the colon.
struct Tabs(PrettyFormatter<'static>);

impl Formatter for Tabs {
    fn begin_array<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.begin_array(writer)
    }

    fn end_array<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.end_array(writer)
    }

    fn begin_array_value<W: ?Sized + io::Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        self.0.begin_array_value(writer, first)
    }

    fn end_array_value<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.end_array_value(writer)
    }

    fn begin_object<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.begin_object(writer)
    }

    fn end_object<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.end_object(writer)
    }

    fn begin_object_key<W: ?Sized + io::Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        self.0.begin_object_key(writer, first)
    }

    fn begin_object_value<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(b":")
    }

    fn end_object_value<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.end_object_value(writer)
    }
}

impl Stats {
    /// As JSON, without blanks if `minified`.
    pub fn json(&self, minified: bool) -> Vec<u8> {
        let mut out = Vec::with_capacity(4096);
        let written = match minified {
            true => self.serialize(&mut Serializer::with_formatter(&mut out, CompactFormatter)),
            false => {
                let tabs = Tabs(PrettyFormatter::with_indent(b"\t"));
                self.serialize(&mut Serializer::with_formatter(&mut out, tabs))
            }
        };
        // A vector takes everything, and there are no maps whose keys could be no text.
        debug_assert!(written.is_ok());
        if !minified {
            out.push(b'\n');
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Moment = Moment { monotonic_ms: 10_000, wall_ms: 1_700_000_010_500 };

    fn holder() -> Option<Holder> {
        Some(Holder { lane: 1, pid: 77, generation: 3, state: "ready", memory: (4096, 8192) })
    }

    #[test]
    fn a_worker_number_has_what_all_its_processes_did() {
        let board = Scoreboard::create(2, 2).unwrap();
        let (old, new) = (board.slot(1, 0), board.slot(1, 1));
        for (slot, pid) in [(old, 76), (new, 77)] {
            slot.reset(pid, 3);
            slot.begin_life(1_700_000_000);
            slot.add_request();
            slot.add_tx_bytes(10);
            slot.add_duration(1000);
            slot.add_harakiri();
        }
        new.thread(1).enter(4_000, b"GET", b"/slow?q=1", b"10.0.0.1");
        let worker = Worker::new(&board, 1, holder(), false, NOW).with_apps(&[App::default()]);
        assert_eq!((worker.requests, worker.delta_requests, worker.tx, worker.harakiri_count), (2, 1, 20, 2));
        assert_eq!((worker.respawn_count, worker.running_time, worker.avg_rt), (2, 2000, 500));
        assert_eq!((worker.status, worker.accepting, worker.busy_threads), ("busy", 1, 1));
        assert_eq!((worker.rss, worker.vsz, worker.apps[0].requests), (4096, 8192, 2));
        let cores = worker.cores.unwrap();
        assert_eq!((cores[0].in_request, cores[0].vars.len(), cores[0].req_info.request_start), (0, 0, None));
        assert_eq!(cores[1].vars, ["REQUEST_METHOD=GET", "REQUEST_URI=/slow?q=1", "REMOTE_ADDR=10.0.0.1"]);
        assert_eq!(cores[1].req_info.request_start, Some(1_700_000_004));
    }

    #[test]
    fn a_number_without_a_process_is_cheap_or_waits_for_one() {
        let board = Scoreboard::create(1, 1).unwrap();
        let cheap = Worker::new(&board, 1, None, true, NOW);
        assert_eq!((cheap.status, cheap.pid, cheap.accepting, cheap.state), ("cheap", 0, 0, "none"));
        assert_eq!(Worker::new(&board, 1, None, false, NOW).status, "idle");
    }

    #[test]
    fn the_layout_is_that_of_uwsgi() {
        let text = |minified| String::from_utf8(Stats::default().json(minified)).unwrap();
        assert!(text(false).starts_with("{\n\t\"version\":\"\",\n\t\"listen_queue\":0,\n"), "{}", text(false));
        assert!(text(true).starts_with("{\"version\":\"\",\"listen_queue\":0,"));
        assert!(!text(true).contains(['\n', '\t', ' ']));
    }
}
