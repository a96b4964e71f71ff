//! From the command line to a running master: reads the configuration, prepares the process, binds the sockets, gives
//! privileges up, and connects the parts. What was made on the way is removed again when the start fails.
//! `once` does the same for a CGI program.

mod background;
mod files;
mod once;
mod upgrade;

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::File;
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Read, Write};
use std::os::fd::RawFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::cli::{self, Command};
use crate::config::hooks::{Hook, Phase};
use crate::config::{self, Argument, Background, Facts, Lookup, ProcessNames, Recycle, Settings};
use crate::logging::access::{Access, Format};
use crate::logging::relay::{Channel, Plan};
use crate::master::notify::Manager;
use crate::master::{self, Hooks, Origin, Outcome, Sockets, Start, Task};
use crate::net::address::Address;
use crate::net::listener;
use crate::protocol::http::head::Limits;
use crate::sys::exec::Program;
use crate::sys::privileges::{self, Identity, Limited};
use crate::sys::process::{self, Fork};
use crate::sys::signal::Signal;
use crate::sys::{self, fd, user};
use crate::worker::Quota;
use crate::zygote::{self, Zygote};
use crate::{ctl, exit, hooks, interpreter, logging, worker, wsgi};

use background::{Herald, Side};
use files::Made;

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
        Ok(Command::Control(request)) => return control(&request),
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

/// `rsgi ctl`.
fn control(request: &ctl::Request) -> u8 {
    let sent = socket_of(request).and_then(|socket| ctl::send(&socket, &request.line).map_err(|error| vec![error]));
    sent.unwrap_or_else(refuse)
}

/// The control socket that is meant: named, or found in a configuration.
fn socket_of(request: &ctl::Request) -> Result<PathBuf, Vec<String>> {
    if let Some(socket) = &request.socket {
        return Ok(socket.clone());
    }
    if request.ini.is_empty() {
        return Err(vec!["ctl: name the server: --socket PATH, or --ini FILE with its configuration".into()]);
    }
    let start_dir = std::env::current_dir().map_err(|error| vec![sys::describe(&error)])?;
    let named = |file: &String| Argument { name: "ini".into(), value: file.clone(), written: "--ini".into() };
    let arguments: Vec<Argument> = request.ini.iter().map(named).collect();
    // Sockets may come from whoever starts the server.
    match config::load(&arguments, &facts(start_dir, true)) {
        Ok(loaded) => match loaded.settings.reports.control {
            Some(Address::Unix(path)) => Ok(path),
            _ => Err(vec![format!("ctl: {} has no control-socket", request.ini.join(", "))]),
        },
        Err(errors) => {
            let hint = "ctl: the configuration is broken; --socket PATH works without it".to_owned();
            Err(errors.iter().map(ToString::to_string).chain([hint]).collect())
        }
    }
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

/// What the standard input held, which can be read only once.
static STDIN: OnceLock<Result<Vec<u8>, String>> = OnceLock::new();

/// What was read from the standard input so far.
fn stdin_so_far() -> Option<Vec<u8>> {
    STDIN.get().and_then(|read| read.as_ref().ok().cloned())
}

/// What a program before in this process has read from it.
fn remember_stdin(bytes: Vec<u8>) {
    let _ = STDIN.set(Ok(bytes));
}

fn configuration_errors(errors: &[config::Error]) -> Vec<String> {
    errors.iter().map(ToString::to_string).collect()
}

/// What the configuration has to know of the system.
fn facts(start_directory: PathBuf, inherited_sockets: bool) -> Facts {
    let (uid, gid) = user::own();
    Facts {
        start_directory,
        environment: std::env::vars_os()
            .map(|(name, value)| (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned()))
            .collect(),
        hostname: user::host_name(),
        cpus: std::thread::available_parallelism().map_or(1, |cpus| cpus.get() as u32),
        uid,
        gid,
        user_name: user::name_of(uid).unwrap_or_default(),
        group_name: user::group_name_of(gid).unwrap_or_default(),
        started: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default(),
        binary: std::env::current_exe().unwrap_or_else(|_| "rsgi".into()),
        inherited_sockets,
        reloading: false,
        stdin: Box::new(|| {
            let read = STDIN.get_or_init(|| {
                let mut bytes = Vec::new();
                io::stdin().read_to_end(&mut bytes).map(|_| bytes).map_err(|error| error.to_string())
            });
            read.clone().map_err(io::Error::other)
        }),
        user: remembered(|text| {
            let (name, uid) = match text.parse() {
                Ok(uid) => (user::name_of(uid)?, uid),
                Err(_) => (text.to_string(), user::by_name(text)?.0),
            };
            Some(config::User { name, uid })
        }),
        group: remembered(user::group_by_name),
        log_format_mistake: |text| Format::parse(text).err(),
    }
}

/// What was found once is not looked for again: inside a `chroot` the system's lists are out of reach.
fn remembered<T: Clone + 'static>(look_up: fn(&str) -> Option<T>) -> Lookup<T> {
    let known: RefCell<HashMap<String, T>> = RefCell::default();
    Box::new(move |text| {
        if let Some(found) = known.borrow().get(text) {
            return Some(found.clone());
        }
        let found = look_up(text)?;
        known.borrow_mut().insert(text.to_string(), found.clone());
        Some(found)
    })
}

