//! What runs beside the workers: caches, cron jobs, daemons, spoolers, mules, locks.

use super::super::daemons::Care;
use super::{FLAG, NUMBER, OPTIONAL, Row, TEXT};

pub(super) const CACHE: &[Row] = &[
    Row::new("cache", NUMBER, "create legacy default cache with N items"),
    Row::new("cache-blocksize", NUMBER, "block size of the legacy cache"),
    Row::new("cache-store", TEXT, "backing file of the legacy cache"),
    Row::new("cache-store-sync", NUMBER, "msync interval (master cycles)"),
    Row::new("cache-no-expire", FLAG, "disable expiry"),
    Row::new("cache-expire-freq", NUMBER, "sweeper frequency in seconds"),
    Row::new("cache-report-freed-items", FLAG, "log sweeper activity"),
    Row::new("cache-udp-server", TEXT, "bind cache UDP replication"),
    Row::new("cache-udp-node", TEXT, "send cache updates by UDP"),
    Row::new("cache-sync", TEXT, "copy cache from another node at start"),
    Row::new("cache-use-last-modified", FLAG, "track last modified"),
    Row::new("add-cache-item", TEXT, "[cache ]key=value preload"),
    Row::new("load-file-in-cache", TEXT, "preload a file"),
    Row::new("load-file-in-cache-gzip", TEXT, "preload a gzipped file"),
    Row::new("cache2", TEXT, "create a named cache with key=value settings"),
    Row::new("check-cache", OPTIONAL, "answer GET from a cache keyed by URI"),
];

pub(super) const CRON: &[Row] = &[
    Row::new("cron", TEXT, "\"min hour day month weekday command\""),
    Row::new("cron2", TEXT, "k=v,... command"),
    Row::new("unique-cron", TEXT, "skip if still running"),
    Row::new("cron-harakiri", NUMBER, "seconds before a cron command is killed"),
    Row::new("curl-cron", TEXT, "cron entry that fetches a URL"),
    Row::new("cron-curl", TEXT, "cron entry that fetches a URL"),
    Row::new("legion-curl-cron", TEXT, "cron entry that fetches a URL"),
    Row::new("legion-cron-curl", TEXT, "cron entry that fetches a URL"),
    Row::new("curl-cron-legion", TEXT, "cron entry that fetches a URL"),
    Row::new("cron-curl-legion", TEXT, "cron entry that fetches a URL"),
];

pub(super) const DAEMONS: &[Row] = &[
    Row::new("attach-daemon", TEXT, "a command that runs beside the workers and is started again when it ends")
        .listed()
        .set(|d, s| d.daemon(s, Care::Attached)),
    Row::new("attach-control-daemon", TEXT, "a command that runs beside the workers; the server stops when it ends")
        .listed()
        .set(|d, s| d.daemon(s, Care::Control)),
    Row::new("smart-attach-daemon", TEXT, "a pid file and a command that goes to the background by itself")
        .listed()
        .set(|d, s| d.smart_daemon(s, Care::Smart)),
    Row::new("smart-attach-daemon2", TEXT, "a pid file and a command that is put into the background")
        .listed()
        .set(|d, s| d.smart_daemon(s, Care::Smart2)),
    Row::new("daemons-honour-stdin", FLAG, "attached programs keep the server's standard input")
        .set(|d, s| d.daemons_keep_stdin = d.flag(s)),
    Row::new(
        "attach-daemon2",
        TEXT,
        "the same as key=value,...: command, pidfile, freq, control, daemonize, touch and more",
    )
    .listed()
    .set(|d, s| d.keyed_daemon(s)),
];

pub(super) const SPOOLER: &[Row] = &[
    Row::new("spooler", TEXT, "run a spooler on a directory").short('Q'),
    Row::new("spooler-external", TEXT, "directory handled by another instance"),
    Row::new("spooler-ordered", FLAG, "process tasks in name order"),
    Row::new("spooler-chdir", TEXT, "chdir before each task"),
    Row::new("spooler-processes", NUMBER, "spooler processes per directory (must precede spooler)"),
    Row::new("spooler-quiet", FLAG, "less logging"),
    Row::new("spooler-max-tasks", NUMBER, "recycle spooler after N tasks"),
    Row::new("spooler-harakiri", NUMBER, "task time limit"),
    Row::new("spooler-frequency", NUMBER, "seconds between scans").also(&["spooler-freq"]),
];

pub(super) const MULES: &[Row] = &[
    Row::new("mule", OPTIONAL, "add a mule, optionally running a .py file or module:callable"),
    Row::new("mules", TEXT, "add N generic mules"),
    Row::new("farm", TEXT, "name:1,2 group mules"),
    Row::new("mule-msg-size", OPTIONAL, "SO_SNDBUF/SO_RCVBUF of the mule message pipes"),
];

pub(super) const SIGNALS: &[Row] = &[
    Row::new("signal", TEXT, "send uwsgi signal to a node: addr,num"),
    Row::new("signal-bufsize", NUMBER, "socket buffer for signal queue").also(&["signals-bufsize"]),
    Row::new("signal-timer", TEXT, "\"signum secs\" timer").also(&["timer"]),
    Row::new("signal-rbtimer", TEXT, "\"signum secs\" red-black timer").also(&["rbtimer"]),
    Row::new("touch-signal", TEXT, "\"file signum\" raise uwsgi signal on touch"),
    Row::new("fs-signal", TEXT, "inotify raise signal"),
];

pub(super) const IPC: &[Row] = &[
    Row::new("locks", NUMBER, "number of extra user locks (lock 0 always exists)"),
    Row::new("lock-engine", TEXT, "ipcsem or default"),
    Row::new("ftok", TEXT, "path for SysV IPC key"),
    Row::new("persistent-ipcsem", FLAG, "keep SysV semaphores on exit"),
    Row::new("sharedarea", TEXT, "create shared memory area(s)").short('A'),
];

pub(super) const QUEUE: &[Row] = &[
    Row::new("queue", NUMBER, "create shared queue with N slots"),
    Row::new("queue-blocksize", NUMBER, "slot size"),
    Row::new("queue-store", TEXT, "backing file"),
    Row::new("queue-store-sync", NUMBER, "sync interval"),
];

pub(super) const RPC: &[Row] = &[Row::new("rpc-max", NUMBER, "max registered RPC functions")];

pub(super) const SNMP: &[Row] =
    &[Row::new("snmp", OPTIONAL, "embedded SNMP server"), Row::new("snmp-community", TEXT, "community")];

pub(super) const MULTICAST: &[Row] = &[
    Row::new("multicast", TEXT, "subscribe to multicast group"),
    Row::new("multicast-ttl", NUMBER, "ttl"),
    Row::new("multicast-loop", NUMBER, "loop"),
];

pub(super) const ZERG: &[Row] = &[
    Row::new("zerg", TEXT, "attach to zerg server"),
    Row::new("zerg-fallback", FLAG, "bind normally on failure"),
    Row::new("zerg-server", TEXT, "serve sockets to zergs"),
];
