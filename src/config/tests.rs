//! Configuration as a whole: texts in, settings and messages out.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::daemons::{Care, Daemon};
use super::hooks::Awaited;
use super::logs::{Deed, Destination, Encoder, Receiver};
use super::options::{self, Action, Row};
use super::*;
use crate::protocol::forwarded::Source;

pub(crate) fn facts(directory: &Path) -> Facts {
    Facts {
        start_directory: directory.to_owned(),
        environment: vec![("HOME".into(), "/home/me".into()), ("WORKERS".into(), "3".into())],
        hostname: "box".into(),
        cpus: 8,
        uid: 1000,
        gid: 1000,
        user_name: "me".into(),
        group_name: "us".into(),
        started: Duration::from_micros(1_700_000_000_000_001),
        binary: "/usr/bin/rsgi".into(),
        inherited_sockets: false,
        reloading: false,
        stdin: Box::new(|| Ok(b"[uwsgi]\nhttp-socket = :1\nmodule = from_stdin\n".to_vec())),
        user: Box::new(|name| match name {
            "web" | "33" => Some(User { name: "web".into(), uid: 33 }),
            _ => None,
        }),
        group: Box::new(|name| (name == "www").then_some(44)),
        log_format_mistake: |text| text.contains("%()").then(|| "a name".into()),
    }
}

fn argument(name: &str, value: &str) -> Argument {
    Argument { name: name.into(), value: value.into(), written: format!("--{name}") }
}

/// Files in a new directory, `app.ini` loaded.
struct Site {
    directory: tempfile::TempDir,
    facts: Facts,
    arguments: Vec<Argument>,
}

impl Site {
    fn new(text: &str) -> Site {
        let directory = tempfile::tempdir().unwrap();
        let facts = facts(&directory.path().canonicalize().unwrap());
        let site = Site { directory, facts, arguments: vec![argument("ini", "app.ini")] };
        site.file("app.ini", text)
    }

    fn file(self, name: &str, text: impl AsRef<[u8]>) -> Site {
        std::fs::write(self.directory.path().join(name), text).unwrap();
        self
    }

    fn load(&self) -> Result<Loaded, Vec<Error>> {
        load(&self.arguments, &self.facts)
    }

    fn loaded(&self) -> Loaded {
        self.load().unwrap_or_else(|errors| panic!("{errors:#?}"))
    }

    fn errors(&self) -> Vec<String> {
        match self.load() {
            Ok(loaded) => panic!("no error, {:?}", loaded.warnings),
            Err(errors) => errors.iter().map(ToString::to_string).collect(),
        }
    }

    fn warnings(&self) -> Vec<String> {
        self.loaded().warnings.iter().map(ToString::to_string).collect()
    }
}

/// Lines of [uwsgi] in a file that is otherwise complete.
fn site(lines: &str) -> Site {
    Site::new(&format!("[uwsgi]\nhttp-socket = :8000\nmodule = site\n{lines}\n"))
}

fn errors(lines: &str) -> Vec<String> {
    site(lines).errors()
}

type Check = fn(&Settings) -> bool;

fn has_daemon(settings: &Settings, care: Care) -> bool {
    settings.daemons.iter().any(|daemon| daemon.command == "x" && daemon.care == care)
}

