//! What is done at points of the server's life: hook-* and exec-*.

use std::process::Command;

use nix::sys::signal::Signal;

use crate::harness::http::get;
use crate::harness::server::{Server, Setup};
use crate::harness::{differs, touch, touch_until, wait_until};

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
    &["hook-post-fork", "hook-accepting", "hook-accepting-once", "hook-accepting1", "hook-accepting1-once"],
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
            let again = PHASES[7..10].concat();
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
fn a_worker_that_replaces_another_does_not_begin_anew() {
    let names = ["hook-post-fork", "hook-accepting", "hook-accepting-once", "hook-accepting1", "hook-accepting1-once"];
    let mut setup = Setup::http("basic").set("master-fifo", "fifo");
    let file = setup.path("did").display().to_string();
    for name in names {
        setup = setup.set(name, format!("appendn:{file} {name}"));
    }
    let server = setup.start();
    wait_until("the first worker serves", || notes(&server).len() == 5);
    assert_eq!(notes(&server), names);
    let fifo = server.path("fifo");
    wait_until("the fifo is there", || fifo.exists());
    std::fs::write(&fifo, "w").expect("the fifo");
    wait_until("the second worker serves", || notes(&server).len() == 8);
    assert_eq!(notes(&server)[5..], ["hook-post-fork", "hook-accepting", "hook-accepting1"]);
}

#[test]
fn a_touched_file_does_what_a_hook_says() {
    let setup = Setup::http("basic").file("one", "").file("two", "");
    let (did, one, two) =
        (setup.path("did").display().to_string(), setup.path("one"), setup.path("two").display().to_string());
    let server = setup
        .set("hook-touch", format!("{} appendn:{did} touched", one.display()))
        .set("touch-exec", format!("{two} echo ran >> {did}"))
        .start();
    touch_until(&server.path("one"), "the hook ran", || notes(&server) == ["touched"]);
    touch_until(&server.path("two"), "the command ran", || notes(&server) == ["touched", "ran"]);
}

#[test]
fn a_command_for_a_touched_file_keeps_nobody_waiting() {
    differs("What `hook-touch` and `touch-exec` start runs beside the server, and how it ended is in the log.", || {
        let setup = Setup::http("basic").file("one", "");
        let (one, go) = (setup.path("one").display().to_string(), setup.path("go").display().to_string());
        let server =
            setup.set("hook-touch", format!("{one} exec:while [ ! -e {go} ]; do sleep 0.01; done; exit 3")).start();
        touch(&server.path("one"));
        server.wait_for_log(&["one was touched"]);
        // The master hears signals, and reloads.
        server.signal(Signal::SIGHUP);
        server.wait_for_log(&["reload done"]);
        std::fs::write(server.path("go"), "").expect("the file");
        server.wait_for_log(&["exited with code 3"]);
    });
}

#[test]
fn hooks_change_names_modes_and_owners() {
    use std::os::unix::fs::MetadataExt;
    let setup = Setup::http("basic").file("a", "").file("kept/b", "");
    let path = |name: &str| setup.path(name).display().to_string();
    let (a, b, folder) = (path("a"), path("kept/b"), path("kept"));
    let mut setup = setup
        .set("hook-asap", format!("chmod:{a} 640"))
        .set("hook-asap", format!("sticky:{folder}"))
        .set("hook-pre-app", "callret:chdir /");
    let is_root = nix::unistd::geteuid().is_root();
    if is_root {
        setup = setup
            .set("hook-asap", format!("chown:{a} nobody nogroup"))
            .set("hook-as-root", format!("chown2:{b} 65534 65534"));
    }
    let server = setup.start();
    let found = |name: &str| std::fs::metadata(server.path(name)).expect("the file");
    assert_eq!(found("a").mode() & 0o7777, 0o640);
    assert_eq!(found("kept").mode() & 0o1000, 0o1000);
    if is_root {
        assert_eq!((found("a").uid(), found("kept/b").gid()), (65534, 65534));
    }
}

