//! The command line, the ini file, and messages about what is wrong with them.

use std::path::PathBuf;
use std::process::{Command, Output};

use crate::harness::http::{Endpoint, get};
use crate::harness::server::{Setup, Speaks};
use crate::harness::{apps, differs, program, wait_until};

/// Runs the program with these words, without a server.
fn command(arguments: &[&str]) -> Output {
    let folder = tempfile::tempdir().expect("a folder");
    Command::new(program()).args(arguments).current_dir(folder.path()).output().expect("the program")
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// An ini file for `basic.py` on an abstract socket of the server's own, with more lines.
fn file(setup: &Setup, lines: &str) -> String {
    format!(
        "[uwsgi]\nmaster = true\ndie-on-term = true\nhttp-socket = {}\npythonpath = {}\nmodule = basic\n{lines}",
        setup.path("app.sock").display(),
        apps().display()
    )
}

fn with_lines(lines: &str) -> Setup {
    let setup = Setup::bare();
    let path = setup.path("app.sock");
    let text = file(&setup, &format!("vacuum = true\n{lines}"));
    setup.ini(text).endpoint(Endpoint::Unix(path), Speaks::Http)
}

#[test]
fn version() {
    let output = command(&["--version"]);
    assert_eq!(output.status.code(), Some(0));
    assert!(text(&output).contains(|c: char| c.is_ascii_digit()), "{}", text(&output));
}

#[test]
fn help_names_the_options() {
    let output = command(&["--help"]);
    assert_eq!(output.status.code(), Some(0));
    let text = text(&output);
    for name in ["--http-socket", "--processes", "--module", "--ini"] {
        assert!(text.contains(name), "{name}");
    }
}

#[test]
fn the_file_may_be_named_bare_or_with_ini() {
    for words in [vec!["--ini", "app.ini"], vec!["--ini=app.ini"], vec!["app.ini"], vec!["--ini", "app.ini:uwsgi"]] {
        with_lines("").arguments(&words).start().get("/").expect(200);
    }
}

#[test]
fn a_section_may_follow_the_bare_name() {
    differs("`rsgi app.ini:section` works without `--ini` too.", || {
        with_lines("").arguments(&["app.ini:uwsgi"]).start().get("/").expect(200);
    });
}

#[test]
fn sections_of_one_file() {
    let setup = Setup::bare();
    let path = setup.path("app.sock");
    let text = "[uwsgi]\nmodule = no_such_module\nhttp-socket = nowhere/at/all\n".to_owned()
        + &file(&setup, "vacuum = true\n").replace("[uwsgi]", "[staging]");
    let server =
        setup.ini(text).arguments(&["--ini", "app.ini:staging"]).endpoint(Endpoint::Unix(path), Speaks::Http).start();
    server.get("/").expect(200);
}

#[test]
fn options_on_the_command_line() {
    let setup = Setup::bare();
    let path = setup.path("app.sock");
    let socket = path.display().to_string();
    let pythonpath = format!("--pythonpath={}", apps().display());
    let words = [
        "--master",
        "--die-on-term",
        "--vacuum",
        "--http-socket",
        &socket,
        &pythonpath,
        "-w",
        "basic",
        "-p",
        "2",
        "--threads=2",
    ];
    let server = setup.arguments(&words).endpoint(Endpoint::Unix(path), Speaks::Http).start();
    let page = server.get("/environ").expect(200).json();
    assert_eq!((page["wsgi.multiprocess"].clone(), page["wsgi.multithread"].clone()), (true.into(), true.into()));
}

#[test]
fn unambiguous_prefixes_work() {
    let server = with_lines("").and_arguments(&["--proces=2", "--disable-logg"]).start();
    assert_eq!(server.get("/environ").expect(200).json()["wsgi.multiprocess"], true);
    assert!(!server.log().contains("GET /environ"), "{}", server.log());
}

#[test]
fn unknown_options_on_the_command_line_are_errors() {
    with_lines("").and_arguments(&["--no-such-option"]).run().expect(1, &["no-such-option"]);
    with_lines("").and_arguments(&["--http-socket"]).run().expect(1, &["http-socket"]);
}

#[test]
fn the_environment_configures_too() {
    let server = with_lines("").env("UWSGI_PROCESSES", "2").start();
    assert_eq!(server.get("/environ").expect(200).json()["wsgi.multiprocess"], true);
}

#[test]
fn the_file_may_look_odd() {
    let setup = Setup::bare();
    let path = setup.path("app.sock");
    let text =
        file(&setup, "vacuum\n  processes   =  2  \n; a comment\n# another\n\n\tenable-threads = true\nthreads=2")
            .replace('\n', "\r\n");
    let server = setup.ini(text).endpoint(Endpoint::Unix(path), Speaks::Http).start();
    let page = server.get("/environ").expect(200).json();
    assert_eq!((page["wsgi.multiprocess"].clone(), page["wsgi.multithread"].clone()), (true.into(), true.into()));
}

#[test]
fn a_byte_order_mark_is_no_harm() {
    differs("A byte order mark at the begin of an ini file is ignored.", || {
        let setup = Setup::bare();
        let path = setup.path("app.sock");
        let text = format!("\u{feff}{}", file(&setup, "vacuum = true\n"));
        setup.ini(text).endpoint(Endpoint::Unix(path), Speaks::Http).start().get("/").expect(200);
    });
}

#[test]
fn the_last_value_counts_and_lists_grow() {
    let server = with_lines("processes = 7\nprocesses = 2\nenv = A=1\nenv = B=two words\nprocesses = 1\n").start();
    let page = server.get("/process").expect(200).json();
    assert_eq!((page["environment"]["A"].clone(), page["environment"]["B"].clone()), ("1".into(), "two words".into()));
    assert_eq!(server.get("/environ").expect(200).json()["wsgi.multiprocess"], false);
}

#[test]
fn placeholders_and_magic_variables() {
    let server = with_lines(
        "base = one\nenv = JOINED=%(base)-%(later)\nlater = two\nenv = FROM_ENV=$(OUTSIDE)\nenv = UNSET=$(NOT_SET_ANYWHERE)\n\
         env = FOLDER=%d\nenv = FILE=%p\nenv = NAME=%n\nenv = PERCENT=100%%\nenv = SUM=%(number + 2)\nnumber = 40\n",
    )
    .env("OUTSIDE", "given")
    .start();
    let page = server.get("/process").expect(200).json();
    let environment = &page["environment"];
    let folder = server.path("").canonicalize().expect("the folder").display().to_string();
    for (name, value) in [
        ("JOINED", "one-two".to_owned()),
        ("FROM_ENV", "given".into()),
        ("UNSET", "$(NOT_SET_ANYWHERE)".into()),
        ("FOLDER", format!("{folder}/")),
        ("FILE", format!("{folder}/app.ini")),
        ("NAME", "app".into()),
        ("PERCENT", "100%".into()),
        ("SUM", "42".into()),
    ] {
        assert_eq!(environment[name], value, "{name}");
    }
}

#[test]
fn missing_and_unreadable_files_are_errors() {
    Setup::bare().arguments(&["--ini", "missing.ini"]).run().expect(1, &["missing.ini"]);
    Setup::bare().arguments(&["missing.ini"]).run().expect(1, &["missing.ini"]);
}

#[test]
fn a_folder_is_no_file() {
    Setup::bare().file("folder.ini/x", "").arguments(&["--ini", "folder.ini"]).run().expect(1, &["folder.ini"]);
}

#[test]
fn unknown_sections_are_errors() {
    Setup::bare()
        .ini("[uwsgi]\nmodule = basic\n")
        .arguments(&["--ini", "app.ini:nowhere"])
        .run()
        .expect(1, &["nowhere", "app.ini"]);
}

#[test]
fn all_errors_are_reported_at_once_with_their_lines() {
    differs(
        "All configuration errors are reported at once, each with file and line, what was expected and what was found; nonsense numbers are errors and not 0.",
        || {
            let setup = Setup::bare().ini(
            "[uwsgi]\nhttp-socket = 127.0.0.1:99999\nmodule = basic\nprocesses = many\nthreads = -1\nchmod-socket = 999\nuid = no-such-user\nlisten = 4k\n",
        );
            let ended = setup.run();
            for (line, found) in [
                ("app.ini:2", "99999"),
                ("app.ini:4", "many"),
                ("app.ini:5", "-1"),
                ("app.ini:6", "999"),
                ("app.ini:7", "no-such-user"),
                ("app.ini:8", "4k"),
            ] {
                ended.expect(1, &[line, found]);
            }
        },
    );
}

#[test]
fn check_reports_without_serving() {
    differs(
        "`--check` reports what is wrong with a configuration, without importing the application or serving.",
        || {
            let setup = Setup::http("no_such_module").and_arguments(&["--check"]);
            let ended = setup.run();
            assert_eq!(ended.code, 0, "{}", ended.log);
            let ended = Setup::bare()
                .ini("[uwsgi]\nhttp-socket = :0\nmodule = basic\nprocesses = many\n")
                .and_arguments(&["--check"])
                .run();
            ended.expect(1, &["app.ini:4", "processes", "many"]);
        },
    );
}

#[test]
fn unknown_keys_are_named() {
    differs("A key that neither uWSGI nor a placeholder knows is named in a warning, with a suggestion.", || {
        let server = with_lines("proceses = 4\nused = 1\nenv = A=%(used)\n").start();
        server.wait_for_log(&["proceses", "processes"]);
        assert!(
            !server.log().lines().any(|line| line.contains("used") && line.contains("unknown")),
            "{}",
            server.log()
        );
    });
}

#[test]
fn options_without_effect_yet_are_named() {
    differs("An option that rsgi does not act on is named in the log.", || {
        let server = with_lines("mule = 1\nsnmp = true\nstats = 127.0.0.1:0\n").start();
        for name in ["mule", "snmp", "stats"] {
            server.wait_for_log(&[name]);
        }
    });
}

#[test]
fn strict_refuses_unknown_keys() {
    with_lines("strict = true\nproceses = 4\n").run().expect(1, &["proceses"]);
}

/// A server with relative paths everywhere, the folder it is started in and the one of `chdir`.
fn with_relative_paths() -> (Setup, PathBuf, PathBuf) {
    // pidfile and logto from the start folder, the rest after chdir.
    let setup = Setup::bare().file("start/x", "").file("app/x", "");
    let (start, app) = (setup.path("start"), setup.path("app"));
    let text = format!(
        "[uwsgi]\nmaster = true\ndie-on-term = true\nvacuum = true\nhttp-socket = app.sock\npythonpath = {}\nmodule = basic\nchdir = {}\npidfile = app.pid\nlogto = app.log\n",
        apps().display(),
        app.display()
    );
    let setup = setup.ini(text).start_in(&start).endpoint(Endpoint::Unix(app.join("app.sock")), Speaks::Http);
    (setup, start, app)
}

#[test]
fn relative_paths_resolve_as_in_uwsgi() {
    let (setup, start, app) = with_relative_paths();
    let server = setup.start();
    assert_eq!(server.get("/process").expect(200).json()["cwd"], app.display().to_string());
    let pid = std::fs::read_to_string(start.join("app.pid")).expect("the pid file");
    assert_eq!(pid.trim(), server.pid().to_string());
    assert!(start.join("app.log").exists());
}

#[test]
fn relative_paths_survive_a_reload() {
    differs("`vacuum` finds sockets with relative paths also after a reload.", || {
        let (setup, start, _) = with_relative_paths();
        let server = setup.start();
        server.signal(nix::sys::signal::Signal::SIGHUP);
        let before = server.get("/pid").expect(200).text();
        wait_until("the reload is done", || server.poll("/pid").is_some_and(|page| page.text() != before));
        assert_eq!(
            std::fs::read_to_string(start.join("app.pid")).expect("the pid file").trim(),
            server.pid().to_string()
        );
    });
}

#[test]
fn requests_are_logged() {
    let server = with_lines("").start();
    server.get("/environ?a=b").expect(200);
    server.wait_for_log(&["GET /environ?a=b => generated", "(HTTP/1.1 200)"]);
}

#[test]
fn request_logging_can_be_off() {
    let server = with_lines("disable-logging = true\n").start();
    server.get("/environ?a=b").expect(200);
    server.get("/log?said").expect(200);
    server.wait_for_log(&["from print: said"]);
    assert!(!server.log().contains("GET /environ"), "{}", server.log());
}

#[test]
fn request_lines_have_the_format_that_is_asked_for() {
    let server =
        with_lines("log-format = LINE %(method) %(uri) %(status) %(proto) %(uagent) [%(var.HTTP_X_TAG)] %(rsize)\n")
            .start();
    server.ask("GET /big?1000 HTTP/1.1\r\nHost: a\r\nUser-Agent: tester\r\nX-Tag: t\r\n\r\n").expect(200);
    server.wait_for_log(&["LINE GET /big?1000 200 HTTP/1.1 tester [t] 1000"]);
}

#[test]
fn control_characters_cannot_forge_log_lines() {
    differs("Control characters from clients are escaped in the log.", || {
        let server = with_lines("log-format = LINE %(method) %(uagent)\n").start();
        server.ask("GET / HTTP/1.1\r\nHost: a\r\nUser-Agent: x\ty\u{1b}[31m\r\n\r\n");
        server.ask("GET / HTTP/1.1\r\nHost: a\r\nUser-Agent: x\ty\r\n\r\n").expect(200);
        wait_until("it is logged", || server.log().contains("LINE GET x"));
        assert!(!server.log().contains('\u{1b}'), "{}", server.log());
        assert!(!server.log().contains("x\ty"), "{}", server.log());
    });
}

#[test]
fn mounts() {
    let setup = Setup::http("basic")
        .set("mount", "/app=basic:application")
        .set("mount", "/app/deep=responses:application")
        .set("manage-script-name", "true");
    let server = setup.start();
    for (target, script, path) in [
        ("/environ/x", "", "/environ/x"),
        ("/app/environ", "/app", "/environ"),
        ("/app/environ/deep", "/app", "/environ/deep"),
    ] {
        let page = server.get(target).expect(200).json();
        assert_eq!((page["SCRIPT_NAME"].clone(), page["PATH_INFO"].clone()), (script.into(), path.into()), "{target}");
    }
    assert_eq!(server.get("/app/deep/list").expect(200).text(), "one, two, three");
    // Whole segments only.
    server.get("/application").expect(404);
    server.get("/app/deeper").expect(404);
}

#[test]
fn mounted_files_and_factories() {
    let setup = Setup::http("basic")
        .file("made.py", "def make():\n    def app(environ, start_response):\n        start_response('200 OK', [])\n        return [b'made']\n    return app\nother = make()\n")
        .set("manage-script-name", "true");
    let folder = setup.path("");
    let setup = setup
        .set("pythonpath", folder.display().to_string())
        .set("mount", "/made=made:make()")
        .set("mount", format!("/file={}", apps().join("responses.py").display()));
    let server = setup.start();
    assert_eq!(server.get("/made").expect(200).text(), "made");
    assert_eq!(server.get("/file/list").expect(200).text(), "one, two, three");
}

#[test]
fn modules_and_callables() {
    let source = "def app(environ, start_response):\n    start_response('200 OK', [('Content-Length', '3')])\n    return [b'app']\n\
                  def make():\n    return app\n";
    for (key, value, more) in [
        ("module", "site_:app", ""),
        ("module", "site_", "app"),
        ("module", "site_:make()", ""),
        ("wsgi-file", "site_.py", "app"),
        ("file", "site_.py", "app"),
    ] {
        let setup = Setup::bare().file("site_.py", source);
        let folder = setup.path("").display().to_string();
        let mut setup = setup.listen("http-socket", Speaks::Http).set("chdir", folder).set(key, value);
        if !more.is_empty() {
            setup = setup.set("callable", more);
        }
        assert_eq!(setup.start().get("/").expect(200).text(), "app", "{key} = {value}");
    }
}

#[test]
fn pythonpath_comes_first() {
    let setup = Setup::http("basic").set("pythonpath", "/first/of/all").set("pythonpath", "/second/of/all");
    let page = setup.start().get("/process").expect(200).json();
    let path: Vec<&str> = page["path"].as_array().expect("a list").iter().filter_map(|entry| entry.as_str()).collect();
    let at = |wanted: &str| {
        path.iter()
            .position(|entry| entry.trim_end_matches('/') == wanted)
            .unwrap_or_else(|| panic!("{wanted} in {path:?}"))
    };
    // The one written last comes first, as in uWSGI.
    assert!(at("/second/of/all") < at("/first/of/all"));
    let standard = path.iter().position(|entry| entry.ends_with("lib-dynload")).expect("the standard library");
    assert!(at("/first/of/all") < standard);
}

#[test]
fn a_virtual_environment_is_used() {
    let folder = tempfile::tempdir().expect("a folder");
    let home = folder.path().join("venv");
    let made = Command::new("python3").args(["-m", "venv", "--without-pip"]).arg(&home).status().expect("python3");
    assert!(made.success());
    for key in ["home", "virtualenv", "venv"] {
        let server = Setup::http("basic").set(key, home.display().to_string()).start();
        assert_eq!(server.get("/process").expect(200).json()["prefix"], home.display().to_string(), "{key}");
    }
}

#[test]
fn a_home_that_is_no_virtual_environment_is_an_error() {
    differs(
        "A `home` that does not exist, is no virtual environment or is one of another Python version is an error that says so.",
        || {
            Setup::http("basic").set("home", "/no/such/folder").run().expect(1, &["/no/such/folder"]);
            let folder = tempfile::tempdir().expect("a folder");
            let home = folder.path().display().to_string();
            std::fs::create_dir_all(folder.path().join("bin")).expect("bin");
            std::fs::write(folder.path().join("pyvenv.cfg"), "home = /usr/bin\nversion = 3.7.1\n").expect("pyvenv.cfg");
            Setup::http("basic").set("home", home.as_str()).run().expect(1, &["3.7", &home]);
        },
    );
}

#[test]
fn limits_of_descriptors() {
    let setup = Setup::bare().file(
        "limits.py",
        "import resource, subprocess\n\
         def application(environ, start_response):\n    \
             child = subprocess.run(['sh', '-c', 'ulimit -n'], capture_output=True, text=True).stdout.strip()\n    \
             start_response('200 OK', [])\n    \
             return [f'{resource.getrlimit(resource.RLIMIT_NOFILE)[0]} {child}'.encode()]\n",
    );
    let folder = setup.path("").display().to_string();
    let server = setup
        .listen("http-socket", Speaks::Http)
        .set("chdir", folder)
        .set("wsgi-file", "limits.py")
        .set("max-fd", "500")
        .start();
    assert!(server.get("/").expect(200).text().starts_with("500 "));
}

#[test]
fn chdir_comes_before_the_application() {
    let setup = Setup::http("basic").file("below/x", "");
    let below = setup.path("below").display().to_string();
    let page = setup.set("chdir", below.as_str()).start().get("/process").expect(200).json();
    assert_eq!(page["cwd"], below);
}

#[test]
fn umask_reaches_the_application() {
    let page = Setup::http("basic").set("umask", "027").start().get("/process").expect(200).json();
    assert_eq!(page["umask"], "0027");
}

#[test]
fn logto_takes_everything() {
    let setup = Setup::http("basic");
    let log = setup.path("to.log");
    let server = setup.set("logto", log.display().to_string()).start();
    server.get("/log?hello").expect(200);
    wait_until("it is there", || {
        std::fs::read_to_string(&log)
            .is_ok_and(|text| text.contains("from print: hello") && text.contains("GET /log?hello"))
    });
}

#[test]
fn typical_production_files_work_unchanged() {
    let server = with_lines(
        "strict = true\nneed-app = true\nenable-threads = true\nsingle-interpreter = true\nprocesses = 2\nthreads = 2\nbuffer-size = 32768\n\
         listen = 100\nlazy-apps = false\npost-buffering = 8192\nignore-sigpipe = true\nignore-write-errors = true\ndisable-write-exception = true\n\
         thunder-lock = true\nauto-procname = true\nmax-requests = 5000\nharakiri = 60\nreload-mercy = 8\nworker-reload-mercy = 8\nplugins = python3\n\
         socket-timeout = 30\nhttp-timeout = 30\nlog-4xx = true\nlog-5xx = true\nno-orphans = true\nmemory-report = true\nlimit-post = 10000000\n",
    )
    .start();
    let mut client = server.connect();
    client.send(get("/"));
    client.response().expect(200);
}
