//! Carries out hooks, where `boot` says.

use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, Write};
use std::net::TcpStream;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::config::hooks::{Awaited, Deed, Hook, Phase};
use crate::sys;
use crate::sys::{fd, process, user};

/// How often it is looked for what is waited for.
const LOOK: Duration = Duration::from_millis(200);

const STICKY: u32 = 0o1000;

/// Carries out the hooks of a phase in the order written, up to the first that fails.
///
/// # Errors
/// One line: which one, and why.
pub fn run(hooks: &[Hook], phase: Phase) -> Result<(), String> {
    hooks.iter().filter(|hook| hook.phase == phase).try_for_each(|hook| {
        log::info!("{}", hook.shown);
        carry_out(hook).map_err(|why| format!("{}: {why}", hook.shown))
    })
}

/// Carries out one hook.
///
/// # Errors
/// Why that was not possible.
pub fn carry_out(hook: &Hook) -> Result<(), String> {
    let plain = |outcome: io::Result<()>| outcome.map_err(|error| sys::describe(&error));
    match &hook.deed {
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
        Deed::WriteFifo(path, text, wait) => plain(write_fifo(path, text, *wait)),
        Deed::Rename(old, new) => plain(fs::rename(old, new)),
        Deed::Mode(path, mode) => plain(fs::set_permissions(path, Permissions::from_mode(*mode))),
        Deed::Sticky(path) => {
            plain(fs::metadata(path).and_then(|found| {
                fs::set_permissions(path, Permissions::from_mode(found.permissions().mode() | STICKY))
            }))
        }
        Deed::Owner(path, owner, group) => {
            let uid = owner.parse().ok().or_else(|| Some(user::by_name(owner)?.0)).ok_or("no such user")?;
            let gid = group.parse().ok().or_else(|| user::group_by_name(group)).ok_or("no such group")?;
            plain(std::os::unix::fs::chown(path, Some(uid), Some(gid)))
        }
        Deed::Mount(made) => plain(sys::mount::mount(&made.kind, &made.source, &made.folder, made.flags, &made.data)),
        Deed::Unmount(gone) => plain(sys::mount::unmount(&gone.folder, gone.flags, gone.below)),
        Deed::Name(name) => plain(sys::mount::set_host_name(name)),
        Deed::Wait(what, name, seconds) => wait_for(*what, name, Duration::from_secs(*seconds)),
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

/// Writes to a fifo that somebody reads. Nobody does: nothing is written, or it is waited for somebody.
fn write_fifo(path: &Path, text: &str, wait: bool) -> io::Result<()> {
    loop {
        match OpenOptions::new().write(true).custom_flags(libc::O_NONBLOCK).open(path) {
            Ok(mut fifo) => return fifo.write_all(text.as_bytes()),
            Err(error) if error.raw_os_error() == Some(libc::ENXIO) => {
                if !wait {
                    log::info!("nobody reads {}", path.display());
                    return Ok(());
                }
                std::thread::sleep(LOOK);
            }
            Err(error) => return Err(error),
        }
    }
}

/// Waits until something is there, no longer than `limit`.
fn wait_for(what: Awaited, name: &str, limit: Duration) -> Result<(), String> {
    let end = Instant::now() + limit;
    while !is_there(what, name) {
        if Instant::now() >= end {
            return Err(format!("it is not there after {} s", limit.as_secs()));
        }
        std::thread::sleep(LOOK.min(end.saturating_duration_since(Instant::now())));
    }
    Ok(())
}

fn is_there(what: Awaited, name: &str) -> bool {
    let path = Path::new(name);
    match what {
        Awaited::Path => path.exists(),
        Awaited::File => path.is_file(),
        Awaited::Folder => path.is_dir(),
        Awaited::MountPoint => is_mount_point(path),
        Awaited::Socket if name.starts_with('/') => UnixStream::connect(path).is_ok(),
        Awaited::Socket => TcpStream::connect(name).is_ok(),
        // IFF_UP is the lowest bit (netdevice(7)).
        Awaited::Interface => fs::read_to_string(Path::new("/sys/class/net").join(name).join("flags"))
            .ok()
            .and_then(|flags| u32::from_str_radix(flags.trim().trim_start_matches("0x"), 16).ok())
            .is_some_and(|flags| flags & 1 == 1),
    }
}

fn is_mount_point(path: &Path) -> bool {
    let found = |path: &Path| fs::metadata(path).ok().filter(|found| found.is_dir());
    match (found(path), found(&path.join(".."))) {
        (Some(own), Some(above)) => own.dev() != above.dev() || own.ino() == above.ino(),
        _ => false,
    }
}

/// Runs a shell command to its end.
fn execute(command: &str) -> Result<(), String> {
    let (status, _) = fd::with_original_limit(|| process::run_shell(command));
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
    fn files_are_renamed_and_change_mode_and_owner() {
        let dir = tempfile::tempdir().unwrap();
        let (old, new) = (dir.path().join("old"), dir.path().join("new"));
        let (uid, gid) = user::own();
        let hooks = [
            hook(Deed::Create(old.clone())),
            hook(Deed::Rename(old.clone(), new.clone())),
            hook(Deed::Mode(new.clone(), 0o640)),
            hook(Deed::Sticky(new.clone())),
            hook(Deed::Owner(new.clone(), uid.to_string(), user::group_name_of(gid).unwrap())),
        ];
        assert_eq!(run(&hooks, Phase::AsUser), Ok(()));
        assert!(!old.exists());
        let found = fs::metadata(&new).unwrap();
        assert_eq!((found.mode() & 0o7777, found.uid(), found.gid()), (0o1640, uid, gid));
        let nobody = hook(Deed::Owner(new, "no-such-user-here".into(), "0".into()));
        assert_eq!(run(&[nobody], Phase::AsUser), Err("hook-as-user = it: no such user".into()));
    }

    #[test]
    fn a_fifo_is_written_to_when_somebody_reads_it() {
        use std::io::Read;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        let _keeps = fd::make_fifo(&path).unwrap();
        let mut reader = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(&path).unwrap();
        for spinning in [false, true] {
            assert_eq!(run(&[hook(Deed::WriteFifo(path.clone(), "text".into(), spinning))], Phase::AsUser), Ok(()));
        }
        let mut bytes = [0; 16];
        assert_eq!(reader.read(&mut bytes).unwrap(), 8);
    }

    #[test]
    fn what_is_waited_for_is_found_or_missed_in_time() {
        let dir = tempfile::tempdir().unwrap();
        let name = |path: &Path| path.display().to_string();
        let file = dir.path().join("f");
        fs::write(&file, "").unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        for (what, there) in [
            (Awaited::Path, name(&file)),
            (Awaited::File, name(&file)),
            (Awaited::Folder, name(dir.path())),
            (Awaited::MountPoint, "/proc".into()),
            (Awaited::Interface, "lo".into()),
            (Awaited::Socket, listener.local_addr().unwrap().to_string()),
        ] {
            assert_eq!(wait_for(what, &there, Duration::ZERO), Ok(()), "{what:?}");
            let missing = wait_for(what, &name(&dir.path().join("x")), Duration::ZERO);
            assert_eq!(missing, Err("it is not there after 0 s".into()), "{what:?}");
        }
        assert!(!is_there(Awaited::File, &name(dir.path())) && !is_there(Awaited::Folder, &name(&file)));
        assert!(!is_there(Awaited::MountPoint, &name(dir.path())));
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
