//! Configuration: files, command line and environment become one ordered list of settings, each with
//! its origin; placeholders are expanded; the option table (`options`) turns the list into [`Settings`].
//!
//! Host and user facts are passed in ([`Facts`]); nothing here knows sockets, processes or Python.

mod apply;
mod blocks;
mod cheaper;
pub mod daemons;
pub mod draft;
pub mod error;
mod expand;
pub mod file_systems;
mod gather;
pub mod hooks;
pub mod ini;
mod lifecycle;
mod load;
pub mod logs;
pub mod options;
mod privileges;
mod reports;
mod source;
#[cfg(test)]
mod tests;

pub use cheaper::{Algorithm, Busyness, Cheaper};
pub use error::{Error, Origin, Warning};
pub use lifecycle::{Harakiri, MemoryLimits, Recycle, Touch, Triggers};
pub use load::{Argument, Facts, Loaded, Lookup, User, load};
pub use privileges::{Background, PidFiles, Privileges};
pub use reports::{Report, Reports};

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

use crate::net::address::Address;
use crate::protocol::Protocol;
use crate::protocol::forwarded::Trusted;

/// One listening socket asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Socket {
    /// Where.
    pub address: Address,
    /// What it speaks.
    pub protocol: Protocol,
    /// Where it was asked for, as error messages print it (`app.ini:3`, `--http-socket`).
    pub origin: String,
    /// Each connection begins with a header of the PROXY protocol.
    pub proxy_protocol: bool,
}

/// An application and the path it is mounted at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// The mount point without a slash at its end; empty for the application at the root.
    pub path: String,
    /// File (`/srv/app.py`, `app.wsgi`) or `module:callable`, as written.
    pub what: String,
    /// Where it was asked for.
    pub origin: String,
}

/// User or group, resolved to a number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// User id.
    pub uid: Option<u32>,
    /// Group id.
    pub gid: Option<u32>,
}

/// How processes are called in `ps`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProcessNames {
    /// `auto-procname`: `rsgi master`, `rsgi worker 1`.
    pub auto: bool,
    /// `procname`: one title for all processes.
    pub all: Option<String>,
    /// `procname-master`.
    pub master: Option<String>,
    /// `procname-prefix` or `procname-prefix-spaced` (then with its space).
    pub prefix: String,
    /// `procname-append`.
    pub append: String,
}

/// Deadlines of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// Whole request head (`http-headers-timeout`, 10 s).
    pub head: Duration,
    /// Body: longest time without a byte (30 s).
    pub body: Duration,
    /// Body: least bytes a second beyond that time (`body-min-rate`, 100); 0: any.
    pub body_rate: u64,
    /// Response: longest time without progress (60 s).
    pub write: Duration,
    /// Idle keep-alive connection (`http-keepalive = N`, 75 s); zero closes after each response.
    pub keep_alive: Duration,
    /// Idle connection of a worker that goes and has no heir (`stop-linger`, 1 s).
    pub linger: Duration,
}

