//! The standby thread: it does the I/O while all app threads are in the application.
//!
//! It watches the app threads' sequence numbers (odd: inside the application). One that stays the same odd number for a tick
//! is with a slow request; then the standby thread drives the reactor itself: I/O, deadlines, and complete requests for
//! app threads that are free, until nobody is stuck any more. It needs no interpreter and never touches one.
//!
//! A thread that only waits for a processor is not stuck: nobody is helped by one more that wants one.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering, fence};
use std::sync::{Arc, OnceLock};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use super::Worker;
use super::reactor::Drove;
use super::run_delay::{RunDelay, Times};
use super::threads::Unwinding;
use super::work::Spare;

/// A request that takes longer than one to two of these leaves the I/O to the standby thread.
const TICK: Duration = Duration::from_millis(1);

/// At one request for so long, without waiting for a processor, is stuck with it.
const STUCK: Duration = Duration::from_micros(750);

/// While every request is over within a tick, the standby thread looks less often: each look costs as much as three requests.
const LONG_TICK: Duration = Duration::from_millis(4);

/// And only so often while there is one connection at most: nobody waits behind anybody. The second one wakes it.
const LONE_TICK: Duration = Duration::from_millis(25);

/// Ticks in which all went fast before it looks so seldom: a connection may still come from another worker.
const LONE_TICKS: u32 = 20;

/// Ticks in which all went fast before they become long: where there are slow requests at all, the next one is found soon.
const FAST_TICKS: u32 = 400;

/// Ticks without work before the standby thread sleeps until somebody enters the application.
const QUIET_TICKS: u32 = 2;

/// A sleep that ended so soon was not worth the two switches between threads: then it looks at its ticks until it is quiet.
const WORTH_SLEEPING: Duration = Duration::from_millis(3);

/// How soon output that a socket did not take is tried again while the standby thread drives.
const RETRY: Duration = Duration::from_millis(10);

/// How long nobody looks for events while requests wait for app threads, and nothing but more of them comes: they would wait,
/// too. An app thread that finds none looks itself. The first nap is this long, each one after it twice as long as the last.
const NAP: Duration = Duration::from_millis(1);
const LONGEST_NAP: Duration = Duration::from_millis(10);

/// One sequence number, alone on its cache line.
#[repr(align(64))]
#[derive(Default)]
struct Sequence(AtomicU32);

/// What app threads and the standby thread know of each other.
pub(super) struct Standby {
    sequences: Vec<Sequence>,
    delays: Vec<OnceLock<RunDelay>>,
    /// It sleeps until it is woken, not until the next tick.
    asleep: AtomicBool,
    /// It looks at long ticks; whoever has output waiting cuts the present one short.
    relaxed: AtomicBool,
    /// It drives, and may be waiting for events: output must be written by whoever makes it.
    waiting: AtomicBool,
    thread: OnceLock<Thread>,
}

impl Standby {
    pub(super) fn new(threads: usize) -> Standby {
        Standby {
            sequences: (0..threads).map(|_| Sequence::default()).collect(),
            delays: (0..threads).map(|_| OnceLock::new()).collect(),
            asleep: AtomicBool::new(false),
            relaxed: AtomicBool::new(false),
            waiting: AtomicBool::new(false),
            thread: OnceLock::new(),
        }
    }

    /// This thread is app thread `core`.
    pub(super) fn introduce(&self, core: usize) {
        if let Some(delay) = RunDelay::of_this_thread() {
            let _ = self.delays[core].set(delay);
        }
    }

    fn add(&self, core: usize, count: u32) {
        // Only the thread itself writes its number.
        let sequence = &self.sequences[core].0;
        sequence.store(sequence.load(Ordering::Relaxed).wrapping_add(count), Ordering::Release);
    }

    /// App thread `core` goes into the application, or waits to be let into the interpreter.
    pub(super) fn enter(&self, core: usize) {
        self.add(core, 1);
        self.look();
    }

    /// One request is done, the thread goes on with the next.
    pub(super) fn advance(&self, core: usize) {
        self.add(core, 2);
    }

    pub(super) fn leave(&self, core: usize) {
        self.add(core, 1);
    }

    /// Wakes the standby thread from its deep sleep.
    pub(super) fn look(&self) {
        // Dekker's pattern: what the caller changed is stored before the flag is loaded, and the standby thread stores the
        // flag before it looks at what could have changed.
        fence(Ordering::SeqCst);
        if self.asleep.load(Ordering::Relaxed)
            && self.asleep.swap(false, Ordering::Relaxed)
            && let Some(thread) = self.thread.get()
        {
            thread.unpark();
        }
    }

