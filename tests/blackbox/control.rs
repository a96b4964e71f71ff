//! `control-socket` and `rsgi ctl`: what the operator asks of a running server.

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::process::{Command, Output};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, geteuid};
use serde_json::Value;

use crate::harness::held::Held;
use crate::harness::http::get;
use crate::harness::server::{Server, Setup};
use crate::harness::{differs, program, wait_until};

const CTL: &str = "`control-socket` lets root and the server's user command it with `rsgi ctl`: reload (waits for the outcome), stop, stats, stacks, workers, scale.";

fn controlled(app: &str) -> Setup {
    let setup = Setup::http(app);
    let path = setup.path("control.sock").display().to_string();
    setup.set("control-socket", path)
}

fn ctl(server: &Server, words: &[&str]) -> Output {
    let socket = server.path("control.sock");
    Command::new(program()).arg("ctl").arg("--socket").arg(socket).args(words).output().expect("rsgi ctl")
}

/// The answer to a command that succeeds.
#[track_caller]
fn told(server: &Server, words: &[&str]) -> String {
    let output = ctl(server, words);
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

/// The complaint about a command that fails.
#[track_caller]
fn refused(server: &Server, words: &[&str]) -> String {
    let output = ctl(server, words);
    assert_eq!(output.status.code(), Some(1), "{words:?}: {}", String::from_utf8_lossy(&output.stdout));
    assert!(output.stdout.is_empty());
    String::from_utf8(output.stderr).expect("text")
}

#[test]
fn workers_and_statistics_are_told_while_all_are_busy() {
    differs(CTL, || {
        let server = controlled("basic").set("processes", "2").start();
        let held = [Held::begin(&server, "one"), Held::begin(&server, "two")];
        let table = told(&server, &["workers"]);
        let rows: Vec<&str> = table.lines().collect();
        assert_eq!(rows.len(), 3, "{table}");
        assert!(rows[0].contains("PID") && rows[0].ends_with("NOW"), "{table}");
        for request in ["GET /wait/one", "GET /wait/two"] {
            assert!(
                rows[1..].iter().any(|row| row.contains("ready") && row.contains("1/1") && row.contains(request)),
                "{table}"
            );
        }
        let stats: Value = serde_json::from_str(&told(&server, &["stats"])).expect("JSON");
        assert_eq!(stats["pid"], server.pid().as_raw());
        for request in held {
            request.release().expect(200);
        }
    });
}

#[test]
fn a_reload_is_waited_for() {
    differs(CTL, || {
        let mut server = controlled("basic").allow("reload failed").allow("whole number").set("processes", "2").start();
        assert_eq!(told(&server, &["reload"]), "generation 2 serves with 2 workers\n");
        assert_eq!(told(&server, &["reload", "--chain"]), "generation 3 serves with 2 workers\n");
        server.rewrite("module", "no_such_module");
        let why = refused(&server, &["reload"]);
        assert!(why.contains("generation 3 goes on serving") && why.contains("no_such_module"), "{why}");
        server.rewrite("module", "basic");
        server.rewrite("processes", "many");
        // `--ini` would be told of it before the server is asked.
        let why = refused(&server, &["reload"]);
        assert!(why.contains("processes") && why.contains("many"), "{why}");
        let stats: Value = serde_json::from_str(&told(&server, &["stats"])).expect("JSON");
        assert!(stats["reloads"]["reason"].as_str().is_some_and(|reason| reason.contains("many")), "{stats}");
        server.rewrite("processes", "1");
        assert_eq!(told(&server, &["reload"]), "generation 5 serves with 1 worker\n");
        server.get("/").expect(200);
    });
}

#[test]
fn the_socket_is_found_in_the_configuration() {
    differs(CTL, || {
        let server = controlled("basic").start();
        let of = |file: &str, command: &str| {
            let file = server.path(file);
            Command::new(program()).args(["ctl", command, "--ini"]).arg(file).output().expect("rsgi ctl")
        };
        let output = of("app.ini", "workers");
        assert!(output.status.success() && String::from_utf8_lossy(&output.stdout).contains("ready"), "{output:?}");
        std::fs::write(server.path("other.ini"), "[uwsgi]\nhttp-socket = :0\nmodule = basic\n").expect("a file");
        let complaint = |output: Output| String::from_utf8_lossy(&output.stderr).into_owned();
        let output = of("other.ini", "workers");
        assert!(complaint(output).contains("other.ini has no control-socket"));
        std::fs::write(server.path("other.ini"), "[uwsgi]\nprocesses = many\n").expect("a file");
        let output = complaint(of("other.ini", "workers"));
        assert!(output.contains("other.ini:2") && output.contains("--socket PATH works without it"), "{output}");
        let output =
            Command::new(program()).args(["ctl", "--socket", "/no/such/socket", "stop"]).output().expect("rsgi ctl");
        assert_eq!(output.status.code(), Some(1));
        assert!(complaint(output).contains("/no/such/socket: No such file"));
        let output = Command::new(program()).args(["ctl", "stop"]).output().expect("rsgi ctl");
        assert!(complaint(output).contains("--socket PATH, or --ini FILE"));
    });
}

#[test]
fn stop_waits_for_the_end() {
    differs(CTL, || {
        let mut server = controlled("basic").start();
        let held = Held::begin(&server, "one");
        let socket = server.path("control.sock");
        let mut stop = Command::new(program());
        let mut stop = stop.args(["ctl", "stop", "--socket"]).arg(socket).spawn().expect("rsgi ctl");
        server.wait_for_log(&["stop by user", "stopping"]);
        assert!(stop.try_wait().expect("wait").is_none());
        // Nothing is commanded any more but to hurry.
        assert!(refused(&server, &["reload"]).contains("the server stops"));
        held.release().expect(200);
        assert!(stop.wait().expect("wait").success());
        assert!(server.wait().success());
    });
}

#[test]
fn the_number_of_workers_is_changed_within_bounds() {
    differs(CTL, || {
        let server = controlled("basic").set("processes", "3").start();
        assert_eq!(told(&server, &["scale", "1"]), "1 worker from now on, 3 before\n");
        let ready = || {
            let stats: Value = serde_json::from_str(&told(&server, &["stats"])).expect("JSON");
            let workers = stats["workers"].as_array().cloned().unwrap_or_default();
            workers.iter().filter(|worker| worker["state"] == "ready").count()
        };
        wait_until("one is left", || ready() == 1);
        for wrong in ["0", "4"] {
            assert!(refused(&server, &["scale", wrong]).contains("out of bounds: from 1 to 3"));
        }
        told(&server, &["scale", "3"]);
        wait_until("all are there again", || ready() == 3);
    });
}

#[test]
fn stacks_show_what_threads_are_doing() {
    differs(CTL, || {
        let server = controlled("rights").set("threads", "2").start();
        let mut slow = server.connect();
        slow.send(get("/sleep/3?token=1"));
        wait_until("it sleeps", || told(&server, &["workers"]).contains("GET /sleep/3"));
        let stacks = told(&server, &["stacks"]);
        let lines: Vec<&str> = stacks.lines().map(str::trim_start).collect();
        assert!(lines[0].starts_with("worker 1 (pid ") && lines[0].ends_with("generation 1)"), "{stacks}");
        assert!(
            lines.iter().any(|line| line.contains("GET /sleep/3") && line.contains("from 127.0.0.1 for")),
            "{stacks}"
        );
        assert!(lines.iter().any(|line| line.ends_with(": free")), "{stacks}");
        assert!(lines.contains(&"time.sleep(float(path[7:]))"), "{stacks}");
        slow.response().expect(200);
        // In C code that lets nobody into the interpreter.
        let mut hold = server.connect();
        hold.send(get("/hold/4000"));
        wait_until("it holds the interpreter", || told(&server, &["workers"]).contains("GET /hold/4000"));
        // It is told to hold a moment before it does.
        let mut stacks = String::new();
        wait_until("nobody is let in", || {
            stacks = told(&server, &["stacks"]);
            stacks.contains("somebody keeps the interpreter")
        });
        assert!(stacks.contains("GET /hold/4000"), "{stacks}");
        assert!(stacks.lines().any(|line| line.contains("rights.py") && line.contains("in application")), "{stacks}");
        hold.response().expect(200);
    });
}

#[test]
fn a_worker_that_is_silent_is_named() {
    differs(CTL, || {
        let server = controlled("basic").set("processes", "2").start();
        let held = Held::begin(&server, "one");
        let stopped = Pid::from_raw(held.pid);
        kill(stopped, Signal::SIGSTOP).expect("stopped");
        let stacks = told(&server, &["stacks"]);
        kill(stopped, Signal::SIGCONT).expect("continued");
        assert!(stacks.contains("GET /wait/one") && stacks.contains("does not answer (it is stopped)"), "{stacks}");
        assert!(stacks.contains("free"), "{stacks}");
        held.release().expect(200);
    });
}

/// What the control socket says to a thread with the rights of nobody.
#[allow(unsafe_code)]
fn as_nobody(server: &Server, line: &str) -> String {
    let (path, line) = (server.path("control.sock"), format!("{line}\n"));
    let ask = move || {
        // SAFETY: the call changes the rights of this thread alone, which ends soon.
        assert_eq!(unsafe { libc::syscall(libc::SYS_setresuid, 65534, 65534, 65534) }, 0);
        let mut answer = String::new();
        let mut client = UnixStream::connect(path)?;
        let _ = client.write_all(line.as_bytes());
        client.read_to_string(&mut answer)?;
        Ok::<_, std::io::Error>(answer)
    };
    match std::thread::spawn(ask).join().expect("a thread") {
        Ok(answer) => answer,
        Err(error) => error.kind().to_string(),
    }
}

#[test]
fn others_are_refused() {
    differs(CTL, || {
        let server = controlled("basic").set("chmod-socket", "666").start();
        let path = server.path("control.sock");
        let mode = |path: &std::path::Path| std::fs::metadata(path).expect("the socket").permissions().mode() & 0o777;
        assert_eq!(mode(&path), 0o600);
        if !geteuid().is_root() {
            return;
        }
        assert!(as_nobody(&server, "stop").contains("permission denied"));
        // Whoever gets by that is asked who he is.
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666)).expect("permissions");
        let answer = as_nobody(&server, "stop");
        assert!(answer.starts_with("1\nrefused: you are user 65534"), "{answer}");
        server.wait_for_log(&["control-socket", "user 65534", "refused"]);
        server.get("/").expect(200);
    });
}

