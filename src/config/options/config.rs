//! Where settings come from, placeholders and logic, plugins, and one-shot commands.

use super::{FLAG, NUMBER, ONE_SHOT, ONLY_INI, OPTIONAL, PAIR, PATH, Row, TEXT};

pub(super) const CONFIG: &[Row] = &[
    Row::new("xml", PATH, "load an XML config").also(&["xmlconfig"]).short('x').refused(ONLY_INI),
    Row::new("config", PATH, "load config through pluggable loaders").refused(ONLY_INI),
    Row::new("fallback-config", TEXT, "re-exec with this config when the process exits with status 1"),
    Row::new("strict", FLAG, "unknown settings are errors").early(),
    Row::new("set", PAIR, "an option, or a placeholder for %(NAME)").short('S').early(),
    Row::new("set-placeholder", PAIR, "a placeholder for %(NAME), also under strict").also(&["set-ph"]).early(),
    Row::new("get", TEXT, "print the value of an option/placeholder and exit").refused(ONE_SHOT),
    Row::new("declare-option", TEXT, "define a new option as template name=opt=$1;opt2=$2 (immediate)"),
    Row::new("declare-option2", TEXT, "same, not immediate"),
    Row::new("resolve", TEXT, "placeholder=hostname, store the resolved IPv4"),
    Row::new("for", TEXT, "repeat following lines for each space separated word, value in %(_)").early(),
    Row::new("for-glob", TEXT, "loop over a glob").early(),
    Row::new("for-times", TEXT, "loop 1..N").early(),
    Row::new("for-readline", TEXT, "loop over the lines of a file").early(),
    Row::new("endfor", OPTIONAL, "end of loop").also(&["end-for"]).early(),
    Row::new("if-opt", TEXT, "apply block if option is set (opt or opt=value)").early(),
    Row::new("if-not-opt", TEXT, "negated if-opt").early(),
    Row::new("if-env", TEXT, "apply block if env var set (VAR or VAR=value)").also(&["ifenv"]).early(),
    Row::new("if-not-env", TEXT, "negated if-env").early(),
    Row::new("if-reload", FLAG, "apply block only when running after a reload").early(),
    Row::new("if-not-reload", FLAG, "apply block only on first start").early(),
    Row::new("if-hostname", TEXT, "apply block when hostname equals").early(),
    Row::new("if-not-hostname", TEXT, "negated if-hostname").early(),
    Row::new("if-hostname-match", TEXT, "apply block when hostname matches a regexp").early(),
    Row::new("if-not-hostname-match", TEXT, "negated if-hostname-match").early(),
    Row::new("if-exists", TEXT, "apply block if path exists").also(&["ifexists"]).early(),
    Row::new("if-not-exists", TEXT, "negated if-exists").early(),
    Row::new("if-plugin", TEXT, "apply block if plugin is loaded").also(&["ifplugin"]).early(),
    Row::new("if-not-plugin", TEXT, "negated if-plugin").early(),
    Row::new("if-file", TEXT, "apply block if path is a regular file").early(),
    Row::new("if-not-file", TEXT, "negated if-file").early(),
    Row::new("if-dir", TEXT, "apply block if path is a directory").also(&["ifdir", "if-directory"]).early(),
    Row::new("if-not-dir", TEXT, "negated if-dir").early(),
    Row::new("endif", OPTIONAL, "end of condition").also(&["end-if"]).early(),
    Row::new("blacklist", TEXT, "space list of options forbidden until end-blacklist"),
    Row::new("end-blacklist", FLAG, "close blacklist context"),
    Row::new("whitelist", TEXT, "space list of the only options allowed until end-whitelist"),
    Row::new("end-whitelist", FLAG, "close whitelist context"),
    Row::new("inherit", PATH, "read another ini file after everything else").early(),
    Row::new("include", PATH, "read another ini file at this point").early(),
    Row::new("inject-before", TEXT, "text prepended to every config file before parsing"),
    Row::new("inject-after", TEXT, "text appended to every config file before parsing"),
    Row::new("help", FLAG, "print all options, exit 0")
        .also(&["usage"])
        .short('h')
        .no_effect("it belongs on the command line"),
    Row::new(
        "ini",
        PATH,
        "read an ini file: FILE, FILE:SECTION, :SECTION of the file read last, or - for standard input",
    )
    .early(),
    Row::new("yaml", PATH, "load a yaml file").also(&["yml"]).short('y').refused(ONLY_INI),
    Row::new("json", PATH, "load json (needs jansson/yajl build; absent in the pip build)")
        .also(&["js"])
        .short('j')
        .refused(ONLY_INI),
    Row::new("env", PAIR, "a variable of the environment, set before Python starts").listed().set(|d, s| d.env(s)),
    Row::new("envdir", TEXT, "daemontools envdir"),
    Row::new("early-envdir", TEXT, "same, immediate"),
    Row::new("unenv", TEXT, "remove variable"),
    Row::new("dump-options", FLAG, "print option names, exit").refused(ONE_SHOT),
    Row::new("show-config", FLAG, "print all settings as one ini file, then go on").early(),
    Row::new("print", TEXT, "print value while configuring"),
    Row::new("iprint", TEXT, "print, immediate"),
    Row::new("exit", OPTIONAL, "exit with code, immediate").refused(ONE_SHOT),
    Row::new("version", FLAG, "print version").no_effect("it belongs on the command line"),
];

pub(super) const PLUGINS: &[Row] = &[
    Row::new("plugins", TEXT, "names of plugins")
        .also(&["plugin"])
        .listed()
        .check("what it names is built in", |d, s| d.plugins(s)),
    Row::new("need-plugins", TEXT, "names of plugins that must be there")
        .also(&["need-plugin"])
        .listed()
        .check("what it names is built in", |d, s| d.needed_plugins(s)),
    Row::new("plugins-dir", TEXT, "plugin search dir")
        .also(&["plugin-dir"])
        .no_effect("nothing is loaded from plugin files"),
    Row::new("plugins-list", FLAG, "list plugins").also(&["plugin-list"]),
    Row::new("autoload", FLAG, "load plugin matching unknown option").no_effect("nothing is loaded from plugin files"),
    Row::new("dlopen", TEXT, "dlopen a library"),
];

pub(super) const MISC: &[Row] = &[
    Row::new("pcre-jit", FLAG, "enable PCRE JIT").no_effect("there is nothing to speed up"),
    Row::new("binsh", TEXT, "shells tried for commands"),
    Row::new("clock", TEXT, "clock source"),
    Row::new("clock-list", FLAG, "list clocks").also(&["clocks-list"]),
];

pub(super) const DEBUG: &[Row] = &[
    Row::new("backtrace-depth", NUMBER, "frames printed in C backtraces"),
    Row::new("profiler", TEXT, "pycall or pyline profiler"),
    Row::new("print-sym", TEXT, "dump an embedded symbol").also(&["print-symbol"]).refused(ONE_SHOT),
    Row::new("use-abort", FLAG, "abort() on segfault for core dumps"),
    Row::new("binary-append-data", TEXT, "emit data blob").refused(ONE_SHOT),
    Row::new("cflags", FLAG, "print build flags").refused(ONE_SHOT),
    Row::new("dot-h", FLAG, "print uwsgi.h").refused(ONE_SHOT),
    Row::new("config-py", FLAG, "print uwsgiconfig.py").refused(ONE_SHOT),
    Row::new("build-plugin", TEXT, "build a plugin dir").refused(ONE_SHOT),
];
