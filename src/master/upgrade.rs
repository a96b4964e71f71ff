//! An upgrade: another program takes this one's place in the same process, with its sockets, children and numbers.
//!
//! First a child runs that program with the same configuration up to the imported application (the trial). It
//! says how that went in the words of a zygote (`FromZygote`: `Ready`, `LoadFailed` and `StartFailed` mean the same in all
//! releases). Only when it is well this process becomes the very file that was tried. Until then nothing has changed; after it
//! there is a reload: the old workers serve until those of the new program do.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;

use super::handoff::{self, Board, Door, Handoff, Keep, Kept, Known};
use super::notify::Manager;
use super::reload::How;
use super::{Generation, Master, Zygote, words};
use crate::control::{FromZygote, MAX_MESSAGE};
use crate::exit;
use crate::logging::relay::Channel;
use crate::mailbox::Mailboxes;
use crate::scoreboard::Scoreboard;
use crate::sys;
use crate::sys::clock::monotonic_ms;
use crate::sys::exec::Program;
use crate::sys::fd::{self, Received};
use crate::sys::process::{self, End, Fork};
use crate::sys::signal::Signal;

/// After its time an import gets so much more, in which it is written where it hangs.
const LAST_WORDS: u64 = 2_000;

/// What is needed for an upgrade, as `boot` knows it.
pub struct Origin {
    /// The program of this process; why it is not known.
    pub program: Result<Program, String>,
    /// Who wants to know how the server is.
    pub manager: Manager,
    /// The pid files that were made, and their inodes.
    pub pidfiles: Vec<(PathBuf, u64)>,
    /// What was read from the standard input.
    pub stdin: fn() -> Option<Vec<u8>>,
}

/// A child that runs the new program.
pub(super) struct Trial {
    pid: i32,
    control: Option<OwnedFd>,
    /// The file that was tried, and that is run if all is well.
    file: OwnedFd,
    /// It is killed then.
    until: Option<u64>,
    limit: u64,
    passed: bool,
}

impl Master {
    /// Begins an upgrade; `cause` says who wanted it.
    pub(super) fn upgrade(&mut self, cause: &str) {
        self.planned = None;
        if let Some(number) = self.children.incoming() {
            log::info!("{cause}: the reload under way is given up for an upgrade");
            self.children.abort_reload();
            self.drop_sockets(number);
        }
        self.give_up_trial();
        log::info!("{cause}: upgrading; the new program is tried first");
        match self.try_program() {
            Ok(trial) => self.trial = Some(trial),
            Err(why) => self.upgrade_failed(&why, ""),
        }
    }

    fn try_program(&mut self) -> Result<Trial, String> {
        let program = self.origin.program.clone()?;
        let why = |error: io::Error| format!("{}: {}", program.path().display(), sys::describe(&error));
        let file = program.open().map_err(why)?;
        let settings = self.serving_generation().map(|known| Arc::clone(&known.settings)).ok_or("nobody serves")?;
        // It reads this to see that it will understand what it gets then.
        let (handoff, _) = self.render()?;
        let handoff = handoff.write().map_err(why)?;
        let (ours, theirs) = fd::message_pair().map_err(why)?;
        let master = process::own_id();
        match (self.hooks.fork)().map_err(why)? {
            Fork::Parent(pid) => {
                log::debug!("{} is tried in process {pid}", program.path().display());
                let limit = settings.recycle.import_timeout.as_millis() as u64;
                let until = (limit > 0).then(|| monotonic_ms() + limit + LAST_WORDS);
                Ok(Trial { pid, control: Some(ours), file, until, limit, passed: false })
            }
            Fork::Child => {
                drop(ours);
                self.go_to_start();
                let mut keep = Keep::default();
                let (text, control) = (keep.number(handoff.as_fd()), keep.number(theirs.as_fd()));
                let variable = format!("{}=trial:{master}:{text}:{control}", handoff::VARIABLE);
                let ready = process::die_with_parent(master).and_then(|()| keep.stay(true));
                let error = match ready {
                    Ok(()) => program.run(&file, &variable),
                    Err(error) => error,
                };
                let word = FromZygote::StartFailed(format!(
                    "{} cannot be run: {}",
                    program.path().display(),
                    sys::describe(&error)
                ));
                let _ = fd::send(&theirs, &word.encode(), None);
                process::exit_now(exit::ERROR);
            }
        }
    }