#[test]
fn a_fifo_that_somebody_reads_is_written_to() {
    let setup = Setup::http("basic");
    let (fifo, nobody) = (setup.path("read"), setup.path("unread"));
    for path in [&fifo, &nobody] {
        nix::unistd::mkfifo(path, nix::sys::stat::Mode::from_bits_truncate(0o600)).expect("a fifo");
    }
    let reader = {
        let fifo = fifo.clone();
        std::thread::spawn(move || std::fs::read_to_string(fifo).expect("the fifo"))
    };
    let server = setup
        .set("hook-asap", format!("spinningfifo:{} some text", fifo.display()))
        .set("hook-as-user", format!("writefifo:{} other text", nobody.display()))
        .start();
    assert_eq!(reader.join().expect("the reader"), "some text");
    server.get("/").expect(200);
}

#[test]
fn the_start_waits_for_what_is_needed() {
    let setup = Setup::http("basic").file("kept/f", "");
    let path = |name: &str| setup.path(name).display().to_string();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a socket");
    let address = listener.local_addr().expect("its address").to_string();
    let (go, folder, file, did) = (setup.path("go"), path("kept"), path("kept/f"), path("did"));
    let setup = setup
        .set("wait-for-fs", go.display().to_string())
        .set("wait-for-fs-timeout", "30")
        .set("wait-for-file", file.as_str())
        .set("wait-for-dir", folder.as_str())
        .set("wait-for-mountpoint", "/proc")
        .set("wait-for-socket", address)
        .set("wait-for-socket-timeout", "30")
        .set("hook-as-root", format!("wait_for_file:{file}"))
        .set("hook-as-root", format!("exec:test -e {} && echo then >> {did}", go.display()))
        .unasked();
    let names = [
        ("wait-for-interface", "wait-for-interface-timeout"),
        ("wait-interface", "wait-interface-timeout"),
        ("wait-for-iface", "wait-for-iface-timeout"),
        ("wait-iface", "wait-iface-timeout"),
    ];
    let setup = names.into_iter().fold(setup, |setup, (what, limit)| setup.set(what, "lo").set(limit, "30"));
    let server = setup.start();
    let waits = |log: String| log.contains("wait-for-fs = ") || log.contains("waiting for");
    wait_until("it waits", || waits(server.log()));
    std::fs::write(go, "").expect("the file");
    server.get("/").expect(200);
    // uWSGI runs it more than once.
    assert_eq!(notes(&server)[0], "then");
}

#[test]
fn what_is_waited_for_in_vain_ends_the_start() {
    Setup::http("basic")
        .set("wait-for-file", "/nowhere/at/all")
        .set("wait-for-fs-timeout", "1")
        .unasked()
        .run()
        .expect(1, &["/nowhere/at/all", "after"]);
}

#[test]
fn functions_of_uwsgi_are_refused_with_a_reason() {
    differs(
        "Hooks that call functions of uWSGI's (`call`, `call-as-root` and its like) are refused with a reason.",
        || {
            Setup::http("basic")
                .set("hook-asap", "call:sync")
                .run()
                .expect(1, &["app.ini:", "hook-asap", "call:sync", "unix_signal"]);
            for name in ["call-asap", "call-pre-jail", "call-in-jail", "call-as-root", "call-as-user", "call-pre-app"] {
                Setup::http("basic").set(name, "sync").run().expect(1, &["app.ini:", name, "C functions", "exec-"]);
            }
        },
    );
}

/// A server that may mount and be called what it likes: nobody else sees it.
fn confined(setup: Setup) -> Setup {
    setup.shell("exec unshare --mount --uts -- \"$@\"")
}

fn may_confine() -> bool {
    Command::new("unshare").args(["--mount", "--uts", "true"]).status().is_ok_and(|status| status.success())
}

