//! What went wrong lately in a generation, and when to try again. Pure, as `children` is.

use super::Millis;

/// A child that lived so long after it was ready did not fail to start.
const SETTLED: Millis = 2_000;

/// Time to wait after `failures` failed starts in a row.
fn back_off(failures: u32) -> Millis {
    match failures {
        0 => 0,
        n => (250 << (n - 1).min(10)).min(30_000),
    }
}

#[derive(Debug, Default)]
struct Slot {
    /// When its last process died before it was ready.
    failed: Option<Millis>,
    /// Processes in a row that died just after they were ready.
    quick: u32,
    not_before: Millis,
}

/// Starts of the zygote and of the workers of one generation.
#[derive(Debug)]
pub(super) struct Attempts {
    slots: Vec<Slot>,
    /// Starts of workers that failed in a row, whatever their numbers.
    failures: u32,
    next_try: Millis,
    zygote_failures: u32,
    zygote_not_before: Millis,
}

impl Attempts {
    pub(super) fn new(workers: u32) -> Attempts {
        Attempts {
            slots: (0..workers.max(1)).map(|_| Slot::default()).collect(),
            failures: 0,
            next_try: 0,
            zygote_failures: 0,
            zygote_not_before: 0,
        }
    }

    /// Worker numbers.
    pub(super) fn ids(&self) -> std::ops::RangeInclusive<u32> {
        1..=self.slots.len() as u32
    }

    /// The zygote could not be forked, or died; `ready_at` if it ever was ready.
    pub(super) fn zygote_failed(&mut self, ready_at: Option<Millis>, now: Millis) {
        let settled = ready_at.is_some_and(|at| now >= at + SETTLED);
        self.zygote_failures = if settled { 0 } else { self.zygote_failures + 1 };
        self.zygote_not_before = now + back_off(self.zygote_failures);
    }

    /// A worker failed to start. All that failed wait together, and are tried one at a time.
    pub(super) fn worker_failed(&mut self, id: u32, now: Millis) {
        // Many that die together say no more than a few that die one after the other.
        if now >= self.next_try || self.failures < 5 {
            self.failures += 1;
        }
        self.next_try = now + back_off(self.failures);
        if let Some(slot) = self.slots.get_mut(id as usize - 1) {
            slot.failed = Some(now);
        }
    }

    /// A worker serves: so can the others.
    pub(super) fn worker_ready(&mut self, id: u32) {
        self.failures = 0;
        self.next_try = 0;
        self.slots.iter_mut().for_each(|slot| slot.failed = None);
        if let Some(slot) = self.slots.get_mut(id as usize - 1) {
            slot.not_before = 0;
        }
    }

    /// A worker that served since `ready_at` died.
    pub(super) fn worker_fell(&mut self, id: u32, ready_at: Millis, now: Millis) {
        if let Some(slot) = self.slots.get_mut(id as usize - 1) {
            // At once, but not for ever: from the third quick death on, with pauses.
            slot.quick = if now < ready_at + SETTLED { slot.quick + 1 } else { 0 };
            slot.not_before = now + back_off(slot.quick.saturating_sub(2));
        }
    }

    /// Whether the zygote may be forked.
    pub(super) fn zygote_due(&self, now: Millis) -> bool {
        now >= self.zygote_not_before
    }

    /// Which workers may be forked. `missing` tells the numbers that nobody bears, `young` those borne by one
    /// that is not ready.
    pub(super) fn workers_due(
        &self,
        missing: impl Fn(u32) -> bool,
        young: impl Fn(u32) -> bool,
        now: Millis,
    ) -> Vec<u32> {
        let slots = || self.ids().zip(&self.slots);
        let trying = slots().any(|(id, slot)| slot.failed.is_some() && young(id));
        // Of those that failed, the one that has waited longest is tried, as the fault may lie in one number only.
        let failed = slots().filter(|(id, slot)| slot.failed.is_some() && missing(*id));
        let next = failed.min_by_key(|(_, slot)| slot.failed).map(|(id, _)| id);
        let next = next.filter(|_| !trying && now >= self.next_try);
        let due = |(id, slot): &(u32, &Slot)| {
            missing(*id) && now >= slot.not_before && (slot.failed.is_none() || next == Some(*id))
        };
        slots().filter(due).map(|(id, _)| id).collect()
    }

    /// When something may be due, given that the zygote is `absent` and those workers are missing.
    pub(super) fn times(&self, absent: bool, missing: impl Fn(u32) -> bool) -> Vec<Millis> {
        let mut times = Vec::new();
        if absent {
            times.push(self.zygote_not_before);
        }
        for (_, slot) in self.ids().zip(&self.slots).filter(|(id, _)| missing(*id)) {
            times.push(slot.not_before);
            times.extend(slot.failed.map(|_| self.next_try));
        }
        times
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_half_a_minute() {
        assert_eq!([0, 1, 2, 3].map(back_off), [0, 250, 500, 1000]);
        assert_eq!((back_off(8), back_off(1000)), (30_000, 30_000));
    }

    #[test]
    fn those_that_failed_are_tried_in_turn() {
        let mut attempts = Attempts::new(2);
        let mut now = 0;
        let mut tried = Vec::new();
        attempts.worker_failed(1, now);
        attempts.worker_failed(2, now + 1);
        while tried.len() < 4 {
            now = attempts.times(false, |_| true).into_iter().filter(|time| *time > now).min().unwrap();
            let due = attempts.workers_due(|_| true, |_| false, now);
            assert!(due.len() <= 1);
            due.iter().for_each(|id| attempts.worker_failed(*id, now));
            tried.extend(due);
        }
        assert_eq!(tried, [1, 2, 1, 2]);
    }
}
