//! Processes: master, workers, threads, reloads, limits, users.

use super::super::{Background, Touch};
use super::{FLAG, MOST, NO_JAIL, NUMBER, OCTAL, ONE_SHOT, OPTIONAL, OWNER, PATH, Row, TEXT};

pub(super) const PROCESS: &[Row] = &[
    Row::new("processes", NUMBER, "workers that serve requests (1); auto: one for each processor")
        .also(&["workers"])
        .short('p')
        .set(|d, s| d.processes(s)),
    Row::new("thunder-lock", FLAG, "serialize accept() across workers with a shared mutex")
        .always("the kernel wakes one worker for a connection"),
    Row::new("skip-atexit", FLAG, "workers end without the functions of Python's atexit module")
        .set(|d, s| d.settings.skip_atexit = d.flag(s)),
    Row::new("daemonize", TEXT, "run in the background once the sockets are bound; the value is the log, as of logto")
        .short('d')
        .set(|d, s| {
            d.settings.background = Some(Background::WhenBound);
            d.logto(s);
        }),
    Row::new("daemonize2", TEXT, "run in the background once the workers are ready; the value is the log, as of logto")
        .set(|d, s| {
            d.settings.background = Some(Background::WhenReady);
            d.logto(s);
        }),
    Row::new("auto-procname", FLAG, "name processes by their roles")
        .set(|d, s| d.settings.process_names.auto = d.flag(s)),
    Row::new("procname-prefix", TEXT, "text before the name of each process")
        .set(|d, s| d.settings.process_names.prefix = s.value.clone()),
    Row::new("procname-prefix-spaced", TEXT, "text and a space before the name of each process")
        .set(|d, s| d.settings.process_names.prefix = format!("{} ", s.value)),
    Row::new("procname-append", TEXT, "text after the name of each process")
        .set(|d, s| d.settings.process_names.append = s.value.clone()),
    Row::new("procname", TEXT, "one name for all processes").set(|d, s| d.settings.process_names.all = d.text(s)),
    Row::new("procname-master", TEXT, "name of the master").set(|d, s| d.settings.process_names.master = d.text(s)),
    Row::new("master", FLAG, "run the supervising master process")
        .short('M')
        .always("there is always a master process"),
    Row::new("honour-stdin", FLAG, "keep stdin instead of /dev/null"),
    Row::new("die-on-term", FLAG, "swap SIGTERM (stop) and SIGQUIT (brutal reload)").always("SIGTERM always stops"),
    Row::new("force-gateway", FLAG, "run the gateway in foreground without master"),
    Row::new("reaper", FLAG, "waitpid(-1) after each request").short('r'),
    Row::new("flock", TEXT, "lock file at parse time or exit 1"),
    Row::new("flock-wait", TEXT, "lock file at parse time, wait"),
    Row::new("flock2", TEXT, "lock after log setup/daemonize"),
    Row::new("flock-wait2", TEXT, "lock after log setup/daemonize"),
    Row::new("pidfile", PATH, "file that holds the pid of the master")
        .set(|d, s| d.settings.pidfile = d.path_from_start(s)),
    Row::new("pidfile2", PATH, "the same, made when privileges were given up")
        .set(|d, s| d.settings.pidfiles.second = d.path_from_start(s)),
    Row::new("safe-pidfile", PATH, "file that holds the pid of the master once all workers are ready")
        .set(|d, s| d.settings.pidfiles.safe = d.path_from_start(s)),
    Row::new("safe-pidfile2", PATH, "the same, made when privileges were given up")
        .set(|d, s| d.settings.pidfiles.safe_second = d.path_from_start(s)),
    Row::new("no-server", FLAG, "initialise then exit").refused(ONE_SHOT),
    Row::new("command-mode", FLAG, "run as a one-shot command").refused(ONE_SHOT),
    Row::new("check-mountpoint", TEXT, "die if a mountpoint disappears").also(&[
        "mountpoint-check",
        "check-mount",
        "mount-check",
    ]),
    Row::new("no-orphans", FLAG, "workers get SIGKILL when the master dies (PDEATHSIG)")
        .always("workers end by themselves when the master is gone"),
    Row::new("prio", TEXT, "setpriority for all processes"),
    Row::new("cpu-affinity", NUMBER, "processors that each worker is bound to; 0: as the system likes (0)")
        .set(|d, s| d.fill_number(s, 0..=65535, |x| &mut x.privileges.cpu_affinity)),
    Row::new("check-interval", NUMBER, "seconds between two looks for the cheaper options (1)")
        .set(|d, s| d.settings.cheaper.every = d.seconds(s).unwrap_or(d.settings.cheaper.every)),
    Row::new("forkbomb-delay", NUMBER, "sleep when workers die too fast, 0 disables")
        .no_effect("a worker that fails is started again with growing pauses of its own, and nobody else waits for it"),
    Row::new("force-cwd", TEXT, "override base cwd"),
    Row::new("close-on-exec", FLAG, "FD_CLOEXEC on connections")
        .always("no descriptor reaches programs that are started"),
    Row::new("close-on-exec2", FLAG, "FD_CLOEXEC on listeners")
        .always("no descriptor reaches programs that are started"),
    Row::new("vacuum", FLAG, "remove unix sockets and pid files at the end").set(|d, s| d.settings.vacuum = d.flag(s)),
    Row::new("worker-exec", TEXT, "exec command as worker with socket on stdin"),
    Row::new("worker-exec2", TEXT, "same after post_fork"),
];

