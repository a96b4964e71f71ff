//! How many workers there are when: `cheaper` and its options, `cheap`, `idle`, `processes = auto`.

use std::time::Duration;

use super::draft::{Draft, Setting};
use super::error::{Error, Origin};

/// How it is decided that workers are too few or too many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Algorithm {
    /// By workers that are free (uWSGI's default).
    #[default]
    Spare,
    /// The same, but as many as the fewest are kept free.
    Spare2,
    /// By requests that wait.
    Backlog,
    /// By the part of the time that workers spend in requests.
    Busyness,
    /// By the letters `+` and `-` in the master fifo alone.
    Manual,
}

/// Options of `cheaper-algo = busyness`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Busyness {
    /// Percent above which workers are added (50).
    pub max: u32,
    /// Percent below which they are removed (25).
    pub min: u32,
    /// Periods below `min` before that happens (10).
    pub multiplier: u32,
    /// Added to the multiplier when a worker is missed again soon after it went (2).
    pub penalty: u32,
    /// Waiting requests that count as an emergency (33).
    pub backlog_alert: u32,
    /// Periods that nobody is removed after an emergency (3).
    pub backlog_multiplier: u32,
    /// Workers added in an emergency (1).
    pub backlog_step: u32,
    /// So long may requests wait without a break (60 s).
    pub backlog_nonzero: Duration,
}

/// How many workers there are when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cheaper {
    /// `cheaper`: the fewest; 0: as many as `processes`, always.
    pub least: u32,
    /// `cheaper-initial`: at the start; 0: the fewest.
    pub initial: u32,
    /// `cheaper-algo`.
    pub algorithm: Algorithm,
    /// `cheaper-step`: added at a time (1).
    pub step: u32,
    /// `cheaper-overload`: looks (spare), waiting requests (backlog), or looks in a period (busyness) (3).
    pub overload: u32,
    /// `cheaper-idle`: looks (spare2) at which too many are free before one goes (10).
    pub idle_looks: u32,
    /// `check-interval`: time between two looks (1 s).
    pub every: Duration,
    /// See [`Busyness`].
    pub busyness: Busyness,
    /// `cheaper-rss-limit-soft`: with more bytes in all workers none is added; 0 is without limit.
    pub soft_resident: u64,
    /// `cheaper-rss-limit-hard`: with more bytes workers are removed; 0 is without limit.
    pub hard_resident: u64,
    /// `cheap`: the first connection starts the workers.
    pub cheap: bool,
    /// `idle`: after so long without a request all workers go; zero is never.
    pub idle: Duration,
    /// `die-on-idle`: the server stops then.
    pub die_on_idle: bool,
}

impl Default for Cheaper {
    fn default() -> Cheaper {
        Cheaper {
            least: 0,
            initial: 0,
            algorithm: Algorithm::Spare,
            step: 1,
            overload: 3,
            idle_looks: 10,
            every: Duration::from_secs(1),
            busyness: Busyness {
                max: 50,
                min: 25,
                multiplier: 10,
                penalty: 2,
                backlog_alert: 33,
                backlog_multiplier: 3,
                backlog_step: 1,
                backlog_nonzero: Duration::from_secs(60),
            },
            soft_resident: 0,
            hard_resident: 0,
            cheap: false,
            idle: Duration::ZERO,
            die_on_idle: false,
        }
    }
}

impl Draft<'_> {
    pub(super) fn processes(&mut self, s: &Setting) {
        if s.value == "auto" {
            self.settings.processes = self.facts.cpus.max(1);
        } else {
            self.fill_number(s, 1..=65535, |x| &mut x.processes);
        }
    }

    pub(super) fn cheaper_algo(&mut self, s: &Setting) {
        self.settings.cheaper.algorithm = match s.value.as_str() {
            "spare" => Algorithm::Spare,
            "spare2" => Algorithm::Spare2,
            "backlog" => Algorithm::Backlog,
            "busyness" => Algorithm::Busyness,
            "manual" => Algorithm::Manual,
            // As uWSGI does with every name it does not know.
            other => {
                self.warn(
                    s,
                    format!("{} = {other} is taken as spare (there are spare2, backlog, busyness and manual)", s.key),
                );
                Algorithm::Spare
            }
        };
    }

    /// Numbers that must fit each other.
    pub(super) fn check_cheaper(&mut self) {
        let (processes, cheaper) = (self.settings.processes, &mut self.settings.cheaper);
        if cheaper.least == 0 {
            return;
        }
        if cheaper.least >= processes {
            let sentence = format!("cheaper = {} must be below processes = {processes}", cheaper.least);
            self.errors.push(Error::plain(&Origin::Whole, sentence));
            return;
        }
        let asked = cheaper.initial;
        cheaper.initial = if asked == 0 { cheaper.least } else { asked.clamp(cheaper.least, processes) };
        if asked != 0 && asked != cheaper.initial {
            let (least, now) = (cheaper.least, cheaper.initial);
            self.warn_whole(format!(
                "cheaper-initial = {asked} is not between cheaper = {least} and processes = {processes}; it is {now}"
            ));
        }
    }
}
