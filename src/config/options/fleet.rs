//! Many instances: the emperor, legions, and hooks of the life cycle.

use super::super::hooks::{Awaited, Phase};
use super::{FLAG, NUMBER, Row, TEXT};

pub(super) const EMPEROR: &[Row] = &[
    Row::new("emperor", TEXT, "run as Emperor watching a dir/glob/monitor URI"),
    Row::new("emperor-proxy-socket", TEXT, "let a vassal act as Emperor proxy on a unix socket"),
    Row::new("emperor-wrapper", TEXT, "binary used to exec vassals"),
    Row::new("emperor-wrapper-override", TEXT, "try these wrappers first"),
    Row::new("emperor-wrapper-fallback", TEXT, "wrappers tried on exec failure"),
    Row::new("emperor-nofollow", FLAG, "lstat vassal files instead of stat"),
    Row::new("emperor-procname", TEXT, "title of the Emperor process"),
    Row::new("emperor-freq", NUMBER, "seconds between scans"),
    Row::new("emperor-required-heartbeat", NUMBER, "seconds of silence before a heart-beating vassal is reloaded"),
    Row::new("emperor-curse-tolerance", NUMBER, "seconds a cursed vassal may linger"),
    Row::new("emperor-pidfile", TEXT, "pidfile of the Emperor"),
    Row::new("emperor-tyrant", FLAG, "run each vassal with owner uid/gid of its file"),
    Row::new("emperor-tyrant-nofollow", FLAG, "tyrant mode using lstat"),
    Row::new("emperor-stats", TEXT, "Emperor stats socket").also(&["emperor-stats-server"]),
    Row::new("early-emperor", FLAG, "start Emperor before jailing/priv drop"),
    Row::new("emperor-broodlord", NUMBER, "allow zerg reinforcement on SOS (max count)"),
    Row::new("emperor-throttle", NUMBER, "ms throttle step for respawning vassals"),
    Row::new("emperor-max-throttle", NUMBER, "max throttle in ms"),
    Row::new("emperor-magic-exec", FLAG, "execute executable vassal files as exec:// config"),
    Row::new("emperor-on-demand-extension", TEXT, "file extension holding the on-demand socket name")
        .also(&["emperor-on-demand-ext"]),
    Row::new("emperor-on-demand-directory", TEXT, "directory of on-demand sockets").also(&["emperor-on-demand-dir"]),
    Row::new("emperor-on-demand-exec", TEXT, "command printing the on-demand socket"),
    Row::new("emperor-extra-extension", TEXT, "additional vassal file extensions").also(&["emperor-extra-ext"]),
    Row::new("emperor-no-blacklist", FLAG, "do not blacklist failing vassals"),
    Row::new("emperor-use-clone", TEXT, "clone() flags for vassals"),
    Row::new("emperor-graceful-shutdown", FLAG, "SIGHUP-style graceful vassal stop"),
    Row::new("emperor-cap", TEXT, "capabilities kept for vassals"),
    Row::new("vassals-cap", TEXT, "capabilities kept for vassals"),
    Row::new("vassal-cap", TEXT, "capabilities kept for vassals"),
    Row::new("imperial-monitor-list", FLAG, "list monitors").also(&["imperial-monitors-list"]),
    Row::new("vassals-inherit", TEXT, "--inherit added to each vassal"),
    Row::new("vassals-include", TEXT, "--include added to each vassal"),
    Row::new("vassals-inherit-before", TEXT, "--inherit added before the vassal config"),
    Row::new("vassals-include-before", TEXT, "--include added before the vassal config"),
    Row::new("vassals-start-hook", TEXT, "command on vassal start"),
    Row::new("vassals-stop-hook", TEXT, "command on vassal stop"),
    Row::new("vassal-sos", NUMBER, "ask Emperor for help when overloaded for N seconds"),
    Row::new("vassal-sos-backlog", NUMBER, "ask Emperor for help when backlog is above N"),
    Row::new("vassals-set", TEXT, "placeholder/option set on each vassal").also(&["vassal-set"]),
    Row::new("heartbeat", NUMBER, "send an heartbeat to the Emperor every N seconds"),
];

const NO_LEGION: &str = "there are no legions, so it would never be started; attach-daemon and smart-attach-daemon start it on \
                         every node";

