//! Time as the worker reads it: milliseconds of a monotonic clock for deadlines (a jump of the wall
//! clock changes nothing), and the text of the Date field, made once a second.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::time::{ClockId, clock_gettime};

/// Milliseconds since some moment before the worker began.
pub(super) type Millis = u64;

/// A moment that never comes.
pub(super) const NEVER: Millis = Millis::MAX;

fn read(clock: ClockId) -> Duration {
    // The clocks used here exist on every Linux; 0 would only make deadlines late.
    clock_gettime(clock).map(Duration::from).unwrap_or_default()
}

/// The monotonic clock, exact to a few milliseconds: it costs a quarter of the exact one.
pub(super) fn now() -> Millis {
    read(ClockId::CLOCK_MONOTONIC_COARSE).as_millis() as Millis
}

/// The monotonic clock in microseconds, for what a request took.
pub(super) fn micros() -> u64 {
    read(ClockId::CLOCK_MONOTONIC).as_micros() as u64
}

/// Wall clock since the epoch, to the microsecond.
pub(super) fn wall() -> Duration {
    read(ClockId::CLOCK_REALTIME)
}

/// `now` and a duration later.
pub(super) fn after(now: Millis, wait: Duration) -> Millis {
    now.saturating_add(wait.as_millis() as Millis)
}

/// The value of the Date field (RFC 9110 section 6.6.1).
pub(super) struct Date(Mutex<(u64, [u8; 29])>);

impl Date {
    pub(super) fn new() -> Date {
        Date(Mutex::new((u64::MAX, [b' '; 29])))
    }

    /// The 29 bytes of the current second.
    pub(super) fn current(&self) -> [u8; 29] {
        let second = read(ClockId::CLOCK_REALTIME_COARSE).as_secs();
        let mut cached = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if cached.0 != second {
            let moment: SystemTime = UNIX_EPOCH + Duration::from_secs(second);
            cached.1.copy_from_slice(httpdate::fmt_http_date(moment).as_bytes());
            cached.0 = second;
        }
        cached.1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_date_is_an_imf_fixdate_of_now() {
        let date = Date::new().current();
        let text = std::str::from_utf8(&date).unwrap();
        let parsed = httpdate::parse_http_date(text).unwrap();
        let age = SystemTime::now().duration_since(parsed).unwrap_or_default();
        assert!(age < Duration::from_secs(5), "{text}");
    }
}
