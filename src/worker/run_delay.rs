//! What a thread did with its time, as the kernel counts it: on a processor, or waiting for one (`/proc/PID/schedstat`).

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::time::Duration;

use nix::libc::clockid_t;
use nix::time::{ClockId, clock_gettime};
use nix::unistd::{Pid, gettid};

/// Where the kernel tells of one thread.
pub(super) struct RunDelay {
    file: File,
    thread: Pid,
}

/// Since the thread began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Times {
    /// On a processor.
    pub(super) ran: Duration,
    /// Fit to run, and no processor was free. A wait that has not ended is not in it.
    pub(super) waited: Duration,
}

impl RunDelay {
    /// None: the kernel does not count it, or /proc is not there.
    pub(super) fn of_this_thread() -> Option<RunDelay> {
        let delay = RunDelay { file: File::open("/proc/thread-self/schedstat").ok()?, thread: gettid() };
        delay.read().map(|_| delay)
    }

    pub(super) fn read(&self) -> Option<Times> {
        let mut text = [0; 64];
        let len = self.file.read_at(&mut text, 0).ok()?;
        parse(&text[..len])
    }

    /// Whether it could run now and has been on a processor for less than `time` since `then`: it is in the queue for one. (Asked
    /// only of who looks stuck: it costs more than [`RunDelay::read`].)
    pub(super) fn is_queued(&self, then: Times, time: Duration) -> bool {
        let stat = fs::read(format!("/proc/self/task/{}/stat", self.thread));
        stat.is_ok_and(|stat| is_fit(&stat)) && self.ran().is_some_and(|ran| ran.saturating_sub(then.ran) < time)
    }

    /// Exact also while it runs on another processor.
    fn ran(&self) -> Option<Duration> {
        // The thread's own clock: the complement of its number, then "of a thread" and "as the scheduler counts".
        let clock = (!self.thread.as_raw() << 3) | 0b110;
        clock_gettime(ClockId::from_raw(clock as clockid_t)).ok().map(Duration::from)
    }
}

/// The first two of three numbers: nanoseconds on a processor, nanoseconds in the queue, time slices.
fn parse(text: &[u8]) -> Option<Times> {
    let mut words = text.split(u8::is_ascii_whitespace);
    let mut next = || std::str::from_utf8(words.next()?).ok()?.parse().ok().map(Duration::from_nanos);
    Some(Times { ran: next()?, waited: next()? })
}

/// The letter behind the thread's name, which may have anything in it: it runs, or could.
fn is_fit(stat: &[u8]) -> bool {
    stat.iter().rposition(|byte| *byte == b')').is_some_and(|end| stat[end..].starts_with(b") R"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_number_is_the_time_at_work_and_the_second_that_in_the_queue() {
        let nanos = Duration::from_nanos;
        assert_eq!(parse(b"123 4567 8\n"), Some(Times { ran: nanos(123), waited: nanos(4567) }));
        assert_eq!(parse(b""), None);
        assert_eq!(parse(b"1"), None);
        assert_eq!(parse(b"1 x 2"), None);
    }

    #[test]
    fn who_sleeps_is_not_in_the_queue() {
        assert!(is_fit(b"12 (app 1) R 1 2"));
        assert!(is_fit(b"12 (odd) S name) R 1 2"));
        assert!(!is_fit(b"12 (app R) S 1 2"));
        assert!(!is_fit(b""));
    }

    #[test]
    fn a_thread_that_runs_is_not_in_the_queue_for_long() {
        let Some(delay) = RunDelay::of_this_thread() else { return };
        let (Some(then), Some(before)) = (delay.read(), delay.ran()) else { return };
        let some = Duration::from_micros(200);
        while delay.ran().is_some_and(|ran| ran < before + some) {}
        assert!(!delay.is_queued(then, some));
        assert!(delay.is_queued(then, Duration::from_secs(3600)), "it had less than an hour");
    }
}
