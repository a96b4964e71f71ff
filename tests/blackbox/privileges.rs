//! Whose the server is, what it may use, which files it leaves, and how it goes into the background.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::{Pid, geteuid};
use serde_json::Value;

use crate::harness::http::{Endpoint, get};
use crate::harness::server::{Server, Setup, Speaks};
use crate::harness::{HANGS_BY, Subject, differs, patience, subject, wait_until};
use crate::listeners::{for_everybody, with_copy, with_library};

const NAMED: &str = "Errors at the start name the socket, file or option they are about.";

/// A server of rights.py that every user can run.
fn rights() -> Setup {
    let setup = with_copy(for_everybody(Setup::bare().listen("http-socket", Speaks::Http)), "rights");
    setup.unset("module").set("module", "rights")
}

fn page(server: &Server) -> Value {
    server.get("/").expect(200).json()
}

/// Whoever is not root is told so.
fn needs_root(option: &str, value: &str) -> bool {
    if geteuid().is_root() {
        return false;
    }
    if subject() == Subject::Rsgi {
        Setup::http("basic").set(option, value).run().expect(1, &["app.ini:", option, "root"]);
    }
    true
}

#[test]
fn further_groups() {
    if needs_root("add-gid", "4242") {
        return;
    }
    for (key, value) in [("vacuum", "true"), ("no-initgroups", "true")] {
        let server = rights()
            .set("uid", "nobody")
            .set("gid", "nogroup")
            .set("add-gid", "4242")
            .set("add-gid", "4243")
            .set(key, value)
            .start();
        let groups = page(&server)["groups"].as_array().expect("groups").clone();
        assert!(groups.contains(&4242.into()) && groups.contains(&4243.into()), "{groups:?}");
        assert!(!groups.contains(&0.into()), "{groups:?}");
    }
}

#[test]
fn groups_that_the_system_knows() {
    let may = std::process::Command::new("unshare").args(["--mount", "true"]).status().is_ok_and(|done| done.success());
    if needs_root("uid", "nobody") || !may {
        return;
    }
    for (key, expected) in [("vacuum", true), ("no-initgroups", false)] {
        let list = std::fs::read_to_string("/etc/group").expect("the groups") + "further:x:4711:nobody\n";
        // In a list of groups of its own, the user is in one more.
        let server = rights()
            .file("groups", list)
            .set("uid", "nobody")
            .set("gid", "nogroup")
            .set(key, "true")
            .shell(
                "exec unshare --mount sh -c 'mount --bind \"$TEST_FOLDER/groups\" /etc/group && exec \"$@\"' sh \"$@\"",
            )
            .start();
        let groups = page(&server)["groups"].as_array().expect("groups").clone();
        assert_eq!(groups.contains(&4711.into()), expected, "{key}: {groups:?}");
        assert!(!groups.contains(&0.into()), "{key}: {groups:?}");
    }
}

/// Tells as whom it was imported, as whom it serves, and who the master is; and its process.
const WHO: &str = "\
import json, os, threading

IMPORTED = os.getuid()


def application(environ, start_response):
    with open(f'/proc/{os.getppid()}/status') as status:
        master = next(line for line in status if line.startswith('Uid:')).split()[1]
    start_response('200 OK', [])
    return [json.dumps([[IMPORTED, os.getuid(), int(master)], os.getpid()]).encode()]
";

#[test]
fn root_is_given_up_later_if_that_is_asked_for() {
    const ROOT: u32 = 0;
    const USER: u32 = 65534;
    if needs_root("uid", "nobody") {
        return;
    }
    for (option, at_start, at_reload) in [
        ("master-as-root", [ROOT, USER, ROOT], [ROOT, USER, ROOT]),
        ("drop-after-apps", [ROOT, USER, USER], [USER, USER, USER]),
        ("drop-after-init", [USER, USER, USER], [USER, USER, USER]),
    ] {
        let setup = for_everybody(Setup::bare().listen("http-socket", Speaks::Http).file("who.py", WHO));
        let users = setup.path("users");
        std::fs::write(&users, "").expect("a file");
        std::fs::set_permissions(&users, std::fs::Permissions::from_mode(0o666)).expect("permissions");
        let folder = setup.path("").display().to_string();
        let mut server = setup
            .unset("module")
            .set("chdir", folder)
            .set("wsgi-file", "who.py")
            .set("uid", "nobody")
            .set("gid", "nogroup")
            .set(option, "true")
            .set("exec-as-user", format!("id -u >> {}", users.display()))
            .start();
        let told = |server: &Server, expected: [u32; 3], but: &Value| {
            let mut pid = Value::Null;
            wait_until(&format!("{option} has come to {expected:?}"), || {
                let page = server.get("/").expect(200).json();
                pid = page[1].clone();
                page[0] == serde_json::json!(expected) && pid != *but
            });
            pid
        };
        let first = told(&server, at_start, &Value::Null);
        server.signal(Signal::SIGHUP);
        let second = told(&server, at_reload, &first);
        if subject() == Subject::Rsgi && option == "master-as-root" {
            // Only a new start changes whom the processes are.
            server.rewrite(option, "false");
            server.rewrite("uid", "root");
            server.signal(Signal::SIGHUP);
            server.wait_for_log(&["a reload does not change uid"]);
            told(&server, at_reload, &second);
        }
        // Hooks of the user were run as the user.
        let users = std::fs::read_to_string(&users).expect("the file");
        assert!(!users.is_empty() && users.lines().all(|line| line == "65534"), "{option}: {users:?}");
    }
}

