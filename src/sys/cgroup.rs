//! What the control group of this process tells (cgroups(7), version 2).

use std::fs;
use std::path::Path;

/// Processes of this control group that were killed for want of memory, so far; none when that cannot be told.
pub fn oom_kills() -> Option<u64> {
    let own = fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = own.lines().find_map(|line| line.strip_prefix("0::"))?;
    let folder = Path::new("/sys/fs/cgroup").join(path.trim_start_matches('/'));
    parse_events(&fs::read_to_string(folder.join("memory.events")).ok()?)
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
}
