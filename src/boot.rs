//! From the command line to a running master: reads the configuration, prepares the process, binds the sockets, gives
//! privileges up, and connects the parts. What was made on the way is removed again when the start fails.
//! `once` does the same for a CGI program.

mod once;

mod upgrade;

use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Read, Write};
use std::os::fd::RawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::cli::{self, Command};
use crate::config::hooks::{Hook, Phase};
use crate::config::{self, Argument, Facts, ProcessNames, Recycle, Settings};
use crate::logging::access::Format;
use crate::master::{self, Hooks, Origin, Outcome, Sockets, Start, Task};
use crate::net::listener::{self, SocketFile};
use crate::protocol::http::head::Limits;
use crate::sys::exec::Program;
use crate::sys::process::{self, Fork};
use crate::sys::{self, fd, user};
use crate::worker::Quota;
use crate::zygote::{self, Zygote};
use crate::{exit, hooks, interpreter, logging, worker, wsgi};

/// Variables by which systemd passes sockets. They are meant for this process alone.
const SYSTEMD_VARIABLES: [&str; 3] = ["LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"];

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
    if let Err(error) = set_up_process(&settings) {
        return refuse([error]);
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
    for name in SYSTEMD_VARIABLES {
        process::remove_variable(name);
    }
    serve(settings, passed, start_dir, reader(arguments, facts), fork, program)
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
        user: Box::new(|text| {
            let (name, uid) = match text.parse() {
                Ok(uid) => (user::name_of(uid)?, uid),
                Err(_) => (text.to_string(), user::by_name(text)?.0),
            };
            Some(config::User { name, uid })
        }),
        group: Box::new(user::group_by_name),
        log_format_mistake: |text| Format::parse(text).err(),
    }
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
    settings
}