/// One line for each supported option, and what it does.
const EFFECTS: &[(&str, &str, Check)] = &[
    ("processes", "4", |s| s.processes == 4),
    ("workers", "4", |s| s.processes == 4),
    ("threads", "2", |s| s.threads == 2),
    ("socket", "/run/a.sock", |s| socket(s, "/run/a.sock", Protocol::Uwsgi)),
    ("uwsgi-socket", "127.0.0.1:3031", |s| socket(s, "127.0.0.1:3031", Protocol::Uwsgi)),
    ("http-socket", "@a", |s| socket(s, "@a", Protocol::Http)),
    ("http11-socket", ":81", |s| socket(s, "0.0.0.0:81", Protocol::Http)),
    ("http", "[::1]:81", |s| socket(s, "[::1]:81", Protocol::Http)),
    ("scgi-socket", "127.0.0.1:4000", |s| socket(s, "127.0.0.1:4000", Protocol::Scgi)),
    ("fastcgi-socket", "127.0.0.1:4000", |s| socket(s, "127.0.0.1:4000", Protocol::FastCgi)),
    ("protocol", "scgi", |s| s.inherited_protocol == Protocol::Scgi),
    ("protocol", "http", |s| s.inherited_protocol == Protocol::Http),
    ("listen", "1024", |s| s.listen == 1024),
    ("disable-sendfile", "true", |s| !s.sendfile),
    ("wsgi-disable-file-wrapper", "true", |s| !s.file_wrapper),
    ("no-defer-accept", "true", |s| !s.defer_accept),
    ("chmod-socket", "660", |s| s.chmod_socket == Some(0o660)),
    ("chown-socket", "web:www", |s| s.chown_socket == Some(Owner { uid: Some(33), gid: Some(44) })),
    ("vacuum", "true", |s| s.vacuum),
    ("chdir", "/srv", |s| s.chdir == Some("/srv".into())),
    ("pythonpath", "lib", |s| s.pythonpath == ["lib"]),
    ("home", "venv", |s| s.home.as_ref().is_some_and(|(path, _)| path == Path::new("venv"))),
    ("module", "a.b:c", |s| s.module.as_ref().is_some_and(|(name, _)| name == "a.b:c")),
    ("wsgi-file", "app.py", |s| s.wsgi_file.as_ref().is_some_and(|(file, _)| file == "app.py")),
    ("callable", "app", |s| s.callable.as_deref() == Some("app")),
    ("mount", "/x/=y.py", |s| s.mounts.iter().any(|mount| mount.path == "/x" && mount.what == "y.py")),
    ("manage-script-name", "true", |s| s.manage_script_name),
    ("env", "A=b=c", |s| s.env == [("A".to_owned(), "b=c".to_owned())]),
    ("need-app", "false", |s| !s.need_app),
    ("lazy-apps", "true", |s| s.lazy_apps),
    ("lazy", "", |s| s.lazy_apps),
    ("uid", "web", |s| s.uid == Some(33) && s.user_name.as_deref() == Some("web")),
    ("gid", "www", |s| s.gid == Some(44)),
    ("umask", "022", |s| s.umask == Some(0o22)),
    ("max-fd", "4096", |s| s.max_fd == Some(4096)),
    ("buffer-size", "100000", |s| s.buffer_size == 100_000),
    ("limit-post", "10000000000", |s| s.limit_post == 10_000_000_000),
    ("post-buffering", "0", |s| s.post_buffering.is_none()),
    ("response-buffer", "4096", |s| s.response_buffer == 4096),
    ("socket-timeout", "7", |s| s.timeouts.head.as_secs() == 7 && s.timeouts.keep_alive.as_secs() == 7),
    ("http-timeout", "8", |s| s.timeouts.body.as_secs() == 8 && s.timeouts.write.as_secs() == 8),
    ("http-headers-timeout", "9", |s| s.timeouts.head.as_secs() == 9),
    ("body-min-rate", "9", |s| s.timeouts.body_rate == 9),
    ("trusted-proxies", "10.0.0.0/8, unix", |s| s.trusted_proxies.trusts(Source::Unix)),
    ("fastcgi-stderr", "true", |s| s.fastcgi_stderr),
    ("enable-proxy-protocol", "true\nprotocol = http", |s| s.inherited_proxy_protocol),
    ("http-enable-proxy-protocol", "true\nhttp = :81", |s| {
        let proxied: Vec<bool> = s.sockets.iter().map(|socket| socket.proxy_protocol).collect();
        proxied == [false, true]
    }),
    ("http-keepalive", "6", |s| s.timeouts.keep_alive.as_secs() == 6),
    ("stop-linger", "3", |s| s.timeouts.linger.as_secs() == 3),
    ("pidfile", "/run/p", |s| s.pidfile == Some("/run/p".into())),
    ("logto", "/var/log/l", |s| s.logto == Some("/var/log/l".into())),
    ("disable-logging", "true", |s| !s.log_requests),
    ("max-requests", "9", |s| s.recycle.max_requests == 9),
    ("max-requests-delta", "9", |s| s.recycle.max_requests_delta == 9),
    ("min-worker-lifetime", "9", |s| s.recycle.min_lifetime.as_secs() == 9),
    ("max-worker-lifetime", "90", |s| s.recycle.max_lifetime.as_secs() == 90),
    ("recycle-at-once", "9", |s| s.recycle.at_once == 9),
    ("max-worker-lifetime-delta", "9", |s| s.recycle.max_lifetime_delta.as_secs() == 9),
    ("reload-on-as", "2", |s| s.recycle.reload_on.address_space == 2 << 20),
    ("reload-on-rss", "2", |s| s.recycle.reload_on.resident == 2 << 20),
    ("evil-reload-on-as", "2", |s| s.recycle.kill_on.address_space == 2 << 20),
    ("evil-reload-on-rss", "2", |s| s.recycle.kill_on.resident == 2 << 20),
    ("mem-collector-freq", "9", |s| s.recycle.sample_every.as_secs() == 9),
    ("harakiri", "9", |s| s.harakiri.limit.as_secs() == 9),
    ("harakiri-graceful-timeout", "9", |s| s.harakiri.grace.as_secs() == 9),
    ("harakiri-queue-threshold", "9", |s| s.harakiri.queue_threshold == 9),
    ("harakiri-verbose", "true", |s| s.harakiri.verbose),
    ("reload-import-timeout", "9", |s| s.recycle.import_timeout.as_secs() == 9),
    ("touch-reload", "f", |s| s.triggers.touch == [("f".into(), Touch::Reload)]),
    ("touch-workers-reload", "f", |s| s.triggers.touch == [("f".into(), Touch::Workers)]),
    ("touch-chain-reload", "f", |s| s.triggers.touch == [("f".into(), Touch::Chain)]),
    ("fs-reload", "f", |s| s.triggers.folders == [Path::new("f")]),
    ("master-fifo", "f", |s| s.triggers.fifos == [Path::new("f")]),
    ("py-autoreload", "2", |s| s.triggers.auto_reload.is_some_and(|every| every.as_secs() == 2)),
    ("py-auto-reload-ignore", "x", |s| s.triggers.auto_reload_ignore == ["x"]),
    ("check-interval", "9", |s| s.cheaper.every.as_secs() == 9),
    ("cheap", "true", |s| s.cheaper.cheap),
    ("cheaper", "2\nprocesses = 9", |s| s.cheaper.least == 2 && s.cheaper.initial == 2),
    ("cheaper-initial", "5\nprocesses = 9\ncheaper = 2", |s| s.cheaper.initial == 5),
    ("cheaper-algo", "busyness", |s| s.cheaper.algorithm == Algorithm::Busyness),
    ("cheaper-algo", "spare2", |s| s.cheaper.algorithm == Algorithm::Spare2),
    ("cheaper-idle", "9", |s| s.cheaper.idle_looks == 9),
    ("cheaper-step", "2", |s| s.cheaper.step == 2),
    ("cheaper-overload", "9", |s| s.cheaper.overload == 9),
    ("cheaper-rss-limit-soft", "9", |s| s.cheaper.soft_resident == 9),
    ("cheaper-rss-limit-hard", "9", |s| s.cheaper.hard_resident == 9),
    ("idle", "9", |s| s.cheaper.idle.as_secs() == 9),
    ("die-on-idle", "true", |s| s.cheaper.die_on_idle),
    ("cheaper-busyness-max", "9", |s| s.cheaper.busyness.max == 9),
    ("cheaper-busyness-min", "9", |s| s.cheaper.busyness.min == 9),
    ("cheaper-busyness-multiplier", "9", |s| s.cheaper.busyness.multiplier == 9),
    ("cheaper-busyness-penalty", "9", |s| s.cheaper.busyness.penalty == 9),
    ("cheaper-busyness-backlog-alert", "9", |s| s.cheaper.busyness.backlog_alert == 9),
    ("cheaper-busyness-backlog-multiplier", "9", |s| s.cheaper.busyness.backlog_multiplier == 9),
    ("cheaper-busyness-backlog-step", "9", |s| s.cheaper.busyness.backlog_step == 9),
    ("cheaper-busyness-backlog-nonzero", "9", |s| s.cheaper.busyness.backlog_nonzero.as_secs() == 9),
    ("hook-asap", "print:x", |s| s.hooks.iter().any(|hook| hook.phase == hooks::Phase::Asap)),
    ("exec-asap", "true", |s| s.hooks.iter().any(|hook| hook.phase == hooks::Phase::Asap)),
    ("hook-pre-jail", "print:x", |s| s.hooks.iter().any(|hook| hook.phase == hooks::Phase::PreJail)),
    ("exec-pre-jail", "true", |s| s.hooks.iter().any(|hook| hook.phase == hooks::Phase::PreJail)),
    ("hook-post-jail", "print:x", |s| s.hooks.iter().any(|hook| hook.phase == hooks::Phase::PostJail)),
    ("exec-post-jail", "true", |s| s.hooks.iter().any(|hook| hook.phase == hooks::Phase::PostJail)),
    ("hook-in-jail", "print:x", |s| s.hooks.iter().any(|hook| hook.phase == hooks::Phase::InJail)),
    ("exec-in-jail", "true", |s| s.hooks.iter().any(|hook| hook.phase == hooks::Phase::InJail)),
    ("hook-as-root", "print:x", |s| s.hooks.iter().any(|hook| hook.phase == hooks::Phase::AsRoot)),
    ("exec-as-root", "true", |s| s.hooks.iter().any(|hook| hook.phase == hooks::Phase::AsRoot)),
    ("hook-as-user", "print:x", |s| s.hooks.iter().any(|hook| hook.phase == hooks::Phase::AsUser)),
    ("exec-as-user", "true", |s| s.hooks.iter().any(|hook| hook.phase == hooks::Phase::AsUser)),
    ("hook-as-user-atexit", "print:x", |s| s.hooks.iter().any(|hook| hook.phase == hooks::Phase::AtExit)),
    ("exec-as-user-atexit", "true", |s| s.hooks.iter().any(|hook| hook.phase == hooks::Phase::AtExit)),
    ("hook-pre-app", "print:x", |s| s.hooks.iter().any(|hook| hook.phase == hooks::Phase::PreApp)),
    ("exec-pre-app", "true", |s| s.hooks.iter().any(|hook| hook.phase == hooks::Phase::PreApp)),
    ("hook-post-app", "print:x", |s| s.hooks.iter().any(|hook| hook.phase == hooks::Phase::PostApp)),
    ("exec-post-app", "true", |s| s.hooks.iter().any(|hook| hook.phase == hooks::Phase::PostApp)),
    ("hook-accepting", "print:x", |s| s.hooks.iter().any(|hook| hook.phase == hooks::Phase::Accepting)),
    ("hook-accepting1", "print:x", |s| s.hooks.iter().any(|hook| hook.phase == hooks::Phase::Accepting1)),
    ("hook-post-fork", "print:x", |s| s.hooks.iter().any(|hook| hook.phase == hooks::Phase::PostFork)),
    ("hook-accepting-once", "print:x", |s| s.hooks.iter().any(|hook| hook.phase == hooks::Phase::AcceptingOnce)),
    ("hook-accepting1-once", "print:x", |s| s.hooks.iter().any(|hook| hook.phase == hooks::Phase::Accepting1Once)),
    ("hook-touch", "/f print:x", |s| s.triggers.touch == [("/f".into(), Touch::Hook(0))] && s.hooks.len() == 1),
    ("touch-exec", "/f a b", |s| s.hooks.iter().any(|hook| hook.deed == hooks::Deed::Exec("a b".into(), true))),
    ("mount-asap", "none /a /b bind", |s| {
        s.hooks.iter().any(|h| h.phase == hooks::Phase::Asap && matches!(h.deed, hooks::Deed::Mount(_)))
    }),
    ("mount-pre-jail", "none /a /b bind", |s| {
        s.hooks.iter().any(|h| h.phase == hooks::Phase::PreJail && matches!(h.deed, hooks::Deed::Mount(_)))
    }),
    ("mount-post-jail", "none /a /b bind", |s| {
        s.hooks.iter().any(|h| h.phase == hooks::Phase::PostJail && matches!(h.deed, hooks::Deed::Mount(_)))
    }),
    ("mount-in-jail", "none /a /b bind", |s| {
        s.hooks.iter().any(|h| h.phase == hooks::Phase::InJail && matches!(h.deed, hooks::Deed::Mount(_)))
    }),
    ("mount-as-root", "none /a /b bind", |s| {
        s.hooks.iter().any(|h| h.phase == hooks::Phase::AsRoot && matches!(h.deed, hooks::Deed::Mount(_)))
    }),
    ("umount-asap", "/b rec", |s| {
        s.hooks.iter().any(|h| h.phase == hooks::Phase::Asap && matches!(h.deed, hooks::Deed::Unmount(_)))
    }),
    ("umount-pre-jail", "/b rec", |s| {
        s.hooks.iter().any(|h| h.phase == hooks::Phase::PreJail && matches!(h.deed, hooks::Deed::Unmount(_)))
    }),
    ("umount-post-jail", "/b rec", |s| {
        s.hooks.iter().any(|h| h.phase == hooks::Phase::PostJail && matches!(h.deed, hooks::Deed::Unmount(_)))
    }),
    ("umount-in-jail", "/b rec", |s| {
        s.hooks.iter().any(|h| h.phase == hooks::Phase::InJail && matches!(h.deed, hooks::Deed::Unmount(_)))
    }),
    ("umount-as-root", "/b rec", |s| {
        s.hooks.iter().any(|h| h.phase == hooks::Phase::AsRoot && matches!(h.deed, hooks::Deed::Unmount(_)))
    }),
    ("file-write", "/f=text", |s| s.hooks.iter().any(|hook| hook.phase == hooks::Phase::Files)),
    ("wait-for-fs", "/f", |s| waits(s, Awaited::Path, 60)),
    ("wait-for-file", "/f", |s| waits(s, Awaited::File, 60)),
    ("wait-for-dir", "/f", |s| waits(s, Awaited::Folder, 60)),
    ("wait-for-mountpoint", "/f", |s| waits(s, Awaited::MountPoint, 60)),
    ("wait-for-fs-timeout", "5\nwait-for-dir = /f", |s| waits(s, Awaited::Folder, 5)),
    ("wait-for-socket", "/f", |s| waits(s, Awaited::Socket, 60)),
    ("wait-for-socket-timeout", "5\nwait-for-socket = /f", |s| waits(s, Awaited::Socket, 5)),
    ("wait-for-interface", "/f", |s| waits(s, Awaited::Interface, 60)),
    ("wait-for-interface-timeout", "5\nwait-for-iface = /f", |s| waits(s, Awaited::Interface, 5)),
    ("hook-master-start", "print:x", |s| s.hooks.iter().any(|hook| hook.phase == hooks::Phase::MasterStart)),
    ("attach-daemon", "x", |s| has_daemon(s, Care::Attached)),
    ("attach-control-daemon", "x", |s| has_daemon(s, Care::Control)),
    ("smart-attach-daemon", "/p,5 x", |s| has_daemon(s, Care::Smart("/p".into()))),
    ("smart-attach-daemon2", "/p x", |s| has_daemon(s, Care::Smart2("/p".into()))),
    ("smart-attach-daemon", "/p,5 x", |s| s.daemons.iter().any(|daemon| daemon.patience.as_secs() == 5)),
    ("attach-daemon2", "command=x,control=1", |s| has_daemon(s, Care::Control)),
    ("attach-daemon2", "cmd=x,pidfile=/p", |s| has_daemon(s, Care::Smart("/p".into()))),
    ("attach-daemon2", "exec=x,pidfile=/p,daemonize=1", |s| has_daemon(s, Care::Smart2("/p".into()))),
    (
        "attach-daemon2",
        "cmd=x,touch=/a;/b,uid=web,gid=www,chdir=/c,max_throttle=7,freq=3,stopsignal=2,reloadsignal=1",
        |s| {
            let touch = [("/a".into(), Touch::Daemon(0)), ("/b".into(), Touch::Daemon(0))];
            let wanted = Daemon {
                uid: Some(33),
                gid: Some(44),
                folder: Some("/c".into()),
                longest_pause: Some(Duration::from_secs(7)),
                patience: Duration::from_secs(3),
                stop_signal: 2,
                reload_signal: Some(1),
                ..Daemon::new("x", Care::Attached)
            };
            s.daemons == [wanted] && s.triggers.touch == touch
        },
    ),
    ("daemons-honour-stdin", "1\nattach-daemon = x", |s| s.daemons.iter().any(|daemon| daemon.stdin)),
    ("reload-mercy", "9", |s| s.reload_mercy.as_secs() == 9),
    ("worker-reload-mercy", "9", |s| s.recycle.mercy.as_secs() == 9),
    ("stats", "127.0.0.1:1717", |s| s.reports.stats.as_ref().is_some_and(|at| at.to_string() == "127.0.0.1:1717")),
    ("stats-http", "true", |s| s.reports.http),
    ("stats-minified", "true", |s| s.reports.minified),
    ("stats-no-cores", "true", |s| s.reports.no_cores),
    ("control-socket", "c", |s| s.reports.control.as_ref().is_some_and(|at| at.to_string().ends_with("/c"))),
    ("daemonize", "/l", |s| s.background == Some(Background::WhenBound) && s.logto == Some("/l".into())),
    ("daemonize2", "/l", |s| s.background == Some(Background::WhenReady) && s.logto == Some("/l".into())),
    ("pidfile2", "/p", |s| s.pidfiles.second == Some("/p".into())),
    ("safe-pidfile", "/p", |s| s.pidfiles.safe == Some("/p".into())),
    ("safe-pidfile2", "/p", |s| s.pidfiles.safe_second == Some("/p".into())),
    ("cpu-affinity", "2", |s| s.privileges.cpu_affinity == 2),
    ("limit-as", "64", |s| s.privileges.limit_as == Some(64 << 20)),
    ("limit-nproc", "64", |s| s.privileges.limit_nproc == Some(64)),
    ("chroot", "/jail", |s| s.privileges.chroot == Some("/jail".into())),
    ("add-gid", "www\nadd-gid = 5", |s| s.privileges.groups == [44, 5]),
    ("immediate-uid", "web", |s| s.privileges.immediate_uid == Some((33, Some("web".into())))),
    ("immediate-gid", "www", |s| s.privileges.immediate_gid == Some(44)),
    ("master-as-root", "true", |s| s.privileges.master_as_root && !s.privileges.given_up_at_once()),
    ("drop-after-apps", "true", |s| s.privileges.drop_after_apps && !s.privileges.given_up_at_once()),
    ("no-initgroups", "true", |s| s.privileges.no_initgroups),
    ("cap", "setuid,CAP_BPF\ncap = kill", |s| s.privileges.capabilities == Some(vec![7, 39, 5])),
    ("metrics-socket", "@m", |s| s.reports.metrics.as_ref().is_some_and(|at| at.to_string() == "@m")),
    ("log-format", "%(method)", |s| s.log_format.as_deref() == Some("%(method)")),
    ("memory-report", "true", |s| s.logs.memory),
    ("touch-logrotate", "f", |s| s.triggers.touch == [("f".into(), Touch::RotateLog)]),
    ("touch-logreopen", "f", |s| s.triggers.touch == [("f".into(), Touch::ReopenLog)]),
    ("logto2", "late.log", |s| s.logs.late_file == Some("late.log".into())),
    ("logformat-strftime", "true", |s| s.logs.date_in_format),
    ("logfile-chown", "true", |s| s.logs.chown),
    ("logfile-chmod", "604", |s| s.logs.mode == Some(0o604)),
    (
        "log-syslog",
        "shop,local0",
        |s| matches!(to(s), Some(Destination::Syslog { tag, priority: 134, .. }) if tag == "shop"),
    ),
    ("log-socket", "127.0.0.1:9", |s| matches!(to(s), Some(Destination::Socket { address: Receiver::Udp(_), .. }))),
    ("req-logger", "file:/r", |s| s.logs.request_loggers.len() == 1 && s.logs.loggers.is_empty()),
    ("logger", "one fd:2", |s| to(s) == Some(&Destination::Descriptor(2)) && s.logs.loggers[0].name.is_some()),
    ("threaded-logger", "true", |s| s.logs.need_relay()),
    ("log-encoder", "prefix x", |s| s.logs.encoders[..] == [Encoder { only: None, deed: Deed::Prefix("x".into()) }]),
    ("log-req-encoder", "nl:one\nreq-logger = one stdio", |s| s.logs.request_encoders.len() == 1),
    ("log-drain", "x+", |s| s.logs.drain.len() == 1 && s.logs.need_relay()),
    ("log-filter", "x+", |s| s.logs.filter.len() == 1),
    ("log-route", "one x\nlogger = one stdio", |s| s.logs.routes.len() == 1),
    ("log-req-route", "one x\nreq-logger = one stdio", |s| s.logs.request_routes.len() == 1),
    ("log-master", "true", |s| s.logs.need_relay()),
    ("log-master-bufsize", "99", |s| s.logs.longest == 99),
    ("log-reopen", "true", |s| s.logs.reopen),
    ("log-truncate", "true", |s| s.logs.truncate),
    ("log-maxsize", "99", |s| s.logs.most == 99),
    ("log-backupname", "/old", |s| s.logs.backup == Some("/old".into())),
    ("logdate", "%%d", |s| s.logs.date.as_deref() == Some("%d")),
    ("log-zero", "true", |s| s.logs.also.empty),
    ("log-slow", "9", |s| s.logs.also.slow.is_some_and(|slow| slow.as_millis() == 9)),
    ("log-4xx", "true", |s| s.logs.also.refused),
    ("log-5xx", "true", |s| s.logs.also.failed),
    ("log-big", "9", |s| s.logs.also.big == Some(9)),
    ("log-sendfile", "true", |s| s.logs.also.files),
    ("log-ioerror", "true", |s| s.logs.also.errors),
    ("log-micros", "true", |s| s.logs.micros),
    ("log-x-forwarded-for", "true", |s| s.logs.forwarded),
    ("rsyslog-packet-size", "99", |s| s.logs.packet == 99),
    ("rsyslog-split-messages", "true", |s| s.logs.split),
    ("skip-atexit", "true", |s| s.skip_atexit),
    ("exit-on-reload", "true", |s| s.exit_on_reload),
    ("auto-procname", "true", |s| s.process_names.auto),
    ("procname-prefix", "p", |s| s.process_names.prefix == "p"),
    ("procname-prefix-spaced", "p", |s| s.process_names.prefix == "p "),
    ("procname-append", "p", |s| s.process_names.append == "p"),
    ("procname", "p", |s| s.process_names.all.as_deref() == Some("p")),
    ("procname-master", "p", |s| s.process_names.master.as_deref() == Some("p")),
];

