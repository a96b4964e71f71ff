//! How a server stops and starts again: what becomes of queues, connections and processes, and that nothing leaks.

use std::collections::HashSet;
use std::fs;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::harness::clients::{Clients, Keeps};
use crate::harness::held::Held;
use crate::harness::http::{Client, Endpoint, get};
use crate::harness::server::{Server, Setup, Speaks, listen_tcp, processes_of};
use crate::harness::{Subject, differs, patience, rsgis, subject, wait_until};

const GRACE: &str = "TERM and INT stop gracefully: requests in flight are finished. A second one, or QUIT, stops at once; `die-on-term` has no effect.";
const GROUP: &str =
    "A TERM, INT or HUP that reaches the whole process group (Ctrl-C, systemd) acts as if only the master had got it.";
const ORPHANS: &str = "Workers that lose their master close their listeners at once and finish their requests.";

/// A server on a socket that the test keeps open.
fn on(socket: &OwnedFd, endpoint: &Endpoint) -> Setup {
    let mut setup = Setup::of("basic").set("disable-logging", "true");
    let number = setup.inherit(socket.try_clone().expect("a descriptor"));
    setup.endpoint(endpoint.clone(), Speaks::Http).set("http-socket", format!("fd://{number}"))
}

fn kept_socket() -> (OwnedFd, Endpoint) {
    let (socket, address) = listen_tcp("127.0.0.1:0");
    (socket, Endpoint::Tcp(address))
}

/// Stops a server, and waits for its end.
fn stop(mut server: Server, signal: Signal) {
    server.signal(signal);
    server.wait();
}

#[test]
fn who_waits_at_an_inherited_socket_is_left_to_the_successor() {
    rsgis(|| {
        let (socket, endpoint) = kept_socket();
        let mut server = on(&socket, &endpoint).start();
        let held = Held::begin(&server, "a");
        let old = held.pid;
        server.signal(Signal::SIGTERM);
        let inode = nix::sys::stat::fstat(&socket).expect("a socket").st_ino;
        let name = format!("socket:[{inode}]");
        wait_until("nobody of the server listens", || {
            processes_of(server.pid()).iter().all(|pid| {
                let all = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
                all.filter_map(|entry| fs::read_link(entry.path()).ok()).all(|link| link.as_os_str() != name.as_str())
            })
        });
        let mut waiting: Vec<Client> = (0..20).map(|_| endpoint.connect()).collect();
        for client in &mut waiting {
            client.send(get("/pid"));
        }
        held.release().expect(200);
        server.wait();
        drop(server);
        let next = on(&socket, &endpoint).start();
        let answers: Vec<String> = waiting.iter_mut().map(|client| client.response().expect(200).text()).collect();
        assert!(answers.iter().all(|pid| *pid != old.to_string()), "{answers:?}");
        drop(next);
    });
}

#[test]
fn an_idle_connection_is_closed_after_stop_linger() {
    differs(GRACE, || {
        let server = Setup::http("basic").set("stop-linger", "2").start();
        let mut idle = server.connect();
        idle.send(get("/")).response().expect(200);
        let began = Instant::now();
        server.signal(Signal::SIGTERM);
        idle.expect_closed();
        // Not sooner; how much later depends on the machine.
        assert!(began.elapsed() >= Duration::from_millis(1_900), "{:?}", began.elapsed());
        server.expect_end();
    });
}

#[test]
fn a_stop_of_the_whole_group_under_load_loses_nothing() {
    differs(GROUP, || {
        for signal in [Signal::SIGTERM, Signal::SIGINT] {
            let (socket, endpoint) = kept_socket();
            let mut server = on(&socket, &endpoint).set("processes", "2").set("threads", "2").start();
            let clients = Clients::begin(&endpoint, 8);
            for _ in 0..3 {
                server.signal_group(signal);
                server.wait();
                drop(server);
                server = on(&socket, &endpoint).set("processes", "2").start();
                clients.wait_for(20);
            }
            clients.expect_no_loss();
        }
    });
}

#[test]
fn a_stop_answers_everybody_who_found_its_own_unix_socket() {
    rsgis(|| {
        for _ in 0..3 {
            let setup = Setup::of("basic").listen_unix("http-socket", "own.sock", Speaks::Http);
            let mut server = setup.set("processes", "2").set("disable-logging", "true").start();
            let clients = Clients::begin(server.endpoint(), 6);
            server.signal_group(Signal::SIGTERM);
            server.wait();
            clients.expect_no_loss_but_refusals();
        }
    });
}

