//! The log as the master looks after it: files that are opened again or put aside, and the relay, where there is one.
//!
//! Without a relay all processes share the open file as their standard error. A new one is opened here, and its descriptor is
//! sent to everybody, so that nobody needs the right to open it; until it has arrived, lines go to the old file, and
//! none is lost.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;

use super::Master;
use crate::config::Settings;
use crate::config::logs::LogFile;
use crate::control::{ToWorker, ToZygote};
use crate::exit;
use crate::logging::file::{self, Making};
use crate::logging::relay::{self, Channel, Plan, Relay, Renewal};
use crate::logging::{self, Style};
use crate::sys::clock::monotonic_ms;
use crate::sys::fd;
use crate::sys::process::{self, End, Fork};
use crate::sys::signal::{self, Signal};

/// How often the size of the log file is looked at, in milliseconds.
const LOOK: u64 = 1_000;

/// A relay that has died is started again so much later.
const PAUSE: u64 = 500;

/// The log of the server.
#[derive(Default)]
pub(super) struct Log {
    /// The pipes to the relay; none: every process writes for itself.
    pub(super) channel: Option<Channel>,
    pub(super) relay: Option<Relay>,
    /// What the next relay does, if it was opened already.
    pub(super) plan: Option<Plan>,
    /// Relays that leave.
    leaving: Vec<i32>,
    next_look: u64,
    next_start: u64,
}

impl Log {
    pub(super) fn new(channel: Option<Channel>, plan: Option<Plan>) -> Log {
        Log { channel, plan, ..Log::default() }
    }
}

/// How the server's own lines look with these settings.
pub fn style(settings: &Settings) -> Style {
    Style { json: settings.log_format.as_deref() == Some("json"), date: settings.logs.date.clone() }
}

/// How log files are made.
pub fn making(settings: &Settings) -> Making {
    let owner = settings.logs.chown && (settings.uid.is_some() || settings.gid.is_some());
    Making { mode: settings.logs.mode, owner: owner.then_some((settings.uid, settings.gid)) }
}

/// The file of `logto2` or `logto`; the first one begins where the application does.
pub fn log_file(settings: &Settings, start_dir: &Path) -> Option<LogFile> {
    let dir = settings.chdir.as_deref().unwrap_or(start_dir);
    let late = settings.logs.late_file.as_ref().map(|path| dir.join(path));
    let path = late.or_else(|| settings.logto.clone())?;
    Some(LogFile { path, most: settings.logs.most, backup: settings.logs.backup.clone() })
}

/// Opens what the relay writes to; none when there is to be no relay.
///
/// # Errors
/// All that is wrong, one line each.
pub fn plan(settings: &Settings, start_dir: &Path) -> Result<Option<Plan>, Vec<String>> {
    if !settings.logs.need_relay() {
        return Ok(None);
    }
    let file = log_file(settings, start_dir);
    Plan::open(&settings.logs, file.as_ref(), &making(settings)).map(Some)
}

impl Master {
    fn log_settings(&self) -> Option<Arc<Settings>> {
        let serving = self.children.serving();
        self.generations.iter().find(|known| known.number == serving).map(|found| Arc::clone(&found.settings))
    }

    /// Starts the relay if there is to be one and it is due.
    pub(super) fn care_for_log(&mut self) {
        let now = monotonic_ms();
        if self.log.channel.is_some() && self.log.relay.is_none() && self.log.next_start <= now {
            self.log.next_start = now + PAUSE;
            if let Err(error) = self.start_relay() {
                // It goes into the pipe, as everything else until a relay runs.
                log::error!("the process that writes the log cannot be started: {error}");
            }
        }
        if self.log.next_look <= now {
            self.log.next_look = now + LOOK;
            self.look_at_size();
        }
    }

    /// When [`Master::care_for_log`] has something to do next.
    pub(super) fn log_at(&self) -> Option<u64> {
        let start = (self.log.channel.is_some() && self.log.relay.is_none()).then_some(self.log.next_start);
        let look = self.own_log_file().is_some_and(|file| file.most > 0).then_some(self.log.next_look);
        start.into_iter().chain(look).min()
    }

    /// The log file that the processes write to themselves.
    fn own_log_file(&self) -> Option<LogFile> {
        if self.log.channel.is_some() {
            return None;
        }
        log_file(&*self.log_settings()?, &self.start_dir)
    }

    fn look_at_size(&mut self) {
        let Some(file) = self.own_log_file().filter(|file| file.most > 0) else { return };
        let open = io::stderr().as_fd().try_clone_to_owned().map(File::from);
        let size = open.and_then(|open| open.metadata()).map_or(0, |found| found.len());
        if size > file.most {
            self.renew_log("log-maxsize", Renewal::Rotate);
        }
    }

