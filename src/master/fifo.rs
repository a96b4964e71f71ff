//! `master-fifo`: named pipes through which the operator commands the master, a letter each.

use std::fs::{self, File};
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, RawFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::sys;
use crate::sys::fd;

struct Fifo {
    path: PathBuf,
    inode: u64,
    file: File,
}

/// The pipes, of which one is listened to: as in uWSGI, a digit chooses it.
#[derive(Default)]
pub(super) struct Fifos {
    slots: Vec<Fifo>,
    active: usize,
}

fn open(path: &Path) -> Result<Fifo, String> {
    let why = |what: &str| format!("master-fifo = {}: {what}", path.display());
    match fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_fifo() => {
            // Left by another server. Its permissions may be others.
            fs::remove_file(path).map_err(|error| why(&sys::describe(&error)))?;
        }
        Ok(_) => return Err(why("there is a file that is no fifo")),
        Err(_) => {}
    }
    let open = || {
        let file = File::from(fd::make_fifo(path)?);
        Ok((file.metadata()?.ino(), file))
    };
    let (inode, file) = open().map_err(|error: std::io::Error| why(&sys::describe(&error)))?;
    Ok(Fifo { path: path.to_path_buf(), inode, file })
}

impl Fifos {
    /// Makes them all.
    ///
    /// # Errors
    /// One line that names the option and the file.
    pub(super) fn open(paths: &[PathBuf]) -> Result<Fifos, String> {
        let mut fifos = Fifos::default();
        for path in paths {
            match open(path) {
                Ok(fifo) => fifos.slots.push(fifo),
                Err(error) => {
                    fifos.remove();
                    return Err(error);
                }
            }
        }
        Ok(fifos)
    }

    /// Those that the program before made in this process.
    ///
    /// # Errors
    /// One line.
    pub(super) fn adopt(given: &[(PathBuf, u64, RawFd)], active: usize) -> Result<Fifos, String> {
        let adopt = |(path, inode, number): &(PathBuf, u64, RawFd)| {
            let file = fd::adopt(*number).map_err(|error| format!("master-fifo {}: {error}", path.display()))?;
            Ok(Fifo { path: path.clone(), inode: *inode, file: file.into() })
        };
        Ok(Fifos { slots: given.iter().map(adopt).collect::<Result<_, String>>()?, active })
    }

    /// Path, inode and descriptor of each, for [`Fifos::adopt`].
    pub(super) fn descriptors(&self) -> impl Iterator<Item = (&PathBuf, u64, BorrowedFd<'_>)> {
        self.slots.iter().map(|fifo| (&fifo.path, fifo.inode, fifo.file.as_fd()))
    }

    /// Which one is listened to.
    pub(super) fn active(&self) -> usize {
        self.active
    }

    pub(super) fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.slots.get(self.active).map(|fifo| fifo.file.as_fd())
    }

    /// What was written into the active one.
    pub(super) fn read(&mut self) -> Vec<u8> {
        let mut buffer = [0; 256];
        let Some(fifo) = self.slots.get_mut(self.active) else { return Vec::new() };
        match fifo.file.read(&mut buffer) {
            Ok(len) => buffer[..len].to_vec(),
            Err(_) => Vec::new(),
        }
    }

    /// Listens to another one. Gives its path.
    pub(super) fn choose(&mut self, slot: usize) -> Option<&Path> {
        let fifo = self.slots.get(slot)?;
        self.active = slot;
        Some(&fifo.path)
    }

    /// Removes those that are still the files that were made.
    pub(super) fn remove(&mut self) {
        for fifo in self.slots.drain(..) {
            if fs::symlink_metadata(&fifo.path).is_ok_and(|found| found.ino() == fifo.inode)
                && let Err(error) = fs::remove_file(&fifo.path)
            {
                log::warn!("cannot remove the fifo {}: {}", fifo.path.display(), sys::describe(&error));
            }
        }
    }

    /// In a child of the master: they are not its own.
    pub(super) fn forget(&mut self) {
        self.slots.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn write(path: &Path, bytes: &[u8]) {
        fs::OpenOptions::new().write(true).open(path).unwrap().write_all(bytes).unwrap();
    }

    #[test]
    fn the_chosen_one_is_heard() {
        let dir = tempfile::tempdir().unwrap();
        let paths = [dir.path().join("a"), dir.path().join("b")];
        let mut fifos = Fifos::open(&paths).unwrap();
        assert!(fifos.read().is_empty());
        write(&paths[0], b"rs");
        write(&paths[1], b"q");
        assert_eq!(fifos.read(), b"rs");
        assert_eq!(fifos.choose(2), None);
        assert_eq!(fifos.choose(1), Some(&*paths[1]));
        assert_eq!(fifos.read(), b"q");
        assert_eq!(fs::metadata(&paths[0]).unwrap().mode() & 0o777, 0o600);
        fifos.remove();
        assert!(!paths[0].exists() && !paths[1].exists());
    }

    #[test]
    fn an_old_fifo_is_replaced_and_another_file_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        drop(Fifos::open(std::slice::from_ref(&path)).unwrap());
        let mut fifos = Fifos::open(std::slice::from_ref(&path)).unwrap();
        fifos.remove();
        fs::write(&path, "precious").unwrap();
        let error = Fifos::open(std::slice::from_ref(&path)).err().unwrap();
        assert!(error.contains("no fifo"), "{error}");
        assert_eq!(fs::read(&path).unwrap(), b"precious");
    }
}