/// Starts and stops a server again and again while clients ask, all on one socket.
fn cycle(times: u32) {
    let (socket, endpoint) = kept_socket();
    let clients = Clients::begin_unanswered(&endpoint, &[Keeps::Open, Keeps::Closed, Keeps::Open, Keeps::Closed]);
    for round in 0..times {
        let server = on(&socket, &endpoint).set("processes", "2").start();
        clients.wait_for(8);
        let signal = if round % 2 == 0 { Signal::SIGTERM } else { Signal::SIGINT };
        stop(server, signal);
        if round % 100 == 99 {
            eprintln!("{} cycles, {} answers so far", round + 1, clients.answered());
        }
    }
    let last = on(&socket, &endpoint).start();
    clients.wait_for(8);
    eprintln!("{times} cycles, {} answers", clients.answered());
    clients.expect_no_loss();
    drop(last);
}

#[test]
fn stops_and_starts_on_an_inherited_socket_lose_nothing() {
    rsgis(|| cycle(25));
}

/// By itself: `cargo test --release --test blackbox -- --ignored --nocapture a_thousand_stops`.
#[test]
#[ignore = "a thousand cycles take many minutes: the test above makes 25 of them"]
fn a_thousand_stops_and_starts_on_an_inherited_socket_lose_nothing() {
    rsgis(|| cycle(1000));
}

/// Descriptors of a process, and its resident memory in KiB.
fn holds(pid: Pid) -> (usize, u64) {
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).expect("a process").count();
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("a process");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
    (descriptors, line.trim().trim_end_matches(" kB").parse().expect("a number"))
}

fn stats(server: &Server) -> Value {
    use std::io::Read;
    let mut text = String::new();
    let stream = std::os::unix::net::UnixStream::connect(server.path("stats.sock"));
    stream.and_then(|mut stream| stream.read_to_string(&mut text)).expect("statistics");
    serde_json::from_str(&text).expect("JSON")
}

/// Recycled processes so far.
fn births(server: &Server) -> u64 {
    let told = stats(server);
    told["workers"].as_array().expect("workers").iter().filter_map(|worker| worker["respawn_count"].as_u64()).sum()
}

/// Lets workers be recycled until `done`, under load. Memory and descriptors of the master must not grow after a while.
fn recycle(warm: impl Fn(u64) -> bool, done: impl Fn(u64) -> bool) {
    let setup = Setup::http("basic").set("processes", "2").set("disable-logging", "true");
    let stats = setup.path("stats.sock").display().to_string();
    let server = setup.set("max-requests", "20").set("min-worker-lifetime", "0").set("stats", stats).start();
    let clients = Clients::begin(server.endpoint(), 4);
    let master = server.pid();
    let wait = |what: &dyn Fn(u64) -> bool| {
        let (mut before, mut end) = (births(&server), Instant::now() + patience());
        while !what(before) {
            let now = births(&server);
            assert!(Instant::now() < end, "nobody is recycled any more");
            if now != before {
                (before, end) = (now, Instant::now() + patience());
            }
            std::thread::park_timeout(Duration::from_millis(20));
        }
    };
    wait(&warm);
    let (_, memory) = holds(master);
    let first = births(&server);
    wait(&done);
    clients.expect_no_loss();
    let last = births(&server);
    // What is open depends on who is just being replaced; at rest it is what it was.
    wait_until("all is quiet", || stats_of_rest(&server));
    let after = holds(master);
    eprintln!(
        "{} recycles, then {} more: {memory} KiB, then {} KiB; {} descriptors",
        first,
        last - first,
        after.1,
        after.0
    );
    assert!(after.0 < 60, "{} descriptors", after.0);
    assert!(after.1 <= memory + 1024, "{memory} KiB, then {} KiB", after.1);
}

/// Whether nobody is on his way in or out.
fn stats_of_rest(server: &Server) -> bool {
    let told = stats(server);
    let ready = told["workers"].as_array().expect("workers").iter().all(|worker| worker["state"] == "ready");
    ready && told["retiring"] == 0
}

#[test]
fn recycling_makes_the_master_no_larger() {
    rsgis(|| recycle(|births| births >= 15, |births| births >= 90));
}

/// By itself: `cargo test --release --test blackbox -- --ignored --nocapture ten_minutes`.
#[test]
#[ignore = "takes ten minutes, by its name"]
fn ten_minutes_of_recycling_make_the_master_no_larger() {
    let end = Instant::now() + Duration::from_secs(600);
    recycle(|births| births >= 100, |_| Instant::now() > end);
}