pub(super) const THREADS: &[Row] = &[
    Row::new("enable-threads", FLAG, "historical switch to create the GIL; now a no-op because always on")
        .short('T')
        .always("Python threads always run"),
    Row::new("no-threads-wait", FLAG, "do not join worker threads on quit/reload"),
    Row::new("async", NUMBER, "async cores per worker"),
    Row::new("threads", NUMBER, "application threads in each worker (1)")
        .set(|d, s| d.fill_number(s, MOST, |x| &mut x.threads)),
    Row::new("thread-stacksize", NUMBER, "KiB").also(&["threads-stacksize", "thread-stack-size", "threads-stack-size"]),
    Row::new("loop", TEXT, "loop engine"),
    Row::new("loop-list", FLAG, "list loop engines").also(&["loops-list"]),
];

pub(super) const RELOAD: &[Row] = &[
    Row::new("reload-mercy", NUMBER, "seconds an attached daemon may take to end before it is killed (3)")
        .set(|d, s| d.fill_seconds(s, |x| &mut x.reload_mercy)),
    Row::new("worker-reload-mercy", NUMBER, "seconds a worker that is to go may take before it is killed (60)")
        .set(|d, s| d.fill_seconds(s, |x| &mut x.recycle.mercy)),
    Row::new("stop-linger", NUMBER, "seconds an idle connection may bring one more request when the server stops (1)")
        .set(|d, s| d.timeouts.linger = d.seconds(s)),
    Row::new("reload-import-timeout", NUMBER, "seconds an import may take in a reload before it is given up (60)")
        .set(|d, s| d.fill_seconds(s, |x| &mut x.recycle.import_timeout)),
    Row::new("mule-reload-mercy", NUMBER, "same for mules"),
    Row::new("exit-on-reload", FLAG, "stop instead of reloading, for a supervisor that starts the server again")
        .set(|d, s| d.settings.exit_on_reload = d.flag(s)),
    Row::new("max-requests", NUMBER, "replace a worker after so many requests")
        .short('R')
        .set(|d, s| d.fill_number(s, 0..=u64::MAX >> 1, |x| &mut x.recycle.max_requests)),
    Row::new("max-requests-delta", NUMBER, "up to so many requests more than max-requests, by chance")
        .set(|d, s| d.fill_number(s, 0..=u64::MAX >> 1, |x| &mut x.recycle.max_requests_delta)),
    Row::new("min-worker-lifetime", NUMBER, "seconds before a worker is recycled for any reason (10)")
        .set(|d, s| d.fill_seconds(s, |x| &mut x.recycle.min_lifetime)),
    Row::new("max-worker-lifetime", NUMBER, "replace a worker after so many seconds")
        .set(|d, s| d.fill_seconds(s, |x| &mut x.recycle.max_lifetime)),
    Row::new("max-worker-lifetime-delta", NUMBER, "up to so many seconds more than max-worker-lifetime, by chance")
        .set(|d, s| d.fill_seconds(s, |x| &mut x.recycle.max_lifetime_delta)),
    Row::new(
        "recycle-at-once",
        NUMBER,
        "workers at most that are replaced at the same time because of their limits (1)",
    )
    .set(|d, s| d.fill_number(s, 1..=u32::MAX.into(), |x| &mut x.recycle.at_once)),
    Row::new("safe-fd", TEXT, "fd kept open across reload").also(&["fd-safe"]),
    Row::new("shutdown-sockets", FLAG, "shutdown() listeners while stopping gracefully (fifo q)"),
    Row::new("reload-on-as", NUMBER, "replace a worker whose address space has so many MiB after a request")
        .set(|d, s| d.fill_mib(s, |x| &mut x.recycle.reload_on.address_space)),
    Row::new("reload-on-rss", NUMBER, "replace a worker whose resident memory has so many MiB after a request")
        .set(|d, s| d.fill_mib(s, |x| &mut x.recycle.reload_on.resident)),
    Row::new("evil-reload-on-as", NUMBER, "kill a worker whose address space has so many MiB")
        .set(|d, s| d.fill_mib(s, |x| &mut x.recycle.kill_on.address_space)),
    Row::new("evil-reload-on-rss", NUMBER, "kill a worker whose resident memory has so many MiB")
        .set(|d, s| d.fill_mib(s, |x| &mut x.recycle.kill_on.resident)),
    Row::new("mem-collector-freq", NUMBER, "seconds between two looks for the evil-reload options (3)")
        .set(|d, s| d.fill_seconds(s, |x| &mut x.recycle.sample_every)),
    Row::new("reload-on-fd", TEXT, "graceful reload when fd is readable"),
    Row::new("brutal-reload-on-fd", TEXT, "brutal reload when fd is readable"),
    Row::new("touch-reload", PATH, "reload when this file is touched").listed().set(|d, s| d.touch(s, Touch::Reload)),
    Row::new("touch-workers-reload", PATH, "replace the workers when this file is touched")
        .listed()
        .set(|d, s| d.touch(s, Touch::Workers)),
    Row::new("touch-mules-reload", TEXT, "reload mules"),
    Row::new("touch-spoolers-reload", TEXT, "reload spoolers"),
    Row::new("touch-chain-reload", PATH, "reload one worker after the other when this file is touched")
        .listed()
        .set(|d, s| d.touch(s, Touch::Chain)),
    Row::new("touch-exec", TEXT, "a file, a blank, and a shell command to run beside the server when it is touched")
        .listed()
        .set(|d, s| d.touch_hook(s, "exec:")),
    Row::new("fs-reload", PATH, "reload when something in this folder, or this file, changes")
        .listed()
        .set(|d, s| d.fs_reload(s)),
    Row::new("fs-brutal-reload", TEXT, "inotify based brutal reload"),
    Row::new("propagate-touch", FLAG, "send reload signals to daemons on touch"),
    Row::new("binary-path", TEXT, "binary re-executed on reload"),
    Row::new("privileged-binary-patch", TEXT, "exec another binary as root"),
    Row::new("unprivileged-binary-patch", TEXT, "exec another binary after priv drop"),
    Row::new("privileged-binary-patch-arg", TEXT, "same with arguments"),
    Row::new("unprivileged-binary-patch-arg", TEXT, "same with arguments"),
    Row::new("lazy", FLAG, "the same as lazy-apps").set(|d, s| d.settings.lazy_apps = d.flag(s)),
    Row::new("lazy-apps", FLAG, "every worker imports the application for itself")
        .set(|d, s| d.settings.lazy_apps = d.flag(s)),
];