fn waits(settings: &Settings, what: Awaited, seconds: u64) -> bool {
    settings.hooks.iter().any(|hook| hook.deed == hooks::Deed::Wait(what, "/f".into(), seconds))
}

/// Where the first logger writes.
fn to(settings: &Settings) -> Option<&Destination> {
    settings.logs.loggers.first().map(|logger| &logger.to)
}

fn socket(settings: &Settings, address: &str, protocol: Protocol) -> bool {
    settings.sockets.iter().any(|socket| socket.address.to_string() == address && socket.protocol == protocol)
}

#[test]
fn every_supported_option_has_its_effect() {
    for (name, value, check) in EFFECTS {
        let loaded = site(&format!("{name} = {value}")).loaded();
        assert!(check(&loaded.settings), "{name} = {value}: {:?}", loaded.settings);
        assert!(!check(&site("").loaded().settings), "{name}: the effect is there without it");
    }
}

#[test]
fn every_row_marked_supported_is_tested() {
    let tested: Vec<&str> = EFFECTS.iter().filter_map(|(name, ..)| options::find(name)).map(|row| row.name).collect();
    let untested: Vec<&str> = options::rows()
        .filter(|row| matches!(row.action, Action::Supported(_)) && !tested.contains(&row.name))
        .map(|row| row.name)
        .collect();
    assert!(untested.is_empty(), "supported, but no line of EFFECTS shows it: {untested:?}");
}

