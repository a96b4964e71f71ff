//! Programs that run beside the workers: `attach-daemon` and its like.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::draft::{Draft, Setting};

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
}

impl Draft<'_> {
    pub(super) fn daemon(&mut self, s: &Setting, care: Care) {
        if let Some(command) = self.text(s) {
            self.settings.daemons.push(Daemon { command, care });
        }
    }

    /// `PIDFILE[,FREQUENCY] COMMAND`; relative files begin where the server started.
    pub(super) fn smart_daemon(&mut self, s: &Setting, care: fn(PathBuf) -> Care) {
        match s.value.split_once(' ') {
            Some((file, command)) if !file.is_empty() && !command.trim().is_empty() => {
                let file = file.split(',').next().unwrap_or(file);
                let care = care(self.facts.start_directory.join(file));
                self.settings.daemons.push(Daemon { command: command.trim().into(), care });
            }
            _ => self.error(s, "PIDFILE COMMAND"),
        }
    }
}
