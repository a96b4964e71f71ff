//! What the master says at its desk: the state of the server, gathered when somebody asks.

use super::Master;
use super::children::{Phase, Worker};
use super::desk::Desk;
use crate::config::{Report, Settings};
use crate::net::address::Address;
use crate::stats::{App, Holder, Moment, Socket, Stats, metrics};
use crate::sys::clock::{monotonic_ms, wall_ms};
use crate::sys::{fd, process, user};

/// What stands before the JSON with `stats-http`.
const HTTP_HEAD: &[u8] = b"HTTP/1.0 200 OK\r\nConnection: close\r\nAccess-Control-Allow-Origin: *\r\n\
    Content-Type: application/json\r\n\r\n";

fn state(phase: Phase) -> &'static str {
    match phase {
        Phase::Asked | Phase::Starting => "starting",
        Phase::Ready => "ready",
        Phase::Retiring => "retiring",
    }
}

/// Which of the processes of one number stands for it: one that serves, else one that comes, else one that goes.
fn rank(worker: &Worker, serving: u32) -> u8 {
    match worker.phase {
        Phase::Ready if worker.generation == serving => 0,
        Phase::Ready => 1,
        Phase::Asked | Phase::Starting => 2,
        Phase::Retiring => 3,
    }
}

/// The applications that are configured, as uWSGI numbers them.
fn apps(settings: &Settings, startup_time: u64) -> Vec<App> {
    let root = settings.module.is_some() || settings.wsgi_file.is_some();
    let mounts = settings.mounts.iter().map(|mount| mount.path.clone());
    let all = root.then(String::new).into_iter().chain(mounts);
    all.enumerate().map(|(id, mountpoint)| App { id, mountpoint, startup_time, ..App::default() }).collect()
}

/// A whole HTTP answer.
fn page(status: &str, media_type: &str, body: &str, with_body: bool) -> Vec<u8> {
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {media_type}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    let body = if with_body { body } else { "" };
    [head.as_bytes(), body.as_bytes()].concat()
}

/// Method and path of a request.
fn request_line(request: &[u8]) -> Option<(&str, &str)> {
    let line = request.split(|byte| *byte == b'\r').next()?;
    let mut words = std::str::from_utf8(line).ok()?.split(' ');
    let (method, target, version) = (words.next()?, words.next()?, words.next()?);
    let path = target.split('?').next().unwrap_or(target);
    (version.starts_with("HTTP/1.") && words.next().is_none()).then_some((method, path))
}

impl Master {
    /// Opens the desk of the generation that serves.
    pub(super) fn open_desk(&mut self) {
        let serving = self.children.serving();
        let Some(generation) = self.generations.iter().find(|known| known.number == serving) else { return };
        if let Err(error) = self.desk.open(&generation.doors) {
            log::error!("stats and metrics-socket are not answered: {error}");
        }
    }

    /// Closes the desk for good.
    pub(super) fn close_desk(&mut self) {
        self.desk = Desk::default();
        for generation in &mut self.generations {
            for (_, listener) in generation.doors.drain(..) {
                listener.remove_file();
            }
        }
    }

    /// Looks after those who ask.
    pub(super) fn look_at_desk(&mut self) {
        let mut desk = std::mem::take(&mut self.desk);
        desk.look(monotonic_ms(), |report, request| self.answer(report, request));
        self.desk = desk;
    }

    fn answer(&self, report: Report, request: &[u8]) -> Vec<u8> {
        match report {
            Report::Stats => {
                let serving = self.generations.iter().find(|known| known.number == self.children.serving());
                let Some(reports) = serving.map(|generation| &generation.settings.reports) else { return Vec::new() };
                let mut stats = self.survey();
                if reports.no_cores {
                    stats.workers.iter_mut().for_each(|worker| worker.cores = None);
                }
                let head = if reports.http { HTTP_HEAD } else { b"" };
                [head, &stats.json(reports.minified)].concat()
            }
            Report::Metrics => self.answer_http(request),
        }
    }

    fn answer_http(&self, request: &[u8]) -> Vec<u8> {
        const TEXT: &str = "text/plain; charset=utf-8";
        let Some((method, path)) = request_line(request) else {
            return page("400 Bad Request", TEXT, "this is no HTTP request\n", true);
        };
        let with_body = method != "HEAD";
        if !matches!(method, "GET" | "HEAD") {
            return page("405 Method Not Allowed", TEXT, "GET and HEAD are answered here\n", true);
        }
        match path {
            "/metrics" => page("200 OK", metrics::MEDIA_TYPE, &self.survey().metrics(), with_body),
            "/-/live" => page("200 OK", TEXT, "the master lives\n", with_body),
            "/-/ready" if self.is_ready() => page("200 OK", TEXT, "requests are answered\n", with_body),
            "/-/ready" => page("503 Service Unavailable", TEXT, "requests are not answered now\n", with_body),
            _ => page("404 Not Found", TEXT, "there are /metrics, /-/live and /-/ready\n", with_body),
        }
    }