pub(super) const LEGION: &[Row] = &[
    Row::new("legion", TEXT, "legion clustering: legion"),
    Row::new("legion-mcast", TEXT, "legion clustering: mcast"),
    Row::new("legion-node", TEXT, "legion clustering: node"),
    Row::new("legion-freq", NUMBER, "legion clustering: freq"),
    Row::new("legion-tolerance", NUMBER, "legion clustering: tolerance"),
    Row::new("legion-death-on-lord-error", NUMBER, "legion clustering: death on lord error"),
    Row::new("legion-skew-tolerance", NUMBER, "legion clustering: skew tolerance"),
    Row::new("legion-lord", TEXT, "legion clustering: lord"),
    Row::new("legion-unlord", TEXT, "legion clustering: unlord"),
    Row::new("legion-setup", TEXT, "legion clustering: setup"),
    Row::new("legion-death", TEXT, "legion clustering: death"),
    Row::new("legion-join", TEXT, "legion clustering: join"),
    Row::new("legion-node-joined", TEXT, "legion clustering: node joined"),
    Row::new("legion-node-left", TEXT, "legion clustering: node left"),
    Row::new("legion-quorum", TEXT, "legion clustering: quorum"),
    Row::new("legion-scroll", TEXT, "legion clustering: scroll"),
    Row::new("legion-scroll-max-size", NUMBER, "legion clustering: scroll max size"),
    Row::new("legion-scroll-list-max-size", NUMBER, "legion clustering: scroll list max size"),
    Row::new("legion-cron", TEXT, "legion clustering: cron").also(&["cron-legion"]),
    Row::new("unique-legion-cron", TEXT, "legion clustering: unique legion cron").also(&["unique-cron-legion"]),
    Row::new("legion-attach-daemon", TEXT, "legion clustering: attach daemon").refused(NO_LEGION),
    Row::new("legion-smart-attach-daemon", TEXT, "legion clustering: smart attach daemon").refused(NO_LEGION),
    Row::new("legion-smart-attach-daemon2", TEXT, "legion clustering: smart attach daemon2").refused(NO_LEGION),
];

const NO_CALLS: &str =
    "rsgi has none of uWSGI's C functions; use the exec- or hook- option of the same time, with a command";