    /// Where and how this process was started: arguments may be relative. Who may not go there stays where he is.
    fn go_to_start(&self) {
        process::set_umask(None);
        if let Err(error) = std::env::set_current_dir(&self.start_dir) {
            log::debug!("{}: {}", self.start_dir.display(), sys::describe(&error));
        }
    }

    pub(super) fn trial_descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.trial.as_ref()?.control.as_ref().map(AsFd::as_fd)
    }

    pub(super) fn trial_until(&self) -> Option<u64> {
        self.trial.as_ref().and_then(|trial| trial.until)
    }

    /// Hears how the trial goes.
    pub(super) fn hear_trial(&mut self) {
        loop {
            let Some(trial) = &mut self.trial else { return };
            let Some(control) = &trial.control else { return };
            let mut buffer = [0; MAX_MESSAGE];
            let message = match fd::receive(control, &mut buffer, false) {
                Ok(Received::Message(len, _)) => FromZygote::decode(&buffer[..len]),
                Ok(Received::End) => {
                    // Its death will be heard of.
                    trial.control = None;
                    process::send_signal(trial.pid, Signal::SIGKILL);
                    return;
                }
                Err(_) => return,
            };
            match message {
                Some(FromZygote::Ready) => {
                    trial.passed = true;
                    trial.until = None;
                }
                Some(FromZygote::LoadFailed(cause)) => {
                    let (cause, traceback) = words::cause_and_traceback(&cause);
                    self.upgrade_failed(&format!("the application cannot be loaded: {cause}"), traceback);
                }
                Some(FromZygote::StartFailed(cause)) => self.upgrade_failed(&cause, ""),
                _ => {}
            }
        }
    }

    /// A process ended: true when it was the trial.
    pub(super) fn bury_trial(&mut self, pid: i32, end: End) -> bool {
        if self.trial.as_ref().is_none_or(|trial| trial.pid != pid) {
            return false;
        }
        self.hear_trial();
        // Without its own word.
        if self.trial.as_ref().is_some_and(|trial| !trial.passed) {
            self.upgrade_failed(&format!("the new program (pid {pid}) {end} before the application was imported"), "");
        }
        true
    }

    /// Gives up what takes too long, and carries out what was tried with success.
    pub(super) fn go_on_with_upgrade(&mut self) {
        if self.children.stopping() {
            return self.give_up_trial();
        }
        let Some(trial) = &self.trial else { return };
        if trial.until.is_some_and(|until| until <= monotonic_ms()) {
            let limit = words::duration(trial.limit);
            return self.upgrade_failed(&format!("the import takes longer than {limit} (reload-import-timeout)"), "");
        }
        // A process whose number is only on its way could not be told from a stranger afterwards; nor could a zygote that has
        // closed its socket and not ended yet, and a stop would wait for its end for ever.
        let dying = |known: &Generation| known.zygote.as_ref().is_some_and(|zygote| zygote.control.is_none());
        if trial.passed && !self.children.expects_births() && !self.generations.iter().any(dying) {
            // It comes back only if nothing has happened.
            let error = self.become_program();
            self.go_home();
            self.upgrade_failed(&error, "");
        }
    }

    /// Ends a trial nobody waits for any more.
    pub(super) fn give_up_trial(&mut self) {
        if let Some(trial) = self.trial.take() {
            process::send_signal(trial.pid, Signal::SIGKILL);
        }
    }

    fn upgrade_failed(&mut self, why: &str, traceback: &str) {
        self.give_up_trial();
        log::error!(
            "upgrade failed ({why}); nothing has changed, generation {} goes on serving as before",
            self.children.serving()
        );
        self.reloads.fail(&format!("upgrade: {why}"), traceback);
    }

    fn become_program(&mut self) -> String {
        let made = (self.origin.program.clone(), self.trial.as_ref());
        let (Ok(program), Some(trial)) = made else { return "there is nothing to run".into() };
        let rendered =
            self.render().and_then(|(handoff, keep)| Ok((handoff.write().map_err(|e| e.to_string())?, keep)));
        let (text, mut keep) = match rendered {
            Ok(rendered) => rendered,
            Err(why) => return why,
        };
        let variable = format!("{}=master:{}:{}", handoff::VARIABLE, process::own_id(), keep.number(text.as_fd()));
        log::info!("{} is well; this process becomes it", program.path().display());
        process::send_signal(trial.pid, Signal::SIGKILL);
        let error = match keep.stay(true) {
            Ok(()) => {
                self.go_to_start();
                let _aside = self.log.channel.as_ref().and_then(Channel::step_aside);
                program.run(&trial.file, &variable)
            }
            Err(error) => error,
        };
        let _ = keep.stay(false);
        format!("{} cannot be run: {}", program.path().display(), sys::describe(&error))
    }

    /// What the next program must know, and the descriptors it needs.
    fn render(&self) -> Result<(Handoff, Keep), String> {
        let mut keep = Keep::default();
        let settings = self.serving_generation().map(|known| Arc::clone(&known.settings)).ok_or("nobody serves")?;
        let (mut boards, mut mailboxes): (Vec<&Arc<Scoreboard>>, Vec<&Arc<Mailboxes>>) = (Vec::new(), Vec::new());
        let mut generations = Vec::new();
        for known in &self.generations {
            let door =
                |(report, listener): &super::desk::Door, keep: &mut Keep| Door::of(listener, Some(*report), keep);
            generations.push(Known {
                number: known.number,
                listeners: known.listeners.iter().map(|listener| Door::of(listener, None, &mut keep)).collect(),
                doors: known.doors.iter().map(|both| door(both, &mut keep)).collect(),
                board: place(&mut boards, &known.scoreboard),
                mailboxes: place(&mut mailboxes, &known.mailboxes),
                zygote: known.zygote.as_ref().and_then(|zygote| {
                    let control = zygote.control.as_ref()?;
                    Some((zygote.pid, keep.number(control.as_fd()), zygote.ready))
                }),
                import_ms: known.import_ms,
                began: known.began,
            });
        }
        let boards = boards.into_iter().map(|board| Board {
            workers: board.workers(),
            threads: board.threads_per_worker(),
            fds: board.descriptors().map(|fd| keep.number(fd)),
        });
        let boards = boards.collect();
        let ends = |all: &Arc<Mailboxes>, keep: &mut Keep| {
            all.descriptors().map(|(read, write)| (keep.number(read), keep.number(write))).collect()
        };
        let mailboxes = mailboxes.into_iter().map(|all| ends(all, &mut keep)).collect();
        let program = self.origin.program.as_ref().map_err(String::clone)?;
        let handoff = Handoff {
            layout: handoff::layout(),
            words: handoff::words(),
            version: env!("CARGO_PKG_VERSION").into(),
            master: process::own_id(),
            name: program.name().into(),
            start_dir: self.start_dir.clone(),
            limit: fd::original_limit(),
            stdin: (self.origin.stdin)(),
            passed: self.passed.clone(),
            pidfiles: self.origin.pidfiles.clone(),
            manager: self.origin.manager.clone(),
            kept: Kept::of(&settings),
            last_generation: self.last_generation,
            children: self.children.snapshot(),
            controls: self.controls.iter().map(|(key, control)| (*key, keep.number(control.as_fd()))).collect(),
            generations,
            boards,
            mailboxes,
            parked: self.parked.iter().map(|listener| Door::of(listener, None, &mut keep)).collect(),
            fifos: self.fifos.descriptors().map(|(path, inode, fd)| (path.clone(), inode, keep.number(fd))).collect(),
            fifo: self.fifos.active(),
            daemons: self.daemons.clone(),
            foreign: self.foreign.clone(),
            reloads: (self.reloads.done, self.reloads.failed),
        };
        Ok((handoff, keep))
    }

    /// After an upgrade: loads the new generation. Children may have died while the program changed.
    pub(super) fn begin_succession(&mut self, version: &str, foreign: bool, mute: bool) {
        let (new, pid) = (env!("CARGO_PKG_VERSION"), process::own_id());
        let how = match (foreign, mute) {
            (false, _) => "it goes on with its scoreboard and its workers until there are new ones",
            (true, false) => "its scoreboard is another one, so a fresh one is begun",
            (true, true) => "its scoreboard and words are others, so its workers are only told to retire",
        };
        log::info!("rsgi {new} has taken the place of rsgi {version} in process {pid}; {how}");
        log::debug!("{}, {}", handoff::layout(), handoff::words());
        self.reap();
        self.reload("upgrade", How::Together);
    }
}

