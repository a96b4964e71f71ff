//! Master, workers and signals: prefork, threads, respawn, stop, reload, and applications that
//! cannot be loaded.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::harness::held::Held;
use crate::harness::http::{Client, Endpoint, get};
use crate::harness::server::{Server, Setup, Speaks, processes_of, says};
use crate::harness::{differs, wait_until};

fn pid_of_worker(server: &Server) -> i32 {
    server.get("/pid").expect(200).text().parse().expect("a number")
}

fn notes(server: &Server) -> String {
    std::fs::read_to_string(server.path("notes")).unwrap_or_default()
}

#[test]
fn every_process_gets_work() {
    let server = Setup::http("basic").set("processes", "4").start();
    let held: Vec<Held> = ["a", "b", "c", "d"].iter().map(|name| Held::begin(&server, name)).collect();
    let pids: HashSet<i32> = held.iter().map(|one| one.pid).collect();
    assert_eq!(pids.len(), 4);
    for one in held {
        one.release().expect(200);
    }
}

#[test]
fn every_thread_gets_work() {
    let server = Setup::http("basic").set("threads", "4").start();
    let held: Vec<Held> = ["a", "b", "c", "d"].iter().map(|name| Held::begin(&server, name)).collect();
    let pids: HashSet<i32> = held.iter().map(|one| one.pid).collect();
    assert_eq!(pids.len(), 1);
    for one in held {
        one.release().expect(200);
    }
}

#[test]
fn workers_is_another_word_for_processes() {
    let server = Setup::http("basic").set("workers", "2").start();
    let (a, b) = (Held::begin(&server, "a"), Held::begin(&server, "b"));
    assert_ne!(a.pid, b.pid);
    a.release().expect(200);
    b.release().expect(200);
}

#[test]
fn the_first_thread_is_the_main_thread() {
    let server = Setup::http("basic").start();
    assert_eq!(server.get("/process").expect(200).json()["main"], true);
}

#[test]
fn workers_are_children_of_the_master() {
    let server = Setup::http("basic").start();
    let page = server.get("/process").expect(200).json();
    assert_eq!(page["ppid"], server.pid().as_raw());
    assert_ne!(page["pid"], server.pid().as_raw());
}

#[test]
fn the_application_is_imported_once_for_all_workers() {
    let server = Setup::http("lifecycle").set("processes", "3").start();
    let imports: Vec<String> =
        notes(&server).lines().filter(|line| line.starts_with("imported")).map(str::to_owned).collect();
    assert_eq!(imports.len(), 1, "{imports:?}");
    assert_ne!(imports[0], format!("imported {}", server.get("/").expect(200).text()));
}

#[test]
fn lazy_apps_are_imported_by_every_worker() {
    let server = Setup::http("lifecycle").set("processes", "3").set("lazy-apps", "true").start();
    wait_until("all have imported", || notes(&server).matches("imported").count() == 3);
    let pid = server.get("/").expect(200).text();
    assert!(notes(&server).contains(&format!("imported {pid}\n")));
}

#[test]
fn background_threads_run_while_no_request_is_there() {
    let server = Setup::http("lifecycle").set("enable-threads", "true").start();
    server.get("/background").expect(200);
    std::fs::write(server.path("tick"), "").expect("the file");
    wait_until("the thread has run", || notes(&server).contains("ticked"));
}

#[test]
fn atexit_handlers_run_when_a_worker_stops() {
    let mut server = Setup::http("lifecycle").start();
    let pid = server.get("/").expect(200).text();
    // uWSGI runs them only when the worker waits for work.
    wait_until("the worker sleeps", || {
        std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| stat.contains(") S "))
    });
    server.signal(Signal::SIGTERM);
    server.wait();
    assert!(notes(&server).contains(&format!("atexit {pid}\n")), "{}", notes(&server));
}

