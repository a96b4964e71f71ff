//! Changes in folders, told by the kernel (inotify(7)).

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};

/// The name of a watch.
pub type Watch = WatchDescriptor;

/// Something happened in a watched folder.
#[derive(Debug)]
pub struct Event {
    /// Where; none when events were lost because there were too many.
    pub watch: Option<Watch>,
    /// The entry of the folder it happened to; none: the folder itself.
    pub name: Option<OsString>,
}

/// An inotify instance.
pub struct Watcher(Inotify);

impl Watcher {
    /// Watches nothing yet.
    ///
    /// # Errors
    /// The system's.
    pub fn new() -> io::Result<Watcher> {
        Ok(Watcher(Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?))
    }

    /// Watches a folder: entries that come, go, or are touched or written. Writing is told when the writer closes the file:
    /// told of each write, a log file beside a watched one would wake us all the time.
    ///
    /// # Errors
    /// The system's.
    pub fn add(&self, folder: &Path) -> io::Result<Watch> {
        let entries = AddWatchFlags::IN_CREATE | AddWatchFlags::IN_DELETE | AddWatchFlags::IN_MOVE;
        let files = AddWatchFlags::IN_ATTRIB | AddWatchFlags::IN_CLOSE_WRITE;
        let itself = AddWatchFlags::IN_DELETE_SELF | AddWatchFlags::IN_MOVE_SELF;
        Ok(self.0.add_watch(folder, entries | files | itself | AddWatchFlags::IN_ONLYDIR)?)
    }

    /// What has happened since.
    pub fn read(&self) -> Vec<Event> {
        let mut out = Vec::new();
        while let Ok(events) = self.0.read_events() {
            out.extend(events.into_iter().map(|event| Event {
                watch: (!event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW)).then_some(event.wd),
                name: event.name,
            }));
        }
        out
    }
}

impl AsFd for Watcher {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_file_is_told_with_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let watcher = Watcher::new().unwrap();
        let watch = watcher.add(folder.path()).unwrap();
        assert!(watcher.read().is_empty());
        std::fs::write(folder.path().join("a"), "x").unwrap();
        let events = watcher.read();
        assert!(events.iter().any(|event| event.watch == Some(watch) && event.name == Some("a".into())), "{events:?}");
        assert!(watcher.add(&folder.path().join("a")).is_err());
    }
}