/// Everything that is configured, checked and with defaults filled in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Listening sockets in the order written.
    pub sockets: Vec<Socket>,
    /// `protocol`: what sockets inherited from systemd (LISTEN_FDS) speak; uwsgi by default.
    pub inherited_protocol: Protocol,
    /// Whether connections of inherited HTTP sockets begin with a header of the PROXY protocol.
    pub inherited_proxy_protocol: bool,
    /// `trusted-proxies`: who is believed about clients.
    pub trusted_proxies: Trusted,
    /// `fastcgi-stderr`: `wsgi.errors` goes to the web server too.
    pub fastcgi_stderr: bool,
    /// `listen`: the backlog asked for (100).
    pub listen: u32,
    /// Not `no-defer-accept`: TCP connections are accepted with their first bytes.
    pub defer_accept: bool,
    /// `chmod-socket`: mode of unix sockets.
    pub chmod_socket: Option<u32>,
    /// `chown-socket`.
    pub chown_socket: Option<Owner>,
    /// `vacuum`: remove unix sockets and pid files at the end.
    pub vacuum: bool,
    /// `processes`.
    pub processes: u32,
    /// `threads` per worker.
    pub threads: u32,
    /// `lazy-apps` or `lazy`: every worker imports for itself.
    pub lazy_apps: bool,
    /// `need-app`: exit with 22 when an application cannot be loaded (default true).
    pub need_app: bool,
    /// `chdir`, absolute (relative ones resolved from the start directory).
    pub chdir: Option<PathBuf>,
    /// `pythonpath`, in the order written; globs expanded by the loader after `chdir`.
    pub pythonpath: Vec<String>,
    /// `home`, `virtualenv`, `venv`, `pyhome`, with its origin for error messages.
    pub home: Option<(PathBuf, String)>,
    /// `module` or `wsgi`: `package.module[:callable or factory()]`, with its origin.
    pub module: Option<(String, String)>,
    /// `wsgi-file` or `file`, with its origin.
    pub wsgi_file: Option<(String, String)>,
    /// `callable` (default `application`).
    pub callable: Option<String>,
    /// `mount`.
    pub mounts: Vec<Mount>,
    /// `manage-script-name`.
    pub manage_script_name: bool,
    /// `env`: variables to set before Python starts, in order.
    pub env: Vec<(String, String)>,
    /// `uid`, with the name as written.
    pub uid: Option<u32>,
    /// `gid`.
    pub gid: Option<u32>,
    /// Login name of `uid`, for supplementary groups; none when it is a bare number without a name.
    pub user_name: Option<String>,
    /// What it keeps, gives up and limits besides.
    pub privileges: Privileges,
    /// `umask`.
    pub umask: Option<u32>,
    /// `max-fd`.
    pub max_fd: Option<u64>,
    /// `buffer-size`: longest request head in bytes; at least the default of 65536.
    pub buffer_size: usize,
    /// `limit-post`: longest request body in bytes; 0 is without limit.
    pub limit_post: u64,
    /// `post-buffering`: bodies above it go to a file. `None`: written as 0, bodies are streamed.
    pub post_buffering: Option<u64>,
    /// `response-buffer`: how far a generator may run ahead of its client, in bytes (1 MiB).
    pub response_buffer: usize,
    /// Deadlines.
    pub timeouts: Timeouts,
    /// `pidfile`, absolute.
    pub pidfile: Option<PathBuf>,
    /// The other pid files.
    pub pidfiles: PidFiles,
    /// `daemonize`, `daemonize2`; their log is `logto`.
    pub background: Option<Background>,
    /// `logto`, absolute.
    pub logto: Option<PathBuf>,
    /// False with `disable-logging`.
    pub log_requests: bool,
    /// False with `disable-sendfile`.
    pub sendfile: bool,
    /// False with `wsgi-disable-file-wrapper`.
    pub file_wrapper: bool,
    /// `log-format`; none is the default request line.
    pub log_format: Option<String>,
    /// The rest of what is configured about logs.
    pub logs: logs::Logs,
    /// `skip-atexit`: workers end without Python's `atexit` functions.
    pub skip_atexit: bool,
    /// `exit-on-reload`: a reload ends the server.
    pub exit_on_reload: bool,
    /// When workers are replaced.
    pub recycle: Recycle,
    /// When requests are stopped.
    pub harakiri: Harakiri,
    /// `attach-daemon` and its like.
    pub daemons: Vec<daemons::Daemon>,
    /// `reload-mercy`: how long those may take to end (3 s).
    pub reload_mercy: Duration,
    /// `hook-*` and `exec-*`, in the order written.
    pub hooks: Vec<hooks::Hook>,
    /// How many workers there are when.
    pub cheaper: Cheaper,
    /// What the master reloads on.
    pub triggers: Triggers,
    /// `stats`, `metrics-socket` and theirs.
    pub reports: Reports,
    /// `procname*` and `auto-procname`.
    pub process_names: ProcessNames,
    /// Where each option was written that was not left at its default, see [`Settings::place`].
    pub places: HashMap<&'static str, String>,
}

impl Settings {
    /// The head of a message about an option: `app.ini:3: chdir`, or `--chdir`.
    pub fn place<'a>(&'a self, option: &'a str) -> &'a str {
        self.places.get(option).map_or(option, String::as_str)
    }
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            sockets: Vec::new(),
            inherited_protocol: Protocol::Uwsgi,
            inherited_proxy_protocol: false,
            trusted_proxies: Trusted::default(),
            fastcgi_stderr: false,
            listen: 100,
            defer_accept: true,
            chmod_socket: None,
            chown_socket: None,
            vacuum: false,
            processes: 1,
            threads: 1,
            lazy_apps: false,
            need_app: true,
            chdir: None,
            pythonpath: Vec::new(),
            home: None,
            module: None,
            wsgi_file: None,
            callable: None,
            mounts: Vec::new(),
            manage_script_name: false,
            env: Vec::new(),
            uid: None,
            gid: None,
            user_name: None,
            privileges: Privileges::default(),
            umask: None,
            max_fd: None,
            buffer_size: 65536,
            limit_post: 0,
            post_buffering: Some(65536),
            response_buffer: 1 << 20,
            timeouts: Timeouts {
                head: Duration::from_secs(10),
                body: Duration::from_secs(30),
                body_rate: 100,
                write: Duration::from_secs(60),
                keep_alive: Duration::from_secs(75),
                linger: Duration::from_secs(1),
            },
            pidfile: None,
            pidfiles: PidFiles::default(),
            background: None,
            logto: None,
            log_requests: true,
            sendfile: true,
            file_wrapper: true,
            log_format: None,
            logs: logs::Logs::default(),
            skip_atexit: false,
            exit_on_reload: false,
            recycle: Recycle::default(),
            harakiri: Harakiri::default(),
            daemons: Vec::new(),
            reload_mercy: Duration::from_secs(3),
            hooks: Vec::new(),
            cheaper: Cheaper::default(),
            triggers: Triggers::default(),
            reports: Reports::default(),
            process_names: ProcessNames::default(),
            places: HashMap::new(),
        }
    }
}
