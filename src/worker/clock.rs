//! Time as the worker reads it: milliseconds of a monotonic clock for deadlines (a jump of the wall
//! clock changes nothing), and the text of the Date field, made once a second.

use std::cell::Cell;
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

thread_local! {
    /// What the exact clock said last, to this thread, if it has not waited since; 0: it has.
    static LATELY: Cell<u64> = const { Cell::new(0) };
}

/// The monotonic clock in microseconds.
pub(super) fn exact_micros() -> u64 {
    read(ClockId::CLOCK_MONOTONIC).as_micros() as u64
}

/// The same, for what a request took.
pub(super) fn micros() -> u64 {
    let micros = exact_micros();
    LATELY.set(micros);
    micros
}

/// The same, read again only if the thread has waited for anything since it did: where a request ends, the next one begins.
pub(super) fn micros_lately() -> u64 {
    match LATELY.get() {
        0 => micros(),
        lately => lately,
    }
}

/// [`now`], without a look where the exact clock was just read.
pub(super) fn lately() -> Millis {
    match LATELY.get() {
        0 => now(),
        lately => lately / 1000,
    }
}

/// The calling thread has waited, for events or for a disk.
pub(super) fn has_waited() {
    LATELY.set(0);
}

/// Wall clock since the epoch, to the microsecond.
pub(super) fn wall() -> Duration {
    read(ClockId::CLOCK_REALTIME)
}

/// `now` and a duration later.
pub(super) fn after(now: Millis, wait: Duration) -> Millis {
    now.saturating_add(Millis::try_from(wait.as_millis()).unwrap_or(NEVER))
}

thread_local! {
    /// The second it was made in, and the text.
    static DATE: Cell<(u64, [u8; 29])> = const { Cell::new((u64::MAX, [b' '; 29])) };
}

/// The value of the Date field (RFC 9110 section 6.6.1) for this moment.
pub(super) fn date() -> [u8; 29] {
    let second = read(ClockId::CLOCK_REALTIME_COARSE).as_secs();
    let (made, mut text) = DATE.get();
    if made != second {
        let moment: SystemTime = UNIX_EPOCH + Duration::from_secs(second);
        text.copy_from_slice(httpdate::fmt_http_date(moment).as_bytes());
        DATE.set((second, text));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exact_clock_is_read_again_after_a_wait() {
        has_waited();
        let first = micros_lately();
        assert_eq!((micros_lately(), lately()), (first, first / 1000));
        let second = micros();
        assert_eq!(micros_lately(), second);
        has_waited();
        assert!(micros_lately() >= second && second >= first);
    }

    #[test]
    fn the_date_is_an_imf_fixdate_of_now() {
        let date = date();
        let text = std::str::from_utf8(&date).unwrap();
        let parsed = httpdate::parse_http_date(text).unwrap();
        let age = SystemTime::now().duration_since(parsed).unwrap_or_default();
        assert!(age < Duration::from_secs(5), "{text}");
    }
}