pub(super) const HARAKIRI: &[Row] = &[
    Row::new("harakiri", NUMBER, "seconds a request may run before it is stopped and answered with 504")
        .short('t')
        .set(|d, s| d.fill_seconds(s, |x| &mut x.harakiri.limit)),
    Row::new("harakiri-verbose", FLAG, "log the Python stacks of all threads when a request is stopped")
        .set(|d, s| d.settings.harakiri.verbose = d.flag(s)),
    Row::new(
        "harakiri-graceful-timeout",
        NUMBER,
        "seconds after which a worker is replaced whose request could not be stopped (2)",
    )
    .set(|d, s| d.fill_seconds(s, |x| &mut x.harakiri.grace)),
    Row::new("harakiri-graceful-signal", NUMBER, "signal used for the graceful attempt")
        .no_effect("the graceful attempt is an exception in the one thread that is late, no signal to its process"),
    Row::new("harakiri-queue-threshold", NUMBER, "requests are only stopped while at least so many others wait")
        .set(|d, s| d.fill_number(s, 0..=u64::MAX, |x| &mut x.harakiri.queue_threshold)),
    Row::new("harakiri-no-arh", FLAG, "clear harakiri before the python after-request hook runs")
        .also(&["no-harakiri-arh", "no-harakiri-after-req-hook"])
        .no_effect("there are no after-request hooks"),
    Row::new("mule-harakiri", NUMBER, "seconds a mule may spend in one signal/task"),
];