#[test]
fn a_killed_worker_is_replaced() {
    let server = Setup::http("basic").set("processes", "2").allow("killed by SIGKILL").start();
    let (a, b) = (Held::begin(&server, "a"), Held::begin(&server, "b"));
    let old = [a.pid, b.pid];
    kill(Pid::from_raw(a.pid), Signal::SIGKILL).expect("kill");
    let c = Held::begin(&server, "c");
    assert!(!old.contains(&c.pid));
    b.release().expect(200);
    c.release().expect(200);
    server.get("/").expect(200);
}

#[test]
fn a_worker_that_crashes_is_named_in_the_log() {
    differs("A worker that crashes is named in the log with its signal.", || {
        let server = Setup::http("basic").allow("SIGABRT").start();
        let mut client = server.connect();
        client.send(get("/die?SIGABRT"));
        assert!(client.try_response_to("GET").is_err());
        server.get("/").expect(200);
        server.wait_for_log(&["worker 1", "SIGABRT"]);
    });
}

#[test]
fn sigterm_finishes_what_is_in_flight() {
    differs(
        "TERM and INT stop gracefully: requests in flight are finished. A second one, or QUIT, stops at once; `die-on-term` has no effect.",
        || {
            for signal in [Signal::SIGTERM, Signal::SIGINT] {
                let server = Setup::http("basic").set("processes", "2").unset("die-on-term").start();
                let held = Held::begin(&server, "a");
                server.signal(signal);
                // A new connection is refused, or answered if it was there before the stop.
                server.wait_for_log(&["stopping"]);
                held.release().expect(200);
                server.expect_end();
            }
        },
    );
}

#[test]
fn requests_in_the_backlog_are_answered_at_the_stop() {
    differs(
        "TERM and INT stop gracefully: requests in flight are finished. A second one, or QUIT, stops at once; `die-on-term` has no effect.",
        || {
            let setup = Setup::of("basic").listen_unix("http-socket", "own.sock", Speaks::Http);
            let server = setup.set("http-socket", "127.0.0.1:0").start();
            server.wait_for_log(&["http on 127.0.0.1:"]);
            let log = server.log();
            let port = log.split("http on ").filter_map(|text| text.lines().next()?.parse().ok()).next();
            let tcp = Endpoint::Tcp(port.expect("its address"));
            let held = Held::begin(&server, "a");
            // The only worker is busy: these wait in the listen queues.
            let mut waiting: Vec<Client> = (0..6).map(|_| server.connect()).collect();
            waiting.extend((0..6).map(|_| tcp.connect()));
            for client in &mut waiting {
                client.send(get("/"));
            }
            server.signal(Signal::SIGTERM);
            server.wait_for_log(&["stopping"]);
            held.release().expect(200);
            for client in &mut waiting {
                // An answer that was begun before the worker heard of the stop cannot know; then the connection is closed
                // after a while.
                if !client.response().expect(200).announces_close() {
                    client.expect_closed();
                }
            }
            server.expect_end();
        },
    );
}

#[test]
fn idle_connections_are_told_at_the_stop() {
    differs(
        "TERM and INT stop gracefully: requests in flight are finished. A second one, or QUIT, stops at once; `die-on-term` has no effect.",
        || {
            let server = Setup::http("basic").start();
            let mut idle = server.connect();
            idle.send(get("/")).response().expect(200);
            let held = Held::begin(&server, "a");
            server.signal(Signal::SIGTERM);
            server.wait_for_log(&["stopping"]);
            idle.send(get("/"));
            held.release().expect(200);
            if !idle.response().expect(200).announces_close() {
                // Begun before the worker heard of the stop.
                idle.expect_closed();
            }
            server.expect_end();
        },
    );
}

#[test]
fn a_second_signal_stops_at_once() {
    for (first, second) in
        [(Signal::SIGTERM, Signal::SIGTERM), (Signal::SIGINT, Signal::SIGINT), (Signal::SIGTERM, Signal::SIGINT)]
    {
        let mut server = Setup::http("basic").start();
        let _held = Held::begin(&server, "a");
        server.signal(first);
        // One that comes before the first was looked at is the same signal to the system.
        wait_until("it ends", || {
            let _ = kill(server.pid(), second);
            server.try_wait().is_some()
        });
        server.expect_end();
    }
}

