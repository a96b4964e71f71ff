//! The program of this process: which file it is, and how a process becomes another run of it.

use std::ffi::{CString, OsStr, OsString};
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::AtFlags;

/// What this process was started as.
#[derive(Clone, Debug)]
pub struct Program {
    /// The name by which it was started, not what links on the way point to now: a new release is found under it.
    path: PathBuf,
    arguments: Vec<CString>,
    /// The name of the process in `ps` and `pgrep`. Running a file by its descriptor names a process after the number.
    name: String,
}

impl Program {
    /// The one of this process. To be called before the title of the process is changed.
    ///
    /// # Errors
    /// The system's, where `/proc` cannot be read.
    pub fn of_this_process() -> io::Result<Program> {
        let line = fs::read("/proc/self/cmdline")?;
        let line = line.strip_suffix(b"\0").unwrap_or(&line);
        let arguments: Vec<CString> =
            line.split(|byte| *byte == 0).map(CString::new).collect::<Result<_, _>>().map_err(io::Error::other)?;
        let first = OsString::from_vec(arguments.first().map(|first| first.to_bytes().to_vec()).unwrap_or_default());
        let path = match find(&first) {
            Some(path) => path,
            // Whoever started it called it something else.
            None => fs::read_link("/proc/self/exe")?,
        };
        let name = fs::read_to_string("/proc/self/comm")?.trim_end().to_string();
        Ok(Program { path, arguments, name })
    }

    /// Where the file is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The same under this name of its process.
    #[must_use]
    pub fn named(self, name: &str) -> Program {
        Program { name: name.into(), ..self }
    }

    /// The name of the process.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Opens the file that is there now, for [`Program::run`] alone.
    ///
    /// # Errors
    /// The system's.
    pub fn open(&self) -> io::Result<OwnedFd> {
        let file = fs::OpenOptions::new().read(true).custom_flags(libc::O_PATH).open(&self.path)?;
        Ok(file.into())
    }

    /// Becomes the program in `file`, with the arguments that this process was started with and one variable more in
    /// its environment. Comes back only with an error.
    pub fn run(&self, file: &OwnedFd, variable: &str) -> io::Error {
        let mut environment: Vec<CString> = vec![];
        let own = std::env::vars_os().map(|(name, value)| [name.as_bytes(), b"=", value.as_bytes()].concat());
        for entry in own.chain([variable.as_bytes().to_vec()]) {
            match CString::new(entry) {
                Ok(entry) => environment.push(entry),
                Err(error) => return io::Error::other(error),
            }
        }
        match nix::unistd::execveat(file, c"", &self.arguments, &environment, AtFlags::AT_EMPTY_PATH) {
            Err(error) => error.into(),
        }
    }
}

/// Where the shell found the program of this name, if it is the one that runs here.
fn find(name: &OsStr) -> Option<PathBuf> {
    let own = fs::metadata("/proc/self/exe").ok()?;
    let is_own = |path: &PathBuf| fs::metadata(path).is_ok_and(|m| (m.dev(), m.ino()) == (own.dev(), own.ino()));
    if name.as_bytes().contains(&b'/') {
        return std::path::absolute(name).ok().filter(is_own);
    }
    let folders = std::env::var_os("PATH")?;
    std::env::split_paths(&folders).filter_map(|dir| std::path::absolute(dir.join(name)).ok()).find(is_own)
}

/// Gives this process a name, for `ps` and `pgrep`.
///
/// # Errors
/// The system's.
pub fn set_name(name: &str) -> io::Result<()> {
    let name = CString::new(name).map_err(io::Error::other)?;
    Ok(nix::sys::prctl::set_name(&name)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_of_this_process_is_found() {
        let program = Program::of_this_process().unwrap();
        let (found, own) = (fs::metadata(program.path()).unwrap(), fs::metadata("/proc/self/exe").unwrap());
        assert_eq!((found.dev(), found.ino()), (own.dev(), own.ino()));
        assert!(!program.arguments.is_empty() && !program.name().is_empty());
        program.open().unwrap();
        assert_eq!(find(OsStr::new("/bin/sh")), None);
        assert_eq!(find(OsStr::new("no such program")), None);
    }
}
