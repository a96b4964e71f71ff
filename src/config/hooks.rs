//! Hooks: what is to be done at points of the server's life (`hook-PHASE = action:argument`, `exec-PHASE = command`).

use std::path::PathBuf;

use super::Touch;
use super::draft::{Draft, Setting};
use super::file_systems::{MountFs, UnmountFs};

/// A point in the server's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Right after the configuration is read.
    Asap,
    /// After it: `file-write`.
    Files,
    /// Before privileges are given up, in this order; there is no jail.
    PreJail,
    /// See above.
    PostJail,
    /// See above.
    InJail,
    /// See above: `wait-for-*`.
    BeforeRoot,
    /// See above, the last one.
    AsRoot,
    /// After privileges were given up.
    AsUser,
    /// In the master, when it begins its work.
    MasterStart,
    /// Before each import of the application.
    PreApp,
    /// After it.
    PostApp,
    /// In each worker, right after it was forked.
    PostFork,
    /// In each worker, before it accepts.
    Accepting,
    /// The same, for a worker number that serves for the first time since the start or the last reload.
    AcceptingOnce,
    /// In the first worker alone.
    Accepting1,
    /// See [`Phase::AcceptingOnce`].
    Accepting1Once,
    /// In the master, when a file is touched.
    Touch,
    /// In the master at the end.
    AtExit,
}

/// What a function of uWSGI named in `unix_signal` does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Function {
    /// `gracefully_kill_them_all`: requests are finished, then the server stops.
    Stop,
    /// `kill_them_all`: it stops at once.
    End,
    /// `grace_them_all`, `reap_them_all`.
    Reload,
}

/// What is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Awaited {
    /// Something of this name in the file system.
    Path,
    /// A file.
    File,
    /// A folder.
    Folder,
    /// A folder on which something is mounted.
    MountPoint,
    /// An address that accepts connections.
    Socket,
    /// A network interface that is up.
    Interface,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Deed {
    /// `exec`: a shell command that must succeed; `safeexec`: that may fail.
    Exec(String, bool),
    /// `write`, `writen` (with a line feed), `append`, `appendn`: a file and its text; whether it is appended.
    Write(PathBuf, String, bool),
    /// `writefifo`: a fifo that somebody reads; `spinningfifo`: waits until somebody does.
    WriteFifo(PathBuf, String, bool),
    /// `touch`, `create`, `creat`.
    Create(PathBuf),
    /// `mkdir`.
    MakeFolder(PathBuf),
    /// `unlink`.
    Unlink(PathBuf),
    /// `rename`: old and new name.
    Rename(PathBuf, PathBuf),
    /// `chmod`.
    Mode(PathBuf, u32),
    /// `sticky`: the sticky bit.
    Sticky(PathBuf),
    /// `chown`, `chown2`: a file, its user and group as written.
    Owner(PathBuf, String, String),
    /// `cd`, `chdir`.
    Enter(PathBuf),
    /// `putenv`.
    Set(String, String),
    /// `print`, `log`.
    Print(String),
    /// `mount`.
    Mount(MountFs),
    /// `umount`.
    Unmount(UnmountFs),
    /// `hostname`: the machine's name.
    Name(String),
    /// `wait_for_*`: no longer than so many seconds.
    Wait(Awaited, String, u64),
    /// `unix_signal`: what a signal to the master means from now on.
    Signal(i32, Function),
}

/// A deed and its time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hook {
    /// When.
    pub phase: Phase,
    /// What.
    pub deed: Deed,
    /// As written, for the log; without its argument when it is marked with `!`.
    pub shown: String,
}

/// Those that the master hears: HUP, INT, QUIT, USR1, USR2, ALRM, TERM, TSTP, TTIN, TTOU, URG, WINCH.
const SIGNALS: [i32; 12] = [1, 2, 3, 10, 12, 14, 15, 20, 21, 22, 23, 28];

/// Seconds that `wait_for_*` waits, as in uWSGI.
pub(super) const WAIT: u64 = 60;

const ACTIONS: &str = "exec, safeexec, write, writen, append, appendn, writefifo, spinningfifo, touch, create, mkdir, unlink, \
                       rename, chmod, chown, sticky, chdir, putenv, print, mount, umount, hostname, wait_for_fs, wait_for_file, wait_for_dir, \
                       wait_for_socket or unix_signal, a colon and what it is about";

