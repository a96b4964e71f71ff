//! Programs that run beside the workers. Which are to be started, ended or killed is decided by [`Daemons`] without a
//! system call; what follows in `Master` carries it out.

use serde::{Deserialize, Serialize};

use super::children::Millis;
use super::{Master, words};
use crate::config::daemons::{Care, Daemon};
use crate::stats;
use crate::sys;
use crate::sys::clock::monotonic_ms;
use crate::sys::fd;
use crate::sys::process::{self, End};
use crate::sys::signal::Signal;

/// One that ran for so long did not fail at once.
const SETTLED: Millis = 3_000;
/// The longest pause before it is started again.
const LONGEST: Millis = 300_000;
/// How often it is looked whether one that is no child of ours still lives.
const LOOK: Millis = 1_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum State {
    /// To be started then.
    Waiting(Millis),
    /// A child of ours, since then.
    Running(i32, Millis),
    /// It lives by itself; to be looked at then.
    Foreign(i32, Millis),
    /// It was told to end; killed then.
    Ending(i32, Option<Millis>),
    /// It's not wanted any more.
    Gone,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Entry {
    daemon: Daemon,
    state: State,
    /// Ends in a row soon after the start.
    failures: u32,
    wanted: bool,
    /// How often it was started.
    starts: u64,
}

/// What is to be done with one of them.
#[derive(Debug, PartialEq, Eq)]
enum Todo {
    Start(usize),
    /// Look whether this process lives.
    Look(usize, i32),
    Terminate(i32),
    Kill(i32),
}

/// All of them.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Daemons {
    entries: Vec<Entry>,
    mercy: Millis,
}

impl Daemons {
    /// From now on these are wanted. Those that run already go on, others end.
    pub(super) fn want(&mut self, daemons: &[Daemon], mercy: Millis) {
        self.mercy = mercy;
        let mut left: Vec<&Daemon> = daemons.iter().collect();
        for entry in &mut self.entries {
            let found = left.iter().position(|daemon| **daemon == entry.daemon);
            entry.wanted = entry.wanted && found.is_some();
            if let Some(found) = found.filter(|_| entry.wanted) {
                left.remove(found);
            }
        }
        let new = |daemon: &Daemon| Entry {
            daemon: daemon.clone(),
            state: State::Waiting(0),
            failures: 0,
            wanted: true,
            starts: 0,
        };
        self.entries.extend(left.into_iter().map(new));
    }

    /// Those that are wanted, for the statistics.
    pub(super) fn told(&self) -> Vec<stats::Daemon> {
        let wanted = self.entries.iter().filter(|entry| entry.wanted);
        let told = wanted.map(|entry| stats::Daemon {
            cmd: entry.daemon.command.clone(),
            pid: match entry.state {
                State::Running(pid, _) | State::Foreign(pid, _) | State::Ending(pid, _) => pid,
                State::Waiting(_) | State::Gone => 0,
            },
            respawns: entry.starts.saturating_sub(1),
        });
        told.collect()
    }

    /// Whether none is left that ends with the server.
    pub(super) fn are_gone(&self) -> bool {
        self.entries.iter().all(|entry| matches!(entry.state, State::Gone))
    }

    fn todo(&mut self, now: Millis) -> Vec<Todo> {
        let mut out = Vec::new();
        for (index, entry) in self.entries.iter_mut().enumerate() {
            let survives = matches!(entry.daemon.care, Care::Smart(_) | Care::Smart2(_));
            match entry.state {
                State::Waiting(_) | State::Foreign(..) if !entry.wanted => entry.state = State::Gone,
                State::Running(..) if !entry.wanted && survives => entry.state = State::Gone,
                State::Running(pid, _) if !entry.wanted => {
                    entry.state = State::Ending(pid, Some(now + self.mercy));
                    out.push(Todo::Terminate(pid));
                }
                State::Ending(pid, Some(at)) if at <= now => {
                    entry.state = State::Ending(pid, None);
                    out.push(Todo::Kill(pid));
                }
                State::Waiting(at) if at <= now => out.push(Todo::Start(index)),
                State::Foreign(pid, at) if at <= now => {
                    entry.state = State::Foreign(pid, now + LOOK);
                    out.push(Todo::Look(index, pid));
                }
                _ => {}
            }
        }
        self.entries.retain(|entry| entry.wanted || entry.state != State::Gone);
        out
    }

    fn deadline(&self) -> Option<Millis> {
        let time = |entry: &Entry| match entry.state {
            State::Waiting(at) | State::Foreign(_, at) => Some(if entry.wanted { at } else { 0 }),
            State::Running(..) if !entry.wanted => Some(0),
            State::Ending(_, at) => at,
            _ => None,
        };
        self.entries.iter().filter_map(time).min()
    }

