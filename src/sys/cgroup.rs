//! What the control group of this process tells (cgroups(7), versions 1 and 2).

use std::fs;
use std::path::{Path, PathBuf};

/// Processes of this control group that were killed for want of memory, so far; none when that cannot be told.
pub fn oom_kills() -> Option<u64> {
    let own = fs::read_to_string("/proc/self/cgroup").ok()?;
    count(&own, Path::new("/sys/fs/cgroup"))
}

/// The same, by the text of `/proc/PID/cgroup` and the folder where control groups are mounted.
fn count(own: &str, root: &Path) -> Option<u64> {
    sources(own, root).iter().find_map(|file| parse_events(&fs::read_to_string(file).ok()?))
}

/// Files that may tell, the best first.
fn sources(own: &str, root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for line in own.lines() {
        let mut parts = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next()) else { continue };
        let path = path.trim_start_matches('/');
        let (folder, file) = match controllers {
            "" => (root.to_path_buf(), "memory.events"),
            all if all.split(',').any(|one| one == "memory") => (root.join("memory"), "memory.oom_control"),
            _ => continue,
        };
        found.push(folder.join(path).join(file));
        // In a container its own group is mounted at the root, and its name is that on the outside.
        found.push(folder.join(file));
    }
    found
}

fn parse_events(text: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix("oom_kill ")).and_then(|count| count.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kills_are_counted_and_near_misses_are_not() {
        assert_eq!(parse_events("low 0\noom 7\noom_kill 3\noom_group_kill 1\n"), Some(3));
        assert_eq!(parse_events("low 0\n"), None);
    }

    #[test]
    fn the_group_is_found_in_both_versions_and_in_containers() {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        let second = "0::/system.slice/site.service\n";
        assert_eq!(count(second, root.path()), None);
        write("memory.events", "oom_kill 1\n");
        assert_eq!(count(second, root.path()), Some(1), "a container has its own at the root");
        write("system.slice/site.service/memory.events", "oom 1\noom_kill 5\n");
        assert_eq!(count(second, root.path()), Some(5));
        let first = "5:cpu,cpuacct:/x\n4:hugetlb,memory:/site\n";
        assert_eq!(count(first, root.path()), None);
        write("memory/site/memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n");
        assert_eq!(count(first, root.path()), Some(2));
        assert_eq!(count("nonsense", root.path()), None);
    }
}
