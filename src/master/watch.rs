//! Files whose change is a wish of the operator: `touch-reload` and its like, `fs-reload`, `py-auto-reload`.
//!
//! The kernel tells what happens in their folders (inotify): nothing is polled. What counts is the modification time, as in
//! uWSGI; a file that appears counts as touched. A path is watched at every symbolic link on its way too, so that
//! a link that is turned to another release is seen.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::fs;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use crate::config::Touch;
use crate::control::Imported;
use crate::sys;
use crate::sys::inotify::{self, Watcher};

/// Links followed on the way to one file, as the kernel does.
const MOST_LINKS: usize = 40;

/// Modification time: seconds and nanoseconds.
type Mtime = (i64, i64);

fn mtime(path: &Path) -> Option<Mtime> {
    fs::metadata(path).ok().map(|found| (found.mtime(), found.mtime_nsec()))
}

struct Touched {
    path: PathBuf,
    what: Touch,
    seen: Option<Mtime>,
}

impl Touched {
    /// Whether it was touched since the last look.
    fn look(&mut self) -> bool {
        is_new(&mut self.seen, mtime(&self.path))
    }
}

/// Whether there is a time, another one than that seen before. A file that went away may come back as it was.
fn is_new(seen: &mut Option<Mtime>, now: Option<Mtime>) -> bool {
    now.is_some() && std::mem::replace(seen, now) != now
}

/// What was seen.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    /// Files that were touched.
    pub(super) touched: Vec<(PathBuf, Touch)>,
    /// A file of the application changed. More may follow: it's the first of a deployment.
    pub(super) changed: Option<PathBuf>,
}

#[derive(Default)]
pub(super) struct Watch {
    watcher: Option<Watcher>,
    /// The names under which a folder is known.
    folders: HashMap<inotify::Watch, Vec<PathBuf>>,
    touched: Vec<Touched>,
    /// Entries of folders that lead to the touched files.
    waypoints: HashSet<PathBuf>,
    trees: HashSet<PathBuf>,
    modules: HashMap<PathBuf, Option<Mtime>>,
    module_folders: HashSet<PathBuf>,
    /// What was imported last is not all that counts: the cause of a failed import may lie in a file that is no module yet.
    pub(super) any_module: bool,
}

impl Watch {
    /// Watches these and no others from now on. Those that were watched before are compared with what was seen then.
    /// Gives a module that has changed since it was imported.
    pub(super) fn set(
        &mut self,
        touch: Vec<(PathBuf, Touch)>,
        trees: Vec<PathBuf>,
        modules: &[Imported],
    ) -> Option<PathBuf> {
        let before = std::mem::take(&mut self.touched);
        *self = Watch::default();
        if touch.is_empty() && trees.is_empty() && modules.is_empty() {
            return None;
        }
        match Watcher::new() {
            Ok(watcher) => self.watcher = Some(watcher),
            Err(error) => {
                log::error!("files cannot be watched for changes: {}", sys::describe(&error));
                return None;
            }
        }
        for tree in trees {
            // A single file is like one that is touched.
            if tree.is_dir() {
                self.watch_folder(&tree);
                self.trees.insert(tree);
            } else {
                self.touched.push(Touched { seen: mtime(&tree), path: tree, what: Touch::Reload });
            }
        }
        for (path, what) in touch {
            let known = before.iter().find(|known| known.path == path && known.what == what);
            let seen = match known {
                Some(known) => known.seen,
                None => mtime(&path),
            };
            if seen.is_none() && known.is_none() {
                log::info!("{} is not there yet; it counts as touched when it is created", path.display());
            }
            self.touched.push(Touched { path, what, seen });
        }
        self.find_waypoints();
        self.add_modules(modules)
    }

    fn watch_folder(&mut self, folder: &Path) {
        let Some(watcher) = &self.watcher else { return };
        match watcher.add(folder) {
            Ok(watch) => {
                let names = self.folders.entry(watch).or_default();
                if !names.iter().any(|known| known == folder) {
                    names.push(folder.to_path_buf());
                }
            }
            Err(error) => {
                log::warn!("changes in {} cannot be seen: {}", folder.display(), sys::describe(&error));
            }
        }
    }

