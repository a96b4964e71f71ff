//! How many workers there are to be: uWSGI's cheaper algorithms, as a function of what was seen at each look.

use crate::config::{Algorithm, Cheaper};

/// What is seen at a look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sample {
    /// Workers that there are to be now.
    pub(super) target: u32,
    /// Workers at most.
    pub(super) most: u32,
    /// Workers that serve.
    pub(super) ready: u32,
    /// Those of them that have a free thread.
    pub(super) free: u32,
    /// Requests and connections that wait for somebody free.
    pub(super) waiting: u64,
    /// Percent of their time that threads spent in requests since the last look.
    pub(super) busy: u32,
    /// Resident memory of all workers, in bytes.
    pub(super) resident: u64,
}

/// What is remembered from look to look.
#[derive(Debug, Default)]
pub(super) struct Scaler {
    /// Looks at which nobody was free.
    overload: u32,
    /// Looks at which more than one were free.
    quiet: u32,
    /// Busyness of the looks of a period.
    period: Vec<u32>,
    /// Periods with little work.
    lazy_periods: u32,
    /// What the penalty adds.
    penalty: u32,
    removed_lately: bool,
    /// Periods in which nobody is removed.
    alert: u32,
    /// The last time a worker was wanted there was too little memory for it.
    refused: bool,
    /// Looks at which requests waited.
    waiting_looks: u64,
}

/// A new number of workers, and why.
type Decision = Option<(u32, String)>;

impl Scaler {
    /// Decides after a look.
    pub(super) fn decide(&mut self, rules: &Cheaper, sample: &Sample) -> Decision {
        // Somebody comes or goes already: what is seen does not count yet.
        if sample.ready < sample.target {
            return None;
        }
        if rules.hard_resident > 0 && sample.resident > rules.hard_resident && sample.target > rules.least {
            let why = format!("the workers have {} bytes of memory (cheaper-rss-limit-hard)", sample.resident);
            return Some((sample.target - 1, why));
        }
        let decision = match rules.algorithm {
            Algorithm::Manual => None,
            Algorithm::Spare => self.spare(rules, sample),
            Algorithm::Spare2 => self.spare2(rules, sample),
            Algorithm::Backlog => self.backlog(rules, sample),
            Algorithm::Busyness => self.busyness(rules, sample),
        };
        let (wanted, why) = decision?;
        let wanted = wanted.clamp(rules.least.min(sample.most), sample.most);
        if wanted > sample.target && rules.soft_resident > 0 && sample.resident > rules.soft_resident {
            // Every look would come to the same.
            if !std::mem::replace(&mut self.refused, true) {
                let bytes = sample.resident;
                log::info!("{why}; no worker is added: they have {bytes} bytes of memory (cheaper-rss-limit-soft)");
            }
            return None;
        }
        self.refused = false;
        (wanted != sample.target).then_some((wanted, why))
    }

    fn spare(&mut self, rules: &Cheaper, sample: &Sample) -> Decision {
        if sample.free == 0 || sample.waiting > 0 {
            self.overload += 1;
            self.quiet = 0;
        } else {
            self.overload = self.overload.saturating_sub(1);
        }
        if self.overload > rules.overload {
            let why = format!("no worker was free for {} looks", self.overload);
            self.overload = 0;
            return Some((sample.target + rules.step, why));
        }
        if self.overload == 0 { self.shrink_when_quiet(rules, sample) } else { None }
    }

    /// One worker goes when for some time more than one were free: one stays free for what comes.
    fn shrink_when_quiet(&mut self, rules: &Cheaper, sample: &Sample) -> Decision {
        self.quiet = if sample.free > 1 && sample.waiting == 0 { self.quiet + 1 } else { 0 };
        if self.quiet < rules.overload.max(1) {
            return None;
        }
        self.quiet = 0;
        Some((sample.target - 1, format!("{} of {} workers are free", sample.free, sample.ready)))
    }

    /// As many as the fewest are kept free: workers come as soon as there are less, one goes when there have been more for some
    /// time.
    fn spare2(&mut self, rules: &Cheaper, sample: &Sample) -> Decision {
        let free = if sample.waiting > 0 { 0 } else { sample.free };
        let why = format!("{free} of {} workers are free, {} are to be", sample.ready, rules.least);
        if free <= rules.least {
            self.quiet = 0;
            let missing = rules.least - free;
            return (missing > 0).then(|| (sample.target + missing.min(rules.step), why));
        }
        self.quiet += 1;
        if self.quiet < rules.idle_looks {
            return None;
        }
        self.quiet = 0;
        Some((sample.target - 1, why))
    }