#[test]
fn names_and_letters_are_unique() {
    let mut names: Vec<_> = options::rows().flat_map(Row::names).collect();
    let count = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), count);
    let mut letters: Vec<_> = options::rows().filter_map(|row| row.short).collect();
    let count = letters.len();
    letters.sort_unstable();
    letters.dedup();
    assert_eq!(letters.len(), count);
}

#[test]
fn defaults_are_those_of_the_settings() {
    let settings = site("").loaded().settings;
    let default = Settings::default();
    let default = Settings { places: settings.places.clone(), ..default };
    assert_eq!(Settings { sockets: Vec::new(), module: None, ..settings }, default);
}

#[test]
fn places_are_known_for_errors_that_only_show_at_the_start() {
    let mut site = site("chdir = /srv\npidfile = a.pid\nchdir = /srv/app\nhome = x\n");
    site.arguments.push(argument("logto", "a.log"));
    let settings = site.loaded().settings;
    assert_eq!(settings.place("chdir"), "app.ini:6: chdir");
    assert_eq!(settings.place("pidfile"), "app.ini:5: pidfile");
    assert_eq!(settings.place("logto"), "--logto");
    assert_eq!(settings.place("uid"), "uid");
}

#[test]
fn a_mistake_in_a_log_format_is_an_error_like_every_other() {
    assert_eq!(
        errors("log-format = %()\nthreads = 0"),
        [
            "app.ini:4: log-format: expected a name, found \"%()\"",
            "app.ini:5: threads: expected a whole number from 1 to 65535, found \"0\"",
        ]
    );
}