/// The zygote: a child of the master that does no requests.
fn zygote(server: &Server) -> Option<i32> {
    let workers: HashSet<i64> = stats(server)["workers"].as_array()?.iter().filter_map(|w| w["pid"].as_i64()).collect();
    let mut others = processes_of(server.pid()).into_iter();
    others.find(|pid| *pid != server.pid().as_raw() && !workers.contains(&i64::from(*pid)))
}

#[test]
fn without_their_zygote_workers_go_on_and_another_one_is_made() {
    rsgis(|| {
        let setup = Setup::bare()
            .file("served.py", fs::read(crate::harness::apps().join("basic.py")).expect("basic.py"))
            .listen("http-socket", Speaks::Http);
        let folder = setup.path("").display().to_string();
        let stats_path = setup.path("stats.sock").display().to_string();
        let server = setup
            .set("chdir", folder)
            .set("wsgi-file", "served.py")
            .set("stats", stats_path)
            .set("disable-logging", "true")
            .set("processes", "2")
            .allow("the zygote of generation 1")
            .allow("Traceback")
            .allow("on purpose")
            .start();
        let clients = Clients::begin(server.endpoint(), 4);
        let first = zygote(&server).expect("a zygote");
        let pids = |server: &Server| {
            stats(server)["workers"].as_array().map(|all| all.iter().map(|w| w["pid"].clone()).collect::<Vec<_>>())
        };
        let workers = pids(&server);
        kill(Pid::from_raw(first), Signal::SIGKILL).expect("the zygote");
        server.wait_for_log(&["the zygote of generation 1", "SIGKILL"]);
        wait_until("another one is there", || zygote(&server).is_some_and(|pid| pid != first));
        clients.wait_for(20);
        assert_eq!(pids(&server), workers);
        clients.expect_no_loss();

        // One that cannot import the application says so, and is tried again more and more seldom.
        let good = fs::read(server.path("served.py")).expect("the file");
        fs::write(server.path("served.py"), "raise ValueError('on purpose')\n").expect("the file");
        kill(Pid::from_raw(zygote(&server).expect("a zygote")), Signal::SIGKILL).expect("the zygote");
        server.wait_for_log(&["the application cannot be loaded", "ValueError: on purpose"]);
        server.wait_for_log(&["it is started again in"]);
        assert_eq!(pids(&server), workers);
        server.get("/").expect(200);
        fs::write(server.path("served.py"), good).expect("the file");
        // It forks again: a worker that dies is replaced.
        let worker = workers.and_then(|all| all[0].as_i64()).expect("a worker") as i32;
        kill(Pid::from_raw(worker), Signal::SIGTERM).expect("a worker");
        wait_until("it is replaced", || !processes_of(server.pid()).contains(&worker));
        server.get("/").expect(200);
    });
}

#[test]
fn a_worker_that_is_stuck_does_not_outlive_its_master_for_ever() {
    differs(ORPHANS, || {
        let mut server = Setup::http("basic").set("worker-reload-mercy", "1").set("processes", "2").start();
        let _held = Held::begin(&server, "never");
        server.signal(Signal::SIGKILL);
        server.wait();
        server.expect_killed();
    });
}

#[test]
fn a_worker_that_still_imports_dies_with_its_master() {
    rsgis(|| {
        let setup = Setup::bare()
            .file("slow.py", "import os, time\nopen(os.environ['TEST_FOLDER'] + '/begun', 'w')\ntime.sleep(600)\n");
        let folder = setup.path("").display().to_string();
        for lazy in ["false", "true"] {
            let setup = Setup::bare().listen("http-socket", Speaks::Http).set("pythonpath", folder.clone());
            let mut server = setup.set("module", "slow").set("lazy-apps", lazy).unasked().start();
            wait_until("it imports", || server.path("begun").exists());
            server.signal(Signal::SIGKILL);
            server.wait();
            server.expect_killed();
        }
    });
}

/// An application that starts a process which leaves an orphan behind; the answer is the orphan's id.
const ORPHAN: &str = "
import os, subprocess
def application(environ, start_response):
    out = subprocess.run(['sh', '-c', 'sleep 0.01 >/dev/null 2>&1 & echo $!'], capture_output=True).stdout
    start_response('200 OK', [])
    return [out]
";