    /// Whether a request that comes now is answered: also when the first one starts the workers.
    fn is_ready(&self) -> bool {
        let someone = self.children.workers().iter().any(|worker| worker.phase == Phase::Ready);
        !self.children.stopping() && (someone || self.children.booted() && self.children.target() == 0)
    }

    fn survey(&self) -> Stats {
        let serving = self.children.serving();
        let (uid, gid) = user::own();
        let mut stats = Stats {
            version: env!("CARGO_PKG_VERSION"),
            pid: process::own_id(),
            uid,
            gid,
            cwd: std::env::current_dir().map(|dir| dir.display().to_string()).unwrap_or_default(),
            daemons: self.daemons.told(),
            generation: serving,
            ready: self.is_ready(),
            reloads: self.reloads.clone(),
            ..Stats::default()
        };
        if stats.reloads.last.is_empty() {
            stats.reloads.last = "none";
        }
        if self.children.incoming().is_some() || self.trial_descriptor().is_some() {
            stats.reloads.last = "running";
        }
        let Some(generation) = self.generations.iter().find(|known| known.number == serving) else { return stats };
        for listener in &generation.listeners {
            let (queue, max_queue) = match listener.address {
                Address::Tcp { .. } => fd::listen_queue(&listener.fd).unwrap_or_default(),
                _ => (0, 0),
            };
            stats.sockets.push(Socket {
                name: listener.address.to_string(),
                proto: listener.protocol.name(),
                queue,
                max_queue,
                shared: 0,
                can_offload: 0,
            });
        }
        stats.listen_queue = stats.sockets.iter().map(|socket| socket.queue).max().unwrap_or(0);
        stats.load = stats.listen_queue;
        let workers = self.children.workers();
        stats.retiring = workers.iter().filter(|worker| worker.phase == Phase::Retiring).count() as u64;
        let now = Moment { monotonic_ms: monotonic_ms(), wall_ms: wall_ms() };
        let apps = apps(&generation.settings, generation.import_ms / 1000);
        for id in 1..=generation.settings.processes {
            let best = workers.iter().filter(|worker| worker.id == id).min_by_key(|worker| rank(worker, serving));
            let holder = best.map(|worker| {
                let memory = process::memory_of(worker.pid).filter(|_| worker.pid != 0);
                Holder {
                    lane: worker.lane,
                    pid: worker.pid,
                    generation: worker.generation,
                    state: state(worker.phase),
                    memory: memory.map_or((0, 0), |memory| (memory.resident, memory.address_space)),
                }
            });
            // A process that comes or goes may have a table of its own.
            let own = best.and_then(|worker| self.board(worker.generation));
            let board = own.as_ref().filter(|board| id as usize <= board.workers()).unwrap_or(&generation.scoreboard);
            let cheap = id > self.children.target();
            stats.workers.push(crate::stats::Worker::new(board, id, holder, cheap, now).with_apps(&apps));
        }
        stats
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Mount;

    #[test]
    fn requests_are_read_as_far_as_needed() {
        assert_eq!(request_line(b"GET /metrics?x=1 HTTP/1.1\r\nHost: a\r\n\r\n"), Some(("GET", "/metrics")));
        for bad in ["", "GET /\r\n\r\n", "GET / HTTP/2\r\n\r\n", "GET / / HTTP/1.1\r\n\r\n"] {
            assert_eq!(request_line(bad.as_bytes()), None, "{bad}");
        }
        assert!(page("200 OK", "a/b", "text", false).ends_with(b"Content-Length: 4\r\nConnection: close\r\n\r\n"));
    }

    #[test]
    fn the_application_at_the_root_comes_first() {
        let mount = Mount { path: "/x".into(), what: "y".into(), origin: String::new() };
        let settings =
            Settings { module: Some(("a".into(), String::new())), mounts: vec![mount], ..Settings::default() };
        let found = apps(&settings, 2);
        assert_eq!((found.len(), found[1].mountpoint.as_str(), found[1].startup_time), (2, "/x", 2));
    }
}