/// umask and log file first: they are for everything that follows, sockets included.
fn set_up_process(settings: &Settings) -> Result<(), String> {
    process::set_umask(settings.umask);
    if let Some(path) = &settings.logto {
        let file = OpenOptions::new().create(true).append(true).mode(0o640).open(path);
        let redirected = file.and_then(|file| {
            fd::replace(1, &file)?;
            fd::replace(2, &file)
        });
        redirected.map_err(|error| failure(settings, "logto", path, &error))?;
    }
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

/// What an option that names a file came to: where it was written, what was wrong, what to do.
fn failure(settings: &Settings, option: &str, path: &Path, error: &io::Error) -> String {
    let place = settings.place(option);
    let why = match error.kind() {
        io::ErrorKind::NotFound => {
            let parent = path.parent().unwrap_or(path);
            return format!("{place}: {}: the directory does not exist; create {}", path.display(), parent.display());
        }
        io::ErrorKind::PermissionDenied => "permission denied; this user must be able to write there".into(),
        _ => sys::describe(error),
    };
    format!("{place}: {}: {why}", path.display())
}

/// Files that this process made. Removed by it alone, never by a child.
struct Made {
    pid: i32,
    pidfile: Option<(PathBuf, u64)>,
}

impl Made {
    fn remove(&self, files: &[SocketFile]) {
        if process::own_id() != self.pid {
            return;
        }
        for file in files {
            file.remove();
        }
        if let Some((path, inode)) = &self.pidfile
            && fs::metadata(path).is_ok_and(|found| found.ino() == *inode)
            && let Err(error) = fs::remove_file(path)
        {
            log::warn!("the pidfile {} stays: {}", path.display(), sys::why_it_stays(&error));
        }
    }
}

fn write_pidfile(path: &Path) -> io::Result<(PathBuf, u64)> {
    let mut file = OpenOptions::new().create(true).write(true).truncate(true).mode(0o644).open(path)?;
    writeln!(file, "{}", process::own_id())?;
    Ok((path.to_path_buf(), file.metadata()?.ino()))
}

/// Binds, writes the pid file, gives privileges up, and runs the master.
fn serve(
    settings: Settings,
    passed: Vec<RawFd>,
    start_dir: PathBuf,
    read: Box<dyn FnMut() -> Result<Settings, Vec<String>>>,
    fork: fn() -> io::Result<Fork>,
    program: Result<Program, String>,
) -> u8 {
    if let Err(error) = process::may_become(settings.uid, settings.gid) {
        log::error!("{}: {error}", place_of_user(&settings));
        return exit::ERROR;
    }
    // Before the sockets, so that they can make folders for them.
    for phase in [Phase::Asap, Phase::PreJail, Phase::PostJail, Phase::InJail, Phase::AsRoot] {
        if let Err(error) = hooks::run(&settings.hooks, phase) {
            log::error!("{error}");
            return exit::ERROR;
        }
    }
    let mut made = Made { pid: process::own_id(), pidfile: None };
    let sockets = match open_sockets(&settings, &passed, &start_dir) {
        Ok(sockets) => sockets,
        Err(errors) => {
            errors.iter().for_each(|error| log::error!("{error}"));
            return exit::ERROR;
        }
    };
    let settled = settle(&settings, &mut made)
        .and_then(|()| hooks::run(&settings.hooks, Phase::AsUser))
        .and_then(|()| hooks::run(&settings.hooks, Phase::MasterStart));
    if let Err(error) = settled {
        log::error!("{error}");
        made.remove(&sockets.files());
        return exit::ERROR;
    }
    introduce(&settings, &sockets);
    let origin = Origin { program, pidfile: made.pidfile.clone(), stdin: stdin_so_far };
    let entitle = |settings: &Settings| rename(title(&settings.process_names, &Role::Master));
    entitle(&settings);
    let home_dir = start_dir.clone();
    let hooks = Hooks { read, fork, entitle, zygote: Box::new(move |task| run_zygote(task, &home_dir)) };
    let at_exit = settings.hooks.clone();
    let outcome = master::run(Start { settings, sockets, passed, start_dir, hooks, origin });
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

fn settle(settings: &Settings, made: &mut Made) -> Result<(), String> {
    if let Some(path) = &settings.pidfile {
        made.pidfile = Some(write_pidfile(path).map_err(|error| failure(settings, "pidfile", path, &error))?);
    }
    if let Some(doubt) = user::is_root().then(|| doubt_of_user(settings)).flatten() {
        log::warn!("{doubt}");
    }
    process::drop_privileges(settings.uid, settings.gid, settings.user_name.as_deref())
        .map_err(|error| format!("{}: {error}", place_of_user(settings)))
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
    settings.place(if settings.uid.is_some() { "uid" } else { "gid" })
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
    Zygote,
    Worker(u32),
}

/// The title of a process, if the configuration asks for one.
fn title(names: &ProcessNames, role: &Role) -> Option<String> {
    let own = match role {
        Role::Master => names.master.clone(),
        _ => None,
    };
    let auto = || match role {
        Role::Master => "rsgi master".to_string(),
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
        environment: environment_changes(&settings),
    };
    zygote::run(zygote, move |birth, load| {
        rename(title(&settings.process_names, &Role::Worker(birth.id)));
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
        let id = context.id;
        let load = move || {
            let apps = load()?;
            let first = if id == 1 { hooks::run(&settings.hooks, Phase::Accepting1) } else { Ok(()) };
            first.and_then(|()| hooks::run(&settings.hooks, Phase::Accepting))?;
            Ok(apps)
        };
        worker::run(context, load)
    })
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
    let format = match &settings.log_format {
        // It was checked when the configuration was read.
        Some(text) => Format::parse(text).unwrap_or_default(),
        None => Format::default(),
    };
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
        harakiri: (!settings.harakiri.limit.is_zero()).then_some(worker::HarakiriLimits {
            limit: settings.harakiri.limit,
            grace: settings.harakiri.grace,
            verbose: settings.harakiri.verbose,
        }),
        measures_busyness: settings.cheaper.algorithm == config::Algorithm::Busyness,
        keeps_time: settings.reports.any(),
        trusted: (!settings.trusted_proxies.is_empty()).then(|| settings.trusted_proxies.clone()),
        host_name: user::host_name(),
        access: settings.log_requests.then(|| Arc::new(format)),
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

    #[test]
    fn a_pidfile_is_removed_only_by_its_maker_and_while_it_is_the_same_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pid");
        let written = write_pidfile(&path).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), format!("{}\n", std::process::id()));
        Made { pid: process::own_id() + 1, pidfile: Some(written.clone()) }.remove(&[]);
        assert!(path.exists());
        Made { pid: process::own_id(), pidfile: Some((path.clone(), written.1 + 1)) }.remove(&[]);
        assert!(path.exists());
        Made { pid: process::own_id(), pidfile: Some(written) }.remove(&[]);
        assert!(!path.exists());
        let path = Path::new("/nonexistent/pid");
        let settings = Settings { places: [("pidfile", "app.ini:3: pidfile".into())].into(), ..Settings::default() };
        let error = write_pidfile(path).unwrap_err();
        assert_eq!(
            failure(&settings, "pidfile", path, &error),
            "app.ini:3: pidfile: /nonexistent/pid: the directory does not exist; create /nonexistent"
        );
    }
}