#[test]
fn nul_bytes_and_ids_that_mean_nobody_are_errors() {
    assert_eq!(errors("env = A\0=b\nodd = \0").len(), 2);
    assert_eq!(errors("uid = 4294967295\ngid = 4294967295\nchown-socket = web:4294967295").len(), 3);
}

#[test]
fn all_errors_come_at_once_with_origin_expected_and_found() {
    assert_eq!(
        errors("processes = 4k\nthreads = 0\nlisten = -1\nmax-fd = abc\nhttp = 8000\nchmod-socket = 999\nenv = X"),
        [
            "app.ini:4: processes: expected a whole number from 1 to 65535, found \"4k\"",
            "app.ini:5: threads: expected a whole number from 1 to 65535, found \"0\"",
            "app.ini:6: listen: expected a whole number of at least 1, found \"-1\"",
            "app.ini:7: max-fd: expected a whole number of at least 1, found \"abc\"",
            "app.ini:8: http: expected host:port or a path; a bare port is written :8000, found \"8000\"",
            "app.ini:9: chmod-socket: expected three octal digits, as 660, found \"999\"",
            "app.ini:10: env: expected NAME=value, found \"X\"",
        ]
    );
}

#[test]
fn bad_values_say_what_would_be_good() {
    for (line, expected) in [
        ("processes =", "found nothing"),
        ("processes = ${N}", "written $(NAME)"),
        ("processes = $(NOPE)", "no such variable in the environment: NOPE"),
        ("processes = %(nope)", "no setting of this name: nope"),
        ("protocol = fastcgi-nph", "responses begin with `Status:`"),
        ("protocol = raw", "raw is not supported yet"),
        ("scgi-nph-socket = :1", "use fastcgi-socket or scgi-socket"),
        ("trusted-proxies = 10.0.0.1/8", "bits set behind its prefix"),
        ("trusted-proxies = here", "the word unix"),
        ("trusted-proxies =", "a value"),
        ("body-min-rate = slow", "a whole number"),
        ("protocol = x", "uwsgi, http, fastcgi or scgi"),
        ("uid = nobody-here", "a user of this system"),
        ("gid = nobody-here", "a group of this system"),
        ("chown-socket = web:nobody-here", "a group of this system"),
        ("attach-daemon2 = pidfile=/p", "command="),
        ("attach-daemon2 = cmd=x,nonsense=1", "max_throttle"),
        ("attach-daemon2 = cmd=x,ns_pid=1", "unshare"),
        ("attach-daemon2 = cmd=x,legion=a", "every node"),
        ("attach-daemon2 = cmd=x,stopsignal=99", "the number of a signal"),
        ("attach-daemon2 = cmd=x,uid=nobody-here", "a user of this system"),
        ("attach-daemon2 = cmd=x,daemonize=1", "pidfile="),
        ("smart-attach-daemon = /p,x y", "whole number"),
        ("legion-attach-daemon = l:x", "no legions"),
        ("hook-touch = /f", "a file, a blank"),
        ("hook-touch = /f wait_for_fs:/x", "need not wait"),
        ("hook-as-user = mount:none /", "a folder"),
        ("mount = here=app", "/path=application"),
        ("mount = /here", "/path=application"),
        ("umask = 9", "octal"),
        ("chmod-socket = rw", "octal"),
        ("socket-timeout = 0", "at least 1"),
        ("logto = :1717", "socket:HOST:PORT"),
        ("logger = files:/x", "app.ini:4: logger: expected file, socket, syslog, rsyslog, stdio or fd"),
        ("logger = redislog:127.0.0.1:6379", "refused: rsgi speaks to no database"),
        ("logger = zeromq:tcp://x", "refused: rsgi has no ZeroMQ"),
        ("req-logger = mongodblog:x", "refused"),
        ("logger = file:", "file:PATH"),
        ("logger = file:logfile=/x,maxsize=0", "maxsize of at least 1"),
        ("logger = fd:x", "fd:NUMBER"),
        ("logger = socket:nowhere", "socket:HOST:PORT"),
        ("logger = rsyslog:host,tag,192", "0 to 191"),
        ("logger = syslog:x,nonsense", "a facility"),
        ("log-encoder = gzip", "refused: rsgi writes text"),
        ("log-encoder = upper x", "prefix, suffix, nl, format or json"),
        ("log-encoder = json {\"a\":\"${mesg}\"}", "msg, msgnl, unix"),
        ("log-encoder = format ${msg", "a } behind"),
        ("log-route = one x", "app.ini:4: log-route: expected the name of a logger, found \"one\""),
        ("log-route = one", "the name of a logger and"),
        ("log-drain = (", "a regular expression (unclosed group)"),
        ("log-maxsize = 0", "app.ini:4: log-maxsize: expected a whole number of at least 1"),
        ("logfile-chmod = rw", "three octal digits"),
        ("log-date = %%!", "a format for strftime"),
        ("rsyslog-packet-size = 1", "64 to 65000"),
        ("socket = =0", "shared-socket"),
        ("xml = a.xml", "rsgi reads ini files"),
        ("pivot-root = /jail /old", "refused"),
        ("cap = everything", "names of capabilities"),
        ("control-socket = 127.0.0.1:9", "the path of a unix socket"),
        ("add-gid = nobody-here", "a group of this system"),
        ("psgi = app.psgi", "Python WSGI applications only"),
        ("callable =", "a value"),
        ("need-plugin = php", "part of rsgi"),
        ("set = x", "name=value"),
        ("set-ph = threads=2", "use set = threads=..."),
        ("endif", "without a block"),
        ("module = @(nofile)", "nofile: No such file"),
        ("x = %(y)\ny = %(x)\nmodule = %(x)", "holds itself"),
        ("ini = app.ini", "includes itself"),
        ("inherit = app.ini", "includes itself"),
        ("inherit =", "includes itself"),
        ("include = app.yaml", "only ini files"),
        ("ini = exec://x", "exec:// is not supported yet"),
        ("http-socket = :8000", "asked for twice, here and at app.ini:2"),
    ] {
        let errors = errors(line);
        assert!(errors.iter().any(|error| error.contains(expected)), "{line}: {errors:?}");
    }
}

