//! Time slices. Where there are more workers than processors, a worker that always finds something to do keeps its
//! processor until the scheduler's clock ticks (4 ms where it ticks 250 times a second), and what it used too much is made up for
//! in one piece: the clients of the others wait for that long. So it lets others go first when it has had its processor for a while.
//! Nobody is asked and nothing is lost where no other waits.

use std::cell::Cell;
use std::thread;
use std::time::Duration;

use super::clock::exact_micros;
use crate::sys::{self, scheduler};

/// How long a worker goes on without a wait.
const SLICE: Duration = Duration::from_micros(500);

/// A wait for events that took so long was one: others have had the processor meanwhile.
const WAITED: u64 = 100;

thread_local! {
    /// When this thread got its processor, as far as it knows.
    static BEGAN: Cell<u64> = const { Cell::new(0) };
}

/// Has the kernel deal in time slices of this length as well: who gives his up early loses what is left of it.
pub(super) fn shorten() {
    if let Err(error) = scheduler::ask_for_time_slice(SLICE) {
        log::debug!("workers have long time slices: {}", sys::describe(&error));
    }
}

/// Waits for events by `wait`; before that, lets others have the processor if the time slice is over.
pub(super) fn wait<T>(wait: impl FnOnce() -> T) -> T {
    let mut before = exact_micros();
    if before.saturating_sub(BEGAN.get()) >= SLICE.as_micros() as u64 {
        thread::yield_now();
        before = exact_micros();
        BEGAN.set(before);
    }
    let outcome = wait();
    let now = exact_micros();
    if now.saturating_sub(before) >= WAITED {
        BEGAN.set(now);
    }
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slice_that_is_over_ends_before_the_wait_and_the_next_one_goes_on() {
        BEGAN.set(0);
        let mut at = 0;
        let begin = exact_micros();
        assert_eq!(wait(|| at = BEGAN.get()), ());
        assert!(at >= begin, "others went first");
        // Far in the future: it has just begun.
        BEGAN.set(u64::MAX);
        assert_eq!(wait(|| 7), 7);
        assert!(BEGAN.get() == u64::MAX || BEGAN.get() >= begin, "only a wait begins another");
    }
}
