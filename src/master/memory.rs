//! `evil-reload-on-as` and `evil-reload-on-rss`: workers that take too much memory are killed, as the names say.

use super::Master;
use crate::config::MemoryLimits;
use crate::sys::clock::monotonic_ms;
use crate::sys::process::{self, Memory};
use crate::sys::signal::Signal;

/// What a worker with so much memory is killed for, if it is.
fn verdict(limits: &MemoryLimits, memory: Memory) -> Option<String> {
    let over = |limit: u64, found: u64| limit > 0 && found >= limit;
    if over(limits.resident, memory.resident) {
        return Some(format!("{} MiB of resident memory (evil-reload-on-rss)", memory.resident >> 20));
    }
    over(limits.address_space, memory.address_space)
        .then(|| format!("{} MiB of address space (evil-reload-on-as)", memory.address_space >> 20))
}

impl Master {
    /// When memory is to be looked at; none when nothing is limited.
    pub(super) fn memory_due(&self) -> Option<u64> {
        let limited = |generation: &super::Generation| !generation.settings.recycle.kill_on.are_none();
        self.generations.iter().any(limited).then_some(self.next_sample)
    }

    /// Looks at the memory of all workers, if it is time.
    pub(super) fn look_at_memory(&mut self) {
        let now = monotonic_ms();
        if self.memory_due().is_none_or(|at| now < at) {
            return;
        }
        let mut wait = u64::MAX;
        let mut condemned = Vec::new();
        for generation in &self.generations {
            let recycle = &generation.settings.recycle;
            if recycle.kill_on.are_none() {
                continue;
            }
            // Without a pause the master would do nothing else.
            wait = wait.min((recycle.sample_every.as_millis() as u64).max(100));
            for worker in self.children.workers().iter().filter(|worker| worker.generation == generation.number) {
                let memory = process::memory_of(worker.pid);
                if let Some(cause) = memory.and_then(|memory| verdict(&recycle.kill_on, memory)) {
                    log::warn!("worker {} (pid {}) is killed: it has {cause}", worker.id, worker.pid);
                    condemned.push((worker.key, worker.pid));
                }
            }
        }
        self.next_sample = now.saturating_add(wait);
        for (key, pid) in condemned {
            self.children.condemn(key);
            process::send_signal(pid, Signal::SIGKILL);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_reaches_a_limit_is_killed() {
        let limits = MemoryLimits { resident: 5 << 20, address_space: 0 };
        let memory = |resident: u64| Memory { resident, address_space: 1 << 40 };
        assert_eq!(verdict(&limits, memory((5 << 20) - 1)), None);
        assert_eq!(verdict(&limits, memory(5 << 20)).as_deref(), Some("5 MiB of resident memory (evil-reload-on-rss)"));
        let limits = MemoryLimits { resident: 0, address_space: 1 << 30 };
        assert!(verdict(&limits, memory(0)).unwrap().starts_with("1048576 MiB of address space"));
    }
}
