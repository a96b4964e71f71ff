//! Upgrades: another file takes the place of the program in the same process.

use std::fs;
use std::io::Read;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::harness::clients::{Clients, Keeps};
use crate::harness::held::Held;
use crate::harness::http::get;
use crate::harness::server::{Server, Setup, Speaks, listen_tcp, processes_of, says};
use crate::harness::{apps, differs, program, rsgis, wait_until};
use crate::listeners::for_everybody;
use crate::systemd::{Manager, micros};

const UPGRADES: &str = "HUP, `r` and `touch-reload` never run the binary anew: SIGUSR2 or `U` in the master fifo does, after a child has run the new file up to the imported application.";
const FAILURES: &str = "An upgrade that fails leaves everything as it was and says why.";

/// Copies a file by a process of its own: one that this process still writes to, as seen by a child that is just being
/// forked in another test, cannot be run.
fn copy(from: &Path, to: &Path) {
    let done = Command::new("cp").args([from, to]).status().expect("cp");
    assert!(done.success());
}

/// The server is started from a file of its own, which the test may replace.
fn replaceable(setup: Setup) -> Setup {
    let file = setup.path("bin/rsgi");
    fs::create_dir(setup.path("bin")).expect("a folder");
    copy(&program(), &file);
    let stats = setup.path("stats.sock").display().to_string();
    setup.program(file).set("stats", stats).set("disable-logging", "true")
}

/// Puts a file in the place of the program, as packages do.
fn install(server: &Server, bytes: &[u8]) {
    let (text, new) = (server.path("bin/text"), server.path("bin/new"));
    fs::write(&text, bytes).expect("a file");
    fs::set_permissions(&text, fs::Permissions::from_mode(0o755)).expect("permissions");
    copy(&text, &new);
    fs::rename(new, server.path("bin/rsgi")).expect("the new file");
}

/// The program under test with another version of what these marks stand for.
fn of_another_version(marks: &[&str]) -> Vec<u8> {
    let mut bytes = fs::read(program()).expect("the program");
    for mark in marks {
        let is_number = |digits: &[u8]| digits.len() == 16 && digits.iter().all(u8::is_ascii_hexdigit);
        let places: Vec<usize> = memchr::memmem::find_iter(&bytes, mark)
            .map(|at| at + mark.len())
            .filter(|at| bytes.get(*at..at + 16).is_some_and(is_number))
            .collect();
        assert!(!places.is_empty());
        for place in places {
            bytes[place] = if bytes[place] == b'f' { b'e' } else { b'f' };
        }
    }
    bytes
}

fn pid(server: &Server) -> i32 {
    server.get("/pid").expect(200).text().parse().expect("a number")
}

fn stats(server: &Server) -> Value {
    let mut text = String::new();
    UnixStream::connect(server.path("stats.sock")).and_then(|mut s| s.read_to_string(&mut text)).expect("statistics");
    serde_json::from_str(&text).expect("JSON")
}

/// Requests of all workers.
fn requests(told: &Value) -> u64 {
    let workers = told["workers"].as_array().expect("workers");
    workers.iter().filter_map(|worker| worker["requests"].as_u64()).sum()
}

/// How often an upgrade has gone through.
fn upgrades(server: &Server) -> usize {
    server.log().matches("has taken the place of").count()
}

fn reloads(server: &Server) -> usize {
    server.log().matches("reload done").count()
}

/// Upgrades, and waits until the new program's workers serve.
#[track_caller]
fn upgrade(server: &Server) {
    let before = (upgrades(server), reloads(server));
    server.signal(Signal::SIGUSR2);
    wait_until("the upgrade is done", || (upgrades(server), reloads(server)) == (before.0 + 1, before.1 + 1));
}

fn with_file() -> Setup {
    replaceable(Setup::with_file())
}