#[test]
fn sigquit_stops_at_once() {
    differs(
        "TERM and INT stop gracefully: requests in flight are finished. A second one, or QUIT, stops at once; `die-on-term` has no effect.",
        || {
            let server = Setup::http("basic").start();
            let _held = Held::begin(&server, "a");
            server.signal(Signal::SIGQUIT);
            server.expect_end();
        },
    );
}

#[test]
fn signals_to_the_whole_group_are_the_masters() {
    differs(
        "A TERM, INT or HUP that reaches the whole process group (Ctrl-C, systemd) acts as if only the master had got it.",
        || {
            for signal in [Signal::SIGTERM, Signal::SIGINT] {
                let server = Setup::http("basic").set("processes", "2").start();
                let held = Held::begin(&server, "a");
                server.signal_group(signal);
                server.wait_for_log(&["stopping"]);
                held.release().expect(200);
                server.expect_end();
            }
            let server = Setup::http("basic").set("processes", "2").start();
            let held = Held::begin(&server, "a");
            let old = held.pid;
            server.signal_group(Signal::SIGHUP);
            wait_until("a new worker serves", || {
                server.poll("/pid").is_some_and(|page| page.text() != old.to_string())
            });
            held.release().expect(200);
            server.get("/").expect(200);
        },
    );
}

#[test]
fn term_or_hup_to_a_worker_retires_it() {
    differs(
        "TERM or HUP to a worker retires it when its replacement is ready; INT to a worker is left to the master.",
        || {
            for signal in [Signal::SIGTERM, Signal::SIGHUP] {
                let server = Setup::http("basic").start();
                let held = Held::begin(&server, "a");
                let old = Pid::from_raw(held.pid);
                kill(old, signal).expect("kill");
                wait_until("the replacement serves", || {
                    server.poll("/pid").is_some_and(|page| page.text() != old.to_string())
                });
                held.release().expect(200);
                wait_until("the old one is gone", || !processes_of(server.pid()).contains(&old.as_raw()));
            }
            let server = Setup::http("basic").allow("exited with code 0").start();
            let pid = pid_of_worker(&server);
            kill(Pid::from_raw(pid), Signal::SIGINT).expect("kill");
            assert_eq!(pid_of_worker(&server), pid);
            // QUIT ends it at once.
            kill(Pid::from_raw(pid), Signal::SIGQUIT).expect("kill");
            wait_until("the replacement serves", || {
                server
                    .connect()
                    .send(get("/pid"))
                    .try_response_to("GET")
                    .is_ok_and(|page| page.text() != pid.to_string())
            });
        },
    );
}

#[test]
fn sighup_loads_the_new_application_and_loses_no_request() {
    let server = Setup::with_file().set("processes", "2").start();
    let master = server.pid();
    std::fs::write(server.path("served.py"), says("new")).expect("the file");
    server.signal(Signal::SIGHUP);
    wait_until("the new application answers", || server.poll("/").is_some_and(|page| page.text() == "new"));
    // Old workers may answer until the last new one is ready.
    wait_until("only the new one answers", || {
        (0..20).all(|_| server.poll("/").is_some_and(|page| page.text() == "new"))
    });
    assert!(processes_of(master).contains(&master.as_raw()));
}

#[test]
fn a_reload_finishes_what_is_in_flight() {
    let server = Setup::http("basic").start();
    let held = Held::begin(&server, "a");
    let old = held.pid;
    server.signal(Signal::SIGHUP);
    let mut half = server.connect();
    half.send("GET /pid HT");
    held.release().expect(200);
    half.send("TP/1.1\r\nHost: a\r\n\r\n");
    half.response().expect(200);
    wait_until("a new worker serves", || server.poll("/pid").is_some_and(|page| page.text() != old.to_string()));
}