    fn find_waypoints(&mut self) {
        self.waypoints = self.touched.iter().flat_map(|touched| waypoints(&touched.path)).collect();
        let folders: HashSet<PathBuf> =
            self.waypoints.iter().filter_map(|point| point.parent().map(Path::to_path_buf)).collect();
        folders.iter().for_each(|folder| self.watch_folder(folder));
    }

    /// More files of the application. Gives one that has changed since it was imported.
    pub(super) fn add_modules(&mut self, modules: &[Imported]) -> Option<PathBuf> {
        let mut changed = None;
        for module in modules {
            if self.modules.contains_key(&module.path) {
                continue;
            }
            let Some(folder) = module.path.parent().map(Path::to_path_buf) else { continue };
            if !self.module_folders.contains(&folder) {
                self.watch_folder(&folder);
                self.module_folders.insert(folder);
            }
            // Now that it is watched no change is missed.
            let mut seen = module.time;
            if is_new(&mut seen, mtime(&module.path)) {
                changed.get_or_insert_with(|| module.path.clone());
            }
            self.modules.insert(module.path.clone(), seen);
        }
        changed
    }

    pub(super) fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.watcher.as_ref().map(AsFd::as_fd)
    }

    /// What has happened since the last look.
    pub(super) fn look(&mut self) -> Seen {
        let mut seen = Seen::default();
        let mut look_at_all = false;
        for event in self.watcher.as_ref().map(Watcher::read).unwrap_or_default() {
            let Some(names) = event.watch.map(|watch| self.folders.get(&watch).cloned().unwrap_or_default()) else {
                look_at_all = true;
                continue;
            };
            for folder in names {
                let Some(name) = &event.name else {
                    // The folder itself went elsewhere; another may come in its place.
                    look_at_all = true;
                    continue;
                };
                let path = folder.join(name);
                look_at_all |= self.waypoints.contains(&path);
                let known = self.modules.get_mut(&path);
                let changed = match known {
                    Some(known) => is_new(known, mtime(&path)),
                    None => {
                        let may_mend = self.any_module && self.module_folders.contains(&folder);
                        may_mend && path.extension() == Some(OsStr::new("py"))
                    }
                };
                if changed || self.trees.contains(&folder) && !is_made_by_python(name) {
                    seen.changed.get_or_insert(path);
                }
            }
        }
        if look_at_all {
            self.find_waypoints();
            let touched = self.touched.iter_mut().filter_map(|one| one.look().then(|| (one.path.clone(), one.what)));
            seen.touched.extend(touched);
        }
        seen
    }
}

/// Files that an import makes: nobody wants another import because of them.
fn is_made_by_python(name: &OsStr) -> bool {
    name == "__pycache__" || Path::new(name).extension() == Some(OsStr::new("pyc"))
}

