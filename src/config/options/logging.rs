//! Logs, statistics, metrics, alarms and control of a running instance.

use super::{ADDRESS, BOOL, FLAG, NUMBER, OCTAL, ONE_SHOT, OPTIONAL, PATH, Row, TEXT};
use crate::config::{Report, Touch};

pub(super) const LOGGING: &[Row] = &[
    Row::new("memory-report", FLAG, "begin the line of each request with the memory of its worker")
        .short('m')
        .set(|d, s| d.settings.logs.memory = d.flag(s)),
    Row::new("disable-logging", FLAG, "no line for each request")
        .short('L')
        .set(|d, s| d.settings.log_requests = !d.flag(s)),
    Row::new("touch-logrotate", PATH, "put the log file aside and begin a new one when this file is touched")
        .listed()
        .set(|d, s| d.touch(s, Touch::RotateLog)),
    Row::new("touch-logreopen", PATH, "open the log file again when this file is touched")
        .listed()
        .set(|d, s| d.touch(s, Touch::ReopenLog)),
    Row::new("logto", PATH, "file (or host:port for UDP) that takes the log instead of standard error")
        .set(|d, s| d.logto(s)),
    Row::new("logto2", PATH, "the same, opened after privileges are given up").set(|d, s| d.logto2(s)),
    Row::new("log-format", TEXT, "format of the line for each request; json: an object a line, for all of the log")
        .also(&["logformat"])
        .set(|d, s| d.log_format(s)),
    Row::new("logformat-strftime", FLAG, "write %(ftime) as log-date says")
        .also(&["log-format-strftime"])
        .set(|d, s| d.settings.logs.date_in_format = d.flag(s)),
    Row::new("logfile-chown", FLAG, "give log files to uid and gid").set(|d, s| d.settings.logs.chown = d.flag(s)),
    Row::new("logfile-chmod", OCTAL, "mode of log files (640)").set(|d, s| d.log_mode(s)),
    Row::new("log-syslog", OPTIONAL, "logger = syslog[:ident[,facility]]")
        .listed()
        .set(|d, s| d.logger(s, Some("syslog"), false)),
    Row::new("log-socket", TEXT, "logger = socket:address").listed().set(|d, s| d.logger(s, Some("socket"), false)),
    Row::new("req-logger", TEXT, "logger for the lines of requests alone")
        .also(&["logger-req"])
        .listed()
        .set(|d, s| d.logger(s, None, true)),
    Row::new("logger", TEXT, "[name ]kind[:argument]; kinds: file, socket, syslog, rsyslog, stdio, fd")
        .listed()
        .set(|d, s| d.logger(s, None, false)),
    Row::new("logger-list", FLAG, "list loggers").also(&["loggers-list"]).refused(ONE_SHOT),
    Row::new("threaded-logger", FLAG, "as log-master: a process of its own writes")
        .set(|d, s| d.settings.logs.master |= d.flag(s)),
    Row::new("log-encoder", TEXT, "kind[:logger] arguments; kinds: prefix, suffix, nl, format, json")
        .listed()
        .set(|d, s| d.log_encoder(s, false)),
    Row::new("log-req-encoder", TEXT, "the same for req-logger").listed().set(|d, s| d.log_encoder(s, true)),
    Row::new("log-drain", TEXT, "drop lines that fit this regular expression")
        .listed()
        .set(|d, s| d.log_pattern(s, |logs| &mut logs.drain)),
    Row::new("log-filter", TEXT, "keep only lines that fit this regular expression")
        .listed()
        .set(|d, s| d.log_pattern(s, |logs| &mut logs.filter)),
    Row::new("log-route", TEXT, "name of a logger, and the regular expression of its lines")
        .listed()
        .set(|d, s| d.log_route(s, false)),
    Row::new("log-req-route", TEXT, "the same for req-logger").listed().set(|d, s| d.log_route(s, true)),
    Row::new("log-master", FLAG, "a process of its own writes the log; what the others say reaches it through a pipe")
        .set(|d, s| d.settings.logs.master |= d.flag(s)),
    Row::new("log-master-bufsize", NUMBER, "longest message in bytes that stays in one piece (8192)")
        .set(|d, s| d.fill_number(s, 1..=1 << 20, |x| &mut x.logs.longest)),
    Row::new("log-master-stream", FLAG, "stream socketpair instead of seqpacket")
        .no_effect("a pipe keeps messages apart, and /dev/stderr can be opened"),
    Row::new("log-master-req-stream", FLAG, "same for request pipe")
        .no_effect("a pipe keeps messages apart, and /dev/stderr can be opened"),
    Row::new("log-reopen", FLAG, "open the log file again at each reload")
        .set(|d, s| d.settings.logs.reopen = d.flag(s)),
    Row::new("log-truncate", FLAG, "empty the log file at the start").set(|d, s| d.settings.logs.truncate = d.flag(s)),
    Row::new("log-maxsize", NUMBER, "bytes after which the log file is put aside for a new one")
        .set(|d, s| d.fill_number(s, 1..=u64::MAX >> 1, |x| &mut x.logs.most)),
    Row::new("log-backupname", PATH, "name of a log file put aside (its own and the second of the epoch)")
        .set(|d, s| d.settings.logs.backup = d.path_from_start(s)),
    Row::new("logdate", OPTIONAL, "begin the server's own lines with the date, or with this format for strftime")
        .also(&["log-date", "log-prefix"])
        .set(|d, s| d.log_date(s)),
    Row::new("log-zero", FLAG, "with disable-logging: log responses without a body all the same")
        .set(|d, s| d.settings.logs.also.empty = d.flag(s)),
    Row::new("log-slow", NUMBER, "the same for requests that took so many milliseconds").set(|d, s| d.log_slow(s)),
    Row::new("log-4xx", FLAG, "the same for status 400 to 499").set(|d, s| d.settings.logs.also.refused = d.flag(s)),
    Row::new("log-5xx", FLAG, "the same for status 500 to 599").set(|d, s| d.settings.logs.also.failed = d.flag(s)),
    Row::new("log-big", NUMBER, "the same for responses of so many bytes")
        .set(|d, s| d.settings.logs.also.big = d.number(s, 0..=u64::MAX >> 1).filter(|bytes| *bytes > 0)),
    Row::new("log-sendfile", BOOL, "the same for responses of wsgi.file_wrapper")
        .set(|d, s| d.settings.logs.also.files = d.flag(s)),
    Row::new("log-ioerror", BOOL, "the same for requests that could neither be read nor answered whole")
        .set(|d, s| d.settings.logs.also.errors = d.flag(s)),
    Row::new("log-micros", FLAG, "tell how long a request took in microseconds")
        .set(|d, s| d.settings.logs.micros = d.flag(s)),
    Row::new("log-x-forwarded-for", FLAG, "tell X-Forwarded-For as the client's address")
        .set(|d, s| d.settings.logs.forwarded = d.flag(s)),
    Row::new("rsyslog-packet-size", NUMBER, "longest datagram of rsyslog in bytes (1024)")
        .set(|d, s| d.fill_number(s, 64..=65_000, |x| &mut x.logs.packet)),
    Row::new("rsyslog-split-messages", FLAG, "send what is longer in several datagrams")
        .set(|d, s| d.settings.logs.split = d.flag(s)),
];