pub(super) const LIMITS: &[Row] = &[
    Row::new("limit-as", NUMBER, "MiB of address space that a process may have")
        .set(|d, s| d.limit(s, 1 << 20, |x| &mut x.privileges.limit_as)),
    Row::new("limit-nproc", NUMBER, "processes and threads that the user may have")
        .set(|d, s| d.limit(s, 1, |x| &mut x.privileges.limit_nproc)),
    Row::new("ksm", OPTIONAL, "kernel samepage merging every N requests"),
    Row::new("never-swap", FLAG, "mlockall"),
    Row::new("max-fd", NUMBER, "descriptors a process may have open")
        .set(|d, s| d.settings.max_fd = d.number(s, 1..=u64::MAX)),
];

pub(super) const CHEAPER: &[Row] = &[
    Row::new("cheap", FLAG, "start without workers; the first connection starts them")
        .set(|d, s| d.settings.cheaper.cheap = d.flag(s)),
    Row::new("cheaper", NUMBER, "the fewest workers; more, up to processes, when they are needed")
        .set(|d, s| d.fill_number(s, FEWEST, |x| &mut x.cheaper.least)),
    Row::new("cheaper-initial", NUMBER, "workers at the start")
        .set(|d, s| d.fill_number(s, FEWEST, |x| &mut x.cheaper.initial)),
    Row::new("cheaper-algo", TEXT, "what decides: spare, spare2, backlog, busyness or manual (spare)")
        .set(|d, s| d.cheaper_algo(s)),
    Row::new("cheaper-step", NUMBER, "workers added at a time (1)")
        .set(|d, s| d.fill_number(s, MOST, |x| &mut x.cheaper.step)),
    Row::new(
        "cheaper-overload",
        NUMBER,
        "looks without a free worker, or waiting requests (backlog), before one is added (3)",
    )
    .set(|d, s| d.fill_number(s, FEWEST, |x| &mut x.cheaper.overload)),
    Row::new("cheaper-idle", NUMBER, "looks (spare2) with more than cheaper workers free before one goes (10)")
        .set(|d, s| d.fill_number(s, MOST, |x| &mut x.cheaper.idle_looks)),
    Row::new("cheaper-algo-list", FLAG, "list algorithms")
        .also(&["cheaper-algos-list", "cheaper-list"])
        .no_effect("they are spare, spare2, backlog, busyness and manual, see cheaper-algo"),
    Row::new("cheaper-rss-limit-soft", NUMBER, "bytes of resident memory in all workers; beyond, none is added")
        .set(|d, s| d.fill_number(s, 0..=u64::MAX, |x| &mut x.cheaper.soft_resident)),
    Row::new("cheaper-rss-limit-hard", NUMBER, "bytes of resident memory in all workers; beyond, workers are removed")
        .set(|d, s| d.fill_number(s, 0..=u64::MAX, |x| &mut x.cheaper.hard_resident)),
    Row::new("idle", NUMBER, "seconds without a request before all workers go, until the next connection")
        .set(|d, s| d.fill_seconds(s, |x| &mut x.cheaper.idle)),
    Row::new("die-on-idle", FLAG, "stop the server when it is idle")
        .set(|d, s| d.settings.cheaper.die_on_idle = d.flag(s)),
    Row::new("cheaper-busyness-max", NUMBER, "percent of busyness above which workers are added (50)")
        .set(|d, s| d.fill_number(s, PERCENT, |x| &mut x.cheaper.busyness.max)),
    Row::new("cheaper-busyness-min", NUMBER, "percent of busyness below which workers are removed (25)")
        .set(|d, s| d.fill_number(s, PERCENT, |x| &mut x.cheaper.busyness.min)),
    Row::new("cheaper-busyness-multiplier", NUMBER, "periods of little work before a worker is removed (10)")
        .set(|d, s| d.fill_number(s, FEWEST, |x| &mut x.cheaper.busyness.multiplier)),
    Row::new("cheaper-busyness-penalty", NUMBER, "added to the multiplier when a removed worker is missed (2)")
        .set(|d, s| d.fill_number(s, FEWEST, |x| &mut x.cheaper.busyness.penalty)),
    Row::new("cheaper-busyness-verbose", FLAG, "log decisions").always("each decision is logged with its reason"),
    Row::new("cheaper-busyness-backlog-alert", NUMBER, "waiting requests that call for more workers at once (33)")
        .set(|d, s| d.fill_number(s, FEWEST, |x| &mut x.cheaper.busyness.backlog_alert)),
    Row::new("cheaper-busyness-backlog-multiplier", NUMBER, "periods that nobody is removed after that (3)")
        .set(|d, s| d.fill_number(s, FEWEST, |x| &mut x.cheaper.busyness.backlog_multiplier)),
    Row::new("cheaper-busyness-backlog-step", NUMBER, "workers added then (1)")
        .set(|d, s| d.fill_number(s, MOST, |x| &mut x.cheaper.busyness.backlog_step)),
    Row::new("cheaper-busyness-backlog-nonzero", NUMBER, "seconds that requests may wait without a break (60)")
        .set(|d, s| d.fill_seconds(s, |x| &mut x.cheaper.busyness.backlog_nonzero)),
];

