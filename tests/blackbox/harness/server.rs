//! Starts the program under test and judges how it ends.
//!
//! The test binds TCP sockets itself and hands them over as `fd://N`: no port is chosen twice, and
//! clients may connect before the server has even started. Everything a server writes lands in its
//! own temporary folder. A server that is dropped is stopped and judged: its exit code, its log, the
//! processes and files it leaves.

use std::fs::File;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Instant;

use command_fds::{CommandFdExt, FdMapping};
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use socket2::{Domain, Socket, Type};
use tempfile::TempDir;

use super::http::{Client, Endpoint, Response, get};
use super::{HANGS_BY, Subject, apps, fastcgi, patience, program, scgi, subject, trouble, uwsgi, wait_until};

/// The first descriptor handed over; the ones below are left to whoever starts the server.
const FIRST_FD: i32 = 7;

/// How a server is to be started.
pub struct Setup {
    folder: TempDir,
    ini: Vec<(String, String)>,
    raw_ini: Option<Vec<u8>>,
    arguments: Option<Vec<String>>,
    more_arguments: Vec<String>,
    environment: Vec<(String, String)>,
    inherited: Vec<OwnedFd>,
    endpoints: Vec<(Endpoint, Speaks)>,
    shell: Option<String>,
    start_folder: Option<PathBuf>,
    ready: bool,
    allowed: Vec<String>,
    program: Option<PathBuf>,
}

/// What a test speaks to an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speaks {
    Http,
    Uwsgi,
    Scgi,
    FastCgi,
}

/// A listening TCP socket on a port that the system chose.
pub fn listen_tcp(address: &str) -> (OwnedFd, SocketAddr) {
    let address: SocketAddr = address.parse().expect("an address");
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).expect("socket");
    socket.bind(&address.into()).unwrap_or_else(|error| trouble(format!("cannot bind {address}: {error}")));
    socket.listen(1024).expect("listen");
    let bound = socket.local_addr().expect("its address").as_socket().expect("a TCP address");
    (socket.into(), bound)
}

/// An application of one file that answers with this text.
pub fn says(text: &str) -> String {
    format!(
        "def application(environ, start_response):\n    start_response('200 OK', [('Content-Length', '{}')])\n    return [b'{text}']\n",
        text.len()
    )
}

impl Setup {
    /// A server without sockets and application.
    pub fn bare() -> Setup {
        let folder = tempfile::Builder::new().prefix("rsgi-test-").tempdir().expect("a temporary folder");
        // So that tests can let the server run as somebody else.
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(folder.path(), open).expect("permissions");
        Setup {
            folder,
            ini: vec![
                ("master".into(), "true".into()),
                // rsgi stops on TERM without being asked, uWSGI needs to be told.
                ("die-on-term".into(), "true".into()),
                ("need-app".into(), "true".into()),
                ("vacuum".into(), "true".into()),
            ],
            raw_ini: None,
            arguments: None,
            more_arguments: Vec::new(),
            environment: Vec::new(),
            inherited: Vec::new(),
            endpoints: Vec::new(),
            shell: None,
            start_folder: None,
            ready: true,
            allowed: Vec::new(),
            program: None,
        }
    }

    /// A server without sockets for `tests/apps/NAME.py`.
    pub fn of(app: &str) -> Setup {
        let setup = Setup::bare();
        setup.set("pythonpath", apps().display().to_string()).set("module", app)
    }

    /// A server for `tests/apps/NAME.py` on one HTTP socket.
    pub fn http(app: &str) -> Setup {
        Setup::of(app).listen("http-socket", Speaks::Http)
    }

    /// A server for `tests/apps/NAME.py` on one uwsgi socket.
    pub fn uwsgi(app: &str) -> Setup {
        Setup::of(app).listen("socket", Speaks::Uwsgi)
    }

    /// A server for `tests/apps/NAME.py` on one SCGI socket.
    pub fn scgi(app: &str) -> Setup {
        Setup::of(app).listen("scgi-socket", Speaks::Scgi)
    }

