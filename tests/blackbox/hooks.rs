//! What is done at points of the server's life: hook-* and exec-*.

use nix::sys::signal::Signal;

use crate::harness::http::get;
use crate::harness::server::{Server, Setup};
use crate::harness::{differs, wait_until};

/// In the order in which they come. Those of one line come in the order written.
const PHASES: &[&[&str]] = &[
    &["hook-asap", "exec-asap"],
    &["hook-pre-jail", "exec-pre-jail"],
    &["hook-post-jail", "exec-post-jail"],
    &["hook-in-jail", "exec-in-jail"],
    &["hook-as-root", "exec-as-root"],
    &["hook-as-user", "exec-as-user"],
    &["hook-master-start"],
    &["hook-pre-app", "exec-pre-app"],
    &["hook-post-app", "exec-post-app"],
    &["hook-accepting1", "hook-accepting"],
    &["hook-as-user-atexit", "exec-as-user-atexit"],
];

fn notes(server: &Server) -> Vec<String> {
    let text = std::fs::read_to_string(server.path("did")).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

#[test]
fn hooks_come_in_the_order_of_the_servers_life() {
    differs(
        "Hooks of the jail and of root run before the sockets are bound; those of the application in each reload too.",
        || {
            let mut setup = Setup::http("basic");
            let file = setup.path("did").display().to_string();
            for names in PHASES {
                for name in *names {
                    let value = match name.starts_with("hook-") {
                        true => format!("appendn:{file} {name}"),
                        false => format!("echo {name} >> {file}"),
                    };
                    setup = setup.set(name, value);
                }
            }
            let mut server = setup.start();
            let expected: Vec<&str> = PHASES.concat();
            let (life, end) = expected.split_at(expected.len() - 2);
            assert_eq!(notes(&server), life);
            server.signal(Signal::SIGHUP);
            server.wait_for_log(&["reload done"]);
            let again =
                ["hook-pre-app", "exec-pre-app", "hook-post-app", "exec-post-app", "hook-accepting1", "hook-accepting"];
            assert_eq!(notes(&server), [life, &again[..]].concat());
            server.signal(Signal::SIGTERM);
            server.wait();
            assert_eq!(notes(&server), [life, &again[..], end].concat());
            server.expect_end();
        },
    );
}

#[test]
fn hooks_make_files_and_folders() {
    differs("Every hook runs once at its point of the server's life.", || {
        let setup = Setup::http("basic");
        let path = |name: &str| setup.path(name).display().to_string();
        let (folder, gone, text) = (path("made"), path("gone"), path("made/text"));
        let server = setup
            .file("gone", "")
            .set("hook-asap", format!("mkdir:{folder}"))
            .set("hook-asap", format!("write:{text} some text"))
            .set("hook-as-user", format!("unlink:{gone}"))
            .set("hook-as-user", "print:hello from a hook")
            .set("hook-pre-app", "putenv:MADE_BY=hook")
            .start();
        assert_eq!(std::fs::read_to_string(server.path("made/text")).expect("the file"), "some text");
        assert!(!server.path("gone").exists());
        server.wait_for_log(&["hello from a hook"]);
    });
}

#[test]
fn a_command_that_fails_ends_the_start() {
    differs("A command of a hook that fails and so ends the start is named in the log.", || {
        for name in ["exec-as-user", "exec-pre-app"] {
            Setup::http("basic").set(name, "exit 3").unasked().run().expect(1, &[name, "exit 3"]);
        }
    });
}

#[test]
fn an_unknown_action_is_an_error() {
    Setup::http("basic").set("hook-asap", "dance:wildly").run().expect(1, &["dance"]);
}

#[test]
fn a_signal_is_given_the_meaning_of_a_function() {
    let mut server = Setup::http("basic").set("hook-master-start", "unix_signal:10 gracefully_kill_them_all").start();
    let mut held = server.connect();
    held.send(get("/wait/a"));
    let inside = server.path("a.in");
    wait_until("the request is inside", || inside.exists());
    server.signal(Signal::SIGUSR1);
    std::fs::write(server.path("a.go"), "").expect("the file");
    held.response().expect(200);
    server.wait();
    server.expect_end();
}