pub(super) const STATS: &[Row] = &[
    Row::new("stats", ADDRESS, "answer everybody who connects here with statistics as JSON")
        .also(&["stats-server"])
        .set(|d, s| d.report(s, Report::Stats)),
    Row::new("stats-http", FLAG, "stats: begin with an HTTP head").set(|d, s| d.settings.reports.http = d.flag(s)),
    Row::new("stats-minified", FLAG, "stats: no blanks")
        .also(&["stats-min"])
        .set(|d, s| d.settings.reports.minified = d.flag(s)),
    Row::new("stats-push", TEXT, "push stats/metrics to a pusher (file, socket, statsd, carbon...)"),
    Row::new("stats-pusher-default-freq", NUMBER, "push interval").also(&["stats-pushers-default-freq"]),
    Row::new("stats-no-cores", FLAG, "stats: leave out what each thread does")
        .set(|d, s| d.settings.reports.no_cores = d.flag(s)),
    Row::new("stats-no-metrics", FLAG, "omit metrics{}").no_effect("there is no metrics{} in stats"),
];

pub(super) const METRICS: &[Row] = &[
    Row::new("metrics-socket", ADDRESS, "answer HTTP requests for /metrics (Prometheus), /-/live and /-/ready")
        .set(|d, s| d.report(s, Report::Metrics)),
    Row::new(
        "control-socket",
        PATH,
        "unix socket on which `rsgi ctl` commands the server; for its user and root alone",
    )
    .set(|d, s| d.report(s, Report::Control)),
    Row::new("enable-metrics", FLAG, "start metrics subsystem"),
    Row::new("metric", TEXT, "declare a custom metric"),
    Row::new("metric-threshold", TEXT, "threshold alarm").also(&["metric-alarm", "alarm-metric"]),
    Row::new("metrics-dir", TEXT, "expose metrics as files").also(&["metric-dir"]),
    Row::new("metrics-dir-restore", FLAG, "restore values from files").also(&["metric-dir-restore"]),
    Row::new("metrics-no-cores", FLAG, "skip per-core metrics"),
    Row::new("carbon", TEXT, "carbon pusher: carbon server addr"),
    Row::new("carbon-timeout", NUMBER, "carbon pusher: connect timeout"),
    Row::new("carbon-freq", NUMBER, "carbon pusher: seconds between pushes"),
    Row::new("carbon-id", TEXT, "carbon pusher: instance id in metric path"),
    Row::new("carbon-no-workers", FLAG, "carbon pusher: no per-worker metrics"),
    Row::new("carbon-max-retry", NUMBER, "carbon pusher: retries"),
    Row::new("carbon-retry-delay", NUMBER, "carbon pusher: seconds"),
    Row::new("carbon-root", TEXT, "carbon pusher: metric root"),
    Row::new("carbon-hostname-dots", TEXT, "carbon pusher: replacement char for dots"),
    Row::new("carbon-name-resolve", FLAG, "carbon pusher: allow host names").also(&["carbon-resolve-names"]),
    Row::new("carbon-idle-avg", TEXT, "carbon pusher: value when idle"),
    Row::new("carbon-use-metrics", FLAG, "carbon pusher: push metrics subsystem values"),
];