    /// One was started, or not.
    fn started(&mut self, index: usize, pid: Option<i32>, now: Millis) {
        let Some(entry) = self.entries.get_mut(index) else { return };
        match pid {
            Some(pid) => {
                entry.state = State::Running(pid, now);
                entry.starts += 1;
            }
            None => {
                entry.failures += 1;
                entry.state = State::Waiting(now + pause(entry.failures));
            }
        }
    }

    /// A process ended. Gives its command, what becomes of it, and when it is started again, if it is one of these.
    fn ended(&mut self, pid: i32, now: Millis) -> Option<(Daemon, Option<Millis>)> {
        let is_it = |entry: &&mut Entry| match entry.state {
            State::Running(own, _) | State::Ending(own, _) | State::Foreign(own, _) => own == pid,
            _ => false,
        };
        let entry = self.entries.iter_mut().find(is_it)?;
        let daemon = entry.daemon.clone();
        if !entry.wanted {
            entry.state = State::Gone;
            return Some((daemon, None));
        }
        if daemon.care == Care::Control {
            (entry.wanted, entry.state) = (false, State::Gone);
            return Some((daemon, Some(0)));
        }
        let quick = matches!(entry.state, State::Running(_, since) if now < since + SETTLED);
        // Going to the background is what a smart one does; only then it is looked for.
        let detaches = matches!(daemon.care, Care::Smart(_)) && matches!(entry.state, State::Running(..));
        entry.failures = if quick { entry.failures + 1 } else { 0 };
        let wait = if detaches { LOOK.max(pause(entry.failures.saturating_sub(1))) } else { pause(entry.failures) };
        entry.state = State::Waiting(now + wait);
        Some((daemon, Some(wait)))
    }

    /// One that lives by itself was found, or has gone.
    fn found(&mut self, index: usize, pid: i32, lives: bool, now: Millis) {
        if let Some(entry) = self.entries.get_mut(index) {
            entry.failures = 0;
            entry.state = if lives { State::Foreign(pid, now + LOOK) } else { State::Waiting(now) };
        }
    }
}

/// Time to wait after `failures` ends in a row soon after the start.
fn pause(failures: u32) -> Millis {
    match failures {
        0 => 0,
        n => (1000 << (n - 1).min(20)).min(LONGEST),
    }
}

impl Master {
    /// The daemons of the generation that serves are wanted; at the end of the server none.
    pub(super) fn want_daemons(&mut self, any: bool) {
        let Some(settings) = self.serving_generation().map(|known| std::sync::Arc::clone(&known.settings)) else {
            return;
        };
        let mercy = settings.reload_mercy.as_millis() as Millis;
        self.daemons.want(if any { &settings.daemons } else { &[] }, mercy);
    }

    pub(super) fn daemons_at(&self) -> Option<Millis> {
        self.daemons.deadline()
    }

    pub(super) fn care_for_daemons(&mut self) {
        let now = monotonic_ms();
        for todo in self.daemons.todo(now) {
            match todo {
                Todo::Start(index) => self.start_daemon(index),
                Todo::Look(index, pid) => {
                    if !process::lives(pid) {
                        self.daemons.found(index, pid, false, now);
                    }
                }
                Todo::Terminate(pid) => process::signal_group(pid, Signal::SIGTERM),
                Todo::Kill(pid) => {
                    log::warn!("daemon {pid} takes too long to end: killed");
                    process::signal_group(pid, Signal::SIGKILL);
                }
            }
        }
    }

    fn start_daemon(&mut self, index: usize) {
        let now = monotonic_ms();
        let Some(daemon) = self.daemons.entries.get(index).map(|entry| entry.daemon.clone()) else { return };
        if let Care::Smart(file) | Care::Smart2(file) = &daemon.care
            && let Some(pid) = std::fs::read_to_string(file).ok().and_then(|text| text.trim().parse().ok())
            && process::lives(pid)
        {
            log::info!("{:?} runs as process {pid}", daemon.command);
            return self.daemons.found(index, pid, true, now);
        }
        // One that is attached must not outlive a master that is killed.
        let attached = matches!(daemon.care, Care::Attached | Care::Control);
        let (started, _) = fd::with_original_limit(|| process::spawn_shell(&daemon.command, attached));
        match started {
            Ok(pid) => {
                log::info!("{:?} is started as process {pid}", daemon.command);
                if let Care::Smart2(file) = &daemon.care
                    && let Err(error) = std::fs::write(file, format!("{pid}\n"))
                {
                    log::error!("smart-attach-daemon2: {}: {}", file.display(), sys::describe(&error));
                }
                self.daemons.started(index, Some(pid), now);
            }
            Err(error) => {
                log::error!("{:?} cannot be started: {}", daemon.command, sys::describe(&error));
                self.daemons.started(index, None, now);
            }
        }
    }

