//! Reloads that change more than the application, and those that fail: what is kept, what is told.

use std::fs;
use std::io::Read;
use std::os::unix::net::UnixStream;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::harness::clients::Clients;
use crate::harness::http::get;
use crate::harness::server::{Server, Setup, Speaks, processes_of, says};
use crate::harness::{differs, rsgis, wait_until};

const REASONS: &str = "`stats` tells why the last reload failed, with the traceback.";

fn telling(setup: Setup) -> Setup {
    let path = setup.path("stats.sock").display().to_string();
    setup.set("stats", path).set("disable-logging", "true")
}

fn stats(server: &Server) -> Value {
    let mut text = String::new();
    UnixStream::connect(server.path("stats.sock")).and_then(|mut s| s.read_to_string(&mut text)).expect("statistics");
    serde_json::from_str(&text).expect("JSON")
}

fn workers(server: &Server) -> Vec<Value> {
    stats(server)["workers"].as_array().expect("workers").iter().map(|worker| worker["pid"].clone()).collect()
}

/// Reloads by SIGHUP, and waits for its end.
#[track_caller]
fn reload(server: &Server) {
    let before = server.log().matches("reload done").count();
    server.signal(Signal::SIGHUP);
    wait_until("the reload is done", || server.log().matches("reload done").count() > before);
}

/// A server of two workers whose application is a file in its folder.
fn with_file() -> Setup {
    telling(Setup::with_file()).set("processes", "2")
}

/// Reloads in vain: the same workers go on, and the reason is told in the log and in the statistics.
#[track_caller]
fn expect_failure(server: &Server, reason: &str, traceback: &str) {
    wait_until("all workers serve", || workers(server).iter().all(|pid| *pid != 0));
    let (serving, before) = (workers(server), stats(server)["reloads"]["failed"].as_u64());
    server.signal(Signal::SIGHUP);
    wait_until("the failure is told", || stats(server)["reloads"]["failed"].as_u64() > before);
    let told = stats(server)["reloads"].clone();
    assert_eq!(told["last"], "failed");
    assert!(told["reason"].as_str().expect("text").contains(reason), "{told}");
    assert!(told["traceback"].as_str().expect("text").contains(traceback), "{told}");
    server.wait_for_log(&["reload failed"]);
    server.wait_for_log(&[reason]);
    if !traceback.is_empty() {
        server.wait_for_log(&[traceback]);
    }
    assert_eq!(workers(server), serving);
    server.get("/").expect(200);
    // What was begun for it is gone: the master, its zygote, two workers.
    wait_until("nothing is left of it", || processes_of(server.pid()).len() == 4);
}

#[test]
fn each_kind_of_failure_is_told_and_changes_nothing() {
    differs(REASONS, || {
        let mut server = with_file()
            .allow("Traceback")
            .allow("reload failed")
            .allow("app.ini")
            .allow("ValueError")
            .allow("exited with code")
            .allow("was killed by SIGKILL")
            .set("reload-import-timeout", "1")
            .start();
        let write = |text: &str| fs::write(server.path("served.py"), text).expect("the file");
        let good = says("new");
        // The import fails, or hangs; workers die between fork and ready, by their own doing or killed.
        write("def inner():\n    raise ValueError('on purpose')\ninner()\n");
        expect_failure(&server, "ValueError: on purpose", "served.py\", line 2");
        write("import time\ntime.sleep(600)\n");
        expect_failure(&server, "reload-import-timeout", "");
        assert!(server.log().contains("served.py\", line 2"), "where it hangs: {}", server.log());
        write(&format!("import os\nos.register_at_fork(after_in_child=lambda: os._exit(7))\n{good}"));
        expect_failure(&server, "exited with code 7 before it was ready", "");
        write(&format!("import os\nos.register_at_fork(after_in_child=lambda: os.kill(os.getpid(), 9))\n{good}"));
        expect_failure(&server, "was killed by SIGKILL before it was ready", "");
        write("import os\nos._exit(3)\n");
        expect_failure(&server, "exited with code 3 before it was ready", "");
        write(&good);
        server.rewrite("processes", "-3");
        expect_failure(&server, "processes", "");
        server.rewrite("processes", "2");
        reload(&server);
        let told = stats(&server)["reloads"].clone();
        assert_eq!((&told["last"], &told["reason"], &told["traceback"]), (&"done".into(), &"".into(), &"".into()));
        assert_eq!((&told["failed"], &told["done"]), (&6.into(), &1.into()));
        wait_until("the new one answers", || server.get("/").text() == "new");
    });
}

