//! The interpreter and the application.

use super::{FLAG, NUMBER, ONE_SHOT, OPTIONAL, OPTIONAL_BOOL, PAIR, PATH, Row, TEXT};

pub(super) const PYTHON: &[Row] = &[
    Row::new("skip-atexit-teardown", FLAG, "skip Py_Finalize at exit (python atexit hook still called)")
        .always("the interpreter is never taken apart; functions of atexit are called"),
    Row::new("max-apps", NUMBER, "max apps per worker").no_effect("any number of applications can be mounted"),
    Row::new("single-interpreter", FLAG, "all apps share the main interpreter")
        .short('i')
        .always("all applications share the main interpreter"),
    Row::new("need-app", OPTIONAL_BOOL, "stop with exit code 22 when no application can be loaded (true)")
        .set(|d, s| d.settings.need_app = d.flag(s)),
    Row::new("no-default-app", FLAG, "no fallback to the first app when no mountpoint matches"),
    Row::new("manage-script-name", FLAG, "split the path at the mount point into SCRIPT_NAME and PATH_INFO")
        .set(|d, s| d.settings.manage_script_name = d.flag(s)),
    Row::new("ignore-script-name", FLAG, "do not use SCRIPT_NAME for app lookup"),
    Row::new("chdir", PATH, "working directory, entered before the application is imported")
        .set(|d, s| d.settings.chdir = d.path_from_start(s)),
    Row::new("chdir2", TEXT, "chdir after loading apps"),
    Row::new("mount", PAIR, "/path=application, a file or module:callable")
        .also(&["worker-mount"])
        .listed()
        .set(|d, s| d.mount(s)),
    Row::new("vhost", FLAG, "one app per Host"),
    Row::new("vhost-host", FLAG, "vhost on HTTP_HOST"),
    Row::new("mode", TEXT, "string exported as uwsgi.mode"),
    Row::new("wsgi-file", PATH, "application: a Python file")
        .also(&["file"])
        .set(|d, s| d.settings.wsgi_file = d.named(s)),
    Row::new("eval", TEXT, "Python source text evaluated to get the callable"),
    Row::new("module", TEXT, "application: package.module, with :callable or :factory() if wanted")
        .also(&["wsgi"])
        .short('w')
        .set(|d, s| d.settings.module = d.named(s)),
    Row::new("callable", TEXT, "name of the application in its module or file (application)")
        .set(|d, s| d.settings.callable = d.text(s)),
    Row::new("test", TEXT, "import a module, exit 0 or 1").short('J').refused(ONE_SHOT),
    Row::new("home", PATH, "virtual environment, or prefix of a Python installation")
        .also(&["virtualenv", "venv", "pyhome"])
        .short('H')
        .set(|d, s| d.settings.home = d.named(s).map(|(path, origin)| (path.into(), origin))),
    Row::new("py-programname", TEXT, "sys program name").also(&["py-program-name"]),
    Row::new("pythonpath", PATH, "directory put before the others of sys.path")
        .also(&["python-path", "pp"])
        .listed()
        .set(|d, s| d.pythonpath(s)),
    Row::new("pymodule-alias", TEXT, "name=module or name=/path, before uwsgi module init"),
    Row::new("post-pymodule-alias", TEXT, "same, after init"),
    Row::new("import", TEXT, "module or .py imported before the app in each loading process").also(&[
        "pyimport",
        "py-import",
        "python-import",
    ]),
    Row::new("shared-import", TEXT, "module imported in every process type").also(&[
        "shared-pyimport",
        "shared-py-import",
        "shared-python-import",
    ]),
    Row::new("spooler-import", TEXT, "module imported in spoolers").also(&[
        "spooler-pyimport",
        "spooler-py-import",
        "spooler-python-import",
    ]),
    Row::new("pyargv", TEXT, "rest of sys.argv after \"uwsgi\""),
    Row::new("optimize", NUMBER, "Py_OptimizeFlag").short('O'),
    Row::new("pecan", TEXT, "pecan config loader"),
    Row::new("paste", TEXT, "paste.deploy URI (config:/path)"),
    Row::new("paste-logger", FLAG, "run logging.fileConfig on the paste file"),
    Row::new("web3", TEXT, "web3 app"),
    Row::new("pump", TEXT, "pump app"),
    Row::new("wsgi-lite", TEXT, "wsgi-lite app"),
    Row::new("ini-paste", TEXT, "load uwsgi section and paste app from one ini"),
    Row::new("ini-paste-logged", TEXT, "same with paste-logger"),
    Row::new("reload-os-env", FLAG, "refresh os.environ at app load"),
    Row::new("no-site", FLAG, "Py_NoSiteFlag"),
    Row::new("pyshell", OPTIONAL, "interactive shell in worker 1").refused(ONE_SHOT),
    Row::new("pyshell-oneshot", OPTIONAL, "same, once").refused(ONE_SHOT),
    Row::new("python", TEXT, "run a script in the uWSGI process (command mode)")
        .also(&["py", "pyrun"])
        .refused(ONE_SHOT),
    Row::new("py-tracebacker", TEXT, "unix socket prefix serving stack traces (path + worker id)"),
    Row::new("py-auto-reload", NUMBER, "reload when the file of an imported module changes; 0 is off")
        .also(&["py-autoreload", "python-auto-reload", "python-autoreload"])
        .set(|d, s| d.auto_reload(s)),
    Row::new("py-auto-reload-ignore", TEXT, "a module that py-auto-reload does not watch")
        .listed()
        .set(|d, s| d.auto_reload_ignore(s)),
    Row::new("wsgi-env-behaviour", TEXT, "cheat = environ dict reused, holy = new dict per request")
        .also(&["wsgi-env-behavior"]),
    Row::new("start_response-nodelay", FLAG, "send headers inside start_response"),
    Row::new("wsgi-strict", FLAG, "no shortcut for str/bytes return values"),
    Row::new("wsgi-accept-buffer", FLAG, "accept buffer objects as body").also(&["wsgi-accept-buffers"]),
    Row::new("wsgi-disable-file-wrapper", FLAG, "leave wsgi.file_wrapper out of environ")
        .set(|d, s| d.settings.file_wrapper = !d.flag(s)),
    Row::new("python-version", FLAG, "print version and exit"),
    Row::new("python-raw", TEXT, "handler for raw sockets"),
    Row::new("py-sharedarea", TEXT, "sharedarea backed by bytearray"),
    Row::new("py-call-osafterfork", FLAG, "call PyOS_AfterFork_Child in workers")
        .always("the fork hooks of Python always run"),
    Row::new("py-call-uwsgi-fork-hooks", FLAG, "run CPython before/after fork hooks around worker forks")
        .always("the fork hooks of Python always run"),
    Row::new("python-worker-override", TEXT, "script replacing the worker loop"),
    Row::new("py-executable", TEXT, "sys.executable").also(&["py-sys-executable"]),
];

pub(super) const EXCEPTIONS: &[Row] = &[
    Row::new("catch-exceptions", FLAG, "send exception details to the client as text"),
    Row::new("reload-on-exception", FLAG, "worker exits after an app exception"),
    Row::new("reload-on-exception-type", TEXT, "recycle on exception class"),
    Row::new("reload-on-exception-value", TEXT, "recycle on exception message"),
    Row::new("reload-on-exception-repr", TEXT, "recycle on \"class: message\""),
    Row::new("exception-handler", TEXT, "plugin handler for exceptions"),
];