    /// A server for `tests/apps/NAME.py` on one FastCGI socket.
    pub fn fastcgi(app: &str) -> Setup {
        Setup::of(app).listen("fastcgi-socket", Speaks::FastCgi)
    }

    /// Binds a TCP socket and hands it over with the option `key`.
    pub fn listen(mut self, key: &str, speaks: Speaks) -> Setup {
        let (fd, address) = listen_tcp("127.0.0.1:0");
        let number = self.inherit(fd);
        self.endpoints.push((Endpoint::Tcp(address), speaks));
        self.set(key, format!("fd://{number}"))
    }

    /// Hands a descriptor over; the answer is its number in the server.
    pub fn inherit(&mut self, fd: OwnedFd) -> i32 {
        self.inherited.push(fd);
        FIRST_FD + self.inherited.len() as i32 - 1
    }

    /// A unix socket that the server binds, in the server's folder.
    pub fn listen_unix(mut self, key: &str, name: &str, speaks: Speaks) -> Setup {
        let path = self.path(name);
        self.endpoints.push((Endpoint::Unix(path.clone()), speaks));
        self.set(key, path.display().to_string())
    }

    /// Another endpoint that the configuration makes the server listen on.
    pub fn endpoint(mut self, endpoint: Endpoint, speaks: Speaks) -> Setup {
        self.endpoints.push((endpoint, speaks));
        self
    }

    /// A path in the server's folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Adds a line to the ini file.
    pub fn set(mut self, key: &str, value: impl Into<String>) -> Setup {
        self.ini.push((key.into(), value.into()));
        self
    }

    /// Takes all lines with this key out of the ini file.
    pub fn unset(mut self, key: &str) -> Setup {
        self.ini.retain(|(known, _)| known != key);
        self
    }

    /// The whole ini file, byte for byte.
    pub fn ini(mut self, text: impl AsRef<[u8]>) -> Setup {
        self.raw_ini = Some(text.as_ref().to_vec());
        self
    }

    /// The whole command line instead of `--ini FILE`.
    pub fn arguments(mut self, arguments: &[&str]) -> Setup {
        self.arguments = Some(arguments.iter().map(|&word| word.to_owned()).collect());
        self
    }

    /// Words behind `--ini FILE`.
    pub fn and_arguments(mut self, arguments: &[&str]) -> Setup {
        self.more_arguments.extend(arguments.iter().map(|&word| word.to_owned()));
        self
    }

