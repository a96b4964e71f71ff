//! Options and spellings that no other test sets, and a check that none is forgotten.

use std::process::Command;

use crate::harness::http::{Endpoint, get};
use crate::harness::server::{Server, Setup, Speaks, blocks_ahead, processes_of};
use crate::harness::{apps, differs, package, wait_until};

/// Names of processes in `ps`.
fn names(server: &Server) -> Vec<String> {
    processes_of(server.pid())
        .into_iter()
        .filter_map(|pid| std::fs::read(format!("/proc/{pid}/cmdline")).ok())
        .map(|bytes| String::from_utf8_lossy(&bytes).replace('\0', " ").trim().to_owned())
        .collect()
}

#[test]
fn every_supported_option_is_set_by_a_test() {
    let output = Command::new(env!("CARGO_BIN_EXE_rsgi")).arg("--help").output().expect("rsgi --help");
    let help = String::from_utf8(output.stdout).expect("text");
    let mut tests = String::new();
    for entry in std::fs::read_dir(package().join("tests/blackbox")).expect("the tests").flatten() {
        if entry.path().is_file() {
            tests.push_str(&std::fs::read_to_string(entry.path()).expect("a test"));
        }
    }
    let mut options = Vec::new();
    for line in help.lines() {
        let words = line.trim_start();
        let words = words.split_once(", --").map_or(words, |(_, rest)| rest).trim_start_matches("--");
        if !line.trim_start().starts_with('-') {
            continue;
        }
        options.extend(words.split([' ', '[', '=']).next().map(str::to_owned));
        if let Some((_, also)) = line.split_once("[also ") {
            options.extend(also.trim_end_matches(']').split(", ").map(str::to_owned));
        }
    }
    assert!(options.len() > 50, "{options:?}");
    let missing: Vec<&String> = options
        .iter()
        .filter(|name| {
            // As a key of an ini file, as an argument, or in a table of keys.
            let spellings = [format!("\"{name}\""), format!("{name} = "), format!("--{name}"), format!("{name}\\n")];
            !spellings.iter().any(|spelling| tests.contains(spelling.as_str()))
        })
        .collect();
    assert!(missing.is_empty(), "no test sets {missing:?}");
}

#[test]
fn other_names_of_options() {
    let python = apps().display().to_string();
    for (key, value) in [("python-path", python.as_str()), ("pp", python.as_str())] {
        let server = Setup::bare().listen("http-socket", Speaks::Http).set(key, value).set("wsgi", "basic").start();
        assert_eq!(server.get("/").expect(200).text(), "ready", "{key}");
    }
    let server = Setup::http("basic").set("logformat", "LINE %(uri)").start();
    server.get("/environ").expect(200);
    server.wait_for_log(&["LINE /environ"]);
    drop(server);
    let server =
        Setup::http("basic").set("worker-mount", "/app=basic:application").set("manage-script-name", "true").start();
    assert_eq!(server.get("/app/environ").expect(200).json()["SCRIPT_NAME"], "/app");
    drop(server);
    Setup::of("basic").set("socket-protocol", "http").listen("socket", Speaks::Http).start().get("/").expect(200);
}

#[test]
fn other_names_of_sockets() {
    differs(
        "`http-socket` and `http` keep connections alive, as `http11-socket` does; there is no router process.",
        || {
            let server = Setup::of("basic").listen("httprouter", Speaks::Http).start();
            let mut client = server.connect();
            client.send(get("/")).response().expect(200);
            client.send(get("/")).response().expect(200);
        },
    );
}

#[test]
fn chmod_alone() {
    use std::os::unix::fs::PermissionsExt;
    let server = Setup::of("basic").listen_unix("http-socket", "app.sock", Speaks::Http).set("chmod", "600").start();
    let mode = std::fs::metadata(server.path("app.sock")).expect("the socket").permissions().mode() & 0o777;
    assert_eq!(mode, 0o600);
}

#[test]
fn pyhome_is_a_home() {
    let folder = tempfile::tempdir().expect("a folder");
    let home = folder.path().join("venv");
    let made = Command::new("python3").args(["-m", "venv", "--without-pip"]).arg(&home).status().expect("python3");
    assert!(made.success());
    let server = Setup::http("basic").set("pyhome", home.display().to_string()).start();
    assert_eq!(server.get("/process").expect(200).json()["prefix"], home.display().to_string());
}

#[test]
fn files_that_read_others() {
    let setup = Setup::http("basic")
        .file("more.ini", "[uwsgi]\nenv = INCLUDED=yes\nset = threads=2\n")
        .file("late.ini", "[uwsgi]\nenv = INHERITED=yes\n[other]\nset-placeholder = name=value\nset-ph = second=two\nenv = OTHER=%(name) %(second)\n");
    let (more, late) = (setup.path("more.ini"), setup.path("late.ini"));
    let server = setup
        .set("include", more.display().to_string())
        .set("inherit", late.display().to_string())
        .set("ini", format!("{}:other", late.display()))
        .start();
    let environment = server.get("/process").expect(200).json()["environment"].clone();
    assert_eq!(environment["INCLUDED"], "yes");
    assert_eq!(environment["INHERITED"], "yes");
    assert_eq!(environment["OTHER"], "value two");
    assert_eq!(server.get("/environ").expect(200).json()["wsgi.multithread"], true);
}

