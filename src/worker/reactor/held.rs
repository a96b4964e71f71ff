//! Small whole responses that wait to be sent together.
//!
//! A write wakes a client that waits for it, and where clients run on other processors than the worker the waking costs more
//! than the write. So while other requests are ready to be run, responses are kept back for a moment, and those of the
//! batch leave one after the other: the first wakes the client, the others find it awake.
//!
//! Where requests take no longer than the client needs for a response, it is awake anyway: there nothing is held, but for a few
//! now and then, to see how long requests take.
//!
//! None waits for long: all leave with the [`MOST`]th, with the next one when [`LONGEST`] has passed since the first, with a
//! response that is not held, and when there is nothing else to do. When a request keeps its thread, the standby thread sends
//! them as soon as it finds that out: after a tick or two, which are of 4 ms where all went fast lately.

use std::collections::VecDeque;

/// So many wait at most.
const MOST: usize = 16;

/// In microseconds: all leave when one comes after the first has waited for so long.
const LONGEST: u64 = 1000;

/// In microseconds: requests that take less are not worth it.
const WORTH: u64 = 10;

/// So many are looked at before that is decided.
const SAMPLES: u32 = 16;

/// So many times nothing is held when the last ones were not worth it.
const SKIPS: u32 = 1000;

/// What waits, in order.
pub(super) struct Held<T> {
    waiting: VecDeque<T>,
    /// Since when the first one waits, in microseconds.
    since: u64,
    /// Since when the last one does; 0: more was done since than to run requests.
    last: u64,
    /// Times between two of them that were looked at, and how many of these were not worth it.
    seen: u32,
    fast: u32,
    /// So many more times nothing is held.
    skips: u32,
    /// They are leaving: all of them, before anything else is done.
    leaving: bool,
}

impl<T> Held<T> {
    pub(super) fn new() -> Held<T> {
        Held { waiting: VecDeque::with_capacity(MOST), since: 0, last: 0, seen: 0, fast: 0, skips: 0, leaving: false }
    }

    /// Whether one more is worth it. To be asked for each thing that is done.
    #[inline]
    pub(super) fn pays(&mut self) -> bool {
        let skipped = self.skips > 0;
        self.skips -= u32::from(skipped);
        !skipped
    }

    /// One more waits from now (in microseconds) on.
    pub(super) fn add(&mut self, one: T, now: u64) {
        if self.waiting.is_empty() {
            self.since = now;
        } else if self.last > 0 {
            self.weigh(now.saturating_sub(self.last));
        }
        self.last = now;
        self.waiting.push_back(one);
        self.leaving |= self.waiting.len() >= MOST || now.saturating_sub(self.since) >= LONGEST;
    }

    /// Something else was done than to run a request: the time that it took is not to be weighed.
    #[inline]
    pub(super) fn pass_over(&mut self) {
        self.last = 0;
    }

    /// A request took so many microseconds.
    fn weigh(&mut self, took: u64) {
        self.seen += 1;
        self.fast += u32::from(took < WORTH);
        if self.seen == SAMPLES {
            if self.fast > SAMPLES / 2 {
                self.skips = SKIPS;
                self.leaving = true;
            }
            (self.seen, self.fast) = (0, 0);
        }
    }

    /// None is to wait any longer.
    pub(super) fn release(&mut self) {
        self.leaving = !self.waiting.is_empty();
    }

    /// The next that leaves, if they do.
    #[inline]
    pub(super) fn next(&mut self) -> Option<T> {
        if !self.leaving {
            return None;
        }
        let next = self.waiting.pop_front();
        self.leaving = !self.waiting.is_empty();
        next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(held: &mut Held<u64>) -> Vec<u64> {
        std::iter::from_fn(|| held.next()).collect()
    }

    #[test]
    fn they_wait_until_they_are_released_and_leave_in_order() {
        let mut held = Held::new();
        held.release();
        held.add(1, 5000);
        held.add(2, 5999);
        assert_eq!(held.next(), None);
        held.release();
        assert_eq!(all(&mut held), [1, 2]);
        // What comes afterwards waits anew.
        held.add(3, 6100);
        assert_eq!(held.next(), None);
        held.release();
        assert_eq!(held.next(), Some(3));
    }

    #[test]
    fn one_that_comes_while_they_leave_goes_with_them() {
        let mut held = Held::new();
        held.add(1, 0);
        held.add(2, 0);
        held.release();
        assert_eq!(held.next(), Some(1));
        held.add(3, 0);
        assert_eq!(all(&mut held), [2, 3]);
    }

    #[test]
    fn the_first_does_not_wait_for_longer_than_a_millisecond_before_the_next_request() {
        let mut held = Held::new();
        held.add(1, 5000);
        held.add(2, 6000);
        assert_eq!(all(&mut held), [1, 2]);
        // The time counts from the first of those that wait, not from the first ever.
        held.add(3, 6500);
        assert_eq!(held.next(), None);
    }

    #[test]
    fn fast_requests_are_not_worth_it() {
        let mut held = Held::new();
        // How many of 10,000 responses wait if each request takes so long.
        let mut held_of = |took: u64| {
            let mut count = 0;
            for request in 0..10_000 {
                if held.pays() {
                    held.add(request, request * took);
                    count += 1;
                }
                while held.next().is_some() {}
            }
            count
        };
        assert_eq!(held_of(WORTH), 10_000);
        assert!(held_of(WORTH - 1) < 300);
        // Found out again when they become slow.
        assert!(held_of(50) > 8000);
    }

    #[test]
    fn what_else_is_done_is_not_weighed() {
        let mut held = Held::new();
        for request in 1..200 {
            assert!(held.pays());
            held.add(request, request * (WORTH - 1));
            held.pass_over();
            while held.next().is_some() {}
        }
    }

    #[test]
    fn no_more_wait_than_a_few() {
        let mut held = Held::new();
        for one in 1..MOST as u64 {
            held.add(one, 0);
            assert_eq!(held.next(), None);
        }
        held.add(0, 0);
        assert_eq!(all(&mut held).len(), MOST);
    }
}