    /// An environment variable.
    pub fn env(mut self, name: &str, value: impl Into<String>) -> Setup {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// Starts through `sh -c`; the script runs the server with `exec "$@"`.
    pub fn shell(mut self, script: &str) -> Setup {
        self.shell = Some(script.into());
        self
    }

    /// Starts in this folder and not in the server's own.
    pub fn start_in(mut self, folder: impl Into<PathBuf>) -> Setup {
        self.start_folder = Some(folder.into());
        self
    }

    /// Does not ask the server whether it serves yet.
    pub fn unasked(mut self) -> Setup {
        self.ready = false;
        self
    }

    /// Starts this file, which is (a link to) the program under test.
    pub fn program(mut self, path: impl Into<PathBuf>) -> Setup {
        self.program = Some(path.into());
        self
    }

    /// Errors with this text belong to the test.
    pub fn allow(mut self, text: &str) -> Setup {
        self.allowed.push(text.into());
        self
    }

    /// Writes a file into the server's folder.
    pub fn file(self, name: &str, content: impl AsRef<[u8]>) -> Setup {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        std::fs::write(path, content).expect("a file");
        self
    }

    /// A server whose application is the file `served.py` in its folder, which says `old` until the test changes it.
    pub fn with_file() -> Setup {
        let setup = Setup::bare().file("served.py", says("old"));
        let folder = setup.path("").display().to_string();
        setup.listen("http-socket", Speaks::Http).set("chdir", folder).set("wsgi-file", "served.py")
    }

    /// Writes the ini file as it stands now.
    fn write_ini(&self) {
        let text = match &self.raw_ini {
            Some(text) => text.clone(),
            None => {
                let mut text = b"[uwsgi]\n".to_vec();
                for (key, value) in &self.ini {
                    // `%` begins a magic variable.
                    text.extend_from_slice(format!("{key} = {}\n", value.replace("%", "%%")).as_bytes());
                }
                text
            }
        };
        std::fs::write(self.path("app.ini"), text).expect("the ini file");
    }

    fn spawn(self) -> Server {
        self.write_ini();
        let mut words: Vec<String> = Vec::new();
        if let Some(script) = &self.shell {
            words.extend(["/bin/sh".into(), "-c".into(), script.clone(), "sh".into()]);
        }
        words.push(self.program.clone().unwrap_or_else(program).display().to_string());
        match &self.arguments {
            Some(arguments) => words.extend(arguments.iter().cloned()),
            None => words.extend(["--ini".into(), self.path("app.ini").display().to_string()]),
        }
        words.extend(self.more_arguments.iter().cloned());

        let log = self.path("log");
        let output = File::create(&log).expect("the log");
        let mut command = Command::new(&words[0]);
        // Both take every UWSGI_* for an option: only the test's own are given.
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"UWSGI_")) {
            command.env_remove(name);
        }
        command
            .args(&words[1..])
            .current_dir(self.start_folder.as_deref().unwrap_or(self.folder.path()))
            .env("TEST_FOLDER", self.folder.path())
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(output.try_clone().expect("the log"))
            .stderr(output)
            .process_group(0);
        if subject() == Subject::Uwsgi {
            // Its workers overlook a signal that comes while they start.
            command.env("UWSGI_WORKER_RELOAD_MERCY", "2");
        }
        let mappings = self
            .inherited
            .iter()
            .zip(FIRST_FD..)
            .map(|(fd, number)| FdMapping {
                parent_fd: fd.as_fd().try_clone_to_owned().expect("a descriptor"),
                child_fd: number,
            })
            .collect();
        command.fd_mappings(mappings).expect("descriptors");
        let child = command.spawn().unwrap_or_else(|error| trouble(format!("cannot start {}: {error}", words[0])));
        // What only the server holds is closed when the server is gone.
        Server {
            group: Pid::from_raw(child.id() as i32),
            child,
            endpoints: self.endpoints,
            log,
            allowed: self.allowed,
            ini: self.ini,
            folder: self.folder,
            ended: None,
            judged: false,
            stopping: false,
        }
    }

    /// Starts the server and waits until every endpoint answers.
    #[track_caller]
    pub fn start(self) -> Server {
        let ready = self.ready;
        let mut server = self.spawn();
        if ready {
            server.wait_until_serving();
        }
        server
    }

    /// Starts a server that is expected to end by itself.
    #[track_caller]
    pub fn run(self) -> Ended {
        let mut server = self.spawn();
        let status = server.wait();
        server.judged = true;
        server.expect_no_processes();
        Ended { code: status.code().unwrap_or(-1), log: server.log(), left: server.left_files(), server }
    }
}

/// What a server ends with that has no application.
const NO_APP: i32 = 22;

/// How a program ended that was expected to.
pub struct Ended {
    pub code: i32,
    pub log: String,
    /// Sockets and pid files that it left.
    pub left: Vec<PathBuf>,
    server: Server,
}

impl Ended {
    /// Fails the test unless the exit code is this one and one line has all of `texts`.
    #[track_caller]
    pub fn expect(&self, code: i32, texts: &[&str]) -> &Ended {
        assert_eq!(self.code, code, "exit code; log:\n{}", self.log);
        assert!(
            self.log.lines().any(|line| texts.iter().all(|text| line.contains(text))),
            "no line with all of {texts:?} in:\n{}",
            self.log
        );
        assert!(!self.log.contains("panicked at"), "{}", self.log);
        assert!(self.left.is_empty(), "left behind: {:?}", self.left);
        self
    }

    /// A path in the folder it ran in.
    pub fn path(&self, name: &str) -> PathBuf {
        self.server.path(name)
    }
}

