//! Log files: opened, opened again (somebody has moved them), and put aside when they are full.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::sys;
use crate::sys::fd;

/// Mode of a new file, less the mask.
const MODE: u32 = 0o640;

/// How log files are made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Making {
    /// `logfile-chmod`.
    pub mode: Option<u32>,
    /// `logfile-chown`: user and group.
    pub owner: Option<(Option<u32>, Option<u32>)>,
}

/// Opens a log file, and makes it if it is not there. It is emptied if `truncate`.
///
/// # Errors
/// One line: what is wrong with it and what to do.
pub fn open(path: &Path, making: &Making, truncate: bool) -> Result<File, String> {
    let open = || {
        // A fifo without a reader would be waited for.
        let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
        let file = OpenOptions::new().create(true).append(true).mode(MODE).custom_flags(flags).open(path)?;
        if truncate {
            file.set_len(0)?;
        }
        if let Some(mode) = making.mode {
            file.set_permissions(fs::Permissions::from_mode(mode))?;
        }
        if let Some((uid, gid)) = making.owner {
            std::os::unix::fs::fchown(&file, uid, gid)?;
        }
        // It is shared with the application, which expects that everything is taken.
        fd::set_nonblocking(&file, false)?;
        Ok(file)
    };
    open().map_err(|error: io::Error| describe(path, &error))
}

/// What is wrong with a file that cannot be written, and what to do.
pub fn describe(path: &Path, error: &io::Error) -> String {
    let why = match error.kind() {
        io::ErrorKind::NotFound if path.parent().is_some_and(|parent| !parent.is_dir()) => {
            let parent = path.parent().unwrap_or(path);
            return format!("{}: the directory does not exist; create {}", path.display(), parent.display());
        }
        io::ErrorKind::PermissionDenied => "permission denied; this user must be able to write there".into(),
        _ => sys::describe(error),
    };
    format!("{}: {why}", path.display())
}

/// Whether `path` is still the file that is written to.
pub fn is_same(path: &Path, file: &File) -> bool {
    match (fs::metadata(path), file.metadata()) {
        (Ok(named), Ok(open)) => (named.dev(), named.ino()) == (open.dev(), open.ino()),
        _ => false,
    }
}

/// Renames a log file; gives its new name. Without `backup` that is its own with the second of the epoch, and no file that
/// is there is replaced.
///
/// # Errors
/// The system's.
pub fn put_aside(path: &Path, backup: Option<&Path>) -> io::Result<PathBuf> {
    let target = match backup {
        Some(backup) => backup.to_path_buf(),
        None => free_name(path),
    };
    fs::rename(path, &target)?;
    Ok(target)
}

fn free_name(path: &Path) -> PathBuf {
    let second = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let named = |end: String| {
        let mut name = path.as_os_str().to_owned();
        name.push(end);
        PathBuf::from(name)
    };
    let first = named(format!(".{second}"));
    let more = (1..).map(|number| named(format!(".{second}.{number}")));
    std::iter::once(first).chain(more).find(|name| !name.exists()).unwrap_or_else(|| path.to_path_buf())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn a_file_is_made_with_the_mode_that_is_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        drop(open(&path, &Making::default(), false).unwrap());
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777 & !MODE, 0);
        drop(open(&path, &Making { mode: Some(0o604), owner: None }, false).unwrap());
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o604);
    }

    #[test]
    fn lines_are_added_unless_it_is_to_be_emptied() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        for truncate in [false, false, true] {
            open(&path, &Making::default(), truncate).unwrap().write_all(b"x\n").unwrap();
        }
        assert_eq!(fs::read(&path).unwrap(), b"x\n");
    }

    #[test]
    fn what_is_put_aside_replaces_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut names = Vec::new();
        for text in ["one", "two", "three"] {
            fs::write(&path, text).unwrap();
            names.push(put_aside(&path, None).unwrap());
            assert!(!path.exists());
        }
        let found: Vec<String> = names.iter().map(|name| fs::read_to_string(name).unwrap()).collect();
        assert_eq!(found, ["one", "two", "three"]);
        fs::write(&path, "four").unwrap();
        let backup = dir.path().join("backup");
        fs::write(&backup, "old").unwrap();
        assert_eq!(put_aside(&path, Some(&backup)).unwrap(), backup);
        assert_eq!(fs::read(&backup).unwrap(), b"four");
    }

    #[test]
    fn a_file_that_was_moved_is_another() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let file = open(&path, &Making::default(), false).unwrap();
        assert!(is_same(&path, &file));
        put_aside(&path, None).unwrap();
        assert!(!is_same(&path, &file));
    }

    #[test]
    fn what_is_wrong_is_said() {
        let error = open(Path::new("/nonexistent/log"), &Making::default(), false).unwrap_err();
        assert_eq!(error, "/nonexistent/log: the directory does not exist; create /nonexistent");
        assert!(open(Path::new("/"), &Making::default(), false).unwrap_err().contains("/: "));
    }
}
