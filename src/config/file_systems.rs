//! What hooks mount and unmount, as it is written: `KIND SOURCE FOLDER [FLAG,... [DATA]]` and `FOLDER [FLAG,...]`.

use std::path::PathBuf;

/// Flags of mount(2) by the names that files give them.
const MOUNT_FLAGS: [(&str, u64); 18] = [
    ("ro", 1),
    ("rdonly", 1),
    ("readonly", 1),
    ("nosuid", 2),
    ("nodev", 4),
    ("noexec", 8),
    ("sync", 16),
    ("remount", 32),
    ("mandlock", 64),
    ("dirsync", 128),
    ("noatime", 1024),
    ("bind", 4096),
    ("move", 8192),
    ("rec", 16384),
    ("recursive", 16384),
    ("private", 1 << 18),
    ("slave", 1 << 19),
    ("shared", 1 << 20),
];

/// The same of umount2(2).
const UNMOUNT_FLAGS: [(&str, u64); 2] = [("force", 1), ("detach", 2)];

/// A file system to be mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountFs {
    /// Its type; `none` where that does not matter.
    pub kind: String,
    /// What is mounted.
    pub source: String,
    /// Where.
    pub folder: PathBuf,
    /// As mount(2) takes them.
    pub flags: u64,
    /// What the type makes of it.
    pub data: String,
}

/// A file system to be unmounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnmountFs {
    /// Where it is mounted.
    pub folder: PathBuf,
    /// As umount2(2) takes them.
    pub flags: u64,
    /// With all that is mounted below it, the last one first.
    pub below: bool,
}

fn bits(text: &str, known: &[(&str, u64)]) -> Option<u64> {
    let bit = |name: &str| known.iter().find(|(known, _)| *known == name).map(|(_, bit)| *bit);
    text.split(',').try_fold(0, |all, name| Some(all | bit(name)?))
}

impl MountFs {
    pub(super) fn parse(text: &str) -> Option<MountFs> {
        let mut words = text.splitn(5, ' ');
        let mut word = || words.next().filter(|word| !word.is_empty());
        let (kind, source, folder) = (word()?.into(), word()?.into(), word()?.into());
        let flags = words.next().map_or(Some(0), |names| bits(names, &MOUNT_FLAGS))?;
        Some(MountFs { kind, source, folder, flags, data: words.next().unwrap_or_default().into() })
    }
}

impl UnmountFs {
    pub(super) fn parse(text: &str) -> Option<UnmountFs> {
        let (folder, names) = text.split_once(' ').unwrap_or((text, ""));
        if folder.is_empty() {
            return None;
        }
        let is_below = |name: &&str| matches!(*name, "rec" | "recursive");
        let names: Vec<&str> = names.split(',').filter(|name| !name.is_empty()).collect();
        let below = names.iter().any(is_below);
        let flags = names.iter().filter(|name| !is_below(name)).try_fold(0, |all, name| {
            let bit = bits(name, &UNMOUNT_FLAGS)?;
            Some(all | bit)
        })?;
        Some(UnmountFs { folder: folder.into(), flags, below })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_mounted_is_read() {
        let mount = MountFs::parse("tmpfs none /run/x nodev,nosuid size=1m,mode=700").unwrap();
        assert_eq!((mount.kind.as_str(), mount.source.as_str()), ("tmpfs", "none"));
        assert_eq!((mount.folder, mount.flags, mount.data.as_str()), ("/run/x".into(), 6, "size=1m,mode=700"));
        assert_eq!(MountFs::parse("none /a /b").map(|mount| mount.flags), Some(0));
        assert_eq!(MountFs::parse("none /a /b bind,rec").map(|mount| mount.flags), Some(4096 | 16384));
        for wrong in ["", "tmpfs", "tmpfs none", "tmpfs none  /x", "none /a /b loudly", "none /a /b bind,,ro"] {
            assert_eq!(MountFs::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn what_is_unmounted_is_read() {
        let plain = UnmountFs { folder: "/a".into(), flags: 0, below: false };
        assert_eq!(UnmountFs::parse("/a"), Some(plain.clone()));
        assert_eq!(UnmountFs::parse("/a rec,detach"), Some(UnmountFs { flags: 2, below: true, ..plain }));
        for wrong in ["", " force", "/a loudly"] {
            assert_eq!(UnmountFs::parse(wrong), None, "{wrong}");
        }
    }
}