#[test]
fn capabilities_that_are_kept() {
    // uWSGI has the option only where it was built with a library for it.
    if needs_root("cap", "kill") || subject() == Subject::Uwsgi {
        return;
    }
    let server = rights().set("uid", "nobody").set("cap", "net_bind_service,kill").start();
    let found = page(&server);
    assert_eq!(found["uids"][0], 65534);
    for set in ["CapEff", "CapPrm"] {
        assert_eq!(found["capabilities"][set], "0000000000000420", "{found}");
    }
    drop(server);
    let server = rights().set("uid", "nobody").start();
    assert_eq!(page(&server)["capabilities"]["CapEff"], "0000000000000000");
}

#[test]
fn limits_of_the_system() {
    let server = Setup::http("rights").set("limit-as", "4096").set("limit-nproc", "3000").start();
    let found = page(&server);
    assert_eq!(found["as"], serde_json::json!([4096u64 << 20, 4096u64 << 20]));
    assert_eq!(found["nproc"], serde_json::json!([3000, 3000]));
}

#[test]
fn workers_are_bound_to_processors() {
    let server = Setup::http("rights").set("processes", "2").set("cpu-affinity", "1").start();
    let mut found = std::collections::HashMap::new();
    wait_until("both have answered", || {
        let held = server.connect().send(get("/sleep/0.02")).response().expect(200).json();
        found.insert(held["pid"].as_i64(), held["cpus"].clone());
        let mut others: Vec<_> = (0..4).map(|_| server.connect()).collect();
        for client in &mut others {
            client.send(get("/sleep/0.02"));
        }
        for client in &mut others {
            let page = client.response().expect(200).json();
            found.insert(page["pid"].as_i64(), page["cpus"].clone());
        }
        found.len() == 2
    });
    let all = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let cpus: Vec<_> = found.values().collect();
    assert!(cpus.iter().all(|cpus| cpus.as_array().map(Vec::len) == Some(1)), "{cpus:?}");
    assert!(all == 1 || cpus[0] != cpus[1], "{cpus:?}");
}

#[test]
fn somebody_else_from_the_very_begin() {
    if needs_root("immediate-uid", "0") {
        return;
    }
    let setup = rights();
    std::fs::set_permissions(setup.path(""), std::fs::Permissions::from_mode(0o777)).expect("permissions");
    let log = setup.path("own.log");
    let server = setup
        .set("immediate-gid", "nogroup")
        .set("immediate-uid", "nobody")
        .set("logto", log.display().to_string())
        .start();
    let found = page(&server);
    assert_eq!((&found["uids"][2], &found["gids"][2]), (&65534.into(), &65534.into()), "{found}");
    // It opened its log as that user.
    assert_eq!(std::fs::metadata(log).expect("the log").uid(), 65534);
}

#[test]
fn a_new_root() {
    if needs_root("chroot", "/") {
        return;
    }
    let setup = with_copy(Setup::bare().listen("http-socket", Speaks::Http), "rights");
    with_library(&setup);
    let (root, pidfile) = (setup.path(""), setup.path("pid-of-master"));
    let server = setup
        .set("chroot", root.display().to_string().trim_end_matches('/'))
        .set("pidfile", pidfile.display().to_string())
        .set("home", "/python")
        .set("pythonpath", "/")
        .set("module", "rights")
        .start();
    let root = page(&server)["root"].clone();
    let names: Vec<&str> = root.as_array().expect("names").iter().filter_map(Value::as_str).collect();
    assert!(names.contains(&"rights.py") && names.contains(&"app.ini") && !names.contains(&"proc"), "{names:?}");
    // As in uWSGI it stands outside.
    assert_eq!(std::fs::read_to_string(pidfile).expect("the pid file"), format!("{}\n", server.pid()));
}

