//! How fast a request body must come: never so long without a byte as `socket-timeout` or `http-timeout` say, and beyond that
//! time at `body-min-rate` on average. Who sends a byte now and then can't hold a connection for ever; who is merely slow
//! never notices.

use std::time::Duration;

use super::clock::{Millis, after};
use crate::config::Timeouts;

/// A body on its way.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pace {
    began: Millis,
    /// When a byte came last.
    seen: Millis,
    received: u64,
}

impl Pace {
    pub(super) fn begin(now: Millis) -> Pace {
        Pace { began: now, seen: now, received: 0 }
    }

    pub(super) fn add(&mut self, now: Millis, bytes: usize) {
        self.seen = now;
        self.received += bytes as u64;
    }

    /// When it is too late for the next byte.
    pub(super) fn due(&self, timeouts: &Timeouts) -> Millis {
        let silent = after(self.seen, timeouts.body);
        silent.min(after(self.began, allowance(timeouts, self.received)))
    }
}

/// How long one may wait for a body in all that has brought so many bytes.
pub(super) fn allowance(timeouts: &Timeouts, received: u64) -> Duration {
    match received.saturating_mul(1000).checked_div(timeouts.body_rate) {
        None => Duration::MAX,
        Some(earned) => timeouts.body.saturating_add(Duration::from_millis(earned)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timeouts(body_rate: u64) -> Timeouts {
        let second = Duration::from_secs(1);
        Timeouts { head: second, body: 30 * second, body_rate, write: second, keep_alive: second, linger: second }
    }

    #[test]
    fn silence_and_a_low_rate_both_come_to_an_end() {
        let (limits, mut pace) = (timeouts(100), Pace::begin(1_000));
        assert_eq!(pace.due(&limits), 31_000);
        // Faster than asked: only silence counts.
        pace.add(2_000, 100_000);
        assert_eq!(pace.due(&limits), 32_000);
        // A byte a second is 100 times too slow: it has its 30 s, and 10 ms for each byte.
        let mut pace = Pace::begin(1_000);
        for second in 2..=25 {
            pace.add(second * 1_000, 1);
        }
        assert_eq!(pace.due(&limits), 31_240);
        assert_eq!(pace.due(&timeouts(0)), 55_000);
        assert_eq!(Pace { received: u64::MAX, ..pace }.due(&limits), 55_000);
    }
}