/// Why an action of uWSGI is none here.
fn refused(action: &str) -> Option<&'static str> {
    Some(match action {
        "call" | "callret" | "callint" | "callintret" => {
            "no function of uWSGI's C code; those that stop or reload are known to unix_signal in hook-master-start"
        }
        "alarm" => "no alarm, there are none; use exec: or print:",
        "exit" => "no start that ends by itself: exec: with a command that fails ends it",
        "rpc" | "retryrpc" => "no rpc, there is none; use exec:",
        _ => return None,
    })
}

const MOUNT: &str = "mount: and a type, a source, a folder and, if wanted, flags with commas between and the type's own data, with \
                     blanks between (as mount:tmpfs none /run/x nodev,nosuid size=1m)";
const UNMOUNT: &str = "umount: and a folder and, if wanted, force, detach, rec";

/// The deed of a hook.
///
/// # Errors
/// What would be right.
fn parse(text: &str) -> Result<Deed, &'static str> {
    let (action, argument) = match text.split_once(':') {
        Some(parts) => parts,
        None if text == "exit" => (text, ""),
        None => return Err(ACTIONS),
    };
    let file_and_text = |made: fn(PathBuf, String) -> Deed| {
        let (file, text) = argument.split_once(' ').unwrap_or((argument, ""));
        Ok(made(file.into(), text.to_owned()))
    };
    if argument.trim().is_empty() && !matches!(action, "print" | "log") && refused(action).is_none() {
        return Err(ACTIONS);
    }
    let wait = |what| Ok(Deed::Wait(what, argument.to_owned(), WAIT));
    match action {
        "exec" => Ok(Deed::Exec(argument.into(), true)),
        "safeexec" => Ok(Deed::Exec(argument.into(), false)),
        "write" => file_and_text(|file, text| Deed::Write(file, text, false)),
        "writen" => file_and_text(|file, text| Deed::Write(file, format!("{text}\n"), false)),
        "append" => file_and_text(|file, text| Deed::Write(file, text, true)),
        "appendn" => file_and_text(|file, text| Deed::Write(file, format!("{text}\n"), true)),
        "writefifo" => file_and_text(|file, text| Deed::WriteFifo(file, text, false)),
        "spinningfifo" => file_and_text(|file, text| Deed::WriteFifo(file, text, true)),
        "touch" | "create" | "creat" => Ok(Deed::Create(argument.into())),
        "mkdir" => Ok(Deed::MakeFolder(argument.into())),
        "unlink" => Ok(Deed::Unlink(argument.into())),
        "rename" => match argument.split_once(' ') {
            Some((old, new)) if !new.is_empty() => Ok(Deed::Rename(old.into(), new.into())),
            _ => Err("rename: and two names"),
        },
        "chmod" => {
            let parts = argument.rsplit_once(' ').and_then(|(file, mode)| Some((file, octal(mode)?)));
            let (file, mode) = parts.ok_or("chmod: and a file and three or four octal digits")?;
            Ok(Deed::Mode(file.trim_end().into(), mode))
        }
        "chown" | "chown2" => {
            let mut words = argument.rsplitn(3, ' ');
            match (words.next(), words.next(), words.next()) {
                (Some(group), Some(user), Some(file)) if !group.is_empty() && !user.is_empty() && !file.is_empty() => {
                    Ok(Deed::Owner(file.into(), user.into(), group.into()))
                }
                _ => Err("chown: and a file, a user and a group, with blanks between"),
            }
        }
        "sticky" => Ok(Deed::Sticky(argument.into())),
        "cd" | "chdir" => Ok(Deed::Enter(argument.into())),
        "mount" => MountFs::parse(argument).map(Deed::Mount).ok_or(MOUNT),
        "umount" => UnmountFs::parse(argument).map(Deed::Unmount).ok_or(UNMOUNT),
        "hostname" => Ok(Deed::Name(argument.into())),
        "putenv" => {
            let (name, value) = argument.split_once('=').ok_or("putenv: and NAME=value")?;
            Ok(Deed::Set(name.into(), value.into()))
        }
        "print" | "log" => Ok(Deed::Print(argument.into())),
        "wait_for_fs" => wait(Awaited::Path),
        "wait_for_file" => wait(Awaited::File),
        "wait_for_dir" => wait(Awaited::Folder),
        "wait_for_socket" => wait(Awaited::Socket),
        "unix_signal" => {
            let function = argument.split_once(' ').and_then(|(number, function)| {
                let number = number.parse().ok().filter(|number| SIGNALS.contains(number))?;
                let function = match function.trim() {
                    "gracefully_kill_them_all" => Function::Stop,
                    "kill_them_all" => Function::End,
                    "grace_them_all" | "reap_them_all" => Function::Reload,
                    _ => return None,
                };
                Some(Deed::Signal(number, function))
            });
            function.ok_or(
                "unix_signal: and the number of a signal that the master hears and gracefully_kill_them_all, kill_them_all, \
                 grace_them_all or reap_them_all",
            )
        }
        // The one that files are known to use.
        "call" | "callret" if argument.starts_with("chdir ") => Ok(Deed::Enter(argument[6..].trim().into())),
        action => Err(refused(action).unwrap_or(ACTIONS)),
    }
}