/// A running server.
pub struct Server {
    child: Child,
    group: Pid,
    endpoints: Vec<(Endpoint, Speaks)>,
    log: PathBuf,
    allowed: Vec<String>,
    ini: Vec<(String, String)>,
    folder: TempDir,
    ended: Option<ExitStatus>,
    judged: bool,
    stopping: bool,
}

impl Server {
    #[track_caller]
    fn wait_until_serving(&mut self) {
        let end = Instant::now() + patience();
        for (endpoint, speaks) in self.endpoints.clone() {
            let mut last;
            loop {
                match is_serving(&endpoint, speaks) {
                    Ok(()) => break,
                    Err(error) => last = error,
                }
                if let Some(status) = self.try_wait() {
                    panic!("the server ended with {status} instead of serving:\n{}", self.log());
                }
                if Instant::now() > end {
                    panic!("{endpoint:?} does not serve ({last}):\n{}", self.log());
                }
                std::thread::park_timeout(std::time::Duration::from_millis(5));
            }
        }
    }

    /// Its first endpoint.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoints[0].0
    }

    /// Its endpoint number `n`, from 0.
    pub fn endpoint_at(&self, n: usize) -> &Endpoint {
        &self.endpoints[n].0
    }

    /// A new connection to the first endpoint.
    #[track_caller]
    pub fn connect(&self) -> Client {
        self.endpoint().connect()
    }

    /// The answer to `GET target` on a connection of its own.
    #[track_caller]
    pub fn get(&self, target: &str) -> Response {
        self.connect().send(get(target)).response()
    }

    /// The answer to `GET target` during a reload. uWSGI may lose the request then, rsgi never.
    #[track_caller]
    pub fn poll(&self, target: &str) -> Option<Response> {
        match subject() {
            Subject::Rsgi => Some(self.get(target).expect(200)),
            Subject::Uwsgi => {
                let mut client = self.endpoint().try_connect().ok()?;
                client.try_send(get(target)).ok()?;
                client.try_response_to("GET").ok()
            }
        }
    }

    /// The answer to these bytes on a connection of their own.
    #[track_caller]
    pub fn ask(&self, request: impl AsRef<[u8]>) -> Response {
        self.connect().send(request).response()
    }

    /// The answer to a uwsgi request without a body.
    #[track_caller]
    pub fn get_uwsgi(&self, target: &str) -> Response {
        uwsgi::exchange(self.endpoint(), "GET", target, b"", &[])
    }

    /// The master's process id.
    pub fn pid(&self) -> Pid {
        self.group
    }

    /// A path in its folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Changes a line of its ini file, or adds one.
    pub fn rewrite(&mut self, key: &str, value: &str) {
        self.ini.retain(|(known, _)| known != key);
        self.ini.push((key.into(), value.into()));
        let mut text = String::from("[uwsgi]\n");
        for (key, value) in &self.ini {
            text.push_str(&format!("{key} = {}\n", value.replace('%', "%%")));
        }
        std::fs::write(self.path("app.ini"), text).expect("the ini file");
    }

    /// Everything it has written so far.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Waits until a line of its log has all these texts.
    #[track_caller]
    pub fn wait_for_log(&self, texts: &[&str]) {
        let has = |log: String| log.lines().any(|line| texts.iter().all(|text| line.contains(text)));
        let end = Instant::now() + patience();
        while !has(self.log()) {
            assert!(Instant::now() < end, "no line with all of {texts:?} in:\n{}", self.log());
            std::thread::park_timeout(std::time::Duration::from_millis(5));
        }
    }

    /// Sends a signal to the master.
    #[track_caller]
    pub fn signal(&self, signal: Signal) {
        if subject() == Subject::Uwsgi && signal == Signal::SIGHUP {
            // It ignores this one until its master has started all workers, which may serve before that.
            let end = Instant::now() + HANGS_BY;
            while !catches(self.group, signal) && Instant::now() < end {
                std::thread::park_timeout(std::time::Duration::from_millis(5));
            }
        }
        kill(self.group, signal).expect("the master lives");
    }

    /// Sends a signal to the whole process group.
    #[track_caller]
    pub fn signal_group(&self, signal: Signal) {
        killpg(self.group, signal).expect("the group lives");
    }

    /// Whether it has ended.
    pub fn try_wait(&mut self) -> Option<ExitStatus> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().expect("wait");
        }
        self.ended
    }

    /// Waits for its end.
    #[track_caller]
    pub fn wait(&mut self) -> ExitStatus {
        // uWSGI overlooks stops.
        let patience = if self.stopping && subject() == Subject::Uwsgi { HANGS_BY } else { patience() };
        let end = Instant::now() + patience;
        let mut asked_again = self.stopping.then(|| Instant::now() + HANGS_BY / 3);
        loop {
            if let Some(status) = self.try_wait() {
                return status;
            }
            assert!(Instant::now() < end, "the server does not end:\n{}", self.log());
            if subject() == Subject::Uwsgi && asked_again.is_some_and(|at| Instant::now() > at) {
                // uWSGI overlooks a signal that comes while its master still starts.
                let _ = kill(self.group, Signal::SIGTERM);
                asked_again = None;
            }
            std::thread::park_timeout(std::time::Duration::from_millis(5));
        }
    }

    /// Waits until no process of its group is left.
    #[track_caller]
    pub fn expect_no_processes(&self) {
        wait_until("no process is left", || processes_of(self.group).is_empty());
    }

    /// Sockets and pid files in its folder.
    fn left_files(&self) -> Vec<PathBuf> {
        let mut left = Vec::new();
        let mut folders = vec![self.folder.path().to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
                let path = entry.path();
                let Ok(kind) = entry.file_type() else { continue };
                // What a test puts there on purpose is in a folder named `kept`.
                if kind.is_dir() && !path.ends_with("kept") {
                    folders.push(path);
                } else if kind.is_socket() || path.extension().is_some_and(|extension| extension == "pid") {
                    left.push(path);
                }
            }
        }
        left
    }

    /// Judges a server that has ended or is ending.
    #[track_caller]
    pub fn expect_end(mut self) {
        self.judge();
    }

    /// Takes the end of a server that was killed or gave up as it is.
    #[track_caller]
    pub fn expect_killed(mut self) {
        self.wait();
        self.expect_no_processes();
        self.judged = true;
    }

    /// Ends whatever is left of it.
    fn kill_all(&mut self) {
        if !processes_of(self.group).is_empty() {
            // The group of processes that this harness made; nobody else is in it.
            let _ = killpg(self.group, Signal::SIGKILL);
        }
        if self.ended.is_none() {
            let _ = self.child.wait();
        }
    }

    #[track_caller]
    fn stop_and_judge(&mut self) {
        if self.try_wait().is_none() {
            self.stopping = true;
            self.signal(Signal::SIGTERM);
        }
        if subject() == Subject::Uwsgi && catch_unwind(AssertUnwindSafe(|| self.wait())).is_err() {
            // Now and then a worker of uWSGI's overlooks the stop. It has answered what the test asked.
            self.judged = true;
            return self.kill_all();
        }
        if subject() == Subject::Uwsgi && self.stopping && self.ended.and_then(|end| end.code()) == Some(NO_APP) {
            // One that just imported the application was interrupted in it, and said that there is none.
            self.judged = true;
            return self.expect_no_processes();
        }
        self.judge();
    }

    #[track_caller]
    fn judge(&mut self) {
        let status = self.wait();
        self.judged = true;
        let log = self.log();
        let found = status.code().unwrap_or(-status.signal().unwrap_or(0));
        assert_eq!(found, 0, "exit code; log:\n{log}");
        self.expect_no_processes();
        let left = self.left_files();
        assert!(left.is_empty(), "left behind: {left:?}; log:\n{log}");
        // A worker of uWSGI's that a stop finds in Python says so with a traceback.
        let stop =
            if subject() == Subject::Uwsgi && self.stopping { log.find("SIGINT/SIGTERM received") } else { None };
        if let Some(line) = first_complaint(&log[..stop.unwrap_or(log.len())], &self.allowed) {
            panic!("unexpected in the log: {line}\nthe log:\n{log}");
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the server's log:\n{}---", self.log());
            self.kill_all();
        } else if !self.judged {
            let judged = catch_unwind(AssertUnwindSafe(|| self.stop_and_judge()));
            if let Err(panic) = judged {
                self.kill_all();
                resume_unwind(panic);
            }
        }
    }
}

