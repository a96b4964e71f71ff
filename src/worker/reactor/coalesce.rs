//! Looks for events that are put off for a moment, so that more of them are found at once.
//!
//! Beside a proxy or a client that is busy all the time, requests come one by one: the worker sleeps and is woken for each, and
//! so is whoever gets the response, in the middle of something else. A look that is put off finds several, as network cards do
//! it with their interrupts. It also keeps whoever asked first waiting for as long. So it is only done where more requests get
//! through by it, which is tried out: some windows of time with it, as many without. Where clients wait for their responses
//! before they ask for more, more requests in the same time are shorter waits on average, too; where they do not, there are no
//! more by it, and nothing is put off. Only app threads put off; the standby thread, which drives beside slow requests, does not.

use std::time::Duration;

/// How long a look is put off. (The kernel's timers are about 50 us late.)
pub(super) const DELAY: Duration = Duration::from_micros(80);

/// In microseconds, as all times here: how long requests are counted before anything is decided.
const WINDOW: u64 = 8_000;

/// So many are to be counted in a trial's window, and how long that may take.
const ENOUGH: u64 = 256;
const LONGEST_WINDOW: u64 = 32_000;

/// A trial is so many windows without and as many with it: in the order ABBA, so that a trend does not count.
const PAIRS: u32 = 4;

/// Requests in a second below which nobody is kept waiting for more of them.
const BUSY: u64 = 10_000;

/// With more requests than these to a look, they come together already.
const TOGETHER: u64 = 8;

/// In per cent: so many more requests get through by it, or it is not worth it.
const GAIN: u64 = 10;

/// When with it fewer than so many per cent got through, the trial is over.
const LOSS: u64 = 75;

/// Trials in a row that it has to win before it is believed: one may be won by chance.
const WINS: u32 = 2;

/// How long until the next trial: after a success, and after failures in a row, each time twice as long as before.
const TRUST: u64 = 2_000_000;
const FIRST_REST: u64 = 250_000;
const LONGEST_REST: u64 = 4_000_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Nothing is put off, and nothing tried before then.
    Off { until: u64 },
    /// This is the trial's window of that number.
    Trial { window: u32 },
    /// Looks are put off, and it is tried again then.
    On { until: u64 },
}

impl Phase {
    fn puts_off(self) -> bool {
        match self {
            Phase::Off { .. } => false,
            Phase::Trial { window } => matches!(window % 4, 1 | 2),
            Phase::On { .. } => true,
        }
    }
}

/// Requests, and how long they took together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Count {
    requests: u64,
    micros: u64,
}

impl Count {
    fn add(&mut self, other: Count) {
        self.requests += other.requests;
        self.micros += other.micros;
    }

    fn per_second(self) -> u64 {
        self.requests.saturating_mul(1_000_000) / self.micros.max(1)
    }

    /// Whether its rate is so many per cent of the other's, or more.
    fn reaches(self, percent: u64, other: Count) -> bool {
        self.per_second() * 100 >= other.per_second() * percent
    }
}

/// When looks for events are put off.
#[derive(Debug)]
pub(super) struct Coalescing {
    phase: Phase,
    /// The window's begin, the requests that were served before it, and the looks since.
    since: u64,
    before: u64,
    looks: u64,
    /// What the trial counted, without and with it.
    without: Count,
    with: Count,
    /// Trials won in a row.
    wins: u32,
    rest: u64,
}

impl Coalescing {
    pub(super) fn new() -> Coalescing {
        Coalescing {
            phase: Phase::Off { until: 0 },
            since: 0,
            before: 0,
            looks: 0,
            without: Count::default(),
            with: Count::default(),
            wins: 0,
            rest: FIRST_REST,
        }
    }

    /// Whether the look that is due at `now` is to be put off; `served` tells how many requests were served until now. To be
    /// asked before each look of an app thread, also where it can't be put off.
    pub(super) fn puts_off(&mut self, now: u64, served: impl FnOnce() -> u64) -> bool {
        self.looks += 1;
        let micros = now.saturating_sub(self.since);
        if micros >= WINDOW {
            let served = served();
            let count = Count { requests: served.saturating_sub(self.before), micros };
            if !self.is_short(count) {
                let looks = std::mem::take(&mut self.looks);
                (self.since, self.before) = (now, served);
                self.phase = self.after(count, looks, now);
            }
        }
        self.phase.puts_off()
    }

    /// Whether the window is not to end with so much counted.
    fn is_short(&self, count: Count) -> bool {
        let is_hopeless = self.phase.puts_off() && !count.reaches(LOSS, self.without);
        let is_trial = matches!(self.phase, Phase::Trial { .. });
        is_trial && !is_hopeless && count.requests < ENOUGH && count.micros < LONGEST_WINDOW
    }

    /// What follows a window that counted so much.
    fn after(&mut self, count: Count, looks: u64, now: u64) -> Phase {
        let busy = count.per_second() >= BUSY;
        match self.phase {
            Phase::Off { until } if !busy || now < until || count.requests > TOGETHER * looks => Phase::Off { until },
            Phase::Trial { .. } if !busy => self.lose(now),
            Phase::Trial { window } => self.weigh(window, count, now),
            Phase::On { .. } if !busy => Phase::Off { until: now },
            Phase::On { until } if now < until => Phase::On { until },
            Phase::Off { .. } | Phase::On { .. } => self.begin_trial(),
        }
    }