/// The file that a process runs, and its name.
fn runs(pid: Pid) -> (String, String) {
    let exe = fs::read_link(format!("/proc/{pid}/exe")).expect("a process").display().to_string();
    (exe, fs::read_to_string(format!("/proc/{pid}/comm")).expect("a process").trim().to_owned())
}

#[test]
fn the_process_that_writes_the_log_is_replaced_too() {
    differs(UPGRADES, || {
        let server = with_file().set("processes", "1").set("logger", "stdio").start();
        for _ in 0..3 {
            upgrade(&server);
            // The one before writes until nobody is left who could say something to it.
            wait_until("master, logger, zygote and worker are left", || processes_of(server.pid()).len() == 4);
        }
        server.get("/").expect(200);
    });
}

#[test]
fn an_upgrade_changes_the_program_and_nothing_else() {
    differs(UPGRADES, || {
        let setup = replaceable(Setup::http("basic"));
        let (fifo, pidfile) = (setup.path("fifo").display().to_string(), setup.path("x.pid").display().to_string());
        let setup = setup.listen_unix("http-socket", "own.sock", Speaks::Http).set("processes", "2");
        let mut server =
            setup.set("master-fifo", fifo).set("pidfile", pidfile).set("attach-daemon", "exec sleep 1000").start();
        let master = server.pid();
        let (name, before) = (runs(master).1, stats(&server));
        let old = pid(&server);
        let mut kept = server.connect();
        kept.send(get("/pid")).response().expect(200);

        install(&server, &fs::read(program()).expect("the program"));
        assert!(runs(master).0.ends_with("(deleted)"));
        upgrade(&server);
        assert_eq!(runs(master), (server.path("bin/rsgi").display().to_string(), name.clone()));
        wait_until("a new worker answers", || {
            let new = kept.send(get("/pid")).response().expect(200);
            assert!(!new.announces_close());
            new.text() != old.to_string()
        });
        let after = stats(&server);
        assert_eq!((&after["daemons"][0]["pid"], &after["pid"]), (&before["daemons"][0]["pid"], &before["pid"]));
        assert_eq!((&after["generation"], &after["sockets"]), (&Value::from(2), &before["sockets"]));
        assert!(requests(&after) > requests(&before), "{after}");
        assert_eq!(fs::read_to_string(server.path("x.pid")).expect("the pid file"), format!("{master}\n"));

        // The next one, by the other way, with the same file.
        let before = reloads(&server);
        fs::write(server.path("fifo"), "U").expect("the fifo");
        wait_until("the upgrade is done", || upgrades(&server) == 2 && reloads(&server) == before + 1);
        kept.send(get("/")).response().expect(200);
        server.endpoint_at(1).connect().send(get("/")).response().expect(200);
        assert_eq!(runs(master).1, name);
        // What it made, its successor removes; what is inherited stays inherited.
        server.signal(Signal::SIGTERM);
        server.wait();
        for left in ["own.sock", "fifo", "x.pid", "stats.sock"] {
            assert!(!server.path(left).exists(), "{left}");
        }
    });
}

#[test]
fn the_service_manager_is_told_of_upgrades() {
    rsgis(|| {
        let (manager, setup) = Manager::of(replaceable(Setup::http("basic")).allow("upgrade failed"));
        let server = setup.env("WATCHDOG_USEC", "2000000").start();
        manager.wait_for("READY=1");
        let master = server.pid();
        for generation in ["generation 2", "generation 3"] {
            let before = micros();
            upgrade(&server);
            let reloading = manager.wait_for("RELOADING=1");
            let at = reloading.lines().find_map(|line| line.strip_prefix("MONOTONIC_USEC=")?.parse::<u64>().ok());
            assert!(at.is_some_and(|at| (before..=micros()).contains(&at)), "{reloading}");
            let ready = manager.wait_for("READY=1");
            assert!(ready.contains(generation), "{ready}");
            // The main process is the one that systemd started, and it is not told of another.
            assert!(![&reloading, &ready].iter().any(|text| text.contains("MAINPID")), "{reloading} {ready}");
            assert_eq!(server.get("/process").expect(200).json()["ppid"], master.as_raw());
            manager.wait_for("WATCHDOG=1");
        }
        // One that fails leaves the service ready.
        install(&server, b"no program");
        let failed = || stats(&server)["reloads"]["failed"].clone();
        let before = failed();
        server.signal(Signal::SIGUSR2);
        wait_until("it has failed", || failed() != before);
        server.get("/").expect(200);
        let mut last = String::new();
        while let Some(text) = manager.hear() {
            if text.contains("RELOADING=1") || text.contains("READY=1") {
                last = text;
            }
        }
        assert!(!last.contains("RELOADING=1"), "{last}");
        server.signal(Signal::SIGTERM);
        manager.wait_for("STOPPING=1");
    });
}