    /// Output waits: the next look must come within a tick. True: whoever made it must write it himself, since the standby
    /// thread may be waiting for events.
    pub(super) fn hurry(&self) -> bool {
        self.look();
        if self.relaxed.load(Ordering::Relaxed)
            && self.relaxed.swap(false, Ordering::Relaxed)
            && let Some(thread) = self.thread.get()
        {
            thread.unpark();
        }
        // After the fence in `look`.
        self.is_driving()
    }

    /// Whether it drives, and may be waiting for events.
    #[inline]
    pub(super) fn is_driving(&self) -> bool {
        self.waiting.load(Ordering::Relaxed)
    }

    fn sequence(&self, core: usize) -> u32 {
        self.sequences[core].0.load(Ordering::Acquire)
    }

    pub(super) fn somebody_is_inside(&self) -> bool {
        self.sequences.iter().any(|sequence| sequence.0.load(Ordering::Acquire) % 2 == 1)
    }

    /// What an app thread has done in its life.
    fn times(&self, core: usize) -> Option<Times> {
        self.delays[core].get().and_then(RunDelay::read)
    }

    /// Whether an app thread waits for a processor, and has for most of the time since `then`.
    fn is_queued(&self, core: usize, then: Times) -> bool {
        self.delays[core].get().is_some_and(|delay| delay.is_queued(then, STUCK))
    }
}

/// What was seen of an app thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Sight {
    sequence: u32,
    /// When that number was seen first, in terms of [`Sights::clock`].
    since: Duration,
    /// What it had done by then, where the kernel tells.
    times: Option<Times>,
}

impl Sight {
    fn is_inside(&self) -> bool {
        self.sequence % 2 == 1
    }

    /// Whether it has been at one request, and not in want of a processor, for about a tick.
    fn is_stuck(&self, now: Duration, times: Option<Times>) -> bool {
        let waited = times.zip(self.times).map(|(now, then)| now.waited.saturating_sub(then.waited));
        self.is_inside() && now.saturating_sub(self.since).saturating_sub(waited.unwrap_or_default()) >= STUCK
    }
}

/// What the standby thread has seen of all app threads.
struct Sights {
    began: Instant,
    sights: Vec<Sight>,
}

impl Sights {
    fn new(threads: usize) -> Sights {
        let nothing = Sight { sequence: 0, since: Duration::ZERO, times: None };
        Sights { began: Instant::now(), sights: vec![nothing; threads] }
    }

    /// Looks at the numbers. True: all threads wait for requests, as they did at the last look, and had none in between.
    fn look(&mut self, standby: &Standby) -> bool {
        let mut quiet = true;
        for (core, sight) in self.sights.iter_mut().enumerate() {
            let sequence = standby.sequence(core);
            if sequence != sight.sequence {
                let times = if sequence % 2 == 1 { standby.times(core) } else { None };
                *sight = Sight { sequence, since: self.began.elapsed(), times };
                quiet = false;
            }
            quiet &= !sight.is_inside();
        }
        quiet
    }

    /// Notes who is at which request: enough for who drives already.
    fn note(&mut self, standby: &Standby) {
        for (core, sight) in self.sights.iter_mut().enumerate() {
            let sequence = standby.sequence(core);
            if sequence != sight.sequence {
                *sight = Sight { sequence, since: self.began.elapsed(), times: None };
            }
        }
    }

    /// Whether a thread is still at the request that it had at the last look, and is slow with it.
    fn somebody_is_stuck(&self, standby: &Standby) -> bool {
        self.sights.iter().enumerate().any(|(core, sight)| {
            sight.is_inside()
                && standby.sequence(core) == sight.sequence
                && sight.is_stuck(self.began.elapsed(), standby.times(core))
                && !sight.times.is_some_and(|then| standby.is_queued(core, then))
        })
    }

    /// Whether a thread is inside that has begun no more than so many requests since the last look.
    fn somebody_stays(&self, standby: &Standby, requests: u32) -> bool {
        self.sights.iter().enumerate().any(|(core, sight)| {
            sight.is_inside() && {
                let sequence = standby.sequence(core);
                sequence % 2 == 1 && sequence.wrapping_sub(sight.sequence) <= 2 * requests
            }
        })
    }
}

