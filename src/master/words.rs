//! What the master says about its children: last words, the state of the server.

use std::os::unix::fs::MetadataExt;

use crate::control::Retire;
use crate::master::children::{Millis, Phase, Worker};
use crate::net::address::Address;
use crate::net::listener::Listener;
use crate::scoreboard::{Current, Scoreboard};
use crate::sys::process::End;

/// What there is to say of a worker that ended, and whether it is bad news.
pub(super) fn last_words(worker: &Worker, end: End, current: Option<&Current>, now: Millis) -> (bool, String) {
    let mut text = format!("worker {} (pid {}) {end}", worker.id, worker.pid);
    match worker.phase {
        Phase::Retiring if end == End::Code(0) => {
            return (false, format!("worker {} (pid {}) retired", worker.id, worker.pid));
        }
        Phase::Ready if worker.is_condemned() => {
            return (false, format!("worker {} (pid {}) is gone", worker.id, worker.pid));
        }
        Phase::Asked | Phase::Starting => text.push_str(" before it was ready"),
        Phase::Ready | Phase::Retiring => {}
    }
    if let Some(current) = current {
        text.push_str(&format!(" while serving {}", describe(current, now)));
    }
    (true, text)
}

/// A request and how long it has been running: `POST /import for 41 s`.
pub(super) fn describe(current: &Current, now: Millis) -> String {
    let method = String::from_utf8_lossy(&current.method);
    let uri = String::from_utf8_lossy(&current.uri);
    format!("{method} {uri} for {}", duration(now.saturating_sub(current.started_ms)))
}

/// The first line of what a zygote says of a failed import, and the traceback after it.
pub(super) fn cause_and_traceback(text: &str) -> (&str, &str) {
    text.split_once('\n').unwrap_or((text, ""))
}

/// `41 s`, `250 ms`.
pub(super) fn duration(ms: Millis) -> String {
    if ms >= 10_000 {
        format!("{} s", ms / 1000)
    } else if ms >= 1000 {
        format!("{}.{} s", ms / 1000, ms % 1000 / 100)
    } else {
        format!("{ms} ms")
    }
}

/// Where a socket listens, what it speaks, and who may connect to it.
pub fn listens(listener: &Listener) -> String {
    let mut how = String::new();
    if listener.inherited {
        how = format!(" (inherited, {})", listener.asked);
    } else if let Address::Unix(path) = &listener.address
        && let Ok(found) = std::fs::metadata(path)
    {
        how = format!(" (mode {:03o})", found.mode() & 0o777);
    }
    format!("{} on {}{how}", listener.protocol.name(), listener.address)
}

/// Why a worker is told to go.
pub(super) fn reason(how: Retire) -> &'static str {
    match how {
        Retire::Replaced | Retire::ReplacedElsewhere => "another one has taken its place",
        Retire::Stop => "the server stops",
    }
}

/// One line for a worker: `worker 2 (pid 77, generation 1): ready, 12 requests, 1 exception, 3456 bytes; GET /slow for 3 s`.
pub(super) fn status(worker: &Worker, scoreboard: &Scoreboard, now: Millis) -> String {
    let slot = scoreboard.slot(worker.id, worker.lane);
    let load = |counter: &std::sync::atomic::AtomicU64| counter.load(std::sync::atomic::Ordering::Relaxed);
    let phase = match worker.phase {
        Phase::Asked => "asked for",
        Phase::Starting => "starting",
        Phase::Ready => "ready",
        Phase::Retiring => "retiring",
    };
    let mut text = format!(
        "worker {} (pid {}, generation {}): {phase}, {}, {}, {} bytes sent",
        worker.id,
        worker.pid,
        worker.generation,
        count(load(slot.requests()), "request"),
        count(load(slot.exceptions()), "exception"),
        load(slot.tx_bytes()),
    );
    for current in (0..slot.threads()).filter_map(|core| slot.thread(core).current()) {
        text.push_str(&format!("; {}", describe(&current, now)));
    }
    text
}

/// `1 worker`, `2 workers`.
pub(super) fn count(number: u64, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::master::children::{Action, Children};

    fn worker(retiring: bool) -> Worker {
        let mut children = Children::new(1);
        children.decide(0);
        children.zygote_spawned(1, 0);
        children.zygote_ready(1, 0);
        let Action::Fork { key, .. } = children.decide(0)[0] else { panic!("no fork") };
        children.forked(1, 1, 77);
        if retiring {
            children.worker_ready(key, 77, 0);
            children.stop();
            children.decide(0);
            children.zygote_died(1, 0);
            children.decide(0);
        }
        children.worker(key).unwrap().clone()
    }

    #[test]
    fn a_crash_is_told_with_the_request_that_was_served() {
        let current =
            Current { started_ms: 1000, method: b"POST".to_vec(), uri: b"/import".to_vec(), peer: Vec::new() };
        let (bad, text) = last_words(&worker(true), End::Killed(11, false), Some(&current), 42_000);
        assert!(bad);
        assert_eq!(text, "worker 1 (pid 77) was killed by SIGSEGV while serving POST /import for 41 s");
    }

    #[test]
    fn an_early_death_is_called_so_and_an_orderly_one_is_no_bad_news() {
        let (bad, text) = last_words(&worker(false), End::Code(3), None, 0);
        assert_eq!((bad, text.as_str()), (true, "worker 1 (pid 77) exited with code 3 before it was ready"));
        assert_eq!(last_words(&worker(true), End::Code(0), None, 0), (false, "worker 1 (pid 77) retired".into()));
    }

    #[test]
    fn the_state_of_a_worker_is_one_line() {
        let board = Scoreboard::create(1, 2).unwrap();
        let slot = board.slot(1, 0);
        slot.add_request();
        slot.thread(1).enter(5, b"GET", b"/slow", b"");
        assert_eq!(
            status(&worker(false), &board, 2505),
            "worker 1 (pid 77, generation 1): starting, 1 request, 0 exceptions, 0 bytes sent; GET /slow for 2.5 s"
        );
    }
}