pub(super) const HOOKS: &[Row] = &[
    Row::new("hook-asap", TEXT, "hook action right after config parsing").listed().set(|d, s| d.hook(s, Phase::Asap)),
    Row::new("hook-pre-jail", TEXT, "hook action before jailing").listed().set(|d, s| d.hook(s, Phase::PreJail)),
    Row::new("hook-post-jail", TEXT, "hook action after jailing").listed().set(|d, s| d.hook(s, Phase::PostJail)),
    Row::new("hook-in-jail", TEXT, "hook action inside the jail").listed().set(|d, s| d.hook(s, Phase::InJail)),
    Row::new("hook-as-root", TEXT, "hook action just before dropping privileges")
        .listed()
        .set(|d, s| d.hook(s, Phase::AsRoot)),
    Row::new("hook-as-user", TEXT, "hook action just after dropping privileges")
        .listed()
        .set(|d, s| d.hook(s, Phase::AsUser)),
    Row::new("hook-as-user-atexit", TEXT, "hook action in the master at exit")
        .listed()
        .set(|d, s| d.hook(s, Phase::AtExit)),
    Row::new("hook-pre-app", TEXT, "hook action before app loading").listed().set(|d, s| d.hook(s, Phase::PreApp)),
    Row::new("hook-post-app", TEXT, "hook action after app loading").listed().set(|d, s| d.hook(s, Phase::PostApp)),
    Row::new("hook-post-fork", TEXT, "hook action in each worker when it was forked")
        .listed()
        .set(|d, s| d.hook(s, Phase::PostFork)),
    Row::new("hook-accepting", TEXT, "hook action in each worker before it accepts")
        .listed()
        .set(|d, s| d.hook(s, Phase::Accepting)),
    Row::new("hook-accepting1", TEXT, "hook action in the first worker before it accepts")
        .listed()
        .set(|d, s| d.hook(s, Phase::Accepting1)),
    Row::new("hook-accepting-once", TEXT, "hook action in each worker before it accepts, not in those that replace it")
        .listed()
        .set(|d, s| d.hook(s, Phase::AcceptingOnce)),
    Row::new(
        "hook-accepting1-once",
        TEXT,
        "hook action in the first worker before it accepts, not in those that replace it",
    )
    .listed()
    .set(|d, s| d.hook(s, Phase::Accepting1Once)),
    Row::new("hook-master-start", TEXT, "hook action in the master when it begins its work")
        .listed()
        .set(|d, s| d.hook(s, Phase::MasterStart)),
    Row::new("hook-touch", TEXT, "a file, a blank, and a hook action in the master when it is touched")
        .listed()
        .set(|d, s| d.touch_hook(s, "")),
    Row::new("hook-emperor-start", TEXT, "hook action at phase emperor-start"),
    Row::new("hook-emperor-stop", TEXT, "hook action at phase emperor-stop"),
    Row::new("hook-emperor-reload", TEXT, "hook action at phase emperor-reload"),
    Row::new("hook-emperor-lost", TEXT, "hook action at phase emperor-lost"),
    Row::new("hook-as-vassal", TEXT, "hook action before exec of a vassal"),
    Row::new("hook-as-emperor", TEXT, "hook action in the Emperor after vassal spawn"),
    Row::new("hook-as-mule", TEXT, "hook action at phase as-mule"),
    Row::new("hook-as-gateway", TEXT, "hook action at phase as-gateway"),
    Row::new("after-request-hook", TEXT, "C symbol called after each request").also(&["after-request-call"]),
    Row::new("exec-asap", TEXT, "shell command (must exit 0) right after config parsing")
        .listed()
        .set(|d, s| d.exec(s, Phase::Asap)),
    Row::new("exec-pre-jail", TEXT, "shell command (must exit 0) before jailing")
        .listed()
        .set(|d, s| d.exec(s, Phase::PreJail)),
    Row::new("exec-post-jail", TEXT, "shell command (must exit 0) after jailing")
        .listed()
        .set(|d, s| d.exec(s, Phase::PostJail)),
    Row::new("exec-in-jail", TEXT, "shell command (must exit 0) inside the jail")
        .listed()
        .set(|d, s| d.exec(s, Phase::InJail)),
    Row::new("exec-as-root", TEXT, "shell command (must exit 0) just before dropping privileges")
        .listed()
        .set(|d, s| d.exec(s, Phase::AsRoot)),
    Row::new("exec-as-user", TEXT, "shell command (must exit 0) just after dropping privileges")
        .listed()
        .set(|d, s| d.exec(s, Phase::AsUser)),
    Row::new("exec-as-user-atexit", TEXT, "shell command (must exit 0) in the master at exit")
        .listed()
        .set(|d, s| d.exec(s, Phase::AtExit)),
    Row::new("exec-pre-app", TEXT, "shell command (must exit 0) before app loading")
        .listed()
        .set(|d, s| d.exec(s, Phase::PreApp)),
    Row::new("exec-post-app", TEXT, "shell command (must exit 0) after app loading")
        .listed()
        .set(|d, s| d.exec(s, Phase::PostApp)),
    Row::new("exec-as-vassal", TEXT, "shell command (must exit 0) before exec of a vassal"),
    Row::new("exec-as-emperor", TEXT, "shell command (must exit 0) in the Emperor after vassal spawn"),
    Row::new(
        "mount-asap",
        TEXT,
        "a file system to mount right after config parsing, as TYPE SOURCE FOLDER [FLAG,... [DATA]]",
    )
    .listed()
    .set(|d, s| d.deed(s, Phase::Asap, "mount")),
    Row::new("mount-pre-jail", TEXT, "a file system to mount before jailing, as TYPE SOURCE FOLDER [FLAG,... [DATA]]")
        .listed()
        .set(|d, s| d.deed(s, Phase::PreJail, "mount")),
    Row::new("mount-post-jail", TEXT, "a file system to mount after jailing, as TYPE SOURCE FOLDER [FLAG,... [DATA]]")
        .listed()
        .set(|d, s| d.deed(s, Phase::PostJail, "mount")),
    Row::new("mount-in-jail", TEXT, "a file system to mount inside the jail, as TYPE SOURCE FOLDER [FLAG,... [DATA]]")
        .listed()
        .set(|d, s| d.deed(s, Phase::InJail, "mount")),
    Row::new(
        "mount-as-root",
        TEXT,
        "a file system to mount just before dropping privileges, as TYPE SOURCE FOLDER [FLAG,... [DATA]]",
    )
    .listed()
    .set(|d, s| d.deed(s, Phase::AsRoot, "mount")),
    Row::new("mount-as-vassal", TEXT, "mount() before exec of a vassal"),
    Row::new("mount-as-emperor", TEXT, "mount() in the Emperor after vassal spawn"),
    Row::new("umount-asap", TEXT, "a file system to unmount right after config parsing, as FOLDER [FLAG,...]")
        .listed()
        .set(|d, s| d.deed(s, Phase::Asap, "umount")),
    Row::new("umount-pre-jail", TEXT, "a file system to unmount before jailing, as FOLDER [FLAG,...]")
        .listed()
        .set(|d, s| d.deed(s, Phase::PreJail, "umount")),
    Row::new("umount-post-jail", TEXT, "a file system to unmount after jailing, as FOLDER [FLAG,...]")
        .listed()
        .set(|d, s| d.deed(s, Phase::PostJail, "umount")),
    Row::new("umount-in-jail", TEXT, "a file system to unmount inside the jail, as FOLDER [FLAG,...]")
        .listed()
        .set(|d, s| d.deed(s, Phase::InJail, "umount")),
    Row::new("umount-as-root", TEXT, "a file system to unmount just before dropping privileges, as FOLDER [FLAG,...]")
        .listed()
        .set(|d, s| d.deed(s, Phase::AsRoot, "umount")),
    Row::new("umount-as-vassal", TEXT, "umount() before exec of a vassal"),
    Row::new("umount-as-emperor", TEXT, "umount() in the Emperor after vassal spawn"),
    Row::new("wait-for-interface", TEXT, "before hook-as-root, wait until this network interface is up")
        .also(&["wait-interface", "wait-for-iface", "wait-iface"])
        .listed()
        .set(|d, s| d.wait_for(s, Awaited::Interface)),
    Row::new("wait-for-interface-timeout", NUMBER, "seconds to wait for an interface (60)")
        .also(&["wait-interface-timeout", "wait-for-iface-timeout", "wait-iface-timeout"])
        .set(|d, s| d.wait_limit(s, &[Awaited::Interface])),
    Row::new("wait-for-fs", TEXT, "before hook-as-root, wait until there is a file or folder of this name")
        .listed()
        .set(|d, s| d.wait_for(s, Awaited::Path)),
    Row::new("wait-for-file", TEXT, "before hook-as-root, wait until there is this file")
        .listed()
        .set(|d, s| d.wait_for(s, Awaited::File)),
    Row::new("wait-for-dir", TEXT, "before hook-as-root, wait until there is this folder")
        .listed()
        .set(|d, s| d.wait_for(s, Awaited::Folder)),
    Row::new("wait-for-mountpoint", TEXT, "before hook-as-root, wait until something is mounted on this folder")
        .listed()
        .set(|d, s| d.wait_for(s, Awaited::MountPoint)),
    Row::new("wait-for-fs-timeout", NUMBER, "seconds to wait for a file, folder or mount point (60)")
        .set(|d, s| d.wait_limit(s, &[Awaited::Path, Awaited::File, Awaited::Folder, Awaited::MountPoint])),
    Row::new("wait-for-socket", TEXT, "before hook-as-root, wait until this address accepts connections")
        .listed()
        .set(|d, s| d.wait_for(s, Awaited::Socket)),
    Row::new("wait-for-socket-timeout", NUMBER, "seconds to wait for an address (60)")
        .set(|d, s| d.wait_limit(s, &[Awaited::Socket])),
    Row::new("call-asap", TEXT, "C symbol call right after config parsing").refused(NO_CALLS),
    Row::new("call-pre-jail", TEXT, "C symbol call before jailing").refused(NO_CALLS),
    Row::new("call-post-jail", TEXT, "C symbol call after jailing").refused(NO_CALLS),
    Row::new("call-in-jail", TEXT, "C symbol call inside the jail").refused(NO_CALLS),
    Row::new("call-as-root", TEXT, "C symbol call just before dropping privileges").refused(NO_CALLS),
    Row::new("call-as-user", TEXT, "C symbol call just after dropping privileges").refused(NO_CALLS),
    Row::new("call-as-user-atexit", TEXT, "C symbol call in the master at exit").refused(NO_CALLS),
    Row::new("call-pre-app", TEXT, "C symbol call before app loading").refused(NO_CALLS),
    Row::new("call-post-app", TEXT, "C symbol call after app loading").refused(NO_CALLS),
    Row::new("call-as-vassal", TEXT, "C symbol call before exec of a vassal"),
    Row::new("call-as-vassal1", TEXT, "C symbol call at phase as-vassal1"),
    Row::new("call-as-vassal3", TEXT, "C symbol call at phase as-vassal3"),
    Row::new("call-as-emperor", TEXT, "C symbol call in the Emperor after vassal spawn"),
    Row::new("call-as-emperor1", TEXT, "C symbol call at phase as-emperor1"),
    Row::new("call-as-emperor2", TEXT, "C symbol call at phase as-emperor2"),
    Row::new("call-as-emperor4", TEXT, "C symbol call at phase as-emperor4"),
    Row::new("file-write", TEXT, "FILE=TEXT to write at the start, with a line feed, before hook-pre-jail")
        .listed()
        .set(|d, s| d.file_write(s)),
];