    fn backlog(&mut self, rules: &Cheaper, sample: &Sample) -> Decision {
        if sample.waiting > u64::from(rules.overload) {
            self.quiet = 0;
            return Some((sample.target + rules.step, format!("{} requests wait", sample.waiting)));
        }
        self.shrink_when_quiet(rules, sample)
    }

    fn busyness(&mut self, rules: &Cheaper, sample: &Sample) -> Decision {
        let options = &rules.busyness;
        self.waiting_looks = if sample.waiting > 0 { self.waiting_looks + 1 } else { 0 };
        let too_long =
            options.backlog_nonzero.as_secs().checked_div(rules.every.as_secs().max(1)).filter(|looks| *looks > 0);
        let emergency = match too_long {
            _ if options.backlog_alert > 0 && sample.waiting > u64::from(options.backlog_alert) => {
                Some(format!("{} requests wait", sample.waiting))
            }
            Some(looks) if self.waiting_looks >= looks => {
                Some(format!("requests have been waiting for {} s", options.backlog_nonzero.as_secs()))
            }
            _ => None,
        };
        if let Some(why) = emergency {
            self.waiting_looks = 0;
            self.alert = options.backlog_multiplier;
            return Some((sample.target + options.backlog_step, why));
        }
        self.period.push(sample.busy);
        if self.period.len() < rules.overload.max(1) as usize {
            return None;
        }
        let busy = self.period.iter().sum::<u32>() / self.period.len() as u32;
        self.period.clear();
        self.alert = self.alert.saturating_sub(1);
        if busy > options.max {
            self.lazy_periods = 0;
            // Somebody was removed too early: the next time it takes longer.
            self.penalty = if std::mem::take(&mut self.removed_lately) { self.penalty + options.penalty } else { 0 };
            let why = format!("the workers are busy for {busy} % of the time (above {} %)", options.max);
            return Some((sample.target + rules.step, why));
        }
        if busy >= options.min {
            self.lazy_periods = 0;
            return None;
        }
        self.lazy_periods += 1;
        if self.alert > 0 || self.lazy_periods < (options.multiplier + self.penalty).max(1) {
            // After the usual time without being missed, the removal was right.
            self.removed_lately &= self.lazy_periods < options.multiplier;
            return None;
        }
        self.lazy_periods = 0;
        self.removed_lately = true;
        let why = format!("the workers are busy for {busy} % of the time (below {} %)", options.min);
        Some((sample.target - 1, why))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(algorithm: Algorithm) -> Cheaper {
        Cheaper { least: 2, initial: 2, algorithm, ..Cheaper::default() }
    }

    fn sample(target: u32, free: u32) -> Sample {
        Sample { target, most: 6, ready: target, free, ..Sample::default() }
    }

    /// Decisions of so many looks in a row at the same thing, as numbers of workers.
    fn looks(scaler: &mut Scaler, rules: &Cheaper, sample: Sample, count: usize) -> Vec<Option<u32>> {
        (0..count).map(|_| scaler.decide(rules, &sample).map(|(wanted, _)| wanted)).collect()
    }

    #[test]
    fn spare_adds_a_worker_when_nobody_is_free_for_longer_than_the_overload() {
        let mut scaler = Scaler::default();
        let rules = rules(Algorithm::Spare);
        assert_eq!(looks(&mut scaler, &rules, sample(2, 0), 4), [None, None, None, Some(3)]);
        let rules = Cheaper { step: 3, ..rules };
        assert_eq!(looks(&mut scaler, &rules, sample(5, 0), 4), [None, None, None, Some(6)], "never too many");
        assert_eq!(looks(&mut scaler, &rules, sample(6, 0), 8), [None; 8]);
    }

    #[test]
    fn a_moment_without_overload_takes_one_look_back() {
        let mut scaler = Scaler::default();
        let rules = rules(Algorithm::Spare);
        looks(&mut scaler, &rules, sample(2, 0), 3);
        looks(&mut scaler, &rules, sample(2, 1), 1);
        assert_eq!(looks(&mut scaler, &rules, sample(2, 0), 2), [None, Some(3)]);
    }

    #[test]
    fn spare_keeps_one_free_worker_and_the_fewest() {
        let mut scaler = Scaler::default();
        let rules = rules(Algorithm::Spare);
        assert_eq!(looks(&mut scaler, &rules, sample(4, 4), 3), [None, None, Some(3)]);
        assert_eq!(looks(&mut scaler, &rules, sample(4, 1), 9), [None; 9]);
        assert_eq!(looks(&mut scaler, &rules, sample(2, 2), 9), [None; 9]);
    }

    #[test]
    fn spare2_keeps_the_fewest_free_and_removes_one_after_a_while() {
        let mut scaler = Scaler::default();
        let rules = Cheaper { step: 2, idle_looks: 3, ..rules(Algorithm::Spare2) };
        assert_eq!(looks(&mut scaler, &rules, sample(2, 2), 9), [None; 9]);
        assert_eq!(looks(&mut scaler, &rules, sample(2, 1), 1), [Some(3)], "what is missing");
        assert_eq!(looks(&mut scaler, &Cheaper { step: 1, ..rules.clone() }, sample(3, 0), 1), [Some(4)]);
        assert_eq!(looks(&mut scaler, &rules, Sample { waiting: 1, ..sample(2, 1) }, 1), [Some(4)]);
        assert_eq!(looks(&mut scaler, &rules, sample(5, 0), 1), [Some(6)], "never too many");
        assert_eq!(looks(&mut scaler, &rules, sample(6, 3), 2), [None, None]);
        looks(&mut scaler, &rules, sample(6, 2), 1);
        assert_eq!(looks(&mut scaler, &rules, sample(6, 3), 3), [None, None, Some(5)]);
    }

    #[test]
    fn nothing_is_decided_while_a_worker_starts() {
        let mut scaler = Scaler::default();
        let starting = Sample { ready: 1, ..sample(2, 0) };
        assert_eq!(looks(&mut scaler, &rules(Algorithm::Spare), starting, 9), [None; 9]);
    }

    #[test]
    fn backlog_adds_workers_while_more_wait_than_the_overload() {
        let mut scaler = Scaler::default();
        let rules = rules(Algorithm::Backlog);
        assert_eq!(looks(&mut scaler, &rules, Sample { waiting: 3, ..sample(2, 0) }, 2), [None, None]);
        assert_eq!(looks(&mut scaler, &rules, Sample { waiting: 4, ..sample(2, 0) }, 1), [Some(3)]);
        assert_eq!(looks(&mut scaler, &rules, sample(3, 3), 3), [None, None, Some(2)]);
    }

    #[test]
    fn busyness_is_judged_by_period() {
        let mut scaler = Scaler::default();
        let rules = Cheaper { overload: 2, ..rules(Algorithm::Busyness) };
        let busy = |busy| Sample { busy, ..sample(3, 1) };
        assert_eq!(looks(&mut scaler, &rules, busy(51), 2), [None, Some(4)]);
        assert_eq!(looks(&mut scaler, &rules, busy(40), 40), [None; 40]);
        let mut expected = [None; 20];
        expected[19] = Some(2);
        assert_eq!(looks(&mut scaler, &rules, busy(24), 20), expected);
        // It is missed at once: the next removal takes the penalty longer.
        assert_eq!(looks(&mut scaler, &rules, busy(80), 2), [None, Some(4)]);
        assert_eq!(looks(&mut scaler, &rules, busy(10), 23), [None; 23]);
        assert_eq!(looks(&mut scaler, &rules, busy(10), 1), [Some(2)]);
    }

    #[test]
    fn a_long_queue_is_an_emergency_and_nobody_goes_soon_after() {
        let mut scaler = Scaler::default();
        let mut rules = Cheaper { overload: 1, ..rules(Algorithm::Busyness) };
        rules.busyness.multiplier = 1;
        assert_eq!(looks(&mut scaler, &rules, Sample { waiting: 34, ..sample(3, 0) }, 1), [Some(4)]);
        assert_eq!(looks(&mut scaler, &rules, sample(4, 4), 3), [None, None, Some(3)]);
        let waits = Sample { waiting: 1, busy: 30, ..sample(3, 0) };
        let decisions = looks(&mut scaler, &rules, waits, 60);
        assert_eq!((decisions[..59].iter().flatten().count(), decisions[59]), (0, Some(4)));
    }

    #[test]
    fn memory_has_the_last_word() {
        let mut scaler = Scaler::default();
        let rules = Cheaper { soft_resident: 100, hard_resident: 200, ..rules(Algorithm::Backlog) };
        let waits = |resident| Sample { waiting: 9, resident, ..sample(3, 0) };
        assert_eq!(looks(&mut scaler, &rules, waits(100), 1), [Some(4)]);
        assert_eq!(looks(&mut scaler, &rules, waits(101), 1), [None]);
        assert_eq!(looks(&mut scaler, &rules, waits(201), 1), [Some(2)]);
    }
}