#[test]
fn files_and_sections_that_are_missing_are_errors() {
    let mut site = site("");
    for (value, expected) in [
        ("nofile.ini", "--ini: expected a readable ini file nofile.ini, found No such file"),
        ("app.ini:dev", "--ini: expected a section [dev] in app.ini, found [uwsgi]"),
        (":dev", "--ini: expected a file"),
        ("empty.ini", "found no section at all"),
    ] {
        std::fs::write(site.directory.path().join("empty.ini"), "").unwrap();
        site.arguments = vec![argument("ini", value)];
        assert!(site.errors()[0].contains(expected), "{value}: {:?}", site.errors());
    }
}

#[test]
fn nothing_to_serve_and_no_application_say_what_to_add() {
    let errors = Site::new("[uwsgi]\nraw-socket = :1\npaste = config:a.ini\n").errors();
    assert_eq!(errors.len(), 2);
    assert!(errors[0].contains("http-socket = ") && errors[0].contains("raw-socket is not supported yet"));
    assert!(errors[1].contains("module = ") && errors[1].contains("paste is not supported yet"));
    let errors = Site::new("[uwsgi]\nhttp_socket = :1\nmodul = a\n").errors();
    assert!(errors[0].contains("app.ini:2: did you mean \"http-socket\" by \"http_socket\"?"), "{errors:?}");
    assert!(errors[1].contains("app.ini:3: did you mean \"module\" by \"modul\"?"), "{errors:?}");
    let mut site = Site::new("[uwsgi]\nneed-app = off\n");
    site.facts.inherited_sockets = true;
    assert!(site.load().is_ok());
}

#[test]
fn what_is_odd_but_legal_is_named() {
    for (line, expected) in [
        ("vacuum = maybe", "app.ini:4: vacuum = maybe is read as true"),
        ("vacuum = false # no", "is read as true"),
        ("master = false", "there is always a master process"),
        ("die-on-term = 0", "SIGTERM always stops"),
        ("processes = 4  # four", "is read as 4"),
        ("chdir = /srv ; here", "the value of chdir is \"/srv ; here\""),
        ("callable = \"app\"", "the quotes are part"),
        ("zerg = x\nsnmp = y", "not act on yet: zerg (app.ini:4), snmp (app.ini:5)"),
        ("log-req-encoder = nl", "no effect without req-logger"),
        ("log-maxsize = 9", "no effect without logto"),
        ("http_socket = :1", "did you mean \"http-socket\"?"),
        ("proceses = 2", "did you mean \"processes\"?"),
        ("my-own = 2", "unknown option \"my-own\" is ignored"),
        ("plugins = python3, php", "no plugin \"php\""),
        ("log-format = 1%Y", "app.ini:4: %Y is unknown"),
        ("show-config = maybe", "is read as true"),
        ("http-keepalive = true", "takes a number of seconds"),
        ("if-env = HOME", "has no end"),
        ("if-exists = %(chdir)/x\nendif", "as written"),
    ] {
        let warnings = site(line).warnings();
        assert!(warnings.iter().any(|warning| warning.contains(expected)), "{line}: {warnings:?}");
        assert_eq!(warnings.len(), 1, "{line}: {warnings:?}");
    }
}