#[test]
fn root_mounts() {
    if !may_confine() {
        return;
    }
    // uWSGI leaves out what comes after a jail that is not there.
    differs("Every hook runs once at its point of the server's life.", || {
        let mut setup = confined(Setup::http("basic"));
        let (folder, did) = (setup.path("m").display().to_string(), setup.path("did").display().to_string());
        let names = ["mount-asap", "mount-pre-jail", "mount-post-jail", "mount-in-jail", "mount-as-root"];
        std::fs::create_dir(&folder).expect("a folder");
        for (number, name) in names.into_iter().enumerate() {
            let at = format!("{folder}/{number}");
            std::fs::create_dir(&at).expect("a folder");
            setup = setup.set(name, format!("tmpfs none {at} nodev,noexec size=64k"));
        }
        let server = setup.set("exec-pre-app", format!("grep ' {folder}/' /proc/self/mounts > {did}")).start();
        let told = std::fs::read_to_string(&did).expect("what is mounted");
        for number in 0..names.len() {
            let mounted = |line: &str| line.contains(&format!("/m/{number} ")) && line.contains("nodev,noexec");
            assert!(told.lines().any(mounted) && told.contains("size=64k"), "{told}");
        }
        server.get("/").expect(200);
        // Nowhere else.
        assert!(!std::fs::read_to_string("/proc/self/mounts").expect("mounts").contains(&folder));
    });
}

#[test]
fn what_was_mounted_is_unmounted() {
    if !may_confine() {
        return;
    }
    differs("Every hook runs once at its point of the server's life.", || {
        let mut setup = Setup::http("basic");
        let folder = setup.path("m").display().to_string();
        let did = setup.path("did").display().to_string();
        std::fs::create_dir(&folder).expect("a folder");
        let names = ["umount-asap", "umount-pre-jail", "umount-post-jail", "umount-in-jail", "umount-as-root"];
        for number in 0..names.len() {
            let at = format!("{folder}/{number}");
            std::fs::create_dir(&at).expect("a folder");
            setup = setup.set("hook-asap", format!("mount:tmpfs none {at}"));
            // One in the other goes with it.
            setup =
                setup.set("hook-asap", format!("mkdir:{at}/in")).set("hook-asap", format!("mount:tmpfs none {at}/in"));
        }
        for (number, name) in names.into_iter().enumerate() {
            setup = setup.set(name, format!("{folder}/{number} rec,detach"));
        }
        let look = format!("grep -c ' {folder}/' /proc/self/mounts >> {did} || true");
        let server = confined(setup)
            .set("hook-pre-app", format!("exec:{look}"))
            .set("hook-pre-app", format!("mount:none {folder}/0 {folder}/1 bind"))
            .set("hook-pre-app", format!("umount:{folder}/1"))
            .set("hook-pre-app", format!("exec:{look}"))
            .start();
        assert_eq!(notes(&server), ["0", "0"]);
    });
}

#[test]
fn a_mount_that_is_refused_ends_the_start() {
    Setup::http("basic").set("hook-asap", "mount:none /nowhere/at/all /nowhere bind").run().expect(1, &["/nowhere"]);
    differs("A command of a hook that fails and so ends the start is named in the log.", || {
        for (action, expected) in [("mount:tmpfs none", "a folder"), ("umount:/a loudly", "detach")] {
            Setup::http("basic").set("hook-asap", action).run().expect(1, &["app.ini:", action, expected]);
        }
    });
}

#[test]
fn a_machine_is_given_a_name() {
    if !may_confine() {
        return;
    }
    let setup = confined(Setup::http("basic"));
    let did = setup.path("did").display().to_string();
    let server = setup.set("hook-asap", "hostname:web-1.test").set("exec-pre-app", format!("uname -n > {did}")).start();
    assert_eq!(notes(&server), ["web-1.test"]);
}

#[test]
fn files_are_written_at_the_start() {
    let setup = Setup::http("basic");
    let (file, did) = (setup.path("text").display().to_string(), setup.path("did").display().to_string());
    let server =
        setup.set("file-write", format!("{file}=one = two")).set("exec-as-root", format!("cat {file} > {did}")).start();
    assert_eq!(notes(&server), ["one = two"]);
    assert_eq!(std::fs::read_to_string(file).expect("the file"), "one = two\n");
    drop(server);
    differs("A command of a hook that fails and so ends the start is named in the log.", || {
        Setup::http("basic").set("file-write", "=text").run().expect(1, &["app.ini:", "file-write", "the text"]);
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