/// Whether one request is answered on an endpoint.
fn is_serving(endpoint: &Endpoint, speaks: Speaks) -> Result<(), String> {
    let mut client = endpoint.try_connect().map_err(|error| error.to_string())?;
    match speaks {
        Speaks::Http => {
            let request = "GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n";
            client.try_send(request).map_err(|error| error.to_string())?;
            client.try_response_to("GET").map(drop)
        }
        Speaks::Scgi => {
            client
                .try_send(scgi::request("GET", "/", b"", &[("PATH_INFO", "/")]))
                .map_err(|error| error.to_string())?;
            client.try_response_to("GET").map(drop)
        }
        Speaks::FastCgi => {
            client.try_send(fastcgi::request(1, "GET", "/", b"", false)).map_err(|error| error.to_string())?;
            let answer = client.try_rest().map_err(|error| error.to_string())?;
            if answer.is_empty() { Err("closed without an answer".into()) } else { Ok(()) }
        }
        Speaks::Uwsgi => {
            client.try_send(uwsgi::request("GET", "/", &[])).map_err(|error| error.to_string())?;
            client.try_response_to("GET").map(drop)
        }
    }
}

/// Whether a process has a handler for a signal.
fn catches(pid: Pid, signal: Signal) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let caught = status.lines().find_map(|line| u64::from_str_radix(line.strip_prefix("SigCgt:")?.trim(), 16).ok());
    caught.is_some_and(|caught| caught >> (signal as u64 - 1) & 1 == 1)
}