#[test]
fn a_program_with_another_scoreboard_begins_a_fresh_one() {
    rsgis(|| {
        let server = replaceable(Setup::http("basic").set("processes", "2")).start();
        let held = Held::begin(&server, "a");
        let mut kept = server.connect();
        kept.send(get("/pid")).response().expect(200);
        let clients = Clients::begin(server.endpoint(), 4);
        let before = requests(&stats(&server));
        install(&server, &of_another_version(&["rsgi layout "]));
        upgrade(&server);
        server.wait_for_log(&["has taken the place", "a fresh one"]);
        clients.wait_for(20);
        clients.expect_no_loss();
        // Connections are handed on as ever, counters begin anew.
        assert!(!kept.send(get("/")).response().expect(200).announces_close());
        assert!(before > 0 && stats(&server)["generation"] == 2);
        let old = held.pid;
        held.release().expect(200);
        wait_until("the old worker is gone", || !processes_of(server.pid()).contains(&old));
    });
}

#[test]
fn a_program_that_speaks_otherwise_retires_the_old_workers() {
    rsgis(|| {
        let server = replaceable(Setup::http("basic").set("processes", "2")).start();
        let mut kept = server.connect();
        kept.send(get("/pid")).response().expect(200);
        let clients = Clients::begin(server.endpoint(), 4);
        install(&server, &of_another_version(&["rsgi layout ", "rsgi words  "]));
        upgrade(&server);
        server.wait_for_log(&["has taken the place", "only told to retire"]);
        clients.wait_for(20);
        clients.expect_no_loss();
        // An old worker can give it to nobody: one answer more, or none after a second of silence.
        let sent = kept.try_send(get("/")).map_err(|error| error.to_string());
        if let Ok(last) = sent.and_then(|()| kept.try_response_to("GET")) {
            assert!(last.announces_close());
        }
        wait_until("the old workers are gone", || processes_of(server.pid()).len() == 4);
        // It goes on as any other.
        upgrade(&server);
        let worker = stats(&server)["workers"][0]["pid"].as_i64().expect("a pid") as i32;
        kill(Pid::from_raw(worker), Signal::SIGTERM).expect("a worker");
        server.wait_for_log(&["asks to retire"]);
        server.get("/").expect(200);
    });
}

#[test]
fn upgrades_under_load_lose_no_request() {
    rsgis(|| {
        let server = replaceable(Setup::http("basic").set("processes", "2").set("threads", "2")).start();
        let clients = Clients::begin(server.endpoint(), 8);
        for _ in 0..3 {
            upgrade(&server);
            clients.wait_for(50);
        }
        clients.expect_no_loss();
    });
}

#[test]
fn connections_that_are_kept_outlive_upgrades() {
    rsgis(|| {
        let server = replaceable(Setup::http("basic").set("processes", "2")).start();
        let mut idle: Vec<_> = (0..10).map(|_| server.connect()).collect();
        for round in 0..3 {
            for client in &mut idle {
                assert!(!client.send(get("/")).response().expect(200).announces_close(), "round {round}");
            }
            upgrade(&server);
        }
    });
}

