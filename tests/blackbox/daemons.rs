//! Programs that run beside the workers.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::harness::server::{Server, Setup};
use crate::harness::{Subject, differs, subject, touch_until, wait_until};

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
fn signals_reach_what_the_server_starts() {
    let setup = Setup::http("basic");
    let (daemon, hook) = (stays(&setup, "daemon"), setup.path("hook").display().to_string());
    let hook = format!("exec grep SigBlk /proc/self/status > {hook}");
    let mut server = setup.set("attach-daemon", daemon).set("exec-as-user-atexit", hook).start();
    let pid = wait_for_starts(&server, "daemon", 1);
    let is_free = |status: String| {
        let line = status.lines().find(|line| line.starts_with("SigBlk:")).expect("a mask").to_owned();
        line.ends_with("\t0000000000000000")
    };
    assert!(is_free(std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it lives")));
    server.signal(Signal::SIGTERM);
    server.wait();
    // So it ended by itself, and was not killed.
    assert!(!server.log().contains("takes too long"), "{}", server.log());
    assert!(is_free(std::fs::read_to_string(server.path("hook")).expect("its mask")));
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

#[test]
fn a_daemon_may_be_described_by_keys() {
    let setup = Setup::http("basic").file("one", "").file("kept/x", "").set("reload-mercy", "2");
    let (one, folder) = (setup.path("one").display().to_string(), setup.path("kept").display().to_string());
    let note = setup.path("daemon").display().to_string();
    // It notes its signals, and where it runs.
    let script = format!(
        "trap 'echo int >> {note}.signals; exit' INT; echo $$ >> {note}; pwd > {note}.folder; while :; do sleep 0.01; done"
    );
    let server = setup
        .set("attach-daemon2", format!("cmd={script},touch={one},stopsignal=2,chdir={folder},freq=1,max_throttle=1"))
        .start();
    wait_for_starts(&server, "daemon", 1);
    wait_until("it is in its folder", || {
        std::fs::read_to_string(server.path("daemon.folder")).is_ok_and(|text| text.trim() == folder)
    });
    touch_until(&server.path("one"), "it is started again", || pids(&server, "daemon").len() == 2);
    let signals = std::fs::read_to_string(server.path("daemon.signals")).expect("the signals");
    assert_eq!(signals, "int\n");
}

#[test]
fn a_daemon_that_hears_of_reloads_goes_on_running() {
    let setup = Setup::http("basic").file("one", "");
    let (one, note) = (setup.path("one").display().to_string(), setup.path("daemon").display().to_string());
    let script = format!("trap 'echo heard >> {note}.signals' HUP; echo $$ >> {note}; while :; do sleep 0.01; done");
    let server = setup.set("attach-daemon2", format!("cmd={script},touch={one},reloadsignal=1")).start();
    let pid = wait_for_starts(&server, "daemon", 1);
    let heard = || std::fs::read_to_string(server.path("daemon.signals")).unwrap_or_default().lines().count();
    server.signal(Signal::SIGHUP);
    wait_until("it heard of the reload", || heard() == 1);
    touch_until(&server.path("one"), "it heard of the touch", || heard() == 2);
    assert_eq!(pids(&server, "daemon"), [pid]);
    assert!(lives(pid));
}

#[test]
fn a_daemon_may_run_as_somebody_else() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let setup = Setup::http("basic");
    let note = setup.path("daemon").display().to_string();
    std::fs::write(setup.path("daemon"), "").expect("the file");
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o666);
    std::fs::set_permissions(setup.path("daemon"), open).expect("its mode");
    let server =
        setup.set("attach-daemon2", format!("cmd=id -u > {note}; exec sleep 1000,uid=65534,gid=65534")).start();
    wait_until("it has told who it is", || {
        std::fs::read_to_string(server.path("daemon")).is_ok_and(|text| text.trim() == "65534")
    });
}

#[test]
fn a_daemon_may_keep_the_standard_input() {
    for option in ["daemons-honour-stdin", "stdin"] {
        let setup = Setup::http("basic").file("input", "from outside\n");
        let (input, note) = (setup.path("input").display().to_string(), setup.path("daemon").display().to_string());
        // uWSGI gives its own input up unless it is told to keep it.
        let setup = setup.shell(&format!("exec \"$@\" < {input}")).set("honour-stdin", "true");
        let command = format!("cat > {note}; exec sleep 1000");
        let setup = match option {
            "stdin" => setup.set("attach-daemon2", format!("cmd={command},stdin=1")),
            _ => setup.set(option, "true").set("attach-daemon", command),
        };
        let server = setup.start();
        wait_until("it has read", || {
            std::fs::read_to_string(server.path("daemon")).is_ok_and(|text| text == "from outside\n")
        });
    }
}

#[test]
fn one_that_does_not_go_into_the_background_is_complained_of() {
    let setup = Setup::http("basic");
    let (file, command) = (setup.path("daemon.pidfile"), stays(&setup, "daemon"));
    let server = setup.set("smart-attach-daemon", format!("{},1 {command}", file.display())).start();
    let pid = wait_for_starts(&server, "daemon", 1);
    match subject() {
        Subject::Rsgi => server.wait_for_log(&["does not go into the background", "smart-attach-daemon2"]),
        Subject::Uwsgi => server.wait_for_log(&["did not daemonize"]),
    }
    assert!(lives(pid));
    drop(server);
    // It outlives the server as a smart one does.
    let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
}

#[test]
fn daemons_of_legions_are_refused() {
    differs("`legion-attach-daemon` and its like are refused: there are no legions.", || {
        for option in ["legion-attach-daemon", "legion-smart-attach-daemon", "legion-smart-attach-daemon2"] {
            Setup::http("basic").set(option, "l:/p sleep 1").run().expect(1, &["app.ini:", option, "no legions"]);
        }
    });
}