/// The living processes of a process group.
pub fn processes_of(group: Pid) -> Vec<i32> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").expect("/proc").flatten() {
        let name = entry.file_name();
        let Some(pid) = name.to_str().and_then(|text| text.parse::<i32>().ok()) else { continue };
        let Ok(stat) = std::fs::read_to_string(entry.path().join("stat")) else { continue };
        // The name in brackets may hold anything; the state and the numbers follow the last bracket.
        let Some((_, rest)) = stat.rsplit_once(") ") else { continue };
        let mut words = rest.split(' ');
        let (state, _parent, its_group) = (words.next(), words.next(), words.next());
        if its_group == Some(&group.to_string()) && !matches!(state, Some("Z" | "X")) {
            found.push(pid);
        }
    }
    found
}

/// The first line of a log that no test expects.
fn first_complaint<'a>(log: &'a str, allowed: &[String]) -> Option<&'a str> {
    let bad: &[&str] = match subject() {
        Subject::Rsgi => &["panicked at", "Traceback (most recent call last)", "ERROR", "error:", "Segmentation fault"],
        Subject::Uwsgi => &["Traceback (most recent call last)", "Segmentation Fault"],
    };
    let is_allowed = |line: &str| allowed.iter().any(|text| line.contains(text.as_str()));
    let lines: Vec<&str> = log.lines().collect();
    for (at, line) in lines.iter().enumerate() {
        // The head of what is said of an exception is judged by what follows, set in.
        let heads = ["exception in", "can't be imported", "can't be loaded", "can't be looked up"];
        let belongs = lines.get(at + 1).is_some_and(|next| next.starts_with("    "))
            && heads.iter().any(|head| line.contains(head));
        if bad.iter().any(|word| line.contains(word)) && !is_allowed(line) && !belongs {
            return Some(line);
        }
    }
    None
}

/// How many blocks the application's `/ahead` has made when it goes no further: it stands when it has not moved for a
/// hundred looks.
#[track_caller]
pub fn blocks_ahead(server: &Server) -> u64 {
    let file = server.path("ahead");
    let made = || std::fs::read_to_string(&file).ok().and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
    let (mut last, mut looks) = (0, 0);
    wait_until("the application stands", || {
        let now = made();
        looks = if now == last && now > 0 { looks + 1 } else { 0 };
        last = now;
        looks > 100
    });
    last
}