    fn start_relay(&mut self) -> io::Result<()> {
        let Some(settings) = self.log_settings() else { return Ok(()) };
        let opened = match self.log.plan.take() {
            Some(plan) => Some(plan),
            None => plan(&settings, &self.start_dir).unwrap_or_else(|errors| {
                errors.iter().for_each(|error| log::error!("{error}"));
                None
            }),
        };
        let opened = opened.unwrap_or_else(Plan::usual);
        let (ours, theirs) = fd::message_pair()?;
        match (self.hooks.fork)()? {
            Fork::Parent(pid) => {
                self.log.relay = Some(Relay::new(pid, ours));
                Ok(())
            }
            Fork::Child => {
                drop(ours);
                let channel = self.log.channel.take();
                self.forget();
                // Whoever stops the whole group does not mean that the last lines be lost.
                let _ = signal::set_no_effect(&[
                    Signal::SIGINT,
                    Signal::SIGTERM,
                    Signal::SIGHUP,
                    Signal::SIGQUIT,
                    Signal::SIGUSR1,
                    Signal::SIGUSR2,
                    Signal::SIGTSTP,
                ]);
                (self.hooks.entitle_relay)(&settings);
                if let Some(channel) = channel {
                    relay::run(opened, channel, theirs);
                }
                process::exit_now(exit::OK);
            }
        }
    }

    /// Whether the process that ended was a relay.
    pub(super) fn bury_relay(&mut self, pid: i32, end: End) -> bool {
        if let Some(at) = self.log.leaving.iter().position(|known| *known == pid) {
            self.log.leaving.swap_remove(at);
            return true;
        }
        if self.log.relay.as_ref().is_none_or(|relay| relay.pid != pid) {
            return false;
        }
        self.log.relay = None;
        log::error!("the process that writes the log (pid {pid}) {end}; it is started again");
        true
    }

    /// A reload is done: the log follows the new settings as far as it can.
    pub(super) fn follow_log(&mut self, plan: Option<Plan>, reopen: bool) {
        let Some(settings) = self.log_settings() else { return };
        logging::set_style(style(&settings));
        match plan.filter(|_| self.log.channel.is_some()) {
            Some(plan) => {
                if let Some(relay) = self.log.relay.take() {
                    self.log.leaving.push(relay.pid);
                    relay.leave();
                }
                self.log.plan = Some(plan);
                self.log.next_start = 0;
            }
            None if reopen => self.renew_log("log-reopen", Renewal::Reopen),
            None => {}
        }
    }

    /// Opens the log file again, after it was put aside if that is wanted.
    pub(super) fn renew_log(&mut self, cause: &str, renewal: Renewal) {
        if let Some(relay) = &self.log.relay {
            relay.renew(renewal);
            log::info!("{cause}: {}", words(renewal));
            return;
        }
        let (Some(settings), Some(spec)) = (self.log_settings(), self.own_log_file()) else {
            log::warn!("{cause} is ignored: there is no log file (logto)");
            return;
        };
        if renewal == Renewal::Rotate {
            match file::put_aside(&spec.path, spec.backup.as_deref()) {
                Ok(target) => log::info!("{cause}: the log goes on in a new file; this one is {}", target.display()),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => {
                    let path = spec.path.display();
                    log::error!("{cause}: {path} cannot be put aside: {}", crate::sys::describe(&error));
                    return;
                }
            }
        }
        match file::open(&spec.path, &making(&settings), false) {
            Ok(file) => {
                self.hand_out(&file);
                log::info!("{cause}: {}", words(renewal));
            }
            Err(error) => log::error!("{cause}: the log stays in the old file: {error}"),
        }
    }

    /// Gives a new log file to everybody.
    fn hand_out(&mut self, file: &File) {
        logging::use_file(file);
        // Those of another program do not know the word, and keep the old file.
        let knows = |number: u32| !self.foreign.contains(&number);
        let zygotes = self.generations.iter().filter(|generation| knows(generation.number));
        for zygote in zygotes.filter_map(|g| g.zygote.as_ref()?.control.as_ref()) {
            if let Err(error) = fd::send(zygote, &ToZygote::Log.encode(), Some(file.as_fd())) {
                log::warn!("a zygote keeps the old log file: {error}");
            }
        }
        for (key, control) in &self.controls {
            if !self.children.worker(*key).is_none_or(|worker| knows(worker.generation)) {
                continue;
            }
            if let Err(error) = fd::send(control, &ToWorker::Log.encode(), Some(file.as_fd())) {
                log::warn!("a worker keeps the old log file: {error}");
            }
        }
    }
}

fn words(renewal: Renewal) -> &'static str {
    match renewal {
        Renewal::Reopen => "the log file is opened again",
        Renewal::Rotate => "the log begins in a new file",
    }
}
