//! Carries out hooks, where `boot` says.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};

use crate::config::hooks::{Deed, Hook, Phase};
use crate::sys;
use crate::sys::{fd, process};

/// Carries out the hooks of a phase in the order written, up to the first that fails.
///
/// # Errors
/// One line: which one, and why.
pub fn run(hooks: &[Hook], phase: Phase) -> Result<(), String> {
    hooks.iter().filter(|hook| hook.phase == phase).try_for_each(|hook| {
        log::info!("{}", hook.shown);
        carry_out(&hook.deed).map_err(|why| format!("{}: {why}", hook.shown))
    })
}

fn carry_out(deed: &Deed) -> Result<(), String> {
    let plain = |outcome: io::Result<()>| outcome.map_err(|error| sys::describe(&error));
    match deed {
        Deed::Exec(command, true) => execute(command),
        Deed::Exec(command, false) => {
            if let Err(why) = execute(command) {
                log::warn!("{command}: {why}");
            }
            Ok(())
        }
        Deed::Write(path, text, append) => plain(
            OpenOptions::new()
                .create(true)
                .write(true)
                .append(*append)
                .truncate(!append)
                .open(path)
                .and_then(|mut file| file.write_all(text.as_bytes())),
        ),
        Deed::Create(path) => plain(
            OpenOptions::new()
                .create(true)
                .append(true)
                .open(path)
                .and_then(|file| file.set_modified(std::time::SystemTime::now())),
        ),
        Deed::MakeFolder(path) => match fs::create_dir(path) {
            // So that a second start goes as well as the first.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
            made => plain(made),
        },
        Deed::Unlink(path) => match fs::remove_file(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => plain(removed),
        },
        Deed::Enter(path) => plain(std::env::set_current_dir(path)),
        Deed::Set(name, value) => {
            process::set_variable(name, value);
            Ok(())
        }
        Deed::Print(text) => {
            log::info!("{text}");
            Ok(())
        }
        // The master asks for them when it hears a signal.
        Deed::Signal(..) => Ok(()),
    }
}

/// Runs a shell command to its end.
fn execute(command: &str) -> Result<(), String> {
    let run = || Command::new("/bin/sh").args(["-c", command]).stdin(Stdio::null()).status();
    let (status, _) = fd::with_original_limit(run);
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(match (status.code(), status.signal()) {
            (Some(code), _) => format!("exited with code {code}"),
            (None, signal) => format!("was killed by signal {}", signal.unwrap_or(0)),
        }),
        Err(error) => Err(sys::describe(&error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hook(deed: Deed) -> Hook {
        Hook { phase: Phase::AsUser, deed, shown: "hook-as-user = it".into() }
    }

    #[test]
    fn files_are_written_in_order_and_other_phases_wait() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/f");
        let other = Hook { phase: Phase::Asap, ..hook(Deed::Unlink(path.clone())) };
        let hooks = [
            hook(Deed::MakeFolder(dir.path().join("a"))),
            hook(Deed::MakeFolder(dir.path().join("a"))),
            hook(Deed::Write(path.clone(), "one".into(), false)),
            hook(Deed::Write(path.clone(), "two".into(), true)),
            other,
            hook(Deed::Exec(format!("echo three >> {}", path.display()), true)),
        ];
        assert_eq!(run(&hooks, Phase::AsUser), Ok(()));
        assert_eq!(fs::read_to_string(&path).unwrap(), "onetwothree\n");
        assert_eq!(run(&hooks, Phase::Asap), Ok(()));
        assert!(!path.exists());
    }

    #[test]
    fn the_first_failure_is_told_and_ends_the_phase() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        let hooks = [
            hook(Deed::Exec("exit 3".into(), false)),
            hook(Deed::Exec("exit 3".into(), true)),
            hook(Deed::Create(path.clone())),
        ];
        assert_eq!(run(&hooks, Phase::AsUser), Err("hook-as-user = it: exited with code 3".into()));
        assert!(!path.exists());
    }
}