#[test]
fn orphans_of_the_application_are_reaped_by_the_master() {
    let setup = Setup::bare().file("orphan.py", ORPHAN).listen("http-socket", Speaks::Http);
    let folder = setup.path("").display().to_string();
    let server = setup.set("chdir", folder).set("wsgi-file", "orphan.py").start();
    for _ in 0..5 {
        let pid = server.get("/").expect(200).text().trim().to_owned();
        // A zombie has a folder there as well.
        wait_until("the orphan is gone", || !std::path::Path::new(&format!("/proc/{pid}")).exists());
    }
}

#[test]
fn as_the_first_process_of_a_container_it_reaps_and_stops() {
    let unshare = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"];
    let may = std::process::Command::new(unshare[0]).args(&unshare[1..]).arg("true").output();
    if !may.is_ok_and(|done| done.status.success()) {
        // Only root may; the test before covers adopted strangers.
        return;
    }
    rsgis(|| {
        let setup = Setup::bare().file("orphan.py", ORPHAN).listen("http-socket", Speaks::Http);
        let folder = setup.path("").display().to_string();
        let setup =
            setup.set("chdir", folder).set("wsgi-file", "orphan.py").set("pidfile", "in.pid").set("processes", "2");
        let script = format!("exec {} \"$@\"", unshare.join(" "));
        let mut server = setup.shell(&script).start();
        wait_until("it is the first process", || {
            fs::read_to_string(server.path("in.pid")).is_ok_and(|text| text == "1\n")
        });
        for _ in 0..5 {
            server.get("/").expect(200);
        }
        let inner = processes_of(server.pid()).into_iter().find(|pid| {
            fs::read_to_string(format!("/proc/{pid}/status"))
                .is_ok_and(|status| status.lines().any(|line| line.starts_with("NSpid:") && line.ends_with("\t1")))
        });
        let inner = Pid::from_raw(inner.expect("the first process"));
        wait_until("no zombie is left", || {
            let children = fs::read_to_string(format!("/proc/{inner}/task/{inner}/children")).unwrap_or_default();
            children.split_whitespace().count() == 3
        });
        kill(inner, Signal::SIGTERM).expect("the server");
        assert_eq!(server.wait().code(), Some(0));
    });
}

#[test]
fn atexit_runs_once_in_each_worker_and_never_elsewhere() {
    let mut server = Setup::http("lifecycle").set("processes", "3").start();
    let workers: HashSet<i32> = (0..60).map(|_| server.get("/").text().parse().expect("a number")).collect();
    if subject() == Subject::Uwsgi {
        return;
    }
    server.signal(Signal::SIGHUP);
    server.wait_for_log(&["reload done"]);
    server.signal(Signal::SIGTERM);
    server.wait();
    let notes = fs::read_to_string(server.path("notes")).expect("the notes");
    let ended: Vec<i32> = notes.lines().filter_map(|line| line.strip_prefix("atexit ")?.parse().ok()).collect();
    let different: HashSet<i32> = ended.iter().copied().collect();
    assert_eq!((ended.len(), different.len()), (6, 6), "{notes}");
    assert!(workers.is_subset(&different), "{workers:?} {notes}");
}

/// A worker whose clean-up hangs is not waited for longer than its mercy, and one whose objects fail at the end ends well.
#[test]
fn an_end_that_hangs_is_bounded_and_destructors_crash_nothing() {
    rsgis(|| {
        let app = "
import atexit, ctypes, os, threading, time
class Bad:
    def __del__(self):
        ctypes.string_at(0)
KEPT = Bad()
if os.path.exists('hang'):
    atexit.register(time.sleep, 600)
def application(environ, start_response):
    start_response('200 OK', [])
    return [b'served']
";
        let folder = |setup: &Setup| setup.path("").display().to_string();
        let setup = Setup::bare().file("ends.py", app).listen("http-socket", Speaks::Http);
        let chdir = folder(&setup);
        let server = setup.set("chdir", chdir).set("wsgi-file", "ends.py").start();
        server.get("/").expect(200);
        // Its log must hold no crash.
        drop(server);
        let setup = Setup::bare().file("ends.py", app).file("hang", "").listen("http-socket", Speaks::Http);
        let chdir = folder(&setup);
        let setup = setup.set("chdir", chdir).set("wsgi-file", "ends.py").set("worker-reload-mercy", "1");
        let server = setup.start();
        server.get("/").expect(200);
        server.signal(Signal::SIGTERM);
        server.wait_for_log(&["takes too long to retire"]);
        server.expect_end();
    });
}