#[test]
fn workers_that_import_for_themselves_fail_as_well() {
    rsgis(|| {
        let setup = with_file().set("lazy-apps", "true").set("reload-import-timeout", "1");
        let server = setup
            .allow("Traceback")
            .allow("reload failed")
            .allow("ValueError")
            .allow("exited with code")
            .allow("SIGKILL")
            .start();
        // Each imports what is there when it comes to it.
        server.wait_for_log(&["2 workers ready"]);
        let write = |text: &str| fs::write(server.path("served.py"), text).expect("the file");
        write("raise ValueError('on purpose')\n");
        expect_failure(&server, "ValueError: on purpose", "served.py\", line 1");
        write("import time\ntime.sleep(600)\n");
        expect_failure(&server, "reload-import-timeout", "");
        // One of two is not enough.
        write(&format!(
            "import os\ntry:\n    os.mkdir('second')\nexcept FileExistsError:\n    os._exit(5)\n{}",
            says("new")
        ));
        expect_failure(&server, "exited with code 5 before it was ready", "");
        fs::remove_dir(server.path("second")).expect("the folder");
        write(&says("new"));
        reload(&server);
        wait_until("the new one answers", || server.get("/").text() == "new");
    });
}

#[test]
fn a_hook_of_a_worker_that_fails_rolls_back() {
    rsgis(|| {
        let mut server = with_file().allow("reload failed").allow("hook").allow("exited with code").start();
        server.rewrite("hook-accepting", "exec:test -e go");
        expect_failure(&server, "hook-accepting", "");
        fs::write(server.path("go"), "").expect("the file");
        reload(&server);
    });
}

#[test]
fn a_reload_changes_threads_sockets_and_options() {
    rsgis(|| {
        let setup = telling(Setup::http("basic")).listen_unix("http-socket", "first.sock", Speaks::Http);
        let second = setup.path("second.sock");
        let mut server = setup.set("limit-post", "100").start();
        assert_eq!(server.get("/environ").json()["wsgi.multithread"], false);
        server.endpoint_at(1).connect().send(get("/")).response().expect(200);
        let text = fs::read_to_string(server.path("app.ini")).expect("the ini file");
        let inherited = text.lines().find_map(|line| line.strip_prefix("http-socket = ")).expect("a socket").to_owned();

        server.rewrite("threads", "3");
        server.rewrite("limit-post", "10");
        // All lines of this key, and by that the unix socket, are replaced by one.
        server.rewrite("http-socket", &inherited);
        server.rewrite("uwsgi-socket", &second.display().to_string());
        reload(&server);
        // Until then the old one may answer, too.
        server.wait_for_log(&["retired"]);
        assert_eq!(server.get("/environ").json()["wsgi.multithread"], true);
        server.ask("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 11\r\n\r\n12345678901").expect(413);
        // One socket went, another came.
        wait_until("the old one is gone", || !server.path("first.sock").exists());
        let pong = crate::harness::uwsgi::exchange(
            &crate::harness::http::Endpoint::Unix(second.clone()),
            "GET",
            "/",
            b"",
            &[],
        );
        pong.expect(200);
        assert!(server.endpoint_at(1).refuses());
        let names: Vec<Value> =
            stats(&server)["sockets"].as_array().expect("sockets").iter().map(|s| s["proto"].clone()).collect();
        assert_eq!(names.len(), 2, "{names:?}");
        // It is bound by nobody else, and goes with the server.
        assert!(second.exists());
    });
}

#[test]
fn sockets_that_come_and_go_under_load_lose_no_request() {
    rsgis(|| {
        let mut server = telling(Setup::http("basic")).set("processes", "2").start();
        let clients = Clients::begin(server.endpoint(), 4);
        for round in 0..4 {
            let path = server.path(&format!("{}.sock", round % 2)).display().to_string();
            server.rewrite("socket", &path);
            server.rewrite("threads", if round % 2 == 0 { "2" } else { "1" });
            server.rewrite("processes", if round % 2 == 0 { "3" } else { "2" });
            reload(&server);
            clients.wait_for(20);
        }
        clients.expect_no_loss();
    });
}

#[test]
fn connections_that_are_kept_outlive_reloads() {
    rsgis(|| {
        let server = telling(Setup::http("basic")).set("processes", "2").start();
        let mut idle: Vec<_> = (0..10).map(|_| server.connect()).collect();
        for round in 0..3 {
            for client in &mut idle {
                assert!(!client.send(get("/")).response().expect(200).announces_close(), "round {round}");
            }
            reload(&server);
        }
        // Bytes that were read already go along.
        idle[0].send("GET /pid HTTP/1.1\r\nHo");
        reload(&server);
        idle[0].send("st: a\r\n\r\n").response().expect(200);
    });
}

#[test]
fn a_worker_counts_as_ready_only_when_its_hooks_are_done() {
    rsgis(|| {
        // The hook of the new generation waits; until then the old one serves alone.
        let mut server = with_file().start();
        wait_until("all workers serve", || workers(&server).iter().all(|pid| *pid != 0));
        let old = workers(&server);
        fs::write(server.path("served.py"), says("new")).expect("the file");
        server.rewrite("hook-accepting", "exec:touch begun; while ! test -e go; do sleep 0.02; done");
        server.signal(Signal::SIGHUP);
        wait_until("the hook runs", || server.path("begun").exists());
        for _ in 0..20 {
            assert_eq!(server.get("/").expect(200).text(), "old");
        }
        assert_eq!((workers(&server), stats(&server)["reloads"]["last"].clone()), (old, "running".into()));
        fs::write(server.path("go"), "").expect("the file");
        server.wait_for_log(&["reload done"]);
        wait_until("the new one answers", || server.get("/").text() == "new");
    });
}