pub(super) const ALARMS: &[Row] = &[
    Row::new("alarm", TEXT, "\"name plugin:args\""),
    Row::new("alarm-cheap", TEXT, "share curl thread"),
    Row::new("alarm-freq", NUMBER, "seconds between identical alarms"),
    Row::new("alarm-fd", TEXT, "alarm on fd readable"),
    Row::new("alarm-segfault", TEXT, "alarm on crash").also(&["segfault-alarm"]),
    Row::new("alarm-backlog", TEXT, "alarm on full listen queue").also(&[
        "backlog-alarm",
        "lq-alarm",
        "alarm-lq",
        "alarm-listen-queue",
        "listen-queue-alarm",
    ]),
    Row::new("log-alarm", TEXT, "\"alarm regexp\"").also(&["alarm-log"]),
    Row::new("not-log-alarm", TEXT, "exclude pattern").also(&["not-alarm-log"]),
    Row::new("alarm-list", FLAG, "list alarms").also(&["alarms-list"]),
    Row::new("alarm-msg-size", NUMBER, "max message"),
];

pub(super) const CONTROL: &[Row] = &[
    Row::new("stop", TEXT, "send SIGINT to the pid in the given pidfile and exit")
        .refused("send SIGTERM to the pid in the file"),
    Row::new("reload", TEXT, "send SIGHUP to the pid in the given pidfile and exit")
        .refused("send SIGHUP to the pid in the file"),
    Row::new("pause", TEXT, "send SIGTSTP to the pid in the given pidfile and exit").refused(ONE_SHOT),
    Row::new("suspend", TEXT, "send SIGTSTP to the pid in the given pidfile and exit").refused(ONE_SHOT),
    Row::new("resume", TEXT, "send SIGTSTP (toggle) to the pid in the given pidfile and exit").refused(ONE_SHOT),
    Row::new("connect-and-read", TEXT, "connect to an address, print everything, exit (used for stats)")
        .refused(ONE_SHOT),
    Row::new("extract", TEXT, "read a resource/scheme and print it").refused(ONE_SHOT),
    Row::new("udp", TEXT, "master UDP server (logging/snmp)"),
    Row::new("master-fifo", PATH, "named pipe for commands to the master, a letter each; up to ten")
        .listed()
        .set(|d, s| d.master_fifo(s)),
    Row::new("notify-socket", TEXT, "datagram notification socket"),
    Row::new("ping", TEXT, "send uwsgi ping (modifier 100) to a node and exit").refused(ONE_SHOT),
    Row::new("ping-timeout", NUMBER, "ping timeout"),
];