/// Reads the configuration again, for a reload.
fn reader(arguments: Vec<Argument>, facts: Facts) -> Box<dyn FnMut() -> Result<Settings, Vec<String>>> {
    let facts = Facts { reloading: true, ..facts };
    Box::new(move || {
        let loaded = config::load(&arguments, &facts).map_err(|errors| configuration_errors(&errors))?;
        for warning in &loaded.warnings {
            log::warn!("{warning}");
        }
        Ok(complete(loaded.settings))
    })
}

/// What only the system knows: the group of the user that was named alone. Root's group would be too much for a
/// server that was to run as somebody else.
fn complete(mut settings: Settings) -> Settings {
    if let (Some(uid), None) = (settings.uid, settings.gid) {
        settings.gid = user::primary_group(uid);
    }
    let privileges = &mut settings.privileges;
    if let (Some((uid, _)), None) = (&privileges.immediate_uid, privileges.immediate_gid) {
        privileges.immediate_gid = user::primary_group(*uid);
    }
    settings
}

/// `immediate-uid` and `immediate-gid`.
fn become_at_once(settings: &Settings) -> Result<(), String> {
    let wanted = &settings.privileges;
    let option = if wanted.immediate_uid.is_some() { "immediate-uid" } else { "immediate-gid" };
    let (uid, login) = wanted.immediate_uid.clone().unzip();
    let identity = Identity {
        uid,
        gid: wanted.immediate_gid,
        login: login.flatten().filter(|_| !wanted.no_initgroups),
        ..Identity::default()
    };
    let taken = identity.may_be_taken().and_then(|()| identity.take());
    taken.map_err(|error| format!("{}: {error}", settings.place(option)))
}

/// Forks when the configuration asks for it. None: it does not, and this process goes on.
fn go_into_background(settings: &Settings, fork: fn() -> io::Result<Fork>) -> Result<Side, Option<String>> {
    let Some(kind) = settings.background else { return Err(None) };
    let option = option_of(kind);
    let side = background::enter(fork).map_err(|error| {
        Some(format!("{}: cannot go into the background: {}", settings.place(option), sys::describe(&error)))
    })?;
    if let Side::Starter(code @ 1..) = side {
        let log = settings.logto.as_ref().map(|path| path.display().to_string()).unwrap_or_default();
        complain(&format!("error: {}: the server did not start; what it says is in {log}", settings.place(option)));
        return Ok(Side::Starter(code));
    }
    Ok(side)
}

fn option_of(kind: Background) -> &'static str {
    match kind {
        Background::WhenBound => "daemonize",
        Background::WhenReady => "daemonize2",
    }
}