/// The entries of folders on which it depends what `path` is: links on the way, and the first one that is missing or the
/// file itself. The folder of each exists.
fn waypoints(path: &Path) -> Vec<PathBuf> {
    let mut out = Vec::new();
    let mut rest = path.to_path_buf();
    for _ in 0..MOST_LINKS {
        let mut prefix = PathBuf::new();
        let mut components = rest.components();
        let mut next = None;
        for component in components.by_ref() {
            prefix.push(component);
            if !matches!(component, Component::Normal(_)) {
                continue;
            }
            match fs::symlink_metadata(&prefix) {
                Ok(found) if found.is_symlink() => {
                    out.push(prefix.clone());
                    next = fs::read_link(&prefix).ok();
                    break;
                }
                Ok(_) => {}
                Err(_) => {
                    out.push(prefix);
                    return out;
                }
            }
        }
        match next {
            // A relative target begins in the folder of the link.
            Some(target) => {
                let mut whole = prefix.parent().unwrap_or(Path::new("/")).join(target);
                whole.extend(components);
                rest = whole;
            }
            None => {
                out.push(prefix);
                return out;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;
    use std::time::{Duration, SystemTime};

    fn touch(path: &Path, seconds: u64) {
        let file = fs::OpenOptions::new().create(true).append(true).open(path).unwrap();
        file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)).unwrap();
    }

    /// A folder without links on the way.
    fn folder() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().canonicalize().unwrap();
        (dir, path)
    }

    fn watching(path: &Path) -> Watch {
        let mut watch = Watch::default();
        watch.set(vec![(path.to_path_buf(), Touch::Reload)], Vec::new(), &[]);
        watch
    }

    #[test]
    fn a_new_time_is_a_touch_and_an_old_one_is_none() {
        let (_dir, folder) = folder();
        let file = folder.join("f");
        touch(&file, 5);
        let mut watch = watching(&file);
        assert_eq!(watch.look(), Seen::default());
        touch(&file, 5);
        touch(&folder.join("other"), 7);
        assert_eq!(watch.look(), Seen::default());
        touch(&file, 6);
        assert_eq!(watch.look().touched, [(file.clone(), Touch::Reload)]);
        fs::remove_file(&file).unwrap();
        assert_eq!(watch.look(), Seen::default());
    }

    #[test]
    fn a_file_that_is_created_is_touched_even_if_its_folder_was_not_there() {
        let (_dir, folder) = folder();
        let file = folder.join("a/b/f");
        let mut watch = watching(&file);
        fs::create_dir(folder.join("a")).unwrap();
        assert_eq!(watch.look(), Seen::default());
        fs::create_dir(folder.join("a/b")).unwrap();
        assert_eq!(watch.look(), Seen::default());
        touch(&file, 5);
        assert_eq!(watch.look().touched.len(), 1);
    }

    #[test]
    fn a_link_that_is_turned_is_seen() {
        let (_dir, folder) = folder();
        for (release, time) in [("1", 5), ("2", 6)] {
            fs::create_dir(folder.join(release)).unwrap();
            touch(&folder.join(release).join("f"), time);
        }
        symlink("1", folder.join("current")).unwrap();
        let file = folder.join("current/f");
        let mut watch = watching(&file);
        symlink("2", folder.join("new")).unwrap();
        fs::rename(folder.join("new"), folder.join("current")).unwrap();
        assert_eq!(watch.look().touched.len(), 1);
        touch(&folder.join("2/f"), 7);
        assert_eq!(watch.look().touched.len(), 1);
        touch(&folder.join("1/f"), 8);
        assert_eq!(watch.look(), Seen::default());
    }

    #[test]
    fn what_was_touched_while_the_list_was_made_anew_is_not_missed() {
        let (_dir, folder) = folder();
        let (file, other) = (folder.join("f"), folder.join("g"));
        touch(&file, 5);
        let mut watch = watching(&file);
        touch(&file, 6);
        let list = || vec![(file.clone(), Touch::Reload), (other.clone(), Touch::Chain)];
        watch.set(list(), Vec::new(), &[]);
        touch(&other, 1);
        assert_eq!(watch.look().touched, list());
    }

    #[test]
    fn a_module_counts_when_its_time_changes_and_after_a_failure_its_neighbours_do() {
        let (_dir, folder) = folder();
        let (module, other) = (folder.join("m.py"), folder.join("new.py"));
        touch(&module, 5);
        let mut watch = Watch::default();
        let imported = Imported { time: mtime(&module), path: module.clone() };
        assert_eq!(watch.set(Vec::new(), Vec::new(), std::slice::from_ref(&imported)), None);
        touch(&other, 5);
        assert_eq!(watch.look(), Seen::default());
        touch(&module, 6);
        assert_eq!(watch.look().changed, Some(module));
        assert_eq!(
            Watch::default().set(Vec::new(), Vec::new(), &[imported]),
            Some(folder.join("m.py")),
            "while nobody watched"
        );
        watch.any_module = true;
        touch(&folder.join("text"), 6);
        assert_eq!(watch.look(), Seen::default());
        touch(&other, 7);
        assert_eq!(watch.look().changed, Some(other));
    }

    #[test]
    fn any_change_in_a_folder_counts_but_for_compiled_modules() {
        let (_dir, folder) = folder();
        let mut watch = Watch::default();
        watch.set(Vec::new(), vec![folder.clone()], &[]);
        fs::create_dir(folder.join("__pycache__")).unwrap();
        assert_eq!(watch.look(), Seen::default());
        touch(&folder.join("data"), 1);
        assert_eq!(watch.look().changed, Some(folder.join("data")));
    }
}