const FEWEST: std::ops::RangeInclusive<u64> = 0..=65535;
const PERCENT: std::ops::RangeInclusive<u64> = 0..=100;

pub(super) const PRIVILEGES: &[Row] = &[
    Row::new("umask", OCTAL, "file mode creation mask").set(|d, s| d.umask(s)),
    Row::new("chroot", PATH, "folder that becomes the root of the file system; Python must be in it")
        .set(|d, s| d.settings.privileges.chroot = d.path_from_start(s)),
    Row::new("pivot-root", TEXT, "\"new_root put_old\" pivot").also(&["pivot_root"]).refused(NO_JAIL),
    Row::new("uid", OWNER, "user to become, a name or number").set(|d, s| d.uid(s)),
    Row::new("gid", OWNER, "group to become, a name or number").set(|d, s| d.gid(s)),
    Row::new("add-gid", OWNER, "a further group, by name or number").listed().set(|d, s| d.add_gid(s)),
    Row::new("immediate-uid", OWNER, "user to become before anything is opened: log, sockets, pid files")
        .set(|d, s| d.immediate_uid(s)),
    Row::new("immediate-gid", OWNER, "group to become before anything is opened").set(|d, s| d.immediate_gid(s)),
    Row::new("no-initgroups", FLAG, "leave out the groups that the system knows for the user")
        .set(|d, s| d.settings.privileges.no_initgroups = d.flag(s)),
    Row::new("cap", TEXT, "capabilities that are kept, as net_bind_service,sys_ptrace; all others are given up")
        .listed()
        .set(|d, s| d.capabilities(s)),
    Row::new("unshare", TEXT, "unshare() flags before jail").refused(NO_JAIL),
    Row::new("unshare2", TEXT, "unshare() flags after chroot").refused(NO_JAIL),
    Row::new("setns-socket", TEXT, "serve own namespaces fds").refused(NO_JAIL),
    Row::new("setns-socket-skip", TEXT, "namespace to skip").also(&["setns-skip"]).refused(NO_JAIL),
    Row::new("setns", TEXT, "join namespaces").refused(NO_JAIL),
    Row::new("setns-preopen", FLAG, "open ns fds early").refused(NO_JAIL),
    Row::new("jailed", FLAG, "assume already jailed").refused(NO_JAIL),
    Row::new("jail", TEXT, "FreeBSD jail").refused(NO_JAIL),
    Row::new("jail-ip4", TEXT, "FreeBSD jail ip").refused(NO_JAIL),
    Row::new("jail-ip6", TEXT, "FreeBSD jail ip6").refused(NO_JAIL),
    Row::new("jidfile", TEXT, "FreeBSD jail id file").also(&["jid-file"]).refused(NO_JAIL),
    Row::new("jail2", TEXT, "FreeBSD libjail").also(&["libjail"]).refused(NO_JAIL),
    Row::new("jail-attach", TEXT, "FreeBSD attach to jail").refused(NO_JAIL),
    Row::new("refork", FLAG, "fork again after privilege drop").also(&["re-fork"]).refused(NO_JAIL),
    Row::new("refork-as-root", FLAG, "fork again before privilege drop").also(&["re-fork-as-root"]).refused(NO_JAIL),
    Row::new("refork-post-jail", FLAG, "fork again after jailing").also(&["re-fork-post-jail"]).refused(NO_JAIL),
    Row::new("master-as-root", FLAG, "the master and each import stay root, the workers become uid and gid")
        .set(|d, s| d.settings.privileges.master_as_root = d.flag(s)),
    Row::new("drop-after-init", FLAG, "become uid and gid after the start of the server, before the import")
        .always("that is when they are taken"),
    Row::new("drop-after-apps", FLAG, "become uid and gid after the first import; a reload imports as that user")
        .set(|d, s| d.settings.privileges.drop_after_apps = d.flag(s)),
    Row::new("cgroup", TEXT, "join cgroup"),
    Row::new("cgroup-opt", TEXT, "set cgroup option"),
    Row::new("cgroup-dir-mode", TEXT, "mode of created dirs"),
    Row::new("namespace", TEXT, "run in new namespace rootfs").also(&["ns"]).refused(NO_JAIL),
    Row::new("namespace-keep-mount", TEXT, "keep a mount").refused(NO_JAIL),
    Row::new("namespace-net", TEXT, "network namespace").also(&["ns-net"]).refused(NO_JAIL),
];

