//! Hooks: what is to be done at points of the server's life (`hook-PHASE = action:argument`, `exec-PHASE = command`).

use std::path::PathBuf;

use super::draft::{Draft, Setting};

/// A point in the server's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Right after the configuration is read.
    Asap,
    /// Before privileges are given up, in this order; there is no jail.
    PreJail,
    /// See above.
    PostJail,
    /// See above.
    InJail,
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
    /// In each worker, before it accepts.
    Accepting,
    /// The same, in the first worker alone.
    Accepting1,
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

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Deed {
    /// `exec`: a shell command that must succeed; `safeexec`: that may fail.
    Exec(String, bool),
    /// `write`, `writen` (with a line feed), `append`, `appendn`: a file and its text; whether it is appended.
    Write(PathBuf, String, bool),
    /// `touch`, `create`, `creat`.
    Create(PathBuf),
    /// `mkdir`.
    MakeFolder(PathBuf),
    /// `unlink`.
    Unlink(PathBuf),
    /// `cd`, `chdir`.
    Enter(PathBuf),
    /// `putenv`.
    Set(String, String),
    /// `print`, `log`.
    Print(String),
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

const ACTIONS: &str = "exec, safeexec, write, writen, append, appendn, touch, create, mkdir, unlink, chdir, putenv, print or \
                       unix_signal, a colon and what it is about";

fn parse(text: &str) -> Option<Deed> {
    let (action, argument) = text.split_once(':')?;
    let file_and_text = |append: bool, end: &str| {
        let (file, text) = argument.split_once(' ').unwrap_or((argument, ""));
        (!file.is_empty()).then(|| Deed::Write(file.into(), format!("{text}{end}"), append))
    };
    if argument.is_empty() && !matches!(action, "print" | "log") {
        return None;
    }
    Some(match action {
        "exec" => Deed::Exec(argument.into(), true),
        "safeexec" => Deed::Exec(argument.into(), false),
        "write" => file_and_text(false, "")?,
        "writen" => file_and_text(false, "\n")?,
        "append" => file_and_text(true, "")?,
        "appendn" => file_and_text(true, "\n")?,
        "touch" | "create" | "creat" => Deed::Create(argument.into()),
        "mkdir" => Deed::MakeFolder(argument.into()),
        "unlink" => Deed::Unlink(argument.into()),
        "cd" | "chdir" => Deed::Enter(argument.into()),
        "putenv" => {
            let (name, value) = argument.split_once('=')?;
            Deed::Set(name.into(), value.into())
        }
        "print" | "log" => Deed::Print(argument.into()),
        "unix_signal" => {
            let (number, function) = argument.split_once(' ')?;
            let function = match function.trim() {
                "gracefully_kill_them_all" => Function::Stop,
                "kill_them_all" => Function::End,
                "grace_them_all" | "reap_them_all" => Function::Reload,
                _ => return None,
            };
            Deed::Signal(number.parse().ok().filter(|number| SIGNALS.contains(number))?, function)
        }
        _ => return None,
    })
}

impl Draft<'_> {
    pub(super) fn hook(&mut self, s: &Setting, phase: Phase) {
        let (hidden, text) = match s.value.strip_prefix('!') {
            Some(text) => (true, text),
            None => (false, s.value.as_str()),
        };
        match parse(text) {
            Some(Deed::Signal(..)) if phase != Phase::MasterStart => {
                self.error(s, "unix_signal in hook-master-start, where the master takes its signals");
            }
            Some(Deed::Set(..)) if matches!(phase, Phase::PostApp | Phase::Accepting | Phase::Accepting1) => {
                self.error(s, "putenv in an earlier hook: Python has read the environment by then");
            }
            Some(deed) => {
                let shown = if hidden { text.split(':').next().unwrap_or_default() } else { text };
                self.settings.hooks.push(Hook { phase, deed, shown: format!("{} = {shown}", s.key) });
            }
            None => self.error(s, ACTIONS),
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
        assert_eq!(parse("exec:a b:c"), Some(Deed::Exec("a b:c".into(), true)));
        assert_eq!(parse("writen:/f some text"), Some(Deed::Write("/f".into(), "some text\n".into(), false)));
        assert_eq!(parse("append:/f"), Some(Deed::Write("/f".into(), String::new(), true)));
        assert_eq!(parse("putenv:A=b=c"), Some(Deed::Set("A".into(), "b=c".into())));
        assert_eq!(parse("unix_signal:15 gracefully_kill_them_all"), Some(Deed::Signal(15, Function::Stop)));
        assert_eq!(parse("print:"), Some(Deed::Print(String::new())));
        for wrong in ["exec", "exec:", "mount:x", "unix_signal:15 exit", "unix_signal:9 grace_them_all", "putenv:A"] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }
}
