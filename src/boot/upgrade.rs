//! The other two ways to begin: as the trial of an upgrade, and as the master that takes an old one's place.

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::facts::{complete, configuration_errors, facts, reader, remember_stdin, stdin_so_far};
use super::files::Made;
use super::setup::open_log;
use super::titles::{self, entitle_relay, rename, title};
use super::zygote::{environment_changes, home, import_timeout, load_spec, run_zygote};
use crate::cli::{self, Command};
use crate::config::hooks::Phase;
use crate::config::{self, Argument, Facts, Loaded, Settings};
use crate::control::FromZygote;
use crate::master::handoff::{self, Handoff};
use crate::master::{self, Hooks, Origin, Sockets, Start, Task};
use crate::net::listener;
use crate::scoreboard::Scoreboard;
use crate::sys::exec::{self, Program};
use crate::sys::fd;
use crate::sys::process::{self, Fork};
use crate::zygote::{self, Zygote};
use crate::{exit, hooks, interpreter, logging};

/// What this process is to be.
pub(super) enum Role {
    /// A server.
    Server,
    /// It tries whether the application can be imported, and tells the master.
    Trial(Box<Handoff>, OwnedFd),
    /// The master of what is there already.
    Successor(Box<Handoff>),
    /// Nothing: why.
    Unable(String),
}

/// Reads the variable that an upgrade sets. One that was meant for another process counts as not there.
pub(super) fn role() -> Role {
    let Some(value) = std::env::var_os(handoff::VARIABLE) else { return Role::Server };
    process::remove_variable(handoff::VARIABLE);
    let value = value.to_string_lossy();
    let mut words = value.split(':');
    let kind = words.next();
    let mut number = || words.next().and_then(|word| word.parse().ok());
    let (master, text, control) = (number(), number(), number());
    let read = |number: i32| fd::adopt(number).map_err(|error| error.to_string()).and_then(Handoff::read);
    match (kind, text, control) {
        (Some("trial"), Some(text), Some(control)) if master == Some(process::parent_id()) => {
            match (read(text), fd::adopt(control)) {
                (Ok(handoff), Ok(control)) => Role::Trial(Box::new(handoff), control),
                (Err(why), Ok(control)) => {
                    tell(&control, &why);
                    Role::Unable(why)
                }
                (_, Err(error)) => Role::Unable(error.to_string()),
            }
        }
        (Some("master"), Some(text), None) if master == Some(process::own_id()) => match read(text) {
            Ok(handoff) => Role::Successor(Box::new(handoff)),
            Err(why) => Role::Unable(why),
        },
        _ => Role::Server,
    }
}

fn tell(control: &OwnedFd, why: &str) {
    let _ = fd::send(control, &FromZygote::StartFailed(why.into()).encode(), None);
}

/// The configuration of the server whose place is to be taken.
fn load(arguments: &[OsString], handoff: &Handoff) -> Result<(Vec<Argument>, Facts, Loaded), Vec<String>> {
    let own = arguments.get(1..).unwrap_or_default();
    let arguments = match cli::parse(own) {
        Ok(Command::Run { check: false, cgi: false, arguments }) => arguments,
        Ok(_) => return Err(vec!["the arguments are none of a server".into()]),
        Err(errors) => return Err(configuration_errors(&errors)),
    };
    if let Some(bytes) = &handoff.stdin {
        remember_stdin(bytes.clone());
    }
    let facts = facts(handoff.start_dir.clone(), !handoff.passed.is_empty());
    let loaded = config::load(&arguments, &facts).map_err(|errors| configuration_errors(&errors))?;
    Ok((arguments, facts, loaded))
}

/// It has the number of a descriptor for its name.
fn name_process(handoff: &Handoff) {
    if let Err(error) = exec::set_name(&handoff.name) {
        log::debug!("the process cannot be called {}: {error}", handoff.name);
    }
}

/// Runs the new program up to the imported application, beside the server. Nothing of the server is touched.
pub(super) fn try_out(arguments: &[OsString], handoff: &Handoff, control: OwnedFd) -> u8 {
    name_process(handoff);
    match prepare_trial(arguments, handoff) {
        Ok((settings, scoreboard)) => import(settings, handoff, control, scoreboard),
        Err(errors) => {
            errors.iter().for_each(|error| log::error!("{error}"));
            tell(&control, &errors.join("; "));
            exit::ERROR
        }
    }
}