pub(super) const LOOPS: &[Row] = &[
    Row::new("gevent", TEXT, "gevent loop: gevent"),
    Row::new("gevent-monkey-patch", FLAG, "gevent loop: gevent monkey patch"),
    Row::new("gevent-early-monkey-patch", FLAG, "gevent loop: gevent early monkey patch"),
    Row::new("gevent-wait-for-hub", FLAG, "gevent loop: gevent wait for hub"),
    Row::new("asyncio", TEXT, "asyncio loop: asyncio"),
    Row::new("greenlet", FLAG, "greenlet: greenlet"),
    Row::new("fiber", FLAG, "Ruby fiber: fiber"),
    Row::new("dumbloop-modifier1", NUMBER, "dummy loop: dumbloop modifier1"),
    Row::new("dumbloop-code", TEXT, "dummy loop: dumbloop code"),
    Row::new("dumbloop-function", TEXT, "dummy loop: dumbloop function"),
    Row::new("coroae", TEXT, "Perl Coro: coroae"),
    Row::new("ugreen", FLAG, "ugreen: ugreen"),
    Row::new("ugreen-stacksize", NUMBER, "ugreen: ugreen stacksize"),
    Row::new("stackless", FLAG, "stackless: stackless"),
    Row::new("tornado", TEXT, "Tornado loop: tornado"),
];