#[test]
fn a_link_that_is_turned_is_the_new_program() {
    rsgis(|| {
        let setup = Setup::http("basic");
        for release in ["1", "2"] {
            fs::create_dir(setup.path(release)).expect("a folder");
            copy(&program(), &setup.path(release).join("rsgi"));
        }
        let link = setup.path("current");
        symlink("1", &link).expect("a link");
        // A relative name, and a folder that is left for another.
        let folder = setup.path("").display().to_string();
        let server = setup.shell("cd \"$TEST_FOLDER\"; shift; exec current/rsgi \"$@\"").set("chdir", "/").start();
        symlink("2", Path::new(&folder).join("next")).expect("a link");
        fs::rename(Path::new(&folder).join("next"), link).expect("a link");
        upgrade(&server);
        assert_eq!(runs(server.pid()).0, format!("{}/2/rsgi", folder.trim_end_matches('/')));
    });
}

#[test]
fn a_program_found_on_path_is_found_again() {
    rsgis(|| {
        let setup = replaceable(Setup::http("basic"));
        let file = setup.path("bin/rsgi");
        let server = setup.shell("shift; PATH=\"$TEST_FOLDER/bin:$PATH\" exec rsgi \"$@\"").start();
        upgrade(&server);
        assert_eq!(runs(server.pid()).0, file.display().to_string());
    });
}

#[test]
fn an_upgrade_reads_the_configuration_again() {
    rsgis(|| {
        let (fd, address) = listen_tcp("127.0.0.1:0");
        drop(fd);
        let mut server = replaceable(Setup::http("basic")).start();
        assert_eq!(server.get("/environ").json()["wsgi.multiprocess"], false);
        server.rewrite("processes", "3");
        server.rewrite("threads", "2");
        server.rewrite("socket", &address.to_string());
        upgrade(&server);
        // What old workers had accepted they answer.
        wait_until("new workers answer", || {
            let environ = server.get("/environ").json();
            environ["wsgi.multiprocess"] == true && environ["wsgi.multithread"] == true
        });
        assert_eq!(stats(&server)["workers"].as_array().map(Vec::len), Some(3));
        server.wait_for_log(&["uwsgi on", &address.to_string()]);
    });
}

/// Upgrades that must not come to the change of the program.
#[track_caller]
fn expect_failure(server: &Server, reason: &str) -> Value {
    let (worker, before) = (pid(server), stats(server)["reloads"]["failed"].clone());
    server.signal(Signal::SIGUSR2);
    wait_until("the failure is told", || stats(server)["reloads"]["failed"] != before);
    assert_eq!(pid(server), worker);
    let told = stats(server)["reloads"].clone();
    assert_eq!(told["last"], "failed");
    assert!(told["reason"].as_str().expect("text").contains(reason), "{told}");
    server.wait_for_log(&["upgrade failed", reason, "nothing has changed"]);
    assert_eq!(upgrades(server), 0);
    told
}

/// Lets them go through again.
#[track_caller]
fn expect_success(server: &Server) {
    upgrade(server);
    let told = stats(server)["reloads"].clone();
    assert_eq!((&told["last"], &told["reason"], &told["traceback"]), (&"done".into(), &"".into(), &"".into()));
}

#[test]
fn a_file_that_is_missing_or_no_program_changes_nothing() {
    differs(FAILURES, || {
        let server = replaceable(Setup::http("basic")).allow("upgrade failed").start();
        fs::rename(server.path("bin/rsgi"), server.path("bin/away")).expect("a file");
        expect_failure(&server, "No such file");
        install(&server, b"this is no program");
        expect_failure(&server, "cannot be run");
        install(&server, &fs::read("/bin/true").expect("a program"));
        expect_failure(&server, "before the application was imported");
        fs::rename(server.path("bin/away"), server.path("bin/rsgi")).expect("a file");
        expect_success(&server);
    });
}

