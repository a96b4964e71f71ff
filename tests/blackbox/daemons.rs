//! Programs that run beside the workers.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::harness::server::{Server, Setup};
use crate::harness::{Subject, differs, subject, wait_until};

/// A command that notes its process id and stays.
fn stays(setup: &Setup, name: &str) -> String {
    format!("echo $$ >> {}; exec sleep 1000", setup.path(name).display())
}

fn pids(server: &Server, name: &str) -> Vec<i32> {
    let text = std::fs::read_to_string(server.path(name)).unwrap_or_default();
    text.lines().filter_map(|line| line.trim().parse().ok()).collect()
}

#[track_caller]
fn wait_for_starts(server: &Server, name: &str, count: usize) -> i32 {
    wait_until("the daemon is started", || pids(server, name).len() == count);
    pids(server, name)[count - 1]
}

fn lives(pid: i32) -> bool {
    kill(Pid::from_raw(pid), None).is_ok()
}

#[test]
fn an_attached_daemon_is_started_again_and_ends_with_the_server() {
    let setup = Setup::http("basic").set("reload-mercy", "2");
    let command = stays(&setup, "daemon");
    let mut server = setup.set("attach-daemon", command).start();
    let first = wait_for_starts(&server, "daemon", 1);
    kill(Pid::from_raw(first), Signal::SIGKILL).expect("it lives");
    let second = wait_for_starts(&server, "daemon", 2);
    server.signal(Signal::SIGTERM);
    server.wait();
    assert!(!lives(second));
    server.expect_end();
}

#[test]
fn daemons_live_over_a_reload() {
    differs("Attached daemons that a reload does not change go on running.", || {
        let setup = Setup::http("basic");
        let (kept, dropped) = (stays(&setup, "kept.pids"), stays(&setup, "dropped.pids"));
        let mut server = setup.set("attach-daemon", kept.clone()).start();
        let old = wait_for_starts(&server, "kept.pids", 1);
        server.rewrite("attach-daemon", &dropped);
        server.signal(Signal::SIGHUP);
        wait_for_starts(&server, "dropped.pids", 1);
        wait_until("the old one is gone", || !lives(old));
        let other = pids(&server, "dropped.pids")[0];
        server.signal(Signal::SIGHUP);
        wait_until("the second reload is done", || server.log().matches("reload done").count() == 2);
        assert!(lives(other));
        assert_eq!(pids(&server, "dropped.pids"), [other]);
    });
}

#[test]
fn the_end_of_a_control_daemon_stops_the_server() {
    let setup = Setup::http("basic");
    let command = stays(&setup, "daemon");
    let mut server = setup.set("attach-control-daemon", command).start();
    let pid = wait_for_starts(&server, "daemon", 1);
    kill(Pid::from_raw(pid), Signal::SIGKILL).expect("it lives");
    server.wait();
    server.expect_end();
}

#[test]
fn smart_daemons_outlive_the_server_and_are_found_again() {
    for option in ["smart-attach-daemon", "smart-attach-daemon2"] {
        let setup = Setup::http("basic");
        let file = setup.path("daemon.pidfile");
        let stays = stays(&setup, "daemon");
        let command = match option {
            "smart-attach-daemon" => {
                format!("{} (setsid sh -c 'echo $$ > {}; {stays}' &)", file.display(), file.display())
            }
            _ => format!("{} {stays}", file.display()),
        };
        let mut server = setup.set(option, command).start();
        let pid = wait_for_starts(&server, "daemon", 1);
        wait_until("its pid is written", || {
            std::fs::read_to_string(&file).is_ok_and(|text| text.trim() == pid.to_string())
        });
        server.signal(Signal::SIGHUP);
        if subject() == Subject::Rsgi {
            server.wait_for_log(&["reload done"]);
        }
        server.signal(Signal::SIGTERM);
        server.wait();
        assert!(lives(pid));
        assert_eq!(pids(&server, "daemon"), [pid]);
        kill(Pid::from_raw(pid), Signal::SIGKILL).expect("it lives");
        server.expect_end();
    }
}
