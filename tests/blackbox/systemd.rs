//! What the service manager is told (sd_notify(3)), on a socket that the test holds.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::harness::held::Held;
use crate::harness::http::get;
use crate::harness::server::{Setup, Speaks};
use crate::harness::{differs, patience, wait_until};

const TOLD: &str = "systemd is told READY when the workers are ready, RELOADING, STOPPING, a STATUS, and WATCHDOG while a worker makes progress.";

/// The socket of a service manager.
pub struct Manager(UnixDatagram);

impl Manager {
    /// One below the server's folder, which is told of it.
    pub fn of(setup: Setup) -> (Manager, Setup) {
        let path = setup.path("kept");
        std::fs::create_dir(&path).expect("a folder");
        let path = path.join("notify");
        let socket = UnixDatagram::bind(&path).expect("a socket");
        (Manager::new(socket), setup.env("NOTIFY_SOCKET", path.display().to_string()))
    }

    fn new(socket: UnixDatagram) -> Manager {
        socket.set_read_timeout(Some(Duration::from_millis(50))).expect("a time-out");
        Manager(socket)
    }

    pub fn hear(&self) -> Option<String> {
        let mut buffer = [0; 4096];
        self.0.recv(&mut buffer).ok().map(|len| String::from_utf8_lossy(&buffer[..len]).into_owned())
    }

    /// The next message that has this line. Others before it are passed over.
    #[track_caller]
    pub fn wait_for(&self, line: &str) -> String {
        let end = Instant::now() + patience();
        let mut others = Vec::new();
        loop {
            match self.hear() {
                Some(text) if text.lines().any(|known| known == line) => return text,
                Some(text) => others.push(text),
                None => assert!(Instant::now() < end, "{line} was not told, but {others:?}"),
            }
        }
    }
}

#[test]
fn ready_reloading_and_stopping() {
    differs(TOLD, || {
        let setup = Setup::bare().file(
            "slow.py",
            "import os, time\nopen('importing', 'w').close()\nwhile not os.path.exists('go'):\n    time.sleep(0.005)\n\
             def application(environ, start_response):\n    start_response('200 OK', [])\n    return [b'here']\n",
        );
        let folder = setup.path("").display().to_string();
        let (manager, setup) = Manager::of(setup.listen("http-socket", Speaks::Http));
        let mut server = setup
            .set("chdir", folder)
            .set("wsgi-file", "slow.py")
            .set("processes", "2")
            .set("lazy-apps", "true")
            .allow("reload failed")
            .allow("whole number")
            .unasked()
            .start();
        wait_until("it imports", || server.path("importing").exists());
        assert_eq!(manager.hear(), None);
        std::fs::write(server.path("go"), "").expect("the file");
        let ready = manager.wait_for("READY=1");
        assert!(ready.contains("STATUS=generation 1 serves with 2 workers"), "{ready}");
        // Both are ready by then.
        assert_eq!(server.log().matches("is ready").count(), 2);
        server.get("/").expect(200);

        let before = micros();
        server.signal(Signal::SIGHUP);
        let reloading = manager.wait_for("RELOADING=1");
        let at = reloading.lines().find_map(|line| line.strip_prefix("MONOTONIC_USEC=")?.parse::<u64>().ok());
        assert!(at.is_some_and(|at| (before..=micros()).contains(&at)), "{reloading}");
        assert!(manager.wait_for("READY=1").contains("generation 2"));

        server.rewrite("processes", "many");
        server.signal(Signal::SIGHUP);
        manager.wait_for("RELOADING=1");
        let failed = manager.wait_for("READY=1");
        assert!(failed.contains("generation 2 serves") && failed.contains("the last reload failed"), "{failed}");

        server.signal(Signal::SIGTERM);
        manager.wait_for("STOPPING=1");
        server.wait();
    });
}

/// Microseconds of the clock that systemd compares with.
pub fn micros() -> u64 {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).expect("the clock");
    now.tv_sec() as u64 * 1_000_000 + now.tv_nsec() as u64 / 1000
}

#[test]
fn an_abstract_socket_and_nothing_for_the_application() {
    differs(TOLD, || {
        let name = format!("rsgi-manager-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).expect("a name");
        let manager = Manager::new(UnixDatagram::bind_addr(&address).expect("a socket"));
        let server =
            Setup::http("rights").env("NOTIFY_SOCKET", format!("@{name}")).env("WATCHDOG_USEC", "60000000").start();
        manager.wait_for("READY=1");
        manager.wait_for("WATCHDOG=1");
        assert_eq!(server.get("/").expect(200).json()["notify"], serde_json::json!([]));
        drop(server);
        manager.wait_for("STOPPING=1");
    });
}

#[test]
fn the_watchdog_is_told_while_a_worker_makes_progress() {
    differs(TOLD, || {
        let (manager, setup) = Manager::of(Setup::http("basic").allow("no worker makes progress"));
        let setup = setup.env("WATCHDOG_USEC", "200000").shell("WATCHDOG_PID=$$ exec \"$@\"");
        let server = setup.start();
        for _ in 0..3 {
            manager.wait_for("WATCHDOG=1");
        }
        // One request alone may take as long as it likes.
        let held = Held::begin(&server, "one");
        while manager.hear().is_some_and(|text| text != "WATCHDOG=1") {}
        for _ in 0..3 {
            manager.wait_for("WATCHDOG=1");
        }
        // When others wait for it, nobody is served any more.
        let mut waiting = server.connect();
        waiting.send(get("/"));
        server.wait_for_log(&["no worker makes progress", "watchdog"]);
        while manager.hear().is_some() {}
        assert_eq!(manager.hear(), None);
        held.release().expect(200);
        waiting.response().expect(200);
        manager.wait_for("WATCHDOG=1");

        // A process that does not run answers nobody.
        let worker = Pid::from_raw(server.get("/pid").expect(200).text().parse().expect("a pid"));
        kill(worker, Signal::SIGSTOP).expect("stopped");
        let silent = || std::iter::from_fn(|| manager.hear()).count() == 0;
        wait_until("it is told nothing", || silent() && silent() && silent() && silent());
        kill(worker, Signal::SIGCONT).expect("continued");
        manager.wait_for("WATCHDOG=1");
    });
}

#[test]
fn a_watchdog_of_another_process_is_left_alone() {
    differs(TOLD, || {
        let (manager, setup) = Manager::of(Setup::http("basic"));
        let server = setup.env("WATCHDOG_USEC", "100000").env("WATCHDOG_PID", "1").start();
        manager.wait_for("READY=1");
        server.get("/").expect(200);
        drop(server);
        let rest: Vec<String> = std::iter::from_fn(|| manager.hear()).collect();
        assert!(
            rest.iter().all(|text| !text.contains("WATCHDOG")) && rest.iter().any(|text| text.contains("STOPPING")),
            "{rest:?}"
        );
    });
}
