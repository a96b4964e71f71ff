//! Programs that run beside the workers: `attach-daemon` and its like.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Touch;
use super::draft::{Draft, Setting, is_true};

/// Seconds in which a program that goes to the background by itself has to write its pid file, as in uWSGI.
const FREQUENCY: u64 = 10;

/// SIGTERM.
const TERMINATE: i32 = 15;

/// What becomes of a program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Care {
    /// `attach-daemon`: it is started again when it ends, and ends with the server.
    Attached,
    /// `attach-control-daemon`: the server stops when it ends.
    Control,
    /// `smart-attach-daemon`: it goes to the background by itself and writes its pid into the file; if it lives already it is
    /// let alone, and it outlives the server.
    Smart(PathBuf),
    /// `smart-attach-daemon2`: the same, but the server puts it into the background and writes the file.
    Smart2(PathBuf),
}

/// A program that runs beside the workers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Daemon {
    /// For the shell.
    pub command: String,
    /// What becomes of it.
    pub care: Care,
    /// The time in which it has to be in the background (10 s).
    pub patience: Duration,
    /// Ends it.
    pub stop_signal: i32,
    /// Sent when the server reloads and when one of its files is touched; none: it goes on, or is started again.
    pub reload_signal: Option<i32>,
    /// It keeps the server's standard input.
    pub stdin: bool,
    /// User to become.
    pub uid: Option<u32>,
    /// Group to become.
    pub gid: Option<u32>,
    /// Where it runs.
    pub folder: Option<PathBuf>,
    /// The longest pause before it is started again.
    pub longest_pause: Option<Duration>,
}

impl Daemon {
    /// One without wishes.
    pub fn new(command: impl Into<String>, care: Care) -> Daemon {
        Daemon {
            command: command.into(),
            care,
            patience: Duration::from_secs(FREQUENCY),
            stop_signal: TERMINATE,
            reload_signal: None,
            stdin: false,
            uid: None,
            gid: None,
            folder: None,
            longest_pause: None,
        }
    }
}

/// The parts of `a=b,c=d\,e`; a comma behind a backslash belongs to the value.
fn key_values(text: &str) -> Option<Vec<(String, String)>> {
    let mut parts = vec![String::new()];
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match (c, chars.peek()) {
            ('\\', Some(',')) => parts.last_mut()?.extend(chars.next()),
            (',', _) => parts.push(String::new()),
            _ => parts.last_mut()?.push(c),
        }
    }
    let pair =
        |part: &String| part.split_once('=').map(|(key, value)| (key.trim().to_owned(), value.trim().to_owned()));
    parts.iter().filter(|part| !part.trim().is_empty()).map(pair).collect()
}

