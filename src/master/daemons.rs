//! Programs that run beside the workers: which are to be started, ended or killed, decided without a system call. `actions`
//! carries it out.

mod actions;

use serde::{Deserialize, Serialize};

use super::children::Millis;
use crate::config::daemons::{Care, Daemon};
use crate::stats;
use crate::sys::process::End;

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
    /// It should be in the background, and its pid file be written: to be looked at then, and given up then.
    Expected(Millis, Millis),
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
    /// It was said that it does not go into the background.
    complained: bool,
}

/// What is to be done with one of them.
#[derive(Debug, PartialEq, Eq)]
enum Todo {
    Start(usize),
    /// Look whether this process lives.
    Look(usize, i32),
    /// Look whether its pid file names a process that lives.
    Find(usize),
    /// The same of one that should have gone into the background and still runs.
    Expect(usize, i32),
    /// Tell it to end, by this signal.
    Terminate(i32, i32),
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
            complained: false,
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
                State::Waiting(_) | State::Expected(..) | State::Gone => 0,
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
                State::Waiting(_) | State::Foreign(..) | State::Expected(..) if !entry.wanted => {
                    entry.state = State::Gone;
                }
                State::Running(..) if !entry.wanted && survives => entry.state = State::Gone,
                State::Running(pid, _) if !entry.wanted => {
                    entry.state = State::Ending(pid, Some(now + self.mercy));
                    out.push(Todo::Terminate(pid, entry.daemon.stop_signal));
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
                State::Running(pid, _) if entry.detaches_until().is_some_and(|at| at <= now) => {
                    entry.complained = true;
                    out.push(Todo::Expect(index, pid));
                }
                State::Expected(at, until) if at <= now => {
                    entry.state = State::Expected(now + LOOK, until);
                    out.push(Todo::Find(index));
                }
                _ => {}
            }
        }
        self.entries.retain(|entry| entry.wanted || entry.state != State::Gone);
        out
    }

    fn deadline(&self) -> Option<Millis> {
        let time = |entry: &Entry| match entry.state {
            State::Waiting(at) | State::Foreign(_, at) | State::Expected(at, _) => {
                Some(if entry.wanted { at } else { 0 })
            }
            State::Running(..) if !entry.wanted => Some(0),
            State::Running(..) => entry.detaches_until(),
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
                entry.complained = false;
            }
            None => {
                entry.failures += 1;
                entry.state = State::Waiting(now + entry.pause());
            }
        }
    }

    /// A process ended. Gives its command, what becomes of it, and when it is started again, if it is one of these.
    fn ended(&mut self, pid: i32, end: End, now: Millis) -> Option<(Daemon, Option<Millis>)> {
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
        // Going to the background is what a smart one does; only then it is looked for.
        if matches!((&daemon.care, entry.state, end), (Care::Smart(_), State::Running(..), End::Code(0))) {
            let patience = daemon.patience.as_millis() as Millis;
            entry.state = State::Expected(now, now + patience);
            return Some((daemon, Some(patience)));
        }
        let quick = matches!(entry.state, State::Running(_, since) if now < since + SETTLED);
        entry.failures = if quick { entry.failures + 1 } else { 0 };
        let wait = entry.pause();
        entry.state = State::Waiting(now + wait);
        Some((daemon, Some(wait)))
    }

    /// The pid file of one that should be in the background names nobody. True: its time is over, it is started again.
    fn not_found(&mut self, index: usize, now: Millis) -> bool {
        let Some(entry) = self.entries.get_mut(index) else { return false };
        let over = matches!(entry.state, State::Expected(_, until) if now >= until);
        if over {
            entry.failures += 1;
            entry.state = State::Waiting(now + entry.pause());
        }
        over
    }

    /// A file of this one was touched. Gives the process and the signal that it gets.
    fn touched(&mut self, daemon: &Daemon, now: Millis) -> Option<(i32, i32)> {
        let mercy = self.mercy;
        let entry = self.entries.iter_mut().find(|entry| entry.wanted && entry.daemon == *daemon)?;
        let (State::Running(pid, _) | State::Foreign(pid, _)) = entry.state else { return None };
        match (daemon.reload_signal, entry.state) {
            (Some(signal), _) => Some((pid, signal)),
            // It is started again when it has ended.
            (None, State::Running(..)) => {
                entry.state = State::Ending(pid, Some(now + mercy));
                Some((pid, daemon.stop_signal))
            }
            (None, _) => Some((pid, daemon.stop_signal)),
        }
    }

    /// The server reloads. Gives the processes that want to hear of it, and the signals that they get.
    fn reloaded(&self) -> Vec<(i32, i32)> {
        let hears = |entry: &Entry| match entry.state {
            State::Running(pid, _) | State::Foreign(pid, _) if entry.wanted => Some((pid, entry.daemon.reload_signal?)),
            _ => None,
        };
        self.entries.iter().filter_map(hears).collect()
    }

    /// One that lives by itself was found, or has gone.
    fn found(&mut self, index: usize, pid: i32, lives: bool, now: Millis) {
        if let Some(entry) = self.entries.get_mut(index) {
            entry.failures = 0;
            entry.state = if lives { State::Foreign(pid, now + LOOK) } else { State::Waiting(now) };
        }
    }
}