/// The index of `wanted` in `all`, into which it is put if it is not there.
fn place<'a, T>(all: &mut Vec<&'a Arc<T>>, wanted: &'a Arc<T>) -> usize {
    all.iter().position(|known| Arc::ptr_eq(known, wanted)).unwrap_or_else(|| {
        all.push(wanted);
        all.len() - 1
    })
}

/// The generations that a program before left. Foreign ones get a fresh scoreboard and lose their zygotes; those that
/// are mute get other mailboxes.
pub(super) fn adopt_generations(
    handoff: &Handoff,
    settings: &Arc<crate::config::Settings>,
    foreign: bool,
    mute: bool,
) -> Result<Vec<Generation>, String> {
    let fresh = |board: &Board| {
        let board = Scoreboard::create(board.workers, board.threads).map_err(|error| error.to_string())?;
        Ok::<_, String>(Arc::new(board))
    };
    let adopt = |board: &Board| {
        let [a, b, c] = board.fds.map(handoff::take);
        let board = Scoreboard::adopt([a?, b?, c?], board.workers, board.threads);
        Ok::<_, String>(Arc::new(board.map_err(|error| format!("scoreboard: {error}"))?))
    };
    let boards = handoff.boards.iter().map(|board| if foreign { fresh(board) } else { adopt(board) });
    let boards: Vec<Arc<Scoreboard>> = boards.collect::<Result<_, _>>()?;
    let mut mailboxes = Vec::new();
    for ends in &handoff.mailboxes {
        let taken = ends.iter().map(|(read, write)| Ok((handoff::take(*read)?, handoff::take(*write)?)));
        let old = Mailboxes::adopt(taken.collect::<Result<_, String>>()?);
        mailboxes.push(Arc::new(match mute {
            true => Mailboxes::create(old.len()).map_err(|error| error.to_string())?,
            false => old,
        }));
    }
    let mut out = Vec::new();
    for known in &handoff.generations {
        let listeners = known.listeners.iter().map(Door::adopt).collect::<Result<_, _>>()?;
        let doors = known.doors.iter().map(Door::adopt_report).collect::<Result<_, _>>()?;
        let zygote = match known.zygote {
            Some((pid, control, ready)) => {
                let control = handoff::take(control)?;
                if foreign {
                    process::send_signal(pid, Signal::SIGKILL);
                }
                (!foreign).then_some(Zygote { pid, control: Some(control), ready, told: false })
            }
            None => None,
        };
        let missing = || format!("generation {} is not whole", known.number);
        out.push(Generation {
            number: known.number,
            settings: Arc::clone(settings),
            listeners,
            doors,
            mailboxes: mailboxes.get(known.mailboxes).cloned().ok_or_else(missing)?,
            scoreboard: boards.get(known.board).cloned().ok_or_else(missing)?,
            zygote,
            import_ms: known.import_ms,
            // Those that come are the first of the new program.
            apart: foreign,
            have_served: std::collections::HashSet::new(),
            modules: Vec::new(),
            plan: None,
            began: known.began,
        });
    }
    Ok(out)
}

/// The control sockets of workers, by key.
pub(super) fn adopt_controls(handoff: &Handoff) -> Result<Vec<(u32, OwnedFd)>, String> {
    handoff.controls.iter().map(|(key, number)| Ok((*key, handoff::take(*number)?))).collect()
}