    /// A process ended: true when it was a daemon.
    pub(super) fn bury_daemon(&mut self, pid: i32, end: End) -> bool {
        let Some((daemon, wait)) = self.daemons.ended(pid, monotonic_ms()) else { return false };
        let what = format!("{:?} (pid {pid}) {end}", daemon.command);
        match (&daemon.care, wait) {
            (_, None) => log::info!("{what}"),
            (Care::Control, _) => {
                log::info!("{what}: stopping (attach-control-daemon)");
                self.children.stop();
            }
            (Care::Smart(_), Some(_)) if end == End::Code(0) => {
                log::debug!("{what}: it should be in the background now")
            }
            (_, Some(0)) => log::warn!("{what}; it is started again"),
            (_, Some(wait)) => log::warn!("{what}; it is started again in {}", words::duration(wait)),
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn daemon(name: &str, care: Care) -> Daemon {
        Daemon { command: name.into(), care }
    }

    fn of(list: &[Daemon]) -> Daemons {
        let mut daemons = Daemons::default();
        daemons.want(list, 3000);
        daemons
    }

    #[test]
    fn one_that_ends_is_started_again_with_growing_pauses_if_it_ends_soon() {
        let mut daemons = of(&[daemon("a", Care::Attached)]);
        assert_eq!(daemons.todo(0), [Todo::Start(0)]);
        daemons.started(0, Some(7), 0);
        assert_eq!((daemons.todo(10), daemons.deadline()), (vec![], None));
        assert_eq!(daemons.ended(7, SETTLED).unwrap().1, Some(0));
        let mut now = SETTLED;
        let mut waits = Vec::new();
        for pid in 8..20 {
            assert_eq!(daemons.todo(now), [Todo::Start(0)]);
            daemons.started(0, Some(pid), now);
            let wait = daemons.ended(pid, now + 1).unwrap().1.unwrap();
            waits.push(wait / 1000);
            now += 1 + wait;
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300]);
        assert_eq!(daemons.ended(99, now), None);
    }

    #[test]
    fn a_reload_ends_those_that_are_not_wanted_and_no_others() {
        let (a, b) = (daemon("a", Care::Attached), daemon("b", Care::Attached));
        let mut daemons = of(std::slice::from_ref(&a));
        daemons.started(0, Some(7), 0);
        daemons.want(&[a.clone(), b.clone()], 3000);
        assert_eq!(daemons.todo(0), [Todo::Start(1)]);
        daemons.started(1, Some(8), 0);
        daemons.want(&[b], 3000);
        assert_eq!(daemons.todo(100), [Todo::Terminate(7)]);
        assert_eq!(daemons.deadline(), Some(3100));
        assert_eq!(daemons.todo(3100), [Todo::Kill(7)]);
        assert_eq!(daemons.ended(7, 3200).unwrap().1, None);
        assert_eq!(daemons.todo(3200), []);
        // Wanted again while it still ends: another one is started.
        daemons.want(&[a], 3000);
        assert!(!daemons.are_gone());
    }

    #[test]
    fn at_the_end_the_attached_go_and_the_smart_stay() {
        let mut daemons = of(&[daemon("a", Care::Attached), daemon("s", Care::Smart2("/p".into()))]);
        daemons.started(0, Some(7), 0);
        daemons.started(1, Some(8), 0);
        daemons.want(&[], 3000);
        assert_eq!(daemons.todo(0), [Todo::Terminate(7)]);
        daemons.ended(7, 1);
        assert_eq!(daemons.todo(1), []);
        assert!(daemons.are_gone());
    }

    #[test]
    fn one_that_lives_by_itself_is_looked_at() {
        let mut daemons = of(&[daemon("s", Care::Smart("/p".into()))]);
        daemons.found(0, 7, true, 0);
        assert_eq!((daemons.todo(1), daemons.deadline()), (vec![], Some(LOOK)));
        assert_eq!(daemons.todo(LOOK), [Todo::Look(0, 7)]);
        daemons.found(0, 7, false, LOOK);
        assert_eq!(daemons.todo(LOOK), [Todo::Start(0)]);
        // It goes to the background, which is no failure.
        daemons.started(0, Some(8), LOOK);
        assert_eq!(daemons.ended(8, LOOK + 1).unwrap().1, Some(LOOK));
    }
}
