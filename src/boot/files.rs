//! Files that the server makes for others to find it by: pid files; and their end.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::failure;
use crate::config::Settings;
use crate::net::listener::SocketFile;
use crate::sys;
use crate::sys::process;

/// Files that this process made. Removed by it alone, never by a child.
pub(super) struct Made {
    pid: i32,
    /// With their inodes.
    pidfiles: Vec<(PathBuf, u64)>,
}

impl Made {
    /// Nothing yet, by this process.
    pub(super) fn new() -> Made {
        Made { pid: process::own_id(), pidfiles: Vec::new() }
    }

    /// What this process made before another program took its place.
    pub(super) fn with(pidfiles: Vec<(PathBuf, u64)>) -> Made {
        Made { pidfiles, ..Made::new() }
    }

    /// The pid files, with their inodes.
    pub(super) fn pidfiles(&self) -> &[(PathBuf, u64)] {
        &self.pidfiles
    }

    /// Makes the pid file that `option` asks for.
    ///
    /// # Errors
    /// One line: where it was asked for, what went wrong.
    pub(super) fn add(&mut self, settings: &Settings, option: &str, path: Option<&PathBuf>) -> Result<(), String> {
        let Some(path) = path else { return Ok(()) };
        let made = make_pidfile(path).and_then(|mut file| {
            writeln!(file, "{}", self.pid)?;
            file.metadata()
        });
        let made = made.map_err(|error| failure(settings, option, path, &error))?;
        self.pidfiles.push((path.clone(), made.ino()));
        Ok(())
    }

    /// Makes the pid file that `option` asks for, and leaves it empty for now.
    ///
    /// # Errors
    /// One line: where it was asked for, what went wrong.
    pub(super) fn add_empty(
        &mut self,
        settings: &Settings,
        option: &str,
        path: Option<&PathBuf>,
    ) -> Result<Option<File>, String> {
        let Some(path) = path else { return Ok(None) };
        let made = make_pidfile(path).and_then(|file| Ok((file.metadata()?.ino(), file)));
        let (inode, file) = made.map_err(|error| failure(settings, option, path, &error))?;
        self.pidfiles.push((path.clone(), inode));
        Ok(Some(file))
    }

    /// Makes those that are wanted before privileges are given up; to `safe` goes what is written later.
    ///
    /// # Errors
    /// See [`Made::add`].
    pub(super) fn make_pidfiles(&mut self, settings: &Settings, safe: &mut Vec<File>) -> Result<(), String> {
        self.add(settings, "pidfile", settings.pidfile.as_ref())?;
        safe.extend(self.add_empty(settings, "safe-pidfile", settings.pidfiles.safe.as_ref())?);
        Ok(())
    }

    /// Removes what was made, and these sockets.
    pub(super) fn remove(&self, files: &[SocketFile]) {
        if process::own_id() != self.pid {
            return;
        }
        for file in files {
            file.remove();
        }
        for (path, inode) in &self.pidfiles {
            if fs::metadata(path).is_ok_and(|found| found.ino() == *inode)
                && let Err(error) = fs::remove_file(path)
            {
                log::warn!("the pidfile {} stays: {}", path.display(), sys::why_it_stays(&error));
            }
        }
    }
}

fn make_pidfile(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).write(true).truncate(true).mode(0o644).open(path)
}

/// Writes the pid into a file that was made for it.
pub(super) fn write_pid(mut file: &File) -> io::Result<()> {
    writeln!(file, "{}", process::own_id())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pidfile_is_removed_only_by_its_maker_and_while_it_is_the_same_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pid");
        let settings = Settings { places: [("pidfile", "app.ini:3: pidfile".into())].into(), ..Settings::default() };
        let mut made = Made::new();
        made.add(&settings, "pidfile", Some(&path)).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), format!("{}\n", std::process::id()));
        let inode = made.pidfiles[0].1;
        Made { pid: process::own_id() + 1, pidfiles: made.pidfiles.clone() }.remove(&[]);
        assert!(path.exists());
        Made { pid: process::own_id(), pidfiles: vec![(path.clone(), inode + 1)] }.remove(&[]);
        assert!(path.exists());
        made.remove(&[]);
        assert!(!path.exists());
        let error = made.add(&settings, "pidfile", Some(&"/nonexistent/pid".into())).unwrap_err();
        assert_eq!(error, "app.ini:3: pidfile: /nonexistent/pid: the directory does not exist; create /nonexistent");
    }

    #[test]
    fn a_safe_pidfile_is_empty_until_it_is_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pid");
        let mut made = Made::new();
        let file = made.add_empty(&Settings::default(), "safe-pidfile", Some(&path)).unwrap().unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "");
        write_pid(&file).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), format!("{}\n", std::process::id()));
        made.remove(&[]);
        assert!(!path.exists());
    }
}