#[test]
fn logic_in_files() {
    let setup = Setup::http("basic").env("DEFINED", "1");
    let folder = setup.path("").display().to_string();
    let lines = [
        ("if-env", "DEFINED"),
        ("env", "A=defined %(_)"),
        ("endif", ""),
        ("if-not-env", "NOT_DEFINED"),
        ("env", "B=not defined"),
        ("endif", ""),
        ("if-exists", "/no/such/file"),
        ("env", "C=never"),
        ("endif", ""),
        ("if-dir", folder.as_str()),
        ("env", "D=a folder"),
        ("endif", ""),
        ("for", "one two"),
        ("env", "LAST=%(_)"),
        ("endfor", ""),
    ];
    let server = lines.into_iter().fold(setup, |setup, (key, value)| setup.set(key, value)).start();
    let environment = server.get("/process").expect(200).json()["environment"].clone();
    assert_eq!(environment["A"], "defined 1");
    assert_eq!(environment["B"], "not defined");
    assert_eq!(environment["C"], serde_json::Value::Null);
    assert_eq!(environment["D"], "a folder");
    assert_eq!(environment["LAST"], "two");
}

#[test]
fn show_config_prints_the_settings() {
    let server = Setup::http("basic").set("show-config", "true").set("processes", "2").start();
    server.wait_for_log(&["[uwsgi]"]);
    server.wait_for_log(&["processes = 2"]);
    server.get("/").expect(200);
}

#[test]
fn parts_of_process_names() {
    let server = Setup::http("basic")
        .set("auto-procname", "true")
        .set("procname-prefix", "shop-")
        .set("procname-append", "-here")
        .start();
    wait_until("the names are set", || {
        names(&server).iter().any(|name| name.starts_with("shop-") && name.ends_with("worker 1-here"))
    });
}

#[test]
fn lazy_is_lazy_apps() {
    let server = Setup::http("lifecycle").set("processes", "2").set("lazy", "true").start();
    let notes = server.path("notes");
    wait_until("both have imported", || {
        std::fs::read_to_string(&notes).is_ok_and(|text| text.matches("imported").count() == 2)
    });
}

#[test]
fn a_response_runs_ahead_of_its_client_only_so_far() {
    differs("A generator may run `response-buffer` bytes (1 MiB) ahead of its client before it waits.", || {
        let ahead = |limit: &str| {
            let server = Setup::http("responses").set("response-buffer", limit).set("socket-timeout", "60").start();
            let mut client = server.connect();
            client.send(get("/ahead"));
            let last = blocks_ahead(&server);
            // The rest arrives all the same.
            assert_eq!(client.response().expect(200).body.len(), 1999 * 65536);
            last * 65536
        };
        let (little, much) = (ahead("65536"), ahead("60000000"));
        assert!(little < 30_000_000, "{little}");
        assert!(much > 59_000_000, "{much}");
    });
}

#[test]
fn there_is_always_a_master() {
    differs("There is always a master; `master = false` is named as without effect.", || {
        let server = Setup::http("basic").unset("master").set("master", "false").start();
        assert_eq!(server.get("/process").expect(200).json()["ppid"], server.pid().as_raw());
        server.wait_for_log(&["master"]);
    });
}

#[test]
fn threads_of_the_import_are_named() {
    differs(
        "Threads that the application starts at import are named in a warning: they do not survive the fork.",
        || {
            let setup = Setup::bare().file(
            "threaded.py",
            "import threading\nthreading.Thread(target=threading.Event().wait, name='collector', daemon=True).start()\n\
             def application(environ, start_response):\n    start_response('200 OK', [])\n    return [b'threaded']\n",
        );
            let folder = setup.path("").display().to_string();
            let server =
                setup.listen("http-socket", Speaks::Http).set("chdir", folder).set("wsgi-file", "threaded.py").start();
            server.wait_for_log(&["thread", "collector"]);
            server.get("/").expect(200);
        },
    );
}

#[test]
fn what_the_application_starts_has_the_limits_of_the_server() {
    let setup = Setup::bare().file(
        "limits.py",
        "import subprocess\ndef application(environ, start_response):\n    \
         out = subprocess.run(['sh', '-c', 'ulimit -n'], capture_output=True).stdout.strip()\n    \
         start_response('200 OK', [])\n    return [out]\n",
    );
    let folder = setup.path("").display().to_string();
    let server = setup
        .listen("http-socket", Speaks::Http)
        .set("chdir", folder)
        .set("wsgi-file", "limits.py")
        .shell("ulimit -Sn 300; exec \"$@\"")
        .start();
    assert_eq!(server.get("/").expect(200).text(), "300");
}

#[test]
fn many_connections_under_a_low_soft_limit() {
    differs(
        "The soft limit of open files is raised to the hard one; what the application starts gets the original back.",
        || {
            let server = Setup::http("basic").shell("ulimit -Sn 60; exec \"$@\"").start();
            let mut clients: Vec<_> = (0..150).map(|_| server.connect()).collect();
            for client in &mut clients {
                client.send(get("/")).response().expect(200);
            }
            for client in &mut clients {
                client.send(get("/")).response().expect(200);
            }
        },
    );
}

#[test]
fn a_pid_file_holds_the_masters_id() {
    let setup = Setup::http("basic").set("pidfile", "app.pid");
    let path = setup.path("app.pid");
    let server = setup.start();
    assert_eq!(std::fs::read_to_string(path).expect("the pid file"), format!("{}\n", server.pid()));
}

#[test]
fn unix_clients_are_served_over_both_protocols() {
    let setup = Setup::of("basic").listen_unix("socket", "one.sock", Speaks::Uwsgi).listen_unix(
        "http-socket",
        "two.sock",
        Speaks::Http,
    );
    let two = setup.path("two.sock");
    let server = setup.start();
    server.get_uwsgi("/").expect(200);
    let page = Endpoint::Unix(two).connect().send(get("/environ")).response().expect(200).json();
    assert_eq!(page["REQUEST_METHOD"], "GET");
    assert!(page["SERVER_PORT"].is_string() && page["SERVER_NAME"].is_string(), "{page}");
}