/// umask and log file first: they are for everything that follows, sockets included.
fn set_up_process(settings: &Settings) -> Result<(), String> {
    process::set_umask(settings.umask);
    if let Some(path) = &settings.logto {
        let option = match settings.background {
            Some(kind) if !settings.places.contains_key("logto") => option_of(kind),
            _ => "logto",
        };
        redirect(settings, option, path)?;
    }
    let limits = [
        ("limit-as", Limited::AddressSpace, settings.privileges.limit_as),
        ("limit-nproc", Limited::Processes, settings.privileges.limit_nproc),
    ];
    for (option, what, wanted) in limits {
        if let Some(wanted) = wanted {
            privileges::limit(what, wanted).map_err(|error| {
                let (place, why) = (settings.place(option), sys::describe(&error));
                let now = privileges::limit_of(what).unwrap_or(0);
                format!("{place}: cannot be {wanted}: {why}; it is {now}, and raising it needs root")
            })?;
        }
    }
    logging::set_style(master::style(settings));
    match settings.max_fd {
        Some(wanted) => fd::set_limit(wanted).map_err(|error| {
            let (place, why) = (settings.place("max-fd"), sys::describe(&error));
            format!(
                "{place}: cannot be {wanted}: {why}; more than the hard limit (ulimit -Hn) needs root, and more than \
                 fs.nr_open is not to be had"
            )
        }),
        None => fd::raise_limit()
            .map(|_| ())
            .map_err(|error| format!("the descriptor limit cannot be raised: {}", sys::describe(&error))),
    }
}

/// Points standard output and standard error to the file that `option` names.
fn redirect(settings: &Settings, option: &str, path: &Path) -> Result<(), String> {
    let file = logging::file::open(path, &master::making(settings), settings.logs.truncate);
    logging::use_file(file.map_err(|error| format!("{}: {error}", settings.place(option)))?);
    Ok(())
}