/// The life of the standby thread.
pub(super) fn run(worker: &Arc<Worker>) {
    let _unwinding = Unwinding;
    let standby = &worker.standby;
    standby.thread.get_or_init(thread::current);
    let mut spare = Spare::default();
    let mut sights = Sights::new(standby.sequences.len());
    let (mut quiet, mut fast, mut busy) = (0, 0, false);
    while !worker.reactor.is_done() {
        worker.look_at_deadlines();
        quiet = if sights.look(standby) { quiet + 1 } else { 0 };
        let mut waits = worker.flush_outputs();
        // A driving app thread does the I/O, and wakes this one when it goes into the application.
        let covered = |waits: bool| !waits && (!standby.somebody_is_inside() || worker.reactor.thread_drives());
        // A second app thread could take the request of a second client at once.
        let lone = fast >= LONE_TICKS && standby.sequences.len() == 1 && worker.slot().connections() <= 1;
        let sleepy = quiet >= QUIET_TICKS || !busy && !lone && worker.reactor.thread_drives();
        if sleepy && covered(waits) {
            standby.asleep.store(true, Ordering::SeqCst);
            fence(Ordering::SeqCst);
            let begin = Instant::now();
            waits = worker.flush_outputs();
            if covered(waits) && !worker.reactor.is_done() {
                match worker.nothing_due_for() {
                    // What wakes it else, it will find out.
                    Some(time) => thread::park_timeout(time),
                    None => {
                        while standby.asleep.load(Ordering::Acquire) {
                            thread::park();
                        }
                    }
                }
            }
            standby.asleep.store(false, Ordering::SeqCst);
            quiet = 0;
            busy = begin.elapsed() < WORTH_SLEEPING;
            continue;
        }
        let tick = if waits {
            TICK
        } else if lone {
            LONE_TICK
        } else if fast >= FAST_TICKS && fast % 2 == 0 {
            LONG_TICK
        } else {
            // Long and short ones alternate, so that a slow request is found out within the two.
            TICK
        };
        standby.relaxed.store(tick > TICK, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        // The second connection may have come before anybody could see that it is to be told.
        let is_company = tick == LONE_TICK && worker.slot().connections() > 1;
        thread::park_timeout(if is_company { TICK } else { tick });
        if sights.somebody_is_stuck(standby) {
            (fast, busy) = (0, false);
            drive(worker, &mut spare, &mut sights);
        } else {
            fast += 1;
        }
    }
}

/// Drives the reactor until nobody is stuck.
fn drive(worker: &Arc<Worker>, spare: &mut Spare, sights: &mut Sights) {
    let standby = &worker.standby;
    let mut looked = Instant::now();
    let mut nap = NAP;
    loop {
        standby.waiting.store(true, Ordering::SeqCst);
        // For the nap: whoever comes with a request that waited for nobody leaves others to this thread.
        standby.asleep.store(true, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        worker.look_at_deadlines();
        let retry = worker.flush_outputs().then_some(RETRY);
        let limit = retry.into_iter().chain(worker.nothing_due_for()).min();
        worker.reactor.relieve(worker);
        let drove = worker.reactor.drive(worker, spare, limit);
        // A thread that was seen with a slow request before a nap may have another one after it.
        let mut begun = 0;
        match drove {
            Drove::Full { limit } => {
                thread::park_timeout(limit.map_or(nap, |limit| limit.min(nap)));
                begun = looked.elapsed().as_millis() as u32;
                nap = LONGEST_NAP.min(nap * 2);
            }
            Drove::Busy => nap = NAP,
            Drove::Taken | Drove::Done => {}
        }
        standby.waiting.store(false, Ordering::SeqCst);
        standby.asleep.store(false, Ordering::SeqCst);
        if drove == Drove::Taken {
            return;
        }
        if !sights.somebody_stays(standby, begun) || worker.reactor.is_done() {
            worker.reactor.hand_over();
            return;
        }
        if looked.elapsed() >= TICK {
            sights.note(standby);
            looked = Instant::now();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_for_a_processor_is_not_stuck() {
        let ms = Duration::from_millis;
        let times = |waited| Some(Times { ran: ms(7), waited: ms(waited) });
        let sight = |sequence| Sight { sequence, since: ms(100), times: times(50) };
        assert!(!sight(1).is_stuck(ms(100), times(50)));
        assert!(sight(1).is_stuck(ms(101), times(50)));
        // Where nobody tells, all time counts.
        assert!(sight(1).is_stuck(ms(120), None));
        // All of the time in the queue; most of it; and at work for a tick, however long it waited for that.
        assert!(!sight(1).is_stuck(ms(101), times(51)));
        assert!(!sight(1).is_stuck(ms(120), times(70)));
        assert!(sight(1).is_stuck(ms(121), times(70)));
        // Between requests.
        assert!(!sight(2).is_stuck(ms(200), times(50)));
    }

    #[test]
    fn a_look_tells_whether_anything_happened() {
        let standby = Standby::new(2);
        let mut sights = Sights::new(2);
        assert!(sights.look(&standby));
        standby.enter(1);
        assert!(!sights.look(&standby), "somebody is inside");
        assert!(!sights.look(&standby), "and still is");
        assert!(sights.somebody_stays(&standby, 0));
        standby.advance(1);
        assert!(!sights.somebody_stays(&standby, 0), "with another request");
        assert!(sights.somebody_stays(&standby, 1), "but with one only");
        standby.leave(1);
        assert!(!sights.look(&standby), "there was a request in between");
        assert!(sights.look(&standby));
        assert!(!sights.somebody_stays(&standby, 0));
    }
}