#[test]
fn the_servers_own_user_may_command() {
    if !geteuid().is_root() {
        return;
    }
    differs(CTL, || {
        let setup = crate::listeners::for_everybody(controlled("basic").unset("module").unset("pythonpath"));
        std::fs::set_permissions(setup.path(""), std::fs::Permissions::from_mode(0o777)).expect("permissions");
        let server = setup.set("uid", "nobody").start();
        assert!(as_nobody(&server, "workers").starts_with("0\n"));
        assert!(told(&server, &["workers"]).contains("ready"));
    });
}

#[test]
fn who_says_nothing_costs_nothing() {
    differs(CTL, || {
        let server = controlled("basic").start();
        let path = server.path("control.sock");
        let open = || std::fs::read_dir(format!("/proc/{}/fd", server.pid())).map_or(0, Iterator::count);
        told(&server, &["workers"]);
        let idlers: Vec<_> = (0..100).map(|_| UnixStream::connect(&path).expect("connected")).collect();
        told(&server, &["workers"]);
        let mut rude = UnixStream::connect(&path).expect("connected");
        let _ = rude.write_all(&[b'x'; 100_000]);
        assert!(refused(&server, &["scale", "9"]).contains("bounds"));
        server.get("/").expect(200);
        let with_idlers = open();
        wait_until("they are shown out", || open() + 50 < with_idlers);
        drop(idlers);
        let mut odd = UnixStream::connect(&path).expect("connected");
        odd.write_all(b"explode\n").expect("sent");
        let mut answer = String::new();
        odd.read_to_string(&mut answer).expect("text");
        assert!(answer.starts_with("1\n\"explode\" is no command"), "{answer}");
    });
}

#[test]
fn a_socket_that_cannot_be_had_is_an_error() {
    differs("Errors at the start name the socket, file or option they are about.", || {
        for (value, text) in [
            ("/no/such/folder/c", "create /no/such/folder"),
            ("127.0.0.1:9", "a unix socket"),
            ("@abstract", "a unix socket"),
        ] {
            Setup::http("basic").set("control-socket", value).run().expect(1, &["app.ini:", "control-socket", text]);
        }
        let taken = controlled("basic").start();
        let path = taken.path("control.sock").display().to_string();
        Setup::http("basic")
            .set("control-socket", path.clone())
            .run()
            .expect(1, &["app.ini:", "control-socket", "another server listens"]);
        // In a reload it leaves everything as it was.
        let mut server = controlled("basic").allow("reload failed").allow("another server listens").start();
        server.rewrite("control-socket", &path);
        assert!(refused(&server, &["reload"]).contains("another server listens"));
        assert!(told(&server, &["workers"]).contains("ready"));
        assert!(told(&taken, &["workers"]).contains("ready"));
    });
}