    fn begin_trial(&mut self) -> Phase {
        (self.without, self.with) = (Count::default(), Count::default());
        Phase::Trial { window: 0 }
    }

    fn weigh(&mut self, window: u32, count: Count, now: u64) -> Phase {
        let puts_off = self.phase.puts_off();
        if puts_off { &mut self.with } else { &mut self.without }.add(count);
        if puts_off && !self.with.reaches(LOSS, self.without) {
            return self.lose(now);
        }
        if window + 1 < 2 * PAIRS {
            return Phase::Trial { window: window + 1 };
        }
        if !self.with.reaches(100 + GAIN, self.without) {
            return self.lose(now);
        }
        self.wins += 1;
        if self.wins < WINS {
            return self.begin_trial();
        }
        self.rest = FIRST_REST;
        Phase::On { until: now + TRUST }
    }

    fn lose(&mut self, now: u64) -> Phase {
        let until = now + self.rest;
        self.rest = LONGEST_REST.min(2 * self.rest);
        self.wins = 0;
        Phase::Off { until }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Clients, and how they take to looks that are put off.
    struct Load {
        coalescing: Coalescing,
        now: u64,
        served: u64,
    }

    impl Load {
        fn new() -> Load {
            Load { coalescing: Coalescing::new(), now: 1_000_000_000, served: 0 }
        }

        /// So many microseconds of looks that find so many requests in so many microseconds each, when they are put off and when not.
        /// Tells how many in a hundred were put off.
        fn run(&mut self, micros: u64, put_off: (u64, u64), at_once: (u64, u64)) -> u64 {
            let (end, mut put, mut all) = (self.now + micros, 0, 0);
            while self.now < end {
                let served = self.served;
                let puts_off = self.coalescing.puts_off(self.now, || served);
                let (requests, took) = if puts_off { put_off } else { at_once };
                self.served += requests;
                self.now += took;
                put += if puts_off { took } else { 0 };
                all += took;
            }
            put * 100 / all
        }
    }

    /// A second of which nobody knows anything yet.
    const SECOND: u64 = 1_000_000;

    #[test]
    fn looks_are_put_off_while_more_gets_through_by_it() {
        let mut load = Load::new();
        // 50,000 a second instead of 40,000.
        assert!(load.run(SECOND, (8, 160), (1, 25)) > 80);
        assert!(load.run(60 * SECOND, (8, 160), (1, 25)) > 95);
        // No longer than until the next trial when that changes.
        load.run(TRUST + 100_000, (8, 160), (1, 17));
        assert!(load.run(30 * SECOND, (8, 160), (1, 17)) < 5);
        // And again.
        load.run(LONGEST_REST + 200_000, (8, 160), (1, 25));
        assert!(load.run(SECOND, (8, 160), (1, 25)) > 90);
    }

    #[test]
    fn nothing_is_put_off_where_it_gains_nothing() {
        // The same number, a few more, and fewer.
        for put_off in [(4, 100), (21, 500), (2, 100)] {
            let mut load = Load::new();
            load.run(100 * SECOND, put_off, (1, 25));
            assert!(load.run(100 * SECOND, put_off, (1, 25)) <= 1, "{put_off:?}");
        }
    }

    #[test]
    fn a_trial_that_costs_much_is_over_after_its_first_window() {
        let mut load = Load::new();
        let trial = load.run(FIRST_REST, (1, 130), (1, 25)) * FIRST_REST / 100;
        assert!(trial > 0 && trial < 2 * WINDOW, "{trial} us");
    }

    #[test]
    fn where_there_is_little_to_do_nothing_is_tried() {
        for at_once in [(1, 1_000_000), (1, 200), (1, 101)] {
            assert_eq!(Load::new().run(10 * SECOND, (1, 10), at_once), 0, "{at_once:?}");
        }
        // Nor where they come together.
        assert_eq!(Load::new().run(10 * SECOND, (64, 100), (64, 640)), 0);
    }

    #[test]
    fn one_trial_that_is_won_is_not_enough() {
        let mut load = Load::new();
        // A little longer than one takes, and its first window.
        load.run(10 * WINDOW, (8, 160), (1, 25));
        assert_eq!(load.coalescing.wins, 1);
        load.run(FIRST_REST, (4, 100), (1, 25));
        assert!(!load.coalescing.phase.puts_off());
        assert_eq!(load.coalescing.wins, 0);
    }

    #[test]
    fn it_ends_with_the_load() {
        let mut load = Load::new();
        load.run(SECOND, (8, 160), (1, 25));
        assert!(load.coalescing.phase.puts_off());
        let mut put = 0;
        for _ in 0..100 {
            let served = load.served;
            put += u32::from(load.coalescing.puts_off(load.now, || served));
            load.served += 1;
            load.now += 1_000;
        }
        assert!(put <= 8, "for a window at most: {put}");
        // Right after a pause.
        load.run(SECOND, (8, 160), (1, 25));
        load.now += 10 * SECOND;
        let served = load.served;
        assert!(!load.coalescing.puts_off(load.now, || served));
    }
}
