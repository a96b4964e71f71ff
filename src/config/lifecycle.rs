//! What is configured about the life of workers: when they are replaced, how long they may take.

use std::ops::RangeInclusive;
use std::path::PathBuf;
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
    /// `recycle-at-once`: workers at most that are being replaced because of these limits (1).
    pub at_once: u32,
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

/// What happens to requests that take too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Harakiri {
    /// `harakiri`: how long a request may run; zero is without limit.
    pub limit: Duration,
    /// `harakiri-graceful-timeout`: so much later a request that could not be stopped costs its worker (2 s).
    pub grace: Duration,
    /// `harakiri-verbose`: the log gets the stacks of all threads.
    pub verbose: bool,
    /// `harakiri-queue-threshold`: nobody is stopped while fewer requests wait.
    pub queue_threshold: u64,
}

impl Default for Harakiri {
    fn default() -> Harakiri {
        Harakiri { limit: Duration::ZERO, grace: Duration::from_secs(2), verbose: false, queue_threshold: 0 }
    }
}

/// What the master reloads on, besides signals.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Triggers {
    /// `touch-reload`, `touch-chain-reload`, `touch-workers-reload`, `touch-logreopen`, `touch-logrotate`, as written.
    pub touch: Vec<(PathBuf, Touch)>,
    /// `fs-reload`, as written.
    pub folders: Vec<PathBuf>,
    /// `master-fifo`, as written.
    pub fifos: Vec<PathBuf>,
    /// `py-auto-reload`: how often workers look for modules that were imported since; none is off.
    pub auto_reload: Option<Duration>,
    /// `py-auto-reload-ignore`.
    pub auto_reload_ignore: Vec<String>,
}

/// What a touched file means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Touch {
    /// `touch-reload`.
    Reload,
    /// `touch-chain-reload`.
    Chain,
    /// `touch-workers-reload`.
    Workers,
    /// `hook-touch` and `touch-exec`: this one of the hooks.
    Hook(usize),
    /// `attach-daemon2` with `touch=`: this one of the daemons.
    Daemon(usize),
    /// `touch-logreopen`.
    ReopenLog,
    /// `touch-logrotate`.
    RotateLog,
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
            at_once: 1,
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

    pub(super) fn touch(&mut self, s: &Setting, what: Touch) {
        if let Some(path) = self.text(s) {
            self.settings.triggers.touch.push((path.into(), what));
        }
    }

    pub(super) fn fs_reload(&mut self, s: &Setting) {
        let path = self.text(s);
        self.settings.triggers.folders.extend(path.map(PathBuf::from));
    }

    pub(super) fn master_fifo(&mut self, s: &Setting) {
        // A digit chooses one of them.
        if self.settings.triggers.fifos.len() == 10 {
            self.error(s, "at most ten of them");
            return;
        }
        let path = self.text(s);
        self.settings.triggers.fifos.extend(path.map(PathBuf::from));
    }

    pub(super) fn auto_reload(&mut self, s: &Setting) {
        if let Some(seconds) = self.number::<u64>(s, SECONDS) {
            self.settings.triggers.auto_reload = (seconds > 0).then(|| Duration::from_secs(seconds));
        }
    }

    pub(super) fn auto_reload_ignore(&mut self, s: &Setting) {
        let name = self.text(s);
        self.settings.triggers.auto_reload_ignore.extend(name);
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
