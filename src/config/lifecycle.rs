//! What is configured about the life of workers: when they are replaced, how long they may take.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::Settings;
use super::draft::{Draft, Setting};
use super::error::{Error, Origin};

/// When workers are replaced, and how long an old one may take to go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recycle {
    /// `max-requests`; 0 is without limit.
    pub max_requests: u64,
    /// `max-requests-delta`: up to so many more, by chance.
    pub max_requests_delta: u64,
    /// `min-worker-lifetime`: nothing recycles a younger worker (10 s).
    pub min_lifetime: Duration,
    /// `max-worker-lifetime`; zero is without limit.
    pub max_lifetime: Duration,
    /// `max-worker-lifetime-delta`: up to so much longer, by chance.
    pub max_lifetime_delta: Duration,
    /// `reload-on-as` and `reload-on-rss`: looked at after each request.
    pub reload_on: MemoryLimits,
    /// `evil-reload-on-as` and `evil-reload-on-rss`: the worker is killed.
    pub kill_on: MemoryLimits,
    /// `mem-collector-freq`: how often the master looks for `kill_on` (3 s).
    pub sample_every: Duration,
    /// `reload-import-timeout`: how long an import may take in a reload (60 s); zero is without limit.
    pub import_timeout: Duration,
    /// `worker-reload-mercy`: time from being told to retire to being killed (60 s).
    pub mercy: Duration,
}

/// Memory of one process in bytes; 0 is without limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryLimits {
    /// Address space.
    pub address_space: u64,
    /// Resident memory.
    pub resident: u64,
}

impl MemoryLimits {
    /// Whether there is no limit.
    pub fn are_none(&self) -> bool {
        *self == MemoryLimits::default()
    }
}

impl Default for Recycle {
    fn default() -> Recycle {
        Recycle {
            max_requests: 0,
            max_requests_delta: 0,
            min_lifetime: Duration::from_secs(10),
            max_lifetime: Duration::ZERO,
            max_lifetime_delta: Duration::ZERO,
            reload_on: MemoryLimits::default(),
            kill_on: MemoryLimits::default(),
            sample_every: Duration::from_secs(3),
            import_timeout: Duration::from_secs(60),
            mercy: Duration::from_secs(60),
        }
    }
}

const SECONDS: RangeInclusive<u64> = 0..=i32::MAX as u64;

impl Draft<'_> {
    /// Seconds, 0 allowed.
    pub(super) fn fill_seconds(&mut self, s: &Setting, field: fn(&mut Settings) -> &mut Duration) {
        if let Some(seconds) = self.number(s, SECONDS) {
            *field(&mut self.settings) = Duration::from_secs(seconds);
        }
    }

    /// MiB, kept in bytes.
    pub(super) fn fill_mib(&mut self, s: &Setting, field: fn(&mut Settings) -> &mut u64) {
        if let Some(mib) = self.number::<u64>(s, 0..=u64::MAX >> 20) {
            *field(&mut self.settings) = mib << 20;
        }
    }

    /// What can be said of all of it together.
    pub(super) fn check_lifecycle(&mut self) {
        let recycle = &self.settings.recycle;
        if !recycle.max_lifetime.is_zero() && recycle.max_lifetime <= recycle.min_lifetime {
            let sentence = format!(
                "max-worker-lifetime ({} s) must be above min-worker-lifetime ({} s)",
                recycle.max_lifetime.as_secs(),
                recycle.min_lifetime.as_secs()
            );
            self.errors.push(Error::plain(&Origin::Whole, sentence));
        }
    }
}