#[test]
fn connections_survive_a_reload() {
    differs(
        "`http-socket` and `http` keep connections alive, as `http11-socket` does; there is no router process.",
        || {
            let server = Setup::http("basic").set("processes", "2").start();
            let mut clients: Vec<Client> = (0..8).map(|_| server.connect()).collect();
            for client in &mut clients {
                client.send(get("/")).response().expect(200);
            }
            let mut half = server.connect();
            half.send("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n12345");
            let old = pid_of_worker(&server);
            server.signal(Signal::SIGHUP);
            // Requests on open connections are answered all the while; a close is announced.
            let mut now = old;
            wait_until("new workers serve", || {
                for client in &mut clients {
                    let response = client.send(get("/pid")).response().expect(200);
                    if response.announces_close() {
                        client.expect_closed();
                        *client = server.connect();
                    }
                    now = response.text().parse().expect("a number");
                }
                now != old
            });
            half.send("67890");
            assert_eq!(half.response().expect(200).body, b"1234567890");
        },
    );
}

#[test]
fn a_broken_application_leaves_the_old_one_serving() {
    differs("A reload whose application or configuration is broken leaves the running generation serving.", || {
        let mut server = Setup::with_file().allow("Traceback").allow("SyntaxError").allow("reload").start();
        std::fs::write(server.path("served.py"), "def broken(:\n").expect("the file");
        server.signal(Signal::SIGHUP);
        server.wait_for_log(&["SyntaxError"]);
        for _ in 0..10 {
            assert_eq!(server.get("/").expect(200).text(), "old");
        }
        assert!(server.try_wait().is_none());
        std::fs::write(server.path("served.py"), says("mended")).expect("the file");
        server.signal(Signal::SIGHUP);
        wait_until("the mended one answers", || server.poll("/").is_some_and(|page| page.text() == "mended"));
    });
}

#[test]
fn an_import_that_hangs_leaves_the_old_application_serving() {
    differs("A reload whose application or configuration is broken leaves the running generation serving.", || {
        let mut server = Setup::with_file().set("reload-import-timeout", "1").allow("reload").allow("import").start();
        std::fs::write(server.path("served.py"), "import time\ntime.sleep(600)\n").expect("the file");
        server.signal(Signal::SIGHUP);
        server.wait_for_log(&["reload-import-timeout"]);
        assert_eq!(server.get("/").expect(200).text(), "old");
        std::fs::write(server.path("served.py"), says("mended")).expect("the file");
        server.signal(Signal::SIGHUP);
        wait_until("the mended one answers", || server.poll("/").is_some_and(|page| page.text() == "mended"));
        assert!(server.try_wait().is_none());
    });
}

#[test]
fn a_broken_configuration_leaves_the_old_one_serving() {
    differs("A reload whose application or configuration is broken leaves the running generation serving.", || {
        let mut server = Setup::with_file().allow("app.ini").allow("reload").start();
        server.rewrite("processes", "-3");
        server.signal(Signal::SIGHUP);
        server.wait_for_log(&["processes", "-3"]);
        assert_eq!(server.get("/").expect(200).text(), "old");
        std::fs::write(server.path("served.py"), says("new")).expect("the file");
        server.rewrite("processes", "2");
        server.signal(Signal::SIGHUP);
        wait_until("the new one answers", || server.poll("/").is_some_and(|page| page.text() == "new"));
    });
}

#[test]
fn a_reload_reads_the_configuration_again() {
    let mut server = Setup::http("basic").start();
    assert_eq!(server.get("/environ").expect(200).json()["wsgi.multiprocess"], false);
    server.rewrite("processes", "3");
    server.signal(Signal::SIGHUP);
    wait_until("three processes serve", || {
        server.poll("/environ").is_some_and(|page| page.json()["wsgi.multiprocess"] == true)
    });
    server.rewrite("processes", "1");
    server.signal(Signal::SIGHUP);
    wait_until("one process serves", || {
        server.poll("/environ").is_some_and(|page| page.json()["wsgi.multiprocess"] == false)
    });
}