/// What goes wrong with the log when privileges are given up already, and the relay if there is to be one.
fn open_log(settings: &Settings, start_dir: &Path) -> Result<Option<(Channel, Plan)>, Vec<String>> {
    let file = master::log_file(settings, start_dir);
    if let (Some(_), Some(file)) = (&settings.logs.late_file, &file) {
        redirect(settings, "logto2", &file.path).map_err(|error| vec![error])?;
    }
    let Some(plan) = master::plan(settings, start_dir)? else { return Ok(None) };
    let channel = Channel::open(&plan, file.map(|file| (file, master::making(settings))));
    Ok(Some((channel.map_err(|error| vec![error])?, plan)))
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
    // Before the sockets, so that hooks can make folders for them.
    let placed = identity(&settings)
        .may_be_taken()
        .map_err(|error| format!("{}: {error}", place_of_user(&settings)))
        .and_then(|()| change_root(&settings, &mut made));
    let (moved, safe) = match placed {
        Ok(placed) => placed,
        Err(error) => {
            log::error!("{error}");
            made.remove(&[]);
            return exit::ERROR;
        }
    };
    let start_dir = if moved { "/".into() } else { start_dir };
    let sockets = match open_sockets(&settings, &passed, &start_dir) {
        Ok(sockets) => sockets,
        Err(errors) => {
            errors.iter().for_each(|error| log::error!("{error}"));
            made.remove(&[]);
            return exit::ERROR;
        }
    };
    let mut safe = safe;
    let settled = settle(&settings, &mut made, moved, &mut safe)
        .and_then(|()| hooks::run(&settings.hooks, Phase::AsUser))
        .and_then(|()| hooks::run(&settings.hooks, Phase::MasterStart));
    if let Err(error) = settled {
        log::error!("{error}");
        made.remove(&sockets.files());
        return exit::ERROR;
    }
    let log = match open_log(&settings, &start_dir) {
        Ok(log) => log,
        Err(errors) => {
            errors.iter().for_each(|error| log::error!("{error}"));
            made.remove(&sockets.files());
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
    let ready = move || {
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

/// Whom the configuration wants the server to be.
fn identity(settings: &Settings) -> Identity {
    Identity {
        uid: settings.uid,
        gid: settings.gid,
        login: settings.user_name.clone().filter(|_| !settings.privileges.no_initgroups),
        groups: settings.privileges.groups.clone(),
        capabilities: settings.privileges.capabilities.clone(),
    }
}

/// The hooks of the time before privileges are given up, and the new root between them. Whether there is one, and the
/// pid files to be written later: those stand outside of it, as in uWSGI.
fn change_root(settings: &Settings, made: &mut Made) -> Result<(bool, Vec<File>), String> {
    hooks::run(&settings.hooks, Phase::Asap)?;
    hooks::run(&settings.hooks, Phase::Files)?;
    hooks::run(&settings.hooks, Phase::PreJail)?;
    let mut safe = Vec::new();
    if let Some(folder) = &settings.privileges.chroot {
        make_pidfiles(settings, made, &mut safe)?;
        privileges::change_root(folder).map_err(|error| match error.kind() {
            io::ErrorKind::PermissionDenied => {
                format!("{}: only root can change the root of the file system", settings.place("chroot"))
            }
            _ => failure(settings, "chroot", folder, &error),
        })?;
        log::info!("{} is the root of the file system from now on", folder.display());
    }
    for phase in [Phase::PostJail, Phase::InJail, Phase::BeforeRoot, Phase::AsRoot] {
        hooks::run(&settings.hooks, phase)?;
    }
    Ok((settings.privileges.chroot.is_some(), safe))
}

fn make_pidfiles(settings: &Settings, made: &mut Made, safe: &mut Vec<File>) -> Result<(), String> {
    made.add(settings, "pidfile", settings.pidfile.as_ref())?;
    safe.extend(made.add_empty(settings, "safe-pidfile", settings.pidfiles.safe.as_ref())?);
    Ok(())
}

fn settle(settings: &Settings, made: &mut Made, moved: bool, safe: &mut Vec<File>) -> Result<(), String> {
    if !moved {
        make_pidfiles(settings, made, safe)?;
    }
    if let Some(doubt) = user::is_root().then(|| doubt_of_user(settings)).flatten() {
        log::warn!("{doubt}");
    }
    identity(settings).take().map_err(|error| format!("{}: {error}", place_of_user(settings)))?;
    made.add(settings, "pidfile2", settings.pidfiles.second.as_ref())?;
    safe.extend(made.add_empty(settings, "safe-pidfile2", settings.pidfiles.safe_second.as_ref())?);
    Ok(())
}

/// What root should know of the user that its server will run as.
fn doubt_of_user(settings: &Settings) -> Option<String> {
    match (settings.uid, settings.gid) {
        (None, _) => Some("the application runs as root; name another user with uid and gid".into()),
        (Some(uid), None) => Some(format!(
            "{}: the system knows no user {uid} and so no group of it: root's group is kept; name one with gid",
            settings.place("uid")
        )),
        (Some(_), Some(_)) => None,
    }
}

/// Where the configuration asks for another user or group.
fn place_of_user(settings: &Settings) -> &str {
    let privileges = &settings.privileges;
    settings.place(match (settings.uid, settings.gid) {
        (Some(_), _) => "uid",
        (None, Some(_)) => "gid",
        _ if !privileges.groups.is_empty() => "add-gid",
        _ => "cap",
    })
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

/// What a process is to others.
enum Role {
    Master,
    /// It writes the log.
    Relay,
    Zygote,
    Worker(u32),
}

fn entitle_relay(settings: &Settings) {
    rename(title(&settings.process_names, &Role::Relay));
}

/// The title of a process, if the configuration asks for one.
fn title(names: &ProcessNames, role: &Role) -> Option<String> {
    let own = match role {
        Role::Master => names.master.clone(),
        _ => None,
    };
    let auto = || match role {
        Role::Master => "rsgi master".to_string(),
        Role::Relay => "rsgi logger".to_string(),
        Role::Zygote => "rsgi zygote".to_string(),
        Role::Worker(id) => format!("rsgi worker {id}"),
    };
    // Any of the options asks for titles, as in uWSGI.
    if *names == ProcessNames::default() {
        return None;
    }
    let name = own.or_else(|| names.all.clone()).unwrap_or_else(auto);
    Some(format!("{}{name}{}", names.prefix, names.append))
}

fn rename(title: Option<String>) {
    if let Some(title) = title
        && let Err(error) = process::set_title(&title)
    {
        log::warn!("the process cannot be called {title:?}: {error}");
    }
}

/// The life of a zygote and, in the processes it forks, of a worker.
fn run_zygote(task: Task, start_dir: &Path) -> u8 {
    let Task { generation, control, master, settings, listeners, mailboxes, scoreboard } = task;
    // The master may be elsewhere: it tries the configuration of another generation just now.
    if let Err(error) = master::enter(&settings, start_dir) {
        log::warn!("{error}");
    }
    process::set_umask(settings.umask);
    logging::set_style(master::style(&settings));
    rename(title(&settings.process_names, &Role::Zygote));
    for (name, value) in &settings.env {
        process::set_variable(name, value);
    }
    let around_import = |phase| {
        let settings = Arc::clone(&settings);
        Box::new(move || hooks::run(&settings.hooks, phase))
    };
    let zygote = Zygote {
        before_import: around_import(Phase::PreApp),
        after_import: around_import(Phase::PostApp),
        generation,
        control,
        master,
        scoreboard: Arc::clone(&scoreboard),
        interpreter: interpreter::Spec { home: home(&settings) },
        apps: load_spec(&settings),
        lazy: settings.lazy_apps,
        watched: settings
            .triggers
            .auto_reload
            .map(|every| zygote::Watched { every, ignored: settings.triggers.auto_reload_ignore.clone() }),
        import_timeout: import_timeout(&settings, generation),
        use_log: logging::use_file,
        at_exit: !settings.skip_atexit,
        environment: environment_changes(&settings),
    };
    zygote::run(zygote, move |birth, load| {
        rename(title(&settings.process_names, &Role::Worker(birth.id)));
        bind_to_processors(&settings, birth.id);
        let context = worker::Context {
            id: birth.id,
            generation,
            control: birth.control,
            listeners,
            mailboxes,
            scoreboard,
            options: worker_options(&settings),
            wsgi: wsgi::Options {
                threads: settings.threads,
                processes: settings.processes,
                manage_script_name: settings.manage_script_name,
                fastcgi_stderr: settings.fastcgi_stderr,
                run_once: false,
            },
        };
        let (id, first) = (context.id, birth.first);
        let load = move || {
            hooks::run(&settings.hooks, Phase::PostFork)?;
            let apps = load()?;
            let phases = [
                (Phase::Accepting, true),
                (Phase::AcceptingOnce, first),
                (Phase::Accepting1, id == 1),
                (Phase::Accepting1Once, id == 1 && first),
            ];
            phases.into_iter().filter(|(_, due)| *due).try_for_each(|(phase, _)| hooks::run(&settings.hooks, phase))?;
            Ok(apps)
        };
        worker::run(context, load)
    })
}

/// `cpu-affinity`.
fn bind_to_processors(settings: &Settings, worker: u32) {
    let count = settings.privileges.cpu_affinity as usize;
    if count == 0 {
        return;
    }
    match privileges::bind_to_processors(worker as usize - 1, count) {
        Ok(chosen) => log::debug!("worker {worker} is bound to processors {chosen:?}"),
        Err(error) => log::warn!("{}: {}", settings.place("cpu-affinity"), sys::describe(&error)),
    }
}

/// At the first start nothing waits for the end of an import.
fn import_timeout(settings: &Settings, generation: u32) -> Option<Duration> {
    let timeout = settings.recycle.import_timeout;
    (generation > 1 && !timeout.is_zero()).then_some(timeout)
}

/// The configured home, else the virtual environment that the shell has activated.
fn home(settings: &Settings) -> Option<(PathBuf, String)> {
    let active = || {
        let path = std::env::var_os("VIRTUAL_ENV").filter(|path| !path.is_empty())?;
        // Set by the installed command's own environment, or for another Python: only the binary looks for one.
        (!interpreter_runs()).then(|| (PathBuf::from(path), "VIRTUAL_ENV".to_string()))
    };
    settings.home.clone().or_else(active)
}

fn interpreter_runs() -> bool {
    INSIDE_PYTHON.get().is_some()
}

/// Set by the command that pip installs.
pub(crate) static INSIDE_PYTHON: OnceLock<()> = OnceLock::new();

/// For an interpreter that read the environment before: what was set and removed since.
fn environment_changes(settings: &Settings) -> Vec<(String, Option<String>)> {
    let removed = SYSTEMD_VARIABLES.iter().map(|name| (name.to_string(), None));
    let set = settings.env.iter().map(|(name, value)| (name.clone(), Some(value.clone())));
    removed.chain(set).collect()
}

fn load_spec(settings: &Settings) -> wsgi::LoadSpec {
    let mounts = settings.mounts.iter();
    wsgi::LoadSpec {
        module: settings.module.clone(),
        wsgi_file: settings.wsgi_file.clone(),
        callable: settings.callable.clone(),
        mounts: mounts
            .map(|mount| wsgi::Mount {
                path: mount.path.clone(),
                what: mount.what.clone(),
                origin: mount.origin.clone(),
            })
            .collect(),
        pythonpath: settings.pythonpath.clone(),
        need_app: settings.need_app,
    }
}

fn worker_options(settings: &Settings) -> worker::Options {
    // The line has its default share of a head that is larger than the default.
    let usual = Limits::default();
    let max_line = usual.max_line.max(settings.buffer_size / (usual.max_head / usual.max_line));
    worker::Options {
        threads: settings.threads,
        processes: settings.processes,
        limits: Limits { max_head: settings.buffer_size, max_line },
        limit_post: settings.limit_post,
        post_buffering: settings.post_buffering,
        response_buffer: settings.response_buffer,
        timeouts: settings.timeouts.clone(),
        quota: quota(&settings.recycle),
        mercy: settings.recycle.mercy,
        harakiri: worker::HarakiriLimits {
            limit: settings.harakiri.limit,
            grace: settings.harakiri.grace,
            verbose: settings.harakiri.verbose,
            queue_threshold: settings.harakiri.queue_threshold,
        },
        measures_busyness: settings.cheaper.algorithm == config::Algorithm::Busyness,
        keeps_time: settings.reports.any(),
        tells_stacks: settings.reports.control.is_some(),
        trusted: (!settings.trusted_proxies.is_empty()).then(|| settings.trusted_proxies.clone()),
        host_name: user::host_name(),
        access: Access::new(settings.log_requests, settings.log_format.as_deref(), &settings.logs).map(Arc::new),
        sendfile: settings.sendfile,
    }
}

/// The limits of this very worker: by chance different from those of the others, so that not all are replaced at once.
fn quota(recycle: &Recycle) -> Quota {
    // The keys may have been made before the fork, for all workers: the process id makes the difference.
    let chance = RandomState::new().hash_one(process::own_id());
    Quota {
        requests: match recycle.max_requests {
            0 => 0,
            least => least + chance % (recycle.max_requests_delta + 1),
        },
        resident: recycle.reload_on.resident,
        address_space: recycle.reload_on.address_space,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn a_quota_is_between_the_limit_and_the_limit_with_its_delta() {
        let recycle = Recycle { max_requests: 100, max_requests_delta: 5, ..Recycle::default() };
        let found: HashSet<u64> = (0..1000).map(|_| quota(&recycle).requests).collect();
        assert!(found.iter().all(|requests| (100..=105).contains(requests)), "{found:?}");
        assert!(found.len() > 1);
        assert_eq!(quota(&Recycle { max_requests_delta: 5, ..Recycle::default() }).requests, 0);
    }

    #[test]
    fn titles_follow_the_most_special_option() {
        let none = ProcessNames::default();
        assert_eq!(title(&none, &Role::Master), None);
        let auto = ProcessNames { auto: true, prefix: "shop ".into(), append: "!".into(), ..none.clone() };
        assert_eq!(title(&auto, &Role::Worker(3)).as_deref(), Some("shop rsgi worker 3!"));
        let named = ProcessNames { all: Some("all".into()), master: Some("boss".into()), ..none };
        assert_eq!(title(&named, &Role::Master).as_deref(), Some("boss"));
        assert_eq!(title(&named, &Role::Zygote).as_deref(), Some("all"));
        let prefixed = ProcessNames { prefix: "shop ".into(), ..ProcessNames::default() };
        assert_eq!(title(&prefixed, &Role::Zygote).as_deref(), Some("shop rsgi zygote"));
    }

    #[test]
    fn a_user_alone_brings_his_own_group() {
        let settings = complete(Settings { uid: Some(0), ..Settings::default() });
        assert_eq!(settings.gid, user::primary_group(0));
    }

    #[test]
    fn root_is_told_what_it_keeps() {
        let settings = |uid, gid| Settings { uid, gid, ..Settings::default() };
        assert!(doubt_of_user(&settings(None, Some(1))).unwrap().contains("runs as root"));
        assert!(doubt_of_user(&settings(Some(4711), None)).unwrap().contains("no user 4711"));
        assert_eq!(doubt_of_user(&settings(Some(33), Some(33))), None);
    }
}