fn octal(text: &str) -> Option<u32> {
    let fits = (1..=4).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    u32::from_str_radix(text, 8).ok().filter(|_| fits)
}

impl Draft<'_> {
    pub(super) fn hook(&mut self, s: &Setting, phase: Phase) {
        let (hidden, text) = match s.value.strip_prefix('!') {
            Some(text) => (true, text),
            None => (false, s.value.as_str()),
        };
        self.add_hook(s, phase, text, hidden);
    }

    fn add_hook(&mut self, s: &Setting, phase: Phase, text: &str, hidden: bool) {
        let in_python = matches!(
            phase,
            Phase::PostApp
                | Phase::PostFork
                | Phase::Accepting
                | Phase::AcceptingOnce
                | Phase::Accepting1
                | Phase::Accepting1Once
        );
        match parse(text) {
            Ok(Deed::Signal(..)) if phase != Phase::MasterStart => {
                self.error(s, "unix_signal in hook-master-start, where the master takes its signals");
            }
            Ok(Deed::Set(..)) if in_python => {
                self.error(s, "putenv in an earlier hook: Python has read the environment by then");
            }
            Ok(Deed::Wait(..) | Deed::WriteFifo(_, _, true) | Deed::Set(..) | Deed::Enter(_))
                if phase == Phase::Touch =>
            {
                self.error(s, "an action for which the master need not wait or change; exec: runs a program beside it");
            }
            Ok(deed) => {
                let shown = if hidden { text.split(':').next().unwrap_or_default() } else { text };
                self.settings.hooks.push(Hook { phase, deed, shown: format!("{} = {shown}", s.key) });
            }
            Err(expected) => self.error(s, expected),
        }
    }

    /// `hook-touch`: `FILE ACTION`; `touch-exec`: `FILE COMMAND`.
    pub(super) fn touch_hook(&mut self, s: &Setting, prefix: &str) {
        let parts = s.value.trim().split_once(' ').map(|(file, rest)| (file, rest.trim()));
        let Some((file, rest)) = parts.filter(|(_, rest)| !rest.is_empty()) else {
            return self.error(s, "a file, a blank, and what is to be done when it is touched");
        };
        let before = self.settings.hooks.len();
        self.add_hook(s, Phase::Touch, &format!("{prefix}{rest}"), false);
        if self.settings.hooks.len() > before {
            self.settings.triggers.touch.push((file.into(), Touch::Hook(before)));
        }
    }

    /// `wait-for-*`: before anything is done as root.
    pub(super) fn wait_for(&mut self, s: &Setting, what: Awaited) {
        if let Some(name) = self.text(s) {
            let shown = format!("{} = {name}", s.key);
            self.settings.hooks.push(Hook { phase: Phase::BeforeRoot, deed: Deed::Wait(what, name, WAIT), shown });
        }
    }

    /// `wait-for-*-timeout`, whichever comes first.
    pub(super) fn wait_limit(&mut self, s: &Setting, whom: &'static [Awaited]) {
        if let Some(seconds) = self.number(s, 0..=i32::MAX as u64) {
            self.wait_limits.push((whom, seconds));
        }
    }

    /// What was written behind it counts too.
    pub(super) fn finish_waits(&mut self) {
        for (whom, limit) in std::mem::take(&mut self.wait_limits) {
            for hook in self.settings.hooks.iter_mut().filter(|hook| hook.phase == Phase::BeforeRoot) {
                if let Deed::Wait(what, _, seconds) = &mut hook.deed
                    && whom.contains(what)
                {
                    *seconds = limit;
                }
            }
        }
    }

    /// `mount-PHASE`, `umount-PHASE`: a hook with this action.
    pub(super) fn deed(&mut self, s: &Setting, phase: Phase, action: &str) {
        if let Some(argument) = self.text(s) {
            self.add_hook(s, phase, &format!("{action}:{argument}"), false);
        }
    }

    /// `file-write`: `FILE=TEXT`.
    pub(super) fn file_write(&mut self, s: &Setting) {
        match s.value.split_once('=') {
            Some((file, text)) if !file.is_empty() => {
                let deed = Deed::Write(file.into(), format!("{text}\n"), false);
                self.settings.hooks.push(Hook { phase: Phase::Files, deed, shown: format!("{} = {}", s.key, s.value) });
            }
            _ => self.error(s, "a file, = and the text to write into it"),
        }
    }

    pub(super) fn exec(&mut self, s: &Setting, phase: Phase) {
        if let Some(command) = self.text(s) {
            let shown = format!("{} = {command}", s.key);
            self.settings.hooks.push(Hook { phase, deed: Deed::Exec(command, true), shown });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn actions_are_read_with_what_they_are_about() {
        assert_eq!(parse("exec:a b:c"), Ok(Deed::Exec("a b:c".into(), true)));
        assert_eq!(parse("writen:/f some text"), Ok(Deed::Write("/f".into(), "some text\n".into(), false)));
        assert_eq!(parse("append:/f"), Ok(Deed::Write("/f".into(), String::new(), true)));
        assert_eq!(parse("writefifo:/f x y"), Ok(Deed::WriteFifo("/f".into(), "x y".into(), false)));
        assert_eq!(parse("putenv:A=b=c"), Ok(Deed::Set("A".into(), "b=c".into())));
        assert_eq!(parse("chmod:/a b 1777"), Ok(Deed::Mode("/a b".into(), 0o1777)));
        assert_eq!(parse("chown:/a b web 33"), Ok(Deed::Owner("/a b".into(), "web".into(), "33".into())));
        assert_eq!(parse("rename:/a /b"), Ok(Deed::Rename("/a".into(), "/b".into())));
        assert_eq!(parse("wait_for_dir:/a"), Ok(Deed::Wait(Awaited::Folder, "/a".into(), WAIT)));
        assert_eq!(parse("callret:chdir /"), Ok(Deed::Enter("/".into())));
        assert_eq!(parse("unix_signal:15 gracefully_kill_them_all"), Ok(Deed::Signal(15, Function::Stop)));
        assert_eq!(parse("hostname:web1"), Ok(Deed::Name("web1".into())));
        assert!(matches!(parse("mount:none /a /b bind"), Ok(Deed::Mount(_))));
        assert!(matches!(parse("umount:/b"), Ok(Deed::Unmount(_))));
        assert_eq!(parse("print:"), Ok(Deed::Print(String::new())));
        for wrong in [
            "exec",
            "exec:",
            "touch: ",
            "dance:x",
            "chmod:/a 9",
            "chmod:/a",
            "chown:/a web",
            "chown:/a web:www",
            "rename:/a",
            "exit",
            "putenv:A",
            "unix_signal:15 exit",
            "mount:tmpfs /a",
            "umount:/a loudly",
            "unix_signal:9 grace_them_all",
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn actions_of_uwsgi_that_are_none_here_are_refused_with_a_reason() {
        for (action, reason) in [("call:sync", "C code"), ("alarm:x y", "alarm"), ("rpc:x", "rpc"), ("exit:1", "ends")]
        {
            assert!(parse(action).is_err_and(|why| why.contains(reason) && why != ACTIONS), "{action}");
        }
    }
}
