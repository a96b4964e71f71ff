//! From the command line to a running master: reads the configuration, prepares the process, binds the sockets, gives
//! privileges up, and connects the parts. What was made on the way is removed again when the start fails.
//!
//! Here is the order of things; each step has a file. `once` does the same for a CGI program, `upgrade` for one that takes
//! the place of another.

mod background;
mod ctl;
mod facts;
mod files;
mod later;
mod once;
mod privileges;
mod processors;
mod setup;
mod titles;
mod upgrade;
mod zygote;

use std::cell::RefCell;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::RawFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::rc::Rc;

use crate::cli::{self, Command};
use crate::config::hooks::{Hook, Phase};
use crate::config::{self, Background, Settings};
use crate::logging::relay::{Channel, Plan};
use crate::master::notify::Manager;
use crate::master::{self, Hooks, Origin, Outcome, Sockets, Start};
use crate::net::listener::{self, SocketFile};
use crate::sys;
use crate::sys::exec::Program;
use crate::sys::process::{self, Fork};
use crate::sys::signal::Signal;
use crate::{exit, hooks, logging};

use background::{Herald, Side, go_into_background};
use facts::{complete, facts, reader, stdin_so_far};
use files::Made;
use privileges::{become_at_once, change_root, identity, place_of_user, settle};
use setup::{open_log, set_up_process};
use titles::{Role, entitle_relay, rename, title};
use zygote::run_zygote;

pub(crate) use zygote::INSIDE_PYTHON;

/// Variables by which systemd passes sockets and asks for news. They are meant for this process alone.
const SYSTEMD_VARIABLES: [&str; 6] =
    ["LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"];

/// The `rsgi` command.
pub fn main(arguments: Vec<OsString>) -> ExitCode {
    ExitCode::from(run(&arguments, process::fork))
}

/// Runs the command with `arguments`, the program's name first; gives the exit code. `fork` forks the master: where
/// an interpreter runs already, it has to hear of it.
pub(crate) fn run(arguments: &[OsString], fork: fn() -> io::Result<Fork>) -> u8 {
    logging::start();
    match upgrade::role() {
        upgrade::Role::Server => start(arguments, fork),
        upgrade::Role::Trial(handoff, control) => upgrade::try_out(arguments, &handoff, control),
        upgrade::Role::Successor(handoff) => upgrade::succeed(arguments, *handoff, fork),
        upgrade::Role::Unable(why) => refuse([why]),
    }
}

/// Begins a server.
fn start(arguments: &[OsString], fork: fn() -> io::Result<Fork>) -> u8 {
    // Where the process was started, and before a title takes its name away.
    let program = Program::of_this_process().map_err(|error| format!("the program's file is not known: {error}"));
    let own = arguments.get(1..).unwrap_or_default();
    let (check, cgi, arguments) = match cli::parse(own) {
        Ok(Command::Help(text) | Command::Version(text)) => return print(&text),
        Ok(Command::Control(request)) => return ctl::control(&request),
        Ok(Command::Run { check, cgi, arguments }) => (check, cgi, arguments),
        Err(errors) => return refuse(errors),
    };
    let start_dir = match std::env::current_dir() {
        Ok(dir) => dir,
        Err(error) => return refuse([format!("the current directory cannot be told: {error}")]),
    };
    if cgi && !check {
        return once::run(&arguments, &start_dir);
    }
    let (passed, systemd_line) = listener::systemd(std::process::id(), |name| std::env::var(name).ok());
    let facts = facts(start_dir.clone(), cgi || !passed.is_empty());
    let loaded = match config::load(&arguments, &facts) {
        Ok(loaded) => loaded,
        Err(errors) => {
            // It may be why there is nothing to listen on.
            systemd_line.iter().for_each(|line| complain(&format!("warning: {line}")));
            return refuse(errors);
        }
    };
    if let Some(shown) = &loaded.shown {
        print(shown);
    }
    let settings = complete(loaded.settings);
    if check {
        for warning in &loaded.warnings {
            complain(&format!("warning: {warning}"));
        }
        return print("the configuration is valid\n");
    }
    let manager_of = std::process::id();
    if let Err(error) = become_at_once(&settings) {
        return refuse([error]);
    }
    let herald = match go_into_background(&settings, fork) {
        Ok(Side::Starter(code)) => return code,
        Ok(Side::Server(herald)) => RefCell::new(Some(herald)),
        Err(None) => RefCell::default(),
        Err(Some(error)) => return refuse([error]),
    };
    let herald = Rc::new(herald);
    let end = |code: u8| {
        if let Some(herald) = herald.take() {
            herald.tell(code);
        }
        code
    };
    if let Err(error) = set_up_process(&settings) {
        return end(refuse([error]));
    }
    log::info!("rsgi {} starts", env!("CARGO_PKG_VERSION"));
    for note in &loaded.notes {
        log::debug!("{note}");
    }
    for warning in &loaded.warnings {
        log::warn!("{warning}");
    }
    if let Some(line) = systemd_line {
        log::warn!("{line}");
    }
    let manager = Manager::read(manager_of, |name| std::env::var(name).ok());
    for name in SYSTEMD_VARIABLES {
        process::remove_variable(name);
    }
    end(serve(settings, passed, start_dir, reader(arguments, facts), fork, (program, manager), Rc::clone(&herald)))
}

fn print(text: &str) -> u8 {
    let end = if text.ends_with('\n') { "" } else { "\n" };
    match write!(io::stdout(), "{text}{end}") {
        Ok(()) => exit::OK,
        Err(_) => exit::ERROR,
    }
}

fn complain(text: &str) {
    let _ = writeln!(io::stderr(), "rsgi: {text}");
}