#[test]
fn several_reloads_in_a_row() {
    let server = Setup::with_file().start();
    for round in 0..5 {
        std::fs::write(server.path("served.py"), says(&format!("round {round}"))).expect("the file");
        server.signal(Signal::SIGHUP);
        wait_until("the new one answers", || {
            server.poll("/").is_some_and(|page| page.text() == format!("round {round}"))
        });
    }
}

#[test]
fn without_its_master_a_worker_finishes_and_ends() {
    differs("Workers that lose their master close their listeners at once and finish their requests.", || {
        let mut server = Setup::http("basic").set("processes", "2").start();
        let held = Held::begin(&server, "a");
        server.signal(Signal::SIGKILL);
        server.wait();
        wait_until("nobody listens", || server.endpoint().refuses());
        held.release().expect(200);
        server.expect_no_processes();
        server.expect_killed();
    });
}

#[test]
fn applications_that_cannot_be_loaded_end_with_22() {
    let broken = [
        ("module", "no_such_module", "No module named"),
        ("module", "basic:nothing", ""),
        ("wsgi-file", "raises.py", "on purpose"),
        ("wsgi-file", "syntax.py", "SyntaxError"),
        ("wsgi-file", "empty.py", "application"),
        ("mount", "/x=raises.py", "on purpose"),
    ];
    for lazy in ["false", "true"] {
        for (key, value, text) in broken {
            let setup = Setup::bare()
                .file("raises.py", "raise ValueError('on purpose')\n")
                .file("syntax.py", "def broken(:\n")
                .file("empty.py", "");
            let folder = setup.path("").display().to_string();
            setup
                .listen("http-socket", Speaks::Http)
                .set("chdir", folder)
                .set("pythonpath", crate::harness::apps().display().to_string())
                .set("lazy-apps", lazy)
                .set(key, value)
                .run()
                .expect(22, &[text]);
        }
    }
}

#[test]
fn a_callable_that_is_none_ends_with_22() {
    let setup = Setup::bare().file("number.py", "application = 42\n");
    let folder = setup.path("").display().to_string();
    setup
        .listen("http-socket", Speaks::Http)
        .set("chdir", folder)
        .set("wsgi-file", "number.py")
        .run()
        .expect(22, &["callable"]);
    let setup = Setup::bare();
    let folder = setup.path("").display().to_string();
    setup
        .listen("http-socket", Speaks::Http)
        .set("chdir", folder)
        .set("wsgi-file", "missing.py")
        .run()
        .expect(22, &["missing.py"]);
}

#[test]
fn one_line_tells_the_cause() {
    differs("When an application cannot be loaded, one line of the log tells which one and why.", || {
        let setup = Setup::bare().file("raises.py", "raise ValueError('on purpose')\n");
        let folder = setup.path("").display().to_string();
        let ended = setup.listen("http-socket", Speaks::Http).set("chdir", folder).set("wsgi-file", "raises.py").run();
        ended.expect(22, &["raises.py", "ValueError: on purpose"]);
    });
}

#[test]
fn without_need_app_500_is_served() {
    let setup = Setup::bare().file("raises.py", "raise ValueError('on purpose')\n").unset("need-app");
    let folder = setup.path("").display().to_string();
    let server = setup
        .listen("http-socket", Speaks::Http)
        .set("need-app", "false")
        .set("chdir", folder)
        .set("wsgi-file", "raises.py")
        .allow("Traceback")
        .allow("on purpose")
        .allow("no application was loaded")
        .start();
    server.get("/").expect(500);
    server.get("/again").expect(500);
}

