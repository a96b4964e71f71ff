//! Mounting and unmounting file systems.

use std::fs;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags};

/// Mounts a file system; `flags` are those of mount(2).
///
/// # Errors
/// The system's.
pub fn mount(kind: &str, source: &str, folder: &Path, flags: u64, data: &str) -> io::Result<()> {
    let data = (!data.is_empty()).then_some(data);
    Ok(nix::mount::mount(Some(source), folder, Some(kind), MsFlags::from_bits_retain(flags), data)?)
}

/// Unmounts a file system, if `below` with all that is mounted in it; `flags` are those of umount2(2).
///
/// # Errors
/// The system's, the first one.
pub fn unmount(folder: &Path, flags: u64, below: bool) -> io::Result<()> {
    let flags = MntFlags::from_bits_retain(flags as libc::c_int);
    if below {
        let folder = fs::canonicalize(folder)?;
        let inside = mounted().into_iter().filter(|path| path.starts_with(&folder) && *path != folder);
        // What was mounted last may cover what came before.
        inside.rev().try_for_each(|path| nix::mount::umount2(&path, flags))?;
    }
    Ok(nix::mount::umount2(folder, flags)?)
}

/// Where something is mounted, in the order of mounting.
fn mounted() -> Vec<PathBuf> {
    let text = fs::read("/proc/self/mounts").unwrap_or_default();
    let folder = |line: &[u8]| Some(unescape(line.split(|byte| *byte == b' ').nth(1)?));
    text.split(|byte| *byte == b'\n').filter_map(folder).collect()
}

/// A blank, tab, line feed or backslash is written as a backslash and three octal digits (proc(5)).
fn unescape(text: &[u8]) -> PathBuf {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, others)) = rest.split_first() {
        let digits = others.get(..3).and_then(|digits| std::str::from_utf8(digits).ok());
        let escaped = digits.and_then(|digits| u8::from_str_radix(digits, 8).ok()).filter(|_| *first == b'\\');
        out.push(escaped.unwrap_or(*first));
        rest = if escaped.is_some() { &others[3..] } else { others };
    }
    PathBuf::from(std::ffi::OsString::from_vec(out))
}

/// Gives the machine a name.
///
/// # Errors
/// The system's.
pub fn set_host_name(name: &str) -> io::Result<()> {
    Ok(nix::unistd::sethostname(std::ffi::OsStr::from_bytes(name.as_bytes()))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_mounted_is_found_whatever_its_name() {
        assert!(mounted().contains(&PathBuf::from("/proc")));
        assert_eq!(unescape(b"/a\\040b\\134\\0"), PathBuf::from("/a b\\\\0"));
    }
}
