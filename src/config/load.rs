//! From arguments, environment and files to settings: the one function that the boot and every reload call.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use super::Settings;
use super::apply;
use super::error::{Error, Warning};
use super::gather::Gathered;

/// A setting from the command line, as `cli` reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Argument {
    /// Name of an option in the table.
    pub name: String,
    /// Value; `true` for a flag.
    pub value: String,
    /// As messages name it: `--processes`, `-p`, or the argument itself for a file.
    pub written: String,
}

/// A user of this system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// Login name.
    pub name: String,
    /// User id.
    pub uid: u32,
}

/// Looks up something of the system by name or number, as written.
pub type Lookup<T> = Box<dyn Fn(&str) -> Option<T>>;

/// What configuration has to know of the system. Filled in once by the boot and kept for reloads.
pub struct Facts {
    /// Directory rsgi was started in, absolute; relative files and directories start there.
    pub start_directory: PathBuf,
    /// Environment rsgi was started with; `UWSGI_NAME` variables in it are options.
    pub environment: Vec<(String, String)>,
    /// Host name (`%h`).
    pub hostname: String,
    /// Processors this process may use (`%k`).
    pub cpus: u32,
    /// Effective user id (`%u`).
    pub uid: u32,
    /// Effective group id (`%g`).
    pub gid: u32,
    /// Name of the user (`%U`); empty if it has none.
    pub user_name: String,
    /// Name of the group (`%G`); empty if it has none.
    pub group_name: String,
    /// Time of the start since 1970 (`%t`, `%T`).
    pub started: Duration,
    /// The program (`%b`).
    pub binary: PathBuf,
    /// True if systemd passed sockets (LISTEN_FDS): then none need be configured.
    pub inherited_sockets: bool,
    /// True when called again by a reload (`if-reload`).
    pub reloading: bool,
    /// Standard input, for a file named `-`; the same each time it is called.
    pub stdin: Box<dyn Fn() -> io::Result<Vec<u8>>>,
    /// Finds a user by its login name or its number in decimal.
    pub user: Lookup<User>,
    /// Finds the id of a group by name.
    pub group: Lookup<u32>,
    /// What is wrong with a `log-format`: what was expected.
    pub log_format_mistake: fn(&str) -> Option<String>,
}

/// A configuration without errors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// What to do.
    pub settings: Settings,
    /// What the operator should know.
    pub warnings: Vec<Warning>,
    /// What may interest somebody who looks closer (log level debug).
    pub notes: Vec<Warning>,
    /// All files that were read, absolute.
    pub files: Vec<PathBuf>,
    /// With `show-config`: all settings as one ini text.
    pub shown: Option<String>,
}

/// Reads everything. Relative names start at the start directory each time, so that a reload finds
/// the same files whatever `chdir` did since.
///
/// # Errors
/// All that is wrong: environment, arguments, then files line by line.
pub fn load(arguments: &[Argument], facts: &Facts) -> Result<Loaded, Vec<Error>> {
    let gathered = Gathered::collect(arguments, facts);
    apply::apply(gathered, facts)
}