#[test]
fn pid_files() {
    let names = ["pidfile", "pidfile2", "safe-pidfile", "safe-pidfile2"];
    let setup = names.into_iter().fold(Setup::http("basic"), |setup, name| {
        let path = setup.path(&format!("{name}.pid")).display().to_string();
        setup.set(name, path)
    });
    let server = setup.start();
    for name in names {
        let path = server.path(&format!("{name}.pid"));
        wait_until("it is written", || std::fs::read_to_string(&path).is_ok_and(|text| !text.is_empty()));
        assert_eq!(std::fs::read_to_string(&path).expect("the pid file"), format!("{}\n", server.pid()), "{name}");
    }
    // The harness finds those that are left behind.
}

/// An application whose import waits for the file `go`.
const SLOW: &str = "import os, time\nopen('importing', 'w').close()\nwhile not os.path.exists('go'):\n    \
    time.sleep(0.005)\ndef application(environ, start_response):\n    start_response('200 OK', [])\n    return [b'here']\n";

#[test]
fn a_safe_pid_file_waits_for_the_application() {
    let setup = Setup::bare().file("slow.py", SLOW).listen("http-socket", Speaks::Http);
    let folder = setup.path("").display().to_string();
    let safe = setup.path("safe.pid");
    let server = setup
        .set("chdir", folder)
        .set("wsgi-file", "slow.py")
        .set("pidfile", "early.pid")
        .set("safe-pidfile", safe.display().to_string())
        .unasked()
        .start();
    wait_until("it imports", || server.path("importing").exists());
    assert_eq!(std::fs::read_to_string(&safe).unwrap_or_default(), "");
    std::fs::write(server.path("go"), "").expect("the file");
    wait_until("it is written", || std::fs::read_to_string(&safe).is_ok_and(|text| !text.is_empty()));
    server.get("/").expect(200);
}

/// A server in the background. Killed with the test.
struct Daemon(Pid);

impl Daemon {
    /// The one whose pid is in this file, which first may name the process that went before it.
    #[track_caller]
    fn of(pidfile: &Path) -> Daemon {
        let mut daemon = None;
        wait_until("the pid of a process that lives is there", || {
            let pid = std::fs::read_to_string(pidfile).ok().and_then(|text| text.trim().parse().ok());
            daemon = pid.map(|pid| Daemon(Pid::from_raw(pid))).filter(Daemon::lives);
            daemon.is_some()
        });
        daemon.expect("a daemon")
    }

    fn lives(&self) -> bool {
        kill(self.0, None).is_ok()
    }