#[test]
fn need_app_is_the_default() {
    differs("`need-app` is on unless it is switched off.", || {
        Setup::http("no_such_module").unset("need-app").run().expect(22, &["no_such_module"]);
    });
}

#[test]
fn an_application_that_exits_at_import_is_not_tried_all_the_time() {
    let setup = Setup::bare()
        .file("exits.py", "import os\nopen(os.environ['TEST_FOLDER'] + '/tries', 'a').write('x')\nos._exit(1)\n");
    let folder = setup.path("").display().to_string();
    let mut server = setup
        .listen("http-socket", Speaks::Http)
        .set("chdir", folder)
        .set("wsgi-file", "exits.py")
        .set("lazy-apps", "true")
        .unasked()
        .start();
    let end = Instant::now() + Duration::from_secs(30);
    let tries = server.path("tries");
    let tried = || std::fs::read(&tries).map_or(0, |bytes| bytes.len());
    // The rate is what is tested: there is nothing to wait for but the time.
    while Instant::now() < end && server.try_wait().is_none() {
        assert!(tried() < 20, "tried {} times", tried());
        std::thread::park_timeout(Duration::from_millis(100));
    }
    assert!(tried() > 0);
    if server.try_wait().is_none() {
        server.signal(Signal::SIGTERM);
        server.wait();
    }
    server.expect_killed();
}

#[test]
fn an_application_that_exits_at_every_request_is_replaced_each_time() {
    let server = Setup::http("basic").allow("killed by SIGKILL").start();
    for _ in 0..5 {
        let mut client = server.connect();
        client.send(get("/die?SIGKILL"));
        assert!(client.try_response_to("GET").is_err());
    }
    server.get("/").expect(200);
}

#[test]
fn what_the_application_starts_inherits_no_sockets() {
    differs("What an application starts inherits none of the server's sockets.", || {
        let setup = Setup::bare().file(
            "children.py",
            "import subprocess\n\
         def application(environ, start_response):\n    \
             out = subprocess.run(['ls', '-l', '/proc/self/fd'], close_fds=False, capture_output=True).stdout\n    \
             start_response('200 OK', [('Content-Type', 'text/plain')])\n    \
             return [out]\n",
        );
        let folder = setup.path("").display().to_string();
        let server =
            setup.listen("http-socket", Speaks::Http).set("chdir", folder).set("wsgi-file", "children.py").start();
        let text = server.get("/").expect(200).text();
        // Whoever runs the tests may leave sockets open as well.
        let ours: Vec<String> = std::fs::read_dir("/proc/self/fd")
            .expect("/proc")
            .flatten()
            .filter_map(|entry| std::fs::read_link(entry.path()).ok())
            .map(|target| target.display().to_string())
            .collect();
        let leaked: Vec<&str> = text
            .lines()
            .filter(|line| line.contains("socket:") && !ours.iter().any(|known| line.ends_with(known.as_str())))
            .collect();
        assert!(leaked.is_empty(), "{leaked:?}");
    });
}

#[test]
fn procnames() {
    let names = |server: &Server| -> HashSet<String> {
        processes_of(server.pid())
            .into_iter()
            .filter_map(|pid| std::fs::read(format!("/proc/{pid}/cmdline")).ok())
            .map(|bytes| String::from_utf8_lossy(&bytes).replace('\0', " ").trim().to_owned())
            .collect()
    };
    let server = Setup::http("basic")
        .set("auto-procname", "true")
        .set("procname-prefix-spaced", "shop")
        .set("processes", "2")
        .start();
    wait_until("the names are set", || {
        let names = names(&server);
        ["master", "worker 1", "worker 2"]
            .iter()
            .all(|role| names.iter().any(|name| name.starts_with("shop ") && name.ends_with(role)))
    });
    drop(server);
    let server = Setup::http("basic").set("procname-master", "chief").set("procname", "hand").start();
    wait_until("the names are set", || {
        let names = names(&server);
        names.contains("chief") && names.contains("hand")
    });
}