fn refuse(errors: impl IntoIterator<Item = impl std::fmt::Display>) -> u8 {
    for error in errors {
        complain(&format!("error: {error}"));
    }
    exit::ERROR
}

/// What an option that names a file came to: where it was written, what was wrong, what to do.
fn failure(settings: &Settings, option: &str, path: &Path, error: &io::Error) -> String {
    format!("{}: {}", settings.place(option), logging::file::describe(path, error))
}

/// Binds, writes the pid files, gives privileges up, and runs the master.
fn serve(
    settings: Settings,
    passed: Vec<RawFd>,
    start_dir: PathBuf,
    read: Box<dyn FnMut() -> Result<Settings, Vec<String>>>,
    fork: fn() -> io::Result<Fork>,
    (program, manager): (Result<Program, String>, Manager),
    herald: Rc<RefCell<Option<Herald>>>,
) -> u8 {
    let mut made = Made::new();
    let Prepared { sockets, log, safe, start_dir } = match prepare(&settings, &passed, start_dir, &mut made) {
        Ok(prepared) => prepared,
        Err((errors, files)) => {
            errors.iter().for_each(|error| log::error!("{error}"));
            made.remove(&files);
            return exit::ERROR;
        }
    };
    introduce(&settings, &sockets);
    let origin = Origin { program, manager, pidfiles: made.pidfiles().to_vec(), stdin: stdin_so_far };
    let entitle = |settings: &Settings| rename(title(&settings.process_names, &Role::Master));
    entitle(&settings);
    if settings.background == Some(Background::WhenBound)
        && let Some(herald) = herald.take()
    {
        herald.tell(exit::OK);
    }
    let after_apps = later::after_apps(&settings);
    let ready = move || {
        if let Some(give_up) = after_apps {
            give_up();
        }
        for file in &safe {
            if let Err(error) = files::write_pid(file) {
                log::error!("a pid file cannot be written: {}", sys::describe(&error));
            }
        }
        if let Some(herald) = herald.take() {
            herald.tell(exit::OK);
        }
    };
    let home_dir = start_dir.clone();
    let hooks = Hooks {
        read,
        fork,
        entitle,
        deed: hooks::carry_out,
        entitle_relay,
        zygote: Box::new(move |task| run_zygote(task, &home_dir)),
        ready: Some(Box::new(ready)),
    };
    let at_exit = settings.hooks.clone();
    let outcome = master::run(Start { settings, sockets, passed, start_dir, log, hooks, origin });
    finish(&made, &at_exit, outcome)
}

/// What a server has before it begins.
struct Prepared {
    sockets: Sockets,
    log: Option<(Channel, Plan)>,
    /// Files for process ids, opened with the rights of the start.
    safe: Vec<File>,
    start_dir: PathBuf,
}

/// Gets what a server needs in order: the root of its file system, its sockets, its user, its log. What went wrong comes with
/// the sockets' files that were made.
fn prepare(
    settings: &Settings,
    passed: &[RawFd],
    start_dir: PathBuf,
    made: &mut Made,
) -> Result<Prepared, (Vec<String>, Vec<SocketFile>)> {
    let nothing = |error| (vec![error], Vec::new());
    // Before the sockets, so that hooks can make folders for them.
    identity(settings).may_be_taken().map_err(|error| nothing(format!("{}: {error}", place_of_user(settings))))?;
    let (moved, mut safe) = change_root(settings, made).map_err(nothing)?;
    let start_dir = if moved { "/".into() } else { start_dir };
    let sockets = open_sockets(settings, passed, &start_dir).map_err(|errors| (errors, Vec::new()))?;
    let settled = settle(settings, made, moved, &mut safe)
        .and_then(|()| match settings.privileges.given_up_at_once() {
            true => hooks::run(&settings.hooks, Phase::AsUser),
            false => Ok(()),
        })
        .and_then(|()| hooks::run(&settings.hooks, Phase::MasterStart))
        .map_err(|error| vec![error]);
    match settled.and_then(|()| open_log(settings, &start_dir)) {
        Ok(log) => Ok(Prepared { sockets, log, safe, start_dir }),
        Err(errors) => Err((errors, sockets.files())),
    }
}

/// The end of a server in order.
fn finish(made: &Made, at_exit: &[Hook], outcome: Outcome) -> u8 {
    if outcome.code != exit::OK || outcome.vacuum {
        made.remove(&outcome.files);
    }
    if let Err(error) = hooks::run(at_exit, Phase::AtExit) {
        log::error!("{error}");
    }
    log::info!("stopped");
    let (channel, relay) = outcome.log;
    if let Some(relay) = relay {
        let pid = relay.pid;
        relay.finish();
        process::send_signal(pid, Signal::SIGKILL);
        process::reap_one(pid);
    }
    // What nobody was there to write.
    channel.into_iter().for_each(Channel::empty);
    outcome.code
}

fn open_sockets(settings: &Settings, passed: &[RawFd], start_dir: &Path) -> Result<Sockets, Vec<String>> {
    master::enter(settings, start_dir).map_err(|error| vec![error])?;
    let (options, warning) = master::bind_options(settings);
    if let Some(warning) = warning {
        log::warn!("{warning}");
    }
    master::open(settings, passed, &[], &options)
}

fn introduce(settings: &Settings, sockets: &Sockets) {
    for listener in &sockets.listeners {
        log::info!("{}", master::listens(listener));
    }
    for (report, listener) in &sockets.doors {
        log::info!("{} on {}", report.option(), listener.address);
    }
    log::info!(
        "processes: {}, threads in each: {}{}",
        settings.processes,
        settings.threads,
        if settings.lazy_apps { ", each imports the application" } else { "" }
    );
}