fn prepare_trial(arguments: &[OsString], handoff: &Handoff) -> Result<(Settings, Scoreboard), Vec<String>> {
    let (_, _, loaded) = load(arguments, handoff)?;
    let settings = complete(loaded.settings);
    master::enter(&settings, &handoff.start_dir).map_err(|error| vec![error])?;
    process::set_umask(settings.umask);
    // Sockets that are new must be there for the taking. They are let go again.
    let known = handoff.known_sockets();
    let reports = settings.report_sockets().into_iter().map(|(_, socket)| socket);
    let wanted: Vec<_> = settings.sockets.iter().cloned().chain(reports).collect();
    let (protocol, proxy_protocol) = (settings.inherited_protocol, settings.inherited_proxy_protocol);
    let wanted = listener::with_systemd(&wanted, &handoff.passed, protocol, proxy_protocol);
    let new: Vec<_> =
        wanted.into_iter().filter(|socket| !known.contains(&listener::known_as(&socket.address))).collect();
    let (options, _) = master::bind_options(&settings);
    listener::open(&new, &[], &options)?.iter().for_each(listener::Listener::remove_file);
    let scoreboard = Scoreboard::create(1, 1).map_err(|error| vec![error.to_string()])?;
    Ok((settings, scoreboard))
}

/// A zygote that is asked for no worker. It ends when the master lets go of its socket.
fn import(settings: Settings, handoff: &Handoff, control: OwnedFd, scoreboard: Scoreboard) -> u8 {
    let settings = Arc::new(settings);
    for (name, value) in &settings.env {
        process::set_variable(name, value);
    }
    let before = Arc::clone(&settings);
    let zygote = Zygote {
        generation: handoff.next_generation(),
        control,
        master: handoff.master,
        scoreboard: Arc::new(scoreboard),
        interpreter: interpreter::Spec { home: home(&settings) },
        apps: load_spec(&settings),
        // Workers that import for themselves are not to find out that it cannot be done.
        lazy: false,
        before_import: Box::new(move || hooks::run(&before.hooks, Phase::PreApp)),
        after_import: Box::new(|| Ok(())),
        watched: None,
        import_timeout: import_timeout(&settings, handoff.next_generation()),
        use_log: logging::use_file,
        at_exit: !settings.skip_atexit,
        environment: environment_changes(&settings),
    };
    zygote::run(zygote, |_, _| exit::ERROR)
}

/// Takes the place of the master before.
pub(super) fn succeed(arguments: &[OsString], handoff: Handoff, fork: fn() -> io::Result<Fork>) -> u8 {
    // Before the name and the title change.
    let program = Program::of_this_process().map_err(|error| format!("the program's file is not known: {error}"));
    name_process(&handoff);
    if let Some(limit) = handoff.limit {
        fd::remember_limit(limit);
    }
    let made = Made::with(handoff.pidfiles.clone());
    let (arguments, facts, loaded) = match load(arguments, &handoff) {
        Ok(read) => read,
        Err(errors) => return fatal(&made, &errors.join("; ")),
    };
    let mut settings = complete(loaded.settings);
    process::set_umask(settings.umask);
    logging::set_style(master::style(&settings));
    // What was said before stays. A relay of the program before goes on for the old workers.
    let truncate = std::mem::take(&mut settings.logs.truncate);
    let log = open_log(&settings, &handoff.start_dir).unwrap_or_else(|errors| {
        errors.iter().for_each(|error| log::error!("{error}"));
        None
    });
    settings.logs.truncate = truncate;
    let entitle = |settings: &Settings| rename(title(&settings.process_names, &titles::Role::Master));
    entitle(&settings);
    let start_dir = handoff.start_dir.clone();
    let home_dir = start_dir.clone();
    let hooks = Hooks {
        read: reader(arguments, facts),
        fork,
        deed: crate::hooks::carry_out,
        entitle,
        entitle_relay,
        zygote: Box::new(move |task: Task| run_zygote(task, &home_dir)),
        ready: super::later::after_apps(&settings),
    };
    let program = program.map(|program| program.named(&handoff.name));
    let (manager, pidfiles) = (handoff.manager.clone(), handoff.pidfiles.clone());
    let origin = Origin { program, manager, pidfiles, stdin: stdin_so_far };
    let (sockets, passed, settings_now) = (Sockets::default(), handoff.passed.clone(), settings.clone());
    match master::resume(Start { settings: settings_now, sockets, passed, start_dir, log, hooks, origin }, handoff) {
        Ok(outcome) => super::finish(&made, &settings.hooks, outcome),
        Err(why) => fatal(&made, &why),
    }
}

/// There is no way back: the program that could go on is gone.
fn fatal(made: &Made, why: &str) -> u8 {
    log::error!(
        "the upgrade failed after the old program was gone: {why}; the server ends, its workers finish their requests"
    );
    made.remove(&[]);
    exit::ERROR
}