impl Entry {
    /// When one that runs should have gone into the background; none when nobody waits for that.
    fn detaches_until(&self) -> Option<Millis> {
        match (self.state, &self.daemon.care) {
            (State::Running(_, since), Care::Smart(_)) if !self.complained => {
                Some(since + self.daemon.patience.as_millis() as Millis)
            }
            _ => None,
        }
    }

    /// Time to wait before it is started again.
    fn pause(&self) -> Millis {
        let longest = self.daemon.longest_pause.map_or(LONGEST, |longest| longest.as_millis() as Millis);
        pause(self.failures).min(longest)
    }
}

/// Time to wait after `failures` ends in a row soon after the start.
fn pause(failures: u32) -> Millis {
    match failures {
        0 => 0,
        n => (1000 << (n - 1).min(20)).min(LONGEST),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DONE: End = End::Code(0);

    fn daemon(name: &str, care: Care) -> Daemon {
        Daemon::new(name, care)
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
        assert_eq!(daemons.ended(7, DONE, SETTLED).unwrap().1, Some(0));
        let mut now = SETTLED;
        let mut waits = Vec::new();
        for pid in 8..20 {
            assert_eq!(daemons.todo(now), [Todo::Start(0)]);
            daemons.started(0, Some(pid), now);
            let wait = daemons.ended(pid, DONE, now + 1).unwrap().1.unwrap();
            waits.push(wait / 1000);
            now += 1 + wait;
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300]);
        assert_eq!(daemons.ended(99, DONE, now), None);
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
        assert_eq!(daemons.todo(100), [Todo::Terminate(7, 15)]);
        assert_eq!(daemons.deadline(), Some(3100));
        assert_eq!(daemons.todo(3100), [Todo::Kill(7)]);
        assert_eq!(daemons.ended(7, DONE, 3200).unwrap().1, None);
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
        assert_eq!(daemons.todo(0), [Todo::Terminate(7, 15)]);
        daemons.ended(7, DONE, 1);
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
        let now = LOOK + 1;
        assert_eq!(daemons.ended(8, DONE, now).unwrap().1, Some(10_000));
        assert_eq!(daemons.todo(now), [Todo::Find(0)]);
        assert!(!daemons.not_found(0, now));
        assert_eq!((daemons.todo(now), daemons.deadline()), (vec![], Some(now + LOOK)));
        assert_eq!(daemons.todo(now + 10_000), [Todo::Find(0)]);
        assert!(daemons.not_found(0, now + 10_000));
        assert_eq!(daemons.deadline(), Some(now + 11_000));
        // One that fails has not gone into the background.
        daemons.started(0, Some(9), 0);
        assert_eq!(daemons.ended(9, End::Code(1), 1).unwrap().1, Some(2000));
    }

    #[test]
    fn one_that_stays_in_the_foreground_is_complained_of_once() {
        let mut daemons = of(&[daemon("s", Care::Smart("/p".into()))]);
        daemons.started(0, Some(7), 0);
        assert_eq!((daemons.todo(1), daemons.deadline()), (vec![], Some(10_000)));
        assert_eq!(daemons.todo(10_000), [Todo::Expect(0, 7)]);
        assert_eq!((daemons.todo(10_001), daemons.deadline()), (vec![], None));
    }

    #[test]
    fn a_touch_sends_the_signal_that_is_wanted_or_starts_it_again() {
        let hears = Daemon { reload_signal: Some(1), ..daemon("a", Care::Attached) };
        let plain = Daemon { stop_signal: 2, ..daemon("b", Care::Attached) };
        let mut daemons = of(&[hears.clone(), plain.clone()]);
        assert_eq!(daemons.touched(&plain, 0), None, "it does not run yet");
        daemons.started(0, Some(7), 0);
        daemons.started(1, Some(8), 0);
        assert_eq!(daemons.reloaded(), [(7, 1)]);
        assert_eq!(daemons.touched(&hears, 5), Some((7, 1)));
        assert_eq!(daemons.deadline(), None);
        assert_eq!(daemons.touched(&plain, 5), Some((8, 2)));
        assert_eq!(daemons.touched(&plain, 6), None, "it is told already");
        assert_eq!(daemons.todo(3005), [Todo::Kill(8)]);
        // Asked to, it has not failed.
        assert_eq!(daemons.ended(8, DONE, 3006).unwrap().1, Some(0));
        assert_eq!(daemons.todo(3006), [Todo::Start(1)]);
    }

    #[test]
    fn pauses_have_the_longest_that_is_wanted() {
        let mut daemons =
            of(&[Daemon { longest_pause: Some(std::time::Duration::from_secs(2)), ..daemon("a", Care::Attached) }]);
        for expected in [1000, 2000, 2000] {
            daemons.started(0, Some(7), 0);
            assert_eq!(daemons.ended(7, DONE, 1).unwrap().1, Some(expected));
        }
    }
}