    #[track_caller]
    fn stop(self) {
        // uWSGI overlooks a signal that comes while it starts.
        let end = std::time::Instant::now() + patience();
        let mut again = std::time::Instant::now();
        while self.lives() {
            assert!(std::time::Instant::now() < end, "it does not end");
            if std::time::Instant::now() >= again {
                let _ = kill(self.0, Signal::SIGTERM);
                again = std::time::Instant::now() + HANGS_BY / 3;
            }
            std::thread::park_timeout(std::time::Duration::from_millis(5));
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It leads a session, or is in one, of its own; not so who only went before it.
        if let Ok(group) = nix::unistd::getpgid(Some(self.0))
            && group != nix::unistd::getpgrp()
        {
            let _ = killpg(group, Signal::SIGKILL);
        }
    }
}

fn in_background(option: &str, app: &str) -> Setup {
    let setup = Setup::of(app).listen_unix("http-socket", "app.sock", Speaks::Http);
    let (log, pidfile) = (setup.path("own.log").display().to_string(), setup.path("its.pid").display().to_string());
    setup.set(option, log).set("pidfile", pidfile)
}

#[test]
fn into_the_background() {
    for option in ["daemonize", "daemonize2"] {
        let ended = in_background(option, "rights").run();
        assert_eq!(ended.code, 0, "{option}: {}", ended.log);
        let daemon = Daemon::of(&ended.path("its.pid"));
        let endpoint = Endpoint::Unix(ended.path("app.sock"));
        wait_until("it serves", || endpoint.try_connect().is_ok());
        let page = endpoint.connect().send(get("/")).response().expect(200).json();
        assert_eq!(page["stdin"], "/dev/null", "{option}");
        assert_eq!(page["ppid"], daemon.0.as_raw(), "{option}");
        assert_ne!(page["session"].as_i64(), nix::unistd::getsid(None).ok().map(|own| i64::from(own.as_raw())));
        let log = std::fs::read_to_string(ended.path("own.log")).expect("its log");
        assert!(!log.is_empty() && !log.contains("Traceback"), "{log}");
        daemon.stop();
        wait_until("it has tidied up", || !ended.path("its.pid").exists() && !ended.path("app.sock").exists());
    }
}

#[test]
fn whoever_reads_what_the_starter_says_sees_its_end() {
    for option in ["daemonize", "daemonize2"] {
        // As `ssh`, a deploy script or a shell with a pipe does: `cat` ends when nobody has the pipe any more.
        let ended = in_background(option, "basic").shell("\"$@\" 2>&1 </dev/null | cat").run();
        assert_eq!(ended.code, 0, "{option}: {}", ended.log);
        let daemon = Daemon::of(&ended.path("its.pid"));
        let endpoint = Endpoint::Unix(ended.path("app.sock"));
        wait_until("it serves", || endpoint.try_connect().is_ok());
        endpoint.connect().send(get("/")).response().expect(200);
        daemon.stop();
        wait_until("it has tidied up", || !ended.path("its.pid").exists() && !ended.path("app.sock").exists());
    }
}

#[test]
fn loggers_work_in_the_background() {
    for option in ["daemonize", "daemonize2"] {
        let setup = in_background(option, "basic");
        let file = |name: &str| format!("file:{}", setup.path(name).display());
        let (all, requests) = (file("all.log"), file("requests.log"));
        let ended = setup.set("log-master", "true").set("logger", all).set("req-logger", requests).run();
        assert_eq!(ended.code, 0, "{option}: {}", ended.log);
        let daemon = Daemon::of(&ended.path("its.pid"));
        let endpoint = Endpoint::Unix(ended.path("app.sock"));
        wait_until("it serves", || endpoint.try_connect().is_ok());
        endpoint.connect().send(get("/log?hello")).response().expect(200);
        let text = |name: &str| std::fs::read_to_string(ended.path(name)).unwrap_or_default();
        wait_until("the loggers have it all", || {
            text("all.log").contains("from print: hello") && text("requests.log").contains("GET /log?hello")
        });
        assert!(!text("own.log").contains("hello") && !text("all.log").contains("GET /log"), "{option}");
        daemon.stop();
        wait_until("it has tidied up", || !ended.path("its.pid").exists() && !ended.path("app.sock").exists());
    }
}

#[test]
fn a_start_in_the_background_that_fails_is_told() {
    let setup = in_background("daemonize2", "no_such_module");
    let ended = setup.run();
    assert_ne!(ended.code, 0, "{}", ended.log);
    wait_until("nothing is left", || !ended.path("app.sock").exists() || subject() == Subject::Uwsgi);
}

#[test]
fn the_terminal_is_kept_until_the_sockets_are_bound() {
    differs(
        "`daemonize` lets go of the terminal when the sockets are bound; if they cannot be, its exit code tells.",
        || {
            let setup = in_background("daemonize", "basic");
            let log = setup.path("own.log");
            let ended = setup.set("socket", "/no/such/folder/s").run();
            ended.expect(1, &["app.ini:", "daemonize", "own.log"]);
            let log =
                std::fs::read_to_string(ended.path(log.file_name().and_then(|name| name.to_str()).expect("a name")));
            assert!(log.expect("the log").contains("create /no/such/folder"));
        },
    );
}

#[test]
fn the_umask_stays_in_the_background() {
    differs("`daemonize` leaves the umask as it is.", || {
        let ended = in_background("daemonize", "basic").shell("umask 027; exec \"$@\"").run();
        let daemon = Daemon::of(&ended.path("its.pid"));
        let mode = std::fs::metadata(ended.path("its.pid")).expect("the pid file").permissions().mode() & 0o777;
        let endpoint = Endpoint::Unix(ended.path("app.sock"));
        wait_until("it serves", || endpoint.try_connect().is_ok());
        daemon.stop();
        assert_eq!(mode, 0o640);
    });
}

#[test]
fn what_cannot_be_had_is_named_with_its_place() {
    differs(NAMED, || {
        for (option, value, texts) in [
            ("pidfile", "/no/such/folder/p", ["create /no/such/folder", ""]),
            ("pidfile2", "/no/such/folder/p", ["create /no/such/folder", ""]),
            ("safe-pidfile", "/no/such/folder/p", ["create /no/such/folder", ""]),
            ("safe-pidfile2", "/proc/p", ["/proc/p", ""]),
            ("daemonize2", "/no/such/folder/l", ["create /no/such/folder", ""]),
            ("daemonize", "/proc/l", ["/proc/l: ", "No such file"]),
            ("uid", "no-such-user", ["a user of this system", "no-such-user"]),
            ("add-gid", "no-such-group", ["a group of this system", "no-such-group"]),
            ("immediate-uid", "no-such-user", ["a user of this system", ""]),
            ("cap", "everything", ["capabilities", "everything"]),
            ("limit-as", "much", ["a whole number", "much"]),
            ("limit-as", "1", ["1048576 bytes are not enough", "in use already"]),
            ("cpu-affinity", "-1", ["a whole number", "-1"]),
            ("chroot", "/no/such/folder", ["/no/such/folder", ""]),
        ] {
            if option == "chroot" && !geteuid().is_root() {
                continue;
            }
            let ended = Setup::http("basic").set(option, value).run();
            ended.expect(1, &["app.ini:", option, texts[0], texts[1]]);
        }
    });
}