#[test]
fn an_application_that_cannot_be_imported_changes_nothing() {
    rsgis(|| {
        for lazy in ["false", "true"] {
            let server =
                with_file().set("lazy-apps", lazy).allow("Traceback").allow("ValueError").allow("failed").start();
            let worker = stats(&server)["workers"][0]["pid"].clone();
            fs::write(server.path("served.py"), "raise ValueError('on purpose')\n").expect("the file");
            server.signal(Signal::SIGUSR2);
            wait_until("the failure is told", || stats(&server)["reloads"]["failed"] == 1);
            let told = stats(&server)["reloads"].clone();
            assert!(told["reason"].as_str().unwrap().contains("ValueError: on purpose"), "{told}");
            assert!(told["traceback"].as_str().unwrap().contains("served.py\", line 1"), "{told}");
            assert_eq!((upgrades(&server), &stats(&server)["workers"][0]["pid"]), (0, &worker));
            assert_eq!(server.get("/").expect(200).text(), "old");
            fs::write(server.path("served.py"), "import os\nos._exit(3)\n").expect("the file");
            server.signal(Signal::SIGUSR2);
            server.wait_for_log(&["upgrade failed", "exited with code 3"]);
            fs::write(server.path("served.py"), says("new")).expect("the file");
            expect_success(&server);
            wait_until("the new one answers", || server.get("/").expect(200).text() == "new");
        }
    });
}

#[test]
fn a_configuration_that_is_wrong_changes_nothing() {
    rsgis(|| {
        let (taken, address) = listen_tcp("127.0.0.1:0");
        let mut server = replaceable(Setup::http("basic")).allow("app.ini").allow("upgrade failed").start();
        server.rewrite("threads", "-3");
        expect_failure(&server, "threads");
        server.rewrite("threads", "1");
        server.rewrite("socket", &address.to_string());
        expect_failure(&server, "the address is in use");
        drop(taken);
        expect_success(&server);
    });
}

#[test]
fn an_import_that_hangs_changes_nothing() {
    rsgis(|| {
        let server = with_file().set("reload-import-timeout", "1").allow("upgrade failed").allow("File").start();
        fs::write(server.path("served.py"), "import time\ntime.sleep(600)\n").expect("the file");
        expect_failure_of_file(&server, "reload-import-timeout");
        // Where it hangs.
        assert!(server.log().contains("served.py\", line 2"), "{}", server.log());
    });
}

/// As [`expect_failure`], of an application that has no page /pid.
#[track_caller]
fn expect_failure_of_file(server: &Server, reason: &str) {
    server.signal(Signal::SIGUSR2);
    server.wait_for_log(&["upgrade failed", reason]);
    assert_eq!((upgrades(server), server.get("/").expect(200).text()), (0, "old".to_owned()));
}

#[test]
fn a_failure_after_the_program_has_changed_says_so_and_ends_the_server() {
    rsgis(|| {
        // The new application spoils the configuration after it was read for the trial.
        let spoil = "import os\nopen(os.environ['TEST_FOLDER'] + '/app.ini', 'a').write('processes = -3\\n')\n";
        let mut server = with_file().start();
        fs::write(server.path("served.py"), spoil.to_owned() + &says("new")).expect("the file");
        server.signal(Signal::SIGUSR2);
        assert_eq!(server.wait().code(), Some(1));
        server.wait_for_log(&["the upgrade failed after the old program was gone", "processes"]);
        server.expect_no_processes();
        fs::remove_file(server.path("stats.sock")).expect("the socket of the server that could not remove it");
        server.expect_killed();
    });
}