impl Draft<'_> {
    pub(super) fn daemon(&mut self, s: &Setting, care: Care) {
        if let Some(command) = self.text(s) {
            self.settings.daemons.push(Daemon::new(command, care));
        }
    }

    /// `PIDFILE[,FREQUENCY] COMMAND`; relative files begin where the server started.
    pub(super) fn smart_daemon(&mut self, s: &Setting, care: fn(PathBuf) -> Care) {
        let parts = s.value.split_once(' ').filter(|(file, command)| !file.is_empty() && !command.trim().is_empty());
        let Some((file, command)) = parts else { return self.error(s, "PIDFILE COMMAND, or PIDFILE,SECONDS COMMAND") };
        let (file, seconds) = match file.split_once(',') {
            Some((file, seconds)) => (file, seconds.parse().ok()),
            None => (file, Some(FREQUENCY)),
        };
        let Some(seconds) = seconds else { return self.error(s, "seconds, a whole number, behind the comma") };
        let care = care(self.facts.start_directory.join(file));
        let patience = Duration::from_secs(seconds);
        self.settings.daemons.push(Daemon { patience, ..Daemon::new(command.trim(), care) });
    }

    /// `attach-daemon2`: `KEY=VALUE,...`.
    pub(super) fn keyed_daemon(&mut self, s: &Setting) {
        const KEYS: &str = "command, pidfile, freq, control, daemonize, touch, stopsignal, reloadsignal, stdin, uid, gid, chdir or \
                            max_throttle, each with = and a value, and commas between (\\, in a value)";
        let Some(pairs) = key_values(&s.value) else { return self.error(s, KEYS) };
        let mut daemon = Daemon::new("", Care::Attached);
        let (mut pidfile, mut control, mut background, mut touch) = (None, false, false, Vec::new());
        for (key, value) in pairs {
            let signal = || value.parse().ok().filter(|number| (1..=64).contains(number));
            let seconds = || value.parse().ok().map(Duration::from_secs);
            let user = || (self.facts.user)(&value).map(|user| user.uid);
            let group = || value.parse().ok().or_else(|| (self.facts.group)(&value));
            let expected = match key.as_str() {
                "command" | "cmd" | "exec" => {
                    daemon.command = value;
                    continue;
                }
                "pidfile" => {
                    pidfile = Some(self.facts.start_directory.join(value));
                    continue;
                }
                "freq" => seconds().map(|patience| daemon.patience = patience).ok_or("freq: a whole number of seconds"),
                "control" => {
                    control = is_true(&value);
                    continue;
                }
                "daemonize" | "daemon" => {
                    background = is_true(&value);
                    continue;
                }
                "touch" => {
                    touch.extend(value.split(';').filter(|file| !file.is_empty()).map(PathBuf::from));
                    continue;
                }
                "stopsignal" | "stop_signal" => {
                    signal().map(|signal| daemon.stop_signal = signal).ok_or("stopsignal: the number of a signal")
                }
                "reloadsignal" | "reload_signal" => signal()
                    .map(|signal| daemon.reload_signal = Some(signal))
                    .ok_or("reloadsignal: the number of a signal"),
                "stdin" => {
                    daemon.stdin = is_true(&value);
                    continue;
                }
                "uid" => user().map(|uid| daemon.uid = Some(uid)).ok_or("uid: a user of this system"),
                "gid" => group().map(|gid| daemon.gid = Some(gid)).ok_or("gid: a group of this system"),
                "chdir" => {
                    daemon.folder = Some(self.facts.start_directory.join(value));
                    continue;
                }
                "max_throttle" => seconds()
                    .map(|longest| daemon.longest_pause = Some(longest))
                    .ok_or("max_throttle: a whole number of seconds"),
                "ns_pid" if !is_true(&value) => continue,
                "ns_pid" => {
                    Err("no ns_pid: rsgi does not confine what it starts; let the command do it (unshare --pid --fork)")
                }
                "legion" => Err("no legion: there are none, the program would run on every node"),
                "notifypid" => Err("no notifypid: nobody is told the pid; use pidfile"),
                _ => Err(KEYS),
            };
            if let Err(expected) = expected {
                return self.error(s, expected);
            }
        }
        if daemon.command.is_empty() {
            return self.error(s, "command=, and what is to be started");
        }
        daemon.care = match (pidfile, background, control) {
            (Some(file), true, _) => Care::Smart2(file),
            (Some(file), false, _) => Care::Smart(file),
            (None, true, _) => return self.error(s, "pidfile= with daemonize=, or nobody knows whether it lives"),
            (None, false, true) => Care::Control,
            (None, false, false) => Care::Attached,
        };
        let index = self.settings.daemons.len();
        self.settings.triggers.touch.extend(touch.into_iter().map(|file| (file, Touch::Daemon(index))));
        self.settings.daemons.push(daemon);
    }

    /// `daemons-honour-stdin` is for all of them, wherever it stands.
    pub(super) fn finish_daemons(&mut self) {
        if self.daemons_keep_stdin {
            self.settings.daemons.iter_mut().for_each(|daemon| daemon.stdin = true);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comma_in_a_value_is_escaped() {
        let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        assert_eq!(
            key_values(r"cmd=a -x 1\,2 \n, freq=3,"),
            Some(vec![pair("cmd", r"a -x 1,2 \n"), pair("freq", "3")])
        );
        assert_eq!(key_values("cmd"), None);
        assert_eq!(key_values(""), Some(vec![]));
    }
}
