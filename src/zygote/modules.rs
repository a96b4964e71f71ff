//! The files of imported modules, for `py-auto-reload`: the master watches them. A list may be long, so it goes through
//! a file whose descriptor is sent. With each file goes its time: a worker serves before the master has read the list, and what
//! changes in between must not look as if it had been imported.

use std::io::{Seek, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::Duration;

use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::control::Imported;
use crate::sys::fd;

/// How modules are watched.
#[derive(Clone, Debug)]
pub struct Watched {
    /// How often a worker looks for modules that were imported since it started.
    pub every: Duration,
    /// Modules that do not count.
    pub ignored: Vec<String>,
}

impl Watched {
    fn files(&self, py: Python<'_>) -> PyResult<Vec<PathBuf>> {
        let modules = py.import("sys")?.getattr("modules")?.cast_into::<PyDict>()?;
        let cwd = std::env::current_dir().unwrap_or_default();
        // A copy: asking a module for its file may run code that imports another.
        let mut files: Vec<PathBuf> = modules
            .copy()?
            .iter()
            .filter(|(name, _)| name.extract::<String>().is_ok_and(|name| !self.ignored.contains(&name)))
            .filter_map(|(_, module)| module.getattr_opt("__file__").ok().flatten()?.extract::<PathBuf>().ok())
            .map(|file| cwd.join(file))
            .collect();
        files.sort();
        files.dedup();
        Ok(files)
    }

    /// Sends the list with `word`, a message of the control protocol. Gives the number of files.
    pub(super) fn announce(&self, control: impl AsFd, word: &[u8]) -> Option<usize> {
        let files = Python::try_attach(|py| self.files(py))?.unwrap_or_default();
        let count = files.len();
        let mut list = Vec::new();
        for path in files {
            let time = path.metadata().ok().map(|found| (found.mtime(), found.mtime_nsec()));
            Imported { path, time }.encode(&mut list);
        }
        let sent = || {
            let mut file = tempfile::tempfile()?;
            file.write_all(&list)?;
            file.rewind()?;
            fd::send(control, word, Some(file.as_fd()))
        };
        if let Err(error) = sent() {
            log::warn!("the master does not hear which modules to watch: {error}");
        }
        Some(count)
    }

    /// Goes on looking for new modules in a worker, while it lives.
    pub(super) fn follow(self, control: OwnedFd, word: Vec<u8>) {
        let count = |py: Python<'_>| py.import("sys")?.getattr("modules")?.len();
        // Before the thread starts: by then a request may have imported something.
        let mut known = Python::try_attach(count).and_then(Result::ok).unwrap_or(0);
        let body = move || {
            loop {
                std::thread::sleep(self.every);
                // None: the interpreter ends.
                let Some(now) = Python::try_attach(count) else { return };
                if now.is_ok_and(|now| std::mem::replace(&mut known, now) != now)
                    && self.announce(&control, &word).is_none()
                {
                    return;
                }
            }
        };
        if let Err(error) = std::thread::Builder::new().name("modules".into()).spawn(body) {
            log::warn!("modules that are imported later are not watched: {error}");
        }
    }
}