#[test]
fn what_needs_no_word_gets_none() {
    for line in [
        "master = true\nenable-threads\nsingle-interpreter = 1\ndie-on-term = yes\nthunder-lock = true",
        "plugins = python3,http,router_static,/usr/lib/uwsgi/python311_plugin.so",
        "strict = true\nplugin = python",
        "memory-report = false\nno-server = false",
        "base = /srv\nchdir = %(base)/app",
        "strict = true\nset-ph = base=/srv\nchdir = %(base)",
        "buffer-size = 4096",
        "# 50% of\n; %Y",
    ] {
        assert_eq!(site(line).warnings(), [""; 0], "{line}");
    }
}

#[test]
fn strict_makes_unknown_names_errors_wherever_it_stands() {
    let errors = errors("base = /srv\nchdir = %(base)\nproceses = 2\nstrict = true");
    assert_eq!(
        errors,
        [
            "app.ini:4: expected an option (strict), found \"base\" (a placeholder is made with set-placeholder)",
            "app.ini:6: expected an option (strict), found \"proceses\" (did you mean \"processes\"?)",
        ]
    );
    assert!(site("unknown = 1\nstrict = false").load().is_ok());
}

#[test]
fn scalars_take_the_last_value_and_lists_all() {
    let settings = site("threads = 1\nthreads = 3\npythonpath = a\npp = b\nsocket = a\nsocket = b").loaded().settings;
    assert_eq!(settings.threads, 3);
    assert_eq!(settings.pythonpath, ["a", "b"]);
    assert_eq!(settings.sockets.len(), 3);
    assert_eq!(settings.sockets[2].origin, "app.ini:9");
}

#[test]
fn the_protocol_of_plain_sockets_may_stand_after_them() {
    let settings = site("socket = :1\nprotocol = http\nuwsgi-socket = :2").loaded().settings;
    assert!(socket(&settings, "0.0.0.0:1", Protocol::Http));
    assert!(socket(&settings, "0.0.0.0:2", Protocol::Uwsgi));
}

#[test]
fn timeouts_prefer_the_more_special_option() {
    let seconds = |lines: &str| {
        let timeouts = site(lines).loaded().settings.timeouts;
        [timeouts.head, timeouts.body, timeouts.write, timeouts.keep_alive].map(|timeout| timeout.as_secs())
    };
    assert_eq!(seconds(""), [10, 30, 60, 75]);
    assert_eq!(seconds("socket-timeout = 5"), [5, 5, 5, 5]);
    assert_eq!(seconds("http-timeout = 6\nsocket-timeout = 5"), [5, 6, 6, 5]);
    assert_eq!(seconds("http-headers-timeout = 7\nsocket-timeout = 5\nhttp-keepalive"), [7, 5, 5, 75]);
    assert_eq!(seconds("http-keepalive = 1"), [10, 30, 60, 75]);
    assert_eq!(seconds("http-keepalive = 0"), [10, 30, 60, 0]);
}

#[test]
fn values_that_are_easily_mistaken() {
    let settings = |lines: &str| site(lines).loaded().settings;
    assert_eq!(settings("buffer-size = 4096").buffer_size, 65536);
    assert_eq!(site("buffer-size = 4096").loaded().notes.len(), 1);
    assert_eq!(settings("buffer-size = 200000").buffer_size, 200_000);
    assert_eq!(settings("post-buffering = 1").post_buffering, Some(1));
    for (written, mode) in [("", 0o666), ("1", 0o666), ("0660", 0o660), ("666 # all", 0o666)] {
        assert_eq!(settings(&format!("chmod-socket = {written}")).chmod_socket, Some(mode), "{written:?}");
    }
    assert_eq!(settings("uid = 33").user_name.as_deref(), Some("web"));
    assert_eq!(settings("uid = 4711").uid, Some(4711));
    assert_eq!(settings("uid = 4711").user_name, None);
    assert_eq!(settings("chown-socket = web").chown_socket, Some(Owner { uid: Some(33), gid: None }));
    assert_eq!(settings("mount = /=a:b").mounts[0].path, "");
}

#[test]
fn relative_paths_start_where_the_process_was_started_or_stay() {
    let site = site("chdir = src\npidfile = a.pid\nlogto = b.log\nsocket = c.sock\nwsgi-file = d.py\nhome = e");
    let settings = site.loaded().settings;
    let start = &site.facts.start_directory;
    assert_eq!(settings.chdir, Some(start.join("src")));
    assert_eq!(settings.pidfile, Some(start.join("a.pid")));
    assert_eq!(settings.logto, Some(start.join("b.log")));
    assert!(socket(&settings, "c.sock", Protocol::Uwsgi));
    assert_eq!(settings.wsgi_file.unwrap().0, "d.py");
    assert_eq!(settings.home.unwrap().0, PathBuf::from("e"));
    assert_eq!(site.loaded().files, [start.join("app.ini")]);
}

#[test]
fn variables_placeholders_and_files_are_replaced_in_values() {
    let site = site(
        "name = shop\nbase = %d%(name)\nchdir = %(base)/src\nprocesses = $(WORKERS)\nthreads = %(processes + 1)\n\
         callable = @(callable.txt)\nprocname = %n on %h with %k as %U %% %(nope) $(NOPE)\nhome = %(late)\nlate = venv",
    )
    .file("callable.txt", "app\n\n");
    let settings = site.loaded().settings;
    let start = &site.facts.start_directory;
    assert_eq!(settings.chdir, Some(start.join("shop/src")));
    assert_eq!((settings.processes, settings.threads), (3, 4));
    assert_eq!(settings.callable.as_deref(), Some("app"));
    assert_eq!(settings.process_names.all.as_deref(), Some("app on box with 8 as me % %(nope) $(NOPE)"));
    assert_eq!(settings.home.unwrap().0, PathBuf::from("venv"));
}

#[test]
fn a_file_may_be_inherited_twice_but_not_by_itself() {
    let heirs = || site("inherit = two.ini\ninherit = three.ini").file("three.ini", "[uwsgi]\ninherit = base.ini\n");
    let twice = heirs().file("two.ini", "[uwsgi]\ninherit = base.ini\n").file("base.ini", "[uwsgi]\nthreads = 4\n");
    assert_eq!(twice.loaded().settings.threads, 4);
    let circle = heirs().file("two.ini", "[uwsgi]\n").file("base.ini", "[uwsgi]\ninherit = three.ini\n");
    let errors = circle.errors();
    assert!(errors.iter().any(|error| error.contains("base.ini:2: three.ini includes itself")), "{errors:?}");
}