#[test]
fn a_stop_or_a_reload_ends_a_trial() {
    rsgis(|| {
        // The trial waits until it is killed.
        let wait = "import os, time\nif os.path.exists('flag'):\n    open('tried', 'w')\n    time.sleep(600)\n";
        for signal in [Signal::SIGTERM, Signal::SIGHUP] {
            let setup = with_file().file("waits.py", wait);
            let mut server = setup.start();
            fs::write(server.path("flag"), "").expect("the flag");
            fs::write(server.path("served.py"), format!("import waits\n{}", says("new"))).expect("the file");
            let folder = server.path("").display().to_string();
            server.rewrite("pythonpath", &folder);
            server.signal(Signal::SIGUSR2);
            wait_until("it is tried", || server.path("tried").exists());
            fs::remove_file(server.path("flag")).expect("the flag");
            server.signal(signal);
            match signal {
                Signal::SIGTERM => assert_eq!(server.wait().code(), Some(0)),
                _ => {
                    server.wait_for_log(&["the upgrade under way is given up for a reload"]);
                    wait_until("it is reloaded", || server.get("/").text() == "new");
                }
            }
            assert_eq!(upgrades(&server), 0);
        }
    });
}

#[test]
fn an_upgrade_after_privileges_were_dropped() {
    rsgis(|| {
        if !nix::unistd::Uid::effective().is_root() {
            return;
        }
        let setup = for_everybody(Setup::bare().listen("http-socket", Speaks::Http));
        // A folder that is the user's own: what was made there is removed again at the end.
        let own = setup.path("own");
        fs::create_dir(&own).expect("a folder");
        std::os::unix::fs::chown(&own, Some(65534), Some(65534)).expect("its owner");
        let setup = setup.set("pidfile", own.join("x.pid").display().to_string());
        let setup =
            setup.listen_unix("http-socket", "own/s.sock", Speaks::Http).set("uid", "65534").set("gid", "65534");
        let server = setup.start();
        let before = server.get("/process").expect(200).json();
        upgrade(&server);
        let after = server.get("/process").expect(200).json();
        assert_eq!(
            (&after["uid"], &after["gid"], &after["groups"]),
            (&before["uid"], &before["gid"], &before["groups"])
        );
        assert_eq!(after["ppid"], server.pid().as_raw());
    });
}

#[test]
fn sockets_of_systemd_and_a_configuration_from_the_standard_input_survive() {
    rsgis(|| {
        let (fd, address) = listen_tcp("127.0.0.1:0");
        let mut setup = replaceable(Setup::bare());
        let number = setup.inherit(fd);
        let stats = setup.path("stats.sock").display().to_string();
        let ini =
            format!("[uwsgi]\nprotocol = http\npythonpath = {}\nmodule = basic\nstats = {stats}\n", apps().display());
        let script = format!("exec 3<&{number}; LISTEN_FDS=1 LISTEN_PID=$$ exec \"$1\" --ini - <\"$TEST_FOLDER/in\"");
        let setup = setup.file("in", ini).shell(&script);
        let server = setup.endpoint(crate::harness::http::Endpoint::Tcp(address), Speaks::Http).start();
        fs::write(server.path("in"), "").expect("the file");
        for _ in 0..2 {
            upgrade(&server);
            server.get("/pid").expect(200);
        }
        assert_eq!(server.get("/process").json()["environment"].get("RSGI_HANDOFF"), None);
    });
}

#[test]
fn a_variable_left_over_from_an_upgrade_is_nobodys() {
    rsgis(|| {
        let server = Setup::http("basic").env("RSGI_HANDOFF", "master:7").start();
        assert_eq!(server.get("/process").json()["environment"].get("RSGI_HANDOFF"), None);
        let clients = Clients::begin_as(server.endpoint(), &[Keeps::Open]);
        clients.expect_no_loss();
    });
}

#[test]
fn the_operator_is_heard_after_an_upgrade_too() {
    rsgis(|| {
        let server = replaceable(Setup::http("basic").set("control-socket", "control.sock")).start();
        let ask = || {
            let socket = server.path("control.sock");
            let asked = Command::new(program()).args(["ctl", "--socket"]).arg(socket).arg("workers").output();
            asked.expect("the command").status.success()
        };
        for _ in 0..2 {
            assert!(ask());
            upgrade(&server);
        }
        assert!(ask());
    });
}
