//! Logs, statistics, metrics, alarms and control of a running instance.

use super::{ADDRESS, FLAG, NUMBER, ONE_SHOT, OPTIONAL, PATH, Row, TEXT};
use crate::config::Report;

pub(super) const LOGGING: &[Row] = &[
    Row::new("memory-report", FLAG, "sample rss/vsz per request and prepend it to the log line").short('m'),
    Row::new("disable-logging", FLAG, "no line for each request")
        .short('L')
        .set(|d, s| d.settings.log_requests = !d.flag(s)),
    Row::new("touch-logrotate", TEXT, "rotate log file"),
    Row::new("touch-logreopen", TEXT, "reopen log file"),
    Row::new("logto", PATH, "file that takes the log instead of standard error").set(|d, s| d.logto(s)),
    Row::new("logto2", TEXT, "log file opened after privilege drop"),
    Row::new("log-format", TEXT, "format of the line for each request")
        .also(&["logformat"])
        .set(|d, s| d.log_format(s)),
    Row::new("logformat-strftime", FLAG, "make %(ftime) use log-date format").also(&["log-format-strftime"]),
    Row::new("logfile-chown", FLAG, "chown log file to uid/gid"),
    Row::new("logfile-chmod", TEXT, "three octal digits"),
    Row::new("log-syslog", OPTIONAL, "send to syslog[:ident[,facility]]"),
    Row::new("log-socket", TEXT, "send to unix/udp socket"),
    Row::new("req-logger", TEXT, "logger for request lines only").also(&["logger-req"]),
    Row::new("logger", TEXT, "[id ]plugin[:arg] logger"),
    Row::new("logger-list", FLAG, "list loggers").also(&["loggers-list"]),
    Row::new("threaded-logger", FLAG, "master reads the log pipe in a thread"),
    Row::new("log-encoder", TEXT, "encoder[:loggerid] args"),
    Row::new("log-req-encoder", TEXT, "same for request lines"),
    Row::new("log-drain", TEXT, "drop lines matching a regexp"),
    Row::new("log-filter", TEXT, "keep only lines matching a regexp"),
    Row::new("log-route", TEXT, "\"loggerid regexp\""),
    Row::new("log-req-route", TEXT, "\"loggerid regexp\" for request lines"),
    Row::new("log-master", FLAG, "workers log through a pipe to the master"),
    Row::new("log-master-bufsize", NUMBER, "max bytes per log message"),
    Row::new("log-master-stream", FLAG, "stream socketpair instead of seqpacket"),
    Row::new("log-master-req-stream", FLAG, "same for request pipe"),
    Row::new("log-reopen", FLAG, "reopen log file after reload"),
    Row::new("log-truncate", FLAG, "truncate log at start"),
    Row::new("log-maxsize", NUMBER, "rotate log above N bytes"),
    Row::new("log-backupname", TEXT, "name of rotated file"),
    Row::new("logdate", OPTIONAL, "date prefix; value = strftime format").also(&["log-date", "log-prefix"]),
    Row::new("log-zero", FLAG, "with logging disabled still log 0 byte responses"),
    Row::new("log-slow", NUMBER, "still log requests slower than N ms"),
    Row::new("log-4xx", FLAG, "still log 4xx"),
    Row::new("log-5xx", FLAG, "still log 5xx"),
    Row::new("log-big", NUMBER, "still log responses >= N bytes"),
    Row::new("log-sendfile", TEXT, "true: with disable-logging, log responses sent by sendfile all the same")
        .set(|d, s| d.settings.log_sendfile = d.flag(s)),
    Row::new("log-ioerror", TEXT, "still log requests with both read and write errors"),
    Row::new("log-micros", FLAG, "microseconds instead of ms in the default line"),
    Row::new("log-x-forwarded-for", FLAG, "use whole X-Forwarded-For as client address"),
    Row::new("rsyslog-packet-size", NUMBER, "rsyslog packet size"),
    Row::new("rsyslog-split-messages", FLAG, "split long messages instead of cutting"),
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