#[test]
fn included_files_count_where_they_are_named_and_inherited_ones_last() {
    let site = site("threads = 1\nini = :more\ninclude = two.ini\ninherit = three.ini\nthreads = 5\n[more]\nthreads = 2\nvacuum = 1")
        .file("two.ini", "[uwsgi]\nthreads = 3\nprocname = %n %N <%x>\n")
        .file("three.ini", "[uwsgi]\nprocesses = %(threads)\nlisten = 7\n")
        .file("four.ini", "");
    let loaded = site.loaded();
    assert_eq!(loaded.settings.threads, 5);
    // %(name) is the first occurrence.
    assert_eq!(loaded.settings.processes, 1);
    assert_eq!(loaded.settings.listen, 7);
    assert!(loaded.settings.vacuum);
    assert_eq!(loaded.settings.process_names.all.as_deref(), Some("two app <>"));
    assert_eq!(loaded.files.len(), 3);
}

#[test]
fn a_section_without_a_file_is_one_of_the_file_loaded_last() {
    let site =
        site("include = two.ini\nini = :more\n[more]\nthreads = 2").file("two.ini", "[uwsgi]\n[more]\nthreads = 3\n");
    assert_eq!(site.loaded().settings.threads, 3);
}

#[test]
fn standard_input_and_odd_texts_are_read() {
    let mut site = site("").file("bom.ini", "\u{feff}[uwsgi]\r\n  http-socket = :1\r\n\tmodule = m\r\nvacuum");
    site.arguments = vec![argument("ini", "bom.ini")];
    assert!(site.loaded().settings.vacuum);
    let site = site.file("latin.ini", b"[uwsgi]\n# caf\xe9\nhttp-socket = :1\nmodule = m\n");
    let latin = Site { arguments: vec![argument("ini", "latin.ini")], ..site };
    assert!(latin.load().is_ok());
    let stdin = Site { arguments: vec![argument("ini", "-")], ..latin };
    assert_eq!(stdin.loaded().settings.module.unwrap(), ("from_stdin".into(), "-:3".into()));
}

#[test]
fn environment_then_arguments_then_bare_files() {
    let mut site = site("threads = 3");
    site.facts.environment.extend(
        [("UWSGI_THREADS", "1"), ("UWSGI_PROCESSES", "2"), ("UWSGI_RELOADS", "0"), ("UWSGI_LISTEN", "x")]
            .map(|(name, value)| (name.to_owned(), value.to_owned())),
    );
    assert_eq!(
        site.errors(),
        ["environment variable UWSGI_LISTEN: listen: expected a whole number of at least 1, found \"x\""]
    );
    site.facts.environment.pop();
    assert_eq!((site.loaded().settings.threads, site.loaded().settings.processes), (3, 2));
    site.arguments.push(argument("threads", "4"));
    assert_eq!(site.loaded().settings.threads, 4);
    site.arguments.reverse();
    assert_eq!(site.loaded().settings.threads, 3);
    assert!(site.warnings()[0].contains("--threads 4 has no effect"), "{:?}", site.warnings());
}

#[test]
fn blocks_choose_and_repeat_lines() {
    let site = site(
        "if-env = HOME\nprocname = %(_)\nelse\nprocname = no\nendif\n\
         if-not-env = HOME\nthreads = 9\nend\n\
         for = a b\npythonpath = /%(_)/x\nif-exists = /%(_)nope\nvacuum = true\nendif\npp = %(_)\nendfor\n\
         for-times = 2\nenv = N=%(_)\nendfor\n\
         for-readline = hosts\nenv = H=%(_)\nendfor\n\
         for-glob = *.txt\nenv = G=%(_)\nendfor\n\
         if-opt = module=site\nprocesses = 2\nendif\n\
         if-file = hosts\nlisten = 5\nendif\nif-dir = hosts\nlisten = 6\nendif\n\
         if-plugin = python\nlazy = 1\nendif\nif-hostname = box\numask = 1\nendif\nif-reload =\ngid = 1\nendif",
    )
    .file("hosts", "one\ntwo\n")
    .file("b.txt", "")
    .file("a.txt", "");
    let settings = site.loaded().settings;
    assert_eq!(settings.process_names.all.as_deref(), Some("/home/me"));
    assert_eq!(settings.pythonpath, ["/a/x", "/b/x", "a", "b"]);
    let env: Vec<_> = settings.env.iter().map(|(name, value)| format!("{name}={value}")).collect();
    assert_eq!(env, ["N=1", "N=2", "H=one", "H=two", "G=a.txt", "G=b.txt"]);
    assert_eq!((settings.threads, settings.processes, settings.listen), (1, 2, 5));
    assert!(!settings.vacuum && settings.lazy_apps);
    assert_eq!((settings.umask, settings.gid), (Some(1), None));
}

#[test]
fn set_makes_options_and_placeholders() {
    let settings = site("set = threads=2\nset = dir=/srv\nset-ph = name=app\nchdir = %(dir)/%(name)").loaded().settings;
    assert_eq!(settings.threads, 2);
    assert_eq!(settings.chdir, Some("/srv/app".into()));
}

#[test]
fn show_config_gives_all_settings_as_ini() {
    let shown = site("show-config = true\nbase = a\nchdir = %(base)").loaded().shown.unwrap();
    assert!(shown.contains("[uwsgi]\n") && shown.contains("\nchdir = a\n"), "{shown}");
    assert_eq!(site("").loaded().shown, None);
}

/// Each file of the corpus with what its `.expected` says: a line `error TEXT` or `warning TEXT` for each
/// message that must contain the text (and no others), `settings TEXT` for parts of the settings.
#[test]
fn the_corpus_gives_what_is_expected() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus/config");
    let mut files = 0;
    for entry in std::fs::read_dir(&directory).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "expected") {
            continue;
        }
        files += 1;
        let name = format!("{}.ini", path.file_stem().unwrap().to_str().unwrap());
        let result = load(&[argument("ini", &name)], &facts(&directory));
        let (mut messages, settings) = match &result {
            Ok(loaded) => (
                loaded.warnings.iter().map(|warning| format!("warning {warning}")).collect(),
                format!("{:?}", loaded.settings),
            ),
            Err(errors) => (errors.iter().map(|error| format!("error {error}")).collect::<Vec<_>>(), String::new()),
        };
        for line in std::fs::read_to_string(&path).unwrap().lines() {
            let (kind, text) = line.split_once(' ').unwrap();
            if kind == "settings" {
                assert!(settings.contains(text), "{name}: {line}\n{settings}\n{messages:#?}");
                continue;
            }
            let at = messages.iter().position(|message| message.starts_with(kind) && message.contains(text));
            let at = at.unwrap_or_else(|| panic!("{name}: {line}\n{messages:#?}"));
            messages.remove(at);
        }
        assert!(messages.is_empty(), "{name}: not expected: {messages:#?}");
    }
    assert!(files >= 15, "{files} files");
}
