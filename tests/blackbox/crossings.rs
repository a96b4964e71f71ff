//! What happens while something else happens: stops, reloads, upgrades, recycling and deaths that cross each other. No
//! request may be lost by it.

use std::fs;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, mkfifo};

use crate::harness::clients::Clients;
use crate::harness::held::Held;
use crate::harness::http::Endpoint;
use crate::harness::rsgis;
use crate::harness::server::{Server, Setup, Speaks, listen_tcp, processes_of};
use crate::harness::wait_until;

/// `tests/apps/basic.py`, whose import number N stops while there is a file `holdN`, and notes that in `atN`.
const HELD: &str = "import os, time
folder = os.environ['TEST_FOLDER']
with open(folder + '/imports', 'ab') as file:
    file.write(b'.')
    file.flush()
    number = file.tell()
open(folder + '/at%d' % number, 'w').close()
while os.path.exists(folder + '/hold%d' % number):
    time.sleep(0.005)
from basic import application
";

/// A socket that outlives its servers, and clients that ask all the time.
struct Site {
    socket: OwnedFd,
    endpoint: Endpoint,
}

impl Site {
    fn new() -> Site {
        let (socket, address) = listen_tcp("127.0.0.1:0");
        Site { socket, endpoint: Endpoint::Tcp(address) }
    }

    fn setup(&self) -> Setup {
        let mut setup = Setup::of("basic").set("disable-logging", "true").set("processes", "2");
        let number = setup.inherit(self.socket.try_clone().expect("a descriptor"));
        setup.endpoint(self.endpoint.clone(), Speaks::Http).set("http-socket", format!("fd://{number}"))
    }

    /// A server whose imports can be held.
    fn holding(&self) -> Setup {
        let setup = self.setup().unset("module").file("held.py", HELD);
        let folder = setup.path("").display().to_string();
        setup.set("pythonpath", folder).set("module", "held")
    }

    /// The server ends in order, whatever it was doing, and another one takes its place.
    #[track_caller]
    fn expect_stop(&self, mut server: Server, clients: Clients) {
        assert_eq!(server.wait().code(), Some(0), "{}", server.log());
        server.expect_end();
        let next = self.setup().start();
        clients.wait_for(20);
        clients.expect_no_loss();
        drop(next);
    }
}

#[track_caller]
fn wait_for_file(path: PathBuf) {
    wait_until("the file is there", || path.exists());
}

fn count(server: &Server, text: &str) -> usize {
    server.log().matches(text).count()
}

#[track_caller]
fn wait_for_count(server: &Server, text: &str, wanted: usize) {
    wait_until(text, || count(server, text) >= wanted);
}

/// The processes of the server besides its master.
fn children(server: &Server) -> Vec<i32> {
    processes_of(server.pid()).into_iter().filter(|pid| *pid != server.pid().as_raw()).collect()
}

fn hold(server: &Server, import: u32) {
    fs::write(server.path(&format!("hold{import}")), "").expect("a file");
}

fn let_go(server: &Server, import: u32) {
    fs::remove_file(server.path(&format!("hold{import}"))).expect("a file");
}

fn end(pid: i32, signal: Signal) {
    kill(Pid::from_raw(pid), signal).expect("it lives");
}

/// The workers that were ever ready; of a server that has begun, all.
fn workers(server: &Server) -> Vec<i32> {
    server.wait_for_log(&["ready after"]);
    let pid = |line: &str| line.split_once("(pid ")?.1.split_once(") is ready")?.0.parse().ok();
    server.log().lines().filter_map(pid).collect()
}

#[test]
fn a_stop_right_after_an_upgrade_was_asked_for_comes_first() {
    rsgis(|| {
        let site = Site::new();
        let server = site.setup().start();
        let clients = Clients::begin(&site.endpoint, 4);
        server.signal(Signal::SIGUSR2);
        server.signal(Signal::SIGTERM);
        site.expect_stop(server, clients);
    });
}

#[test]
fn a_stop_while_the_new_program_is_tried_or_about_to_come_ends_the_server() {
    rsgis(|| {
        // Either while the trial imports, or so near to its end that nobody knows what comes first.
        for at_the_end in [false, true, true, true] {
            let site = Site::new();
            let server = site.holding().start();
            let clients = Clients::begin(&site.endpoint, 4);
            hold(&server, 2);
            server.signal(Signal::SIGUSR2);
            wait_for_file(server.path("at2"));
            if at_the_end {
                let_go(&server, 2);
                server.wait_for_log(&["this process becomes it"]);
            }
            server.signal(Signal::SIGTERM);
            site.expect_stop(server, clients);
        }
    });
}

/// A part of the configuration that is read only when the test gives it.
struct Part {
    path: PathBuf,
}

impl Part {
    fn new(folder: &Path) -> Part {
        let path = folder.join("part.ini");
        fs::write(&path, "[uwsgi]\nthreads = 1\n").expect("a file");
        Part { path }
    }

    /// From now on whoever reads it waits.
    fn shut(&self) {
        let next = self.path.with_extension("fifo");
        mkfifo(&next, Mode::from_bits_truncate(0o600)).expect("a fifo");
        fs::rename(next, &self.path).expect("its place");
    }

    /// Waits for a reader.
    fn reader(&self) -> fs::File {
        fs::OpenOptions::new().write(true).open(&self.path).expect("a reader")
    }

    /// Lets the reader go on, and those who come later.
    fn open(&self, mut reader: fs::File) {
        let next = self.path.with_extension("new");
        fs::write(&next, "[uwsgi]\nthreads = 1\n").expect("a file");
        fs::rename(next, &self.path).expect("its place");
        reader.write_all(b"[uwsgi]\nthreads = 1\n").expect("a reader");
    }
}

/// Brings a server to the point where the new program has begun and hears no signal yet.
fn between_two_programs(site: &Site) -> (Server, Clients, Part, fs::File) {
    let setup = site.setup();
    let part = Part::new(&setup.path(""));
    let setup = setup.set("include", part.path.display().to_string()).allow("was killed by SIGKILL");
    let server = setup.start();
    let clients = Clients::begin(&site.endpoint, 4);
    part.shut();
    server.signal(Signal::SIGUSR2);
    // The trial reads it first.
    let mut trial = part.reader();
    trial.write_all(b"[uwsgi]\nthreads = 1\n").expect("a reader");
    drop(trial);
    server.wait_for_log(&["this process becomes it"]);
    let reader = part.reader();
    (server, clients, part, reader)
}

#[test]
fn a_signal_between_two_programs_is_heard_by_the_new_one() {
    rsgis(|| {
        let site = Site::new();
        let (server, clients, part, reader) = between_two_programs(&site);
        server.signal(Signal::SIGTERM);
        part.open(reader);
        site.expect_stop(server, clients);

        let site = Site::new();
        let (server, clients, part, reader) = between_two_programs(&site);
        server.signal(Signal::SIGHUP);
        server.signal(Signal::SIGUSR2);
        part.open(reader);
        // The last one counts.
        wait_for_count(&server, "has taken the place of", 2);
        server.wait_for_log(&["reload done"]);
        server.signal(Signal::SIGTERM);
        site.expect_stop(server, clients);
    });
}

#[test]
fn a_death_between_two_programs_is_noticed_by_the_new_one() {
    rsgis(|| {
        let site = Site::new();
        let (server, clients, part, reader) = between_two_programs(&site);
        let serving = workers(&server);
        // The zygote holds no request.
        let zygote = children(&server).into_iter().find(|pid| !serving.contains(pid)).expect("a zygote");
        end(zygote, Signal::SIGKILL);
        part.open(reader);
        server.wait_for_log(&["reload done"]);
        clients.wait_for(20);
        wait_until("master, zygote and two workers are left", || processes_of(server.pid()).len() == 4);
        server.signal(Signal::SIGTERM);
        site.expect_stop(server, clients);
    });
    rsgis(|| {
        let site = Site::new();
        let (server, clients, part, reader) = between_two_programs(&site);
        clients.expect_no_loss();
        let worker = workers(&server)[0];
        end(worker, Signal::SIGKILL);
        part.open(reader);
        server.wait_for_log(&["reload done"]);
        wait_until("master, zygote and two workers are left", || processes_of(server.pid()).len() == 4);
        server.get("/").expect(200);
    });
}

#[test]
fn a_stop_while_the_new_program_loads_its_first_generation_ends_the_server() {
    rsgis(|| {
        let site = Site::new();
        let server = site.holding().start();
        let clients = Clients::begin(&site.endpoint, 4);
        // The first import is over, the second one is the trial's.
        hold(&server, 3);
        server.signal(Signal::SIGUSR2);
        wait_for_file(server.path("at3"));
        server.signal(Signal::SIGTERM);
        site.expect_stop(server, clients);
    });
}

#[test]
fn a_stop_right_after_an_upgrade_ends_the_server() {
    rsgis(|| {
        for _ in 0..3 {
            let site = Site::new();
            let server = site.setup().start();
            let clients = Clients::begin(&site.endpoint, 6);
            server.signal(Signal::SIGUSR2);
            server.wait_for_log(&["reload done"]);
            server.signal(Signal::SIGTERM);
            site.expect_stop(server, clients);
        }
    });
}

#[test]
fn a_stop_during_a_reload_or_right_after_it_loses_nothing() {
    rsgis(|| {
        for importing in [true, false, false, false] {
            let site = Site::new();
            let server = site.holding().set("threads", "2").start();
            let clients = Clients::begin(&site.endpoint, 6);
            if importing {
                hold(&server, 2);
            }
            server.signal(Signal::SIGHUP);
            match importing {
                true => wait_for_file(server.path("at2")),
                false => server.wait_for_log(&["reload done"]),
            }
            server.signal(Signal::SIGTERM);
            site.expect_stop(server, clients);
        }
    });
}

#[test]
fn a_worker_that_retires_since_a_reload_hears_of_a_stop() {
    rsgis(|| {
        let site = Site::new();
        let mut server = site.setup().start();
        let held = Held::begin(&server, "a");
        server.signal(Signal::SIGHUP);
        server.wait_for_log(&["reload done"]);
        server.signal(Signal::SIGTERM);
        // Those that it would give its connections to are gone.
        let old = held.pid;
        wait_until("all but master and the old worker are gone", || children(&server) == [old]);
        assert!(held.release().expect(200).announces_close());
        assert_eq!(server.wait().code(), Some(0));
        server.expect_end();
    });
}

#[test]
fn of_two_reloads_the_last_one_counts() {
    rsgis(|| {
        let site = Site::new();
        let mut server = site.holding().start();
        let clients = Clients::begin(&site.endpoint, 4);
        // At once, and while the first one imports, which never ends.
        server.signal(Signal::SIGHUP);
        server.signal(Signal::SIGHUP);
        wait_for_count(&server, "reload done", 1);
        hold(&server, 2);
        hold(&server, 3);
        let imports = fs::read(server.path("imports")).expect("the imports").len() as u32;
        let next = imports + 1;
        hold(&server, next);
        server.signal(Signal::SIGHUP);
        wait_for_file(server.path(&format!("at{next}")));
        let done = count(&server, "reload done");
        server.rewrite("processes", "3");
        server.signal(Signal::SIGHUP);
        server.wait_for_log(&["the reload under way is given up for a new one"]);
        wait_for_count(&server, "reload done", done + 1);
        server.wait_for_log(&["serves with 3 workers"]);
        clients.wait_for(20);
        wait_until("master, zygote and three workers are left", || processes_of(server.pid()).len() == 5);
        clients.expect_no_loss();
    });
}

#[test]
fn a_reload_takes_the_place_of_a_chain_reload() {
    rsgis(|| {
        let site = Site::new();
        // Each worker imports: the second one of the chain is held.
        let server = site.holding().set("lazy-apps", "true").set("master-fifo", "fifo");
        // The one that is held is killed.
        let server = server.allow("was killed by SIGKILL").start();
        let clients = Clients::begin(&site.endpoint, 4);
        wait_for_file(server.path("at2"));
        hold(&server, 4);
        fs::write(server.path("fifo"), "c").expect("the fifo");
        server.wait_for_log(&["chain reload: worker 1"]);
        wait_for_file(server.path("at4"));
        server.signal(Signal::SIGHUP);
        server.wait_for_log(&["reload done"]);
        clients.wait_for(20);
        wait_until("master, zygote and two workers are left", || processes_of(server.pid()).len() == 4);
        clients.expect_no_loss();
    });
}

#[test]
fn a_reload_while_workers_are_recycled_loses_nothing() {
    rsgis(|| {
        let site = Site::new();
        let setup = site.setup().set("max-requests", "20").set("min-worker-lifetime", "0").set("threads", "2");
        let server = setup.set("worker-reload-mercy", "10").start();
        let clients = Clients::begin(&site.endpoint, 8);
        for reload in 1..=3 {
            wait_for_count(&server, "is replaced: it has served", reload * 2);
            server.signal(Signal::SIGHUP);
            wait_for_count(&server, "reload done", reload);
        }
        clients.wait_for(50);
        server.signal(Signal::SIGTERM);
        site.expect_stop(server, clients);
    });
}

#[test]
fn fewer_and_more_workers_beside_reloads_lose_nothing() {
    rsgis(|| {
        let site = Site::new();
        let setup = site.setup().unset("processes").set("processes", "4").set("master-fifo", "fifo");
        let setup = setup.set("cheaper", "1").set("cheaper-initial", "4").set("cheaper-overload", "1000");
        let mut server = setup.start();
        let clients = Clients::begin(&site.endpoint, 8);
        let tell = |server: &Server, letters: &str| fs::write(server.path("fifo"), letters).expect("the fifo");
        for reload in 1..=3 {
            tell(&server, "-");
            server.signal(Signal::SIGHUP);
            tell(&server, "--+");
            wait_for_count(&server, "reload done", reload);
        }
        // A reload that leaves fewer, while one goes anyway.
        server.rewrite("processes", "2");
        server.rewrite("cheaper-initial", "2");
        server.signal(Signal::SIGHUP);
        tell(&server, "-");
        wait_for_count(&server, "reload done", 4);
        clients.wait_for(50);
        wait_until("the others are gone", || processes_of(server.pid()).len() <= 4);
        server.signal(Signal::SIGTERM);
        site.expect_stop(server, clients);
    });
}

#[test]
fn without_its_file_a_reload_fails_and_with_it_the_next_one_goes() {
    rsgis(|| {
        let site = Site::new();
        let server = site.setup().allow("app.ini").allow("reload failed").start();
        let clients = Clients::begin(&site.endpoint, 4);
        fs::rename(server.path("app.ini"), server.path("away")).expect("the file");
        server.signal(Signal::SIGHUP);
        server.wait_for_log(&["app.ini", "No such file"]);
        server.wait_for_log(&["reload failed", "goes on serving as before"]);
        clients.wait_for(20);
        fs::rename(server.path("away"), server.path("app.ini")).expect("the file");
        server.signal(Signal::SIGHUP);
        server.wait_for_log(&["reload done"]);
        clients.wait_for(20);
        clients.expect_no_loss();
    });
}

#[test]
fn a_zygote_that_dies_during_a_reload_fails_it_and_the_old_one_is_made_again() {
    rsgis(|| {
        let site = Site::new();
        let server = site.holding().allow("reload failed").allow("the zygote of generation").start();
        let clients = Clients::begin(&site.endpoint, 4);
        let serving = workers(&server);
        let old = children(&server).into_iter().find(|pid| !serving.contains(pid)).expect("a zygote");
        hold(&server, 2);
        server.signal(Signal::SIGHUP);
        wait_for_file(server.path("at2"));
        let new = children(&server).into_iter().find(|pid| !serving.contains(pid) && *pid != old).expect("another one");
        end(old, Signal::SIGKILL);
        server.wait_for_log(&["the zygote of generation 1", "was killed"]);
        end(new, Signal::SIGKILL);
        server.wait_for_log(&["reload failed", "the zygote of generation 2", "was killed"]);
        // The one that serves has a zygote again, and so has the next.
        wait_for_file(server.path("at3"));
        server.signal(Signal::SIGHUP);
        server.wait_for_log(&["reload done"]);
        clients.wait_for(20);
        wait_until("master, zygote and two workers are left", || processes_of(server.pid()).len() == 4);
        clients.expect_no_loss();
    });
}

#[test]
fn a_worker_that_stands_still_holds_up_neither_a_reload_nor_a_stop() {
    rsgis(|| {
        let site = Site::new();
        let mut server = site.setup().set("worker-reload-mercy", "2").allow("was killed by SIGKILL").start();
        let still = workers(&server)[0];
        end(still, Signal::SIGSTOP);
        server.signal(Signal::SIGHUP);
        server.wait_for_log(&["reload done"]);
        server.wait_for_log(&[&format!("(pid {still}) takes too long to retire: killed")]);
        let last = *workers(&server).last().expect("a worker");
        end(last, Signal::SIGSTOP);
        server.signal(Signal::SIGTERM);
        assert_eq!(server.wait().code(), Some(0));
        server.expect_end();
    });
}

#[test]
fn a_request_that_is_stuck_in_a_worker_that_retires_is_answered_with_504() {
    rsgis(|| {
        let site = Site::new();
        let setup = site.setup().set("harakiri", "2").set("harakiri-graceful-timeout", "1").set("threads", "2");
        let server = setup.allow("Traceback").allow("harakiri").allow("Error").start();
        let held = Held::begin(&server, "stuck");
        let clients = Clients::begin(&site.endpoint, 4);
        server.signal(Signal::SIGHUP);
        server.wait_for_log(&["reload done"]);
        let old = held.pid;
        // Nobody lets it go.
        held.response().expect(504);
        wait_until("the old worker is gone", || !processes_of(server.pid()).contains(&old));
        clients.wait_for(20);
        clients.expect_no_loss();
    });
}

#[test]
fn as_many_workers_are_recycled_at_once_as_wanted() {
    rsgis(|| {
        for at_once in [1, 2] {
            let site = Site::new();
            let setup = site.holding().set("lazy-apps", "true").unset("processes").set("processes", "3");
            let setup = setup.set("max-worker-lifetime", "1").set("min-worker-lifetime", "0");
            // The imports of the first three go through.
            let setup = (4..20).fold(setup, |setup, import| setup.file(&format!("hold{import}"), ""));
            let server = setup.set("recycle-at-once", at_once.to_string()).start();
            let clients = Clients::begin(&site.endpoint, 4);
            wait_for_count(&server, "is replaced: it has lived", at_once);
            wait_for_file(server.path(&format!("at{}", 3 + at_once)));
            // All are due; nobody else begins.
            clients.wait_for(200);
            assert_eq!(count(&server, "is replaced: it has lived"), at_once);
            (4..20).for_each(|import| let_go(&server, import));
            wait_for_count(&server, "is replaced: it has lived", 3);
            clients.expect_no_loss();
        }
    });
}

#[test]
fn nobody_is_left_when_the_master_is_killed() {
    // What no-orphans asks of uWSGI is always so.
    let mut server = Setup::http("basic").set("no-orphans", "true").set("processes", "2").unset("vacuum").start();
    server.get("/").expect(200);
    server.signal(Signal::SIGKILL);
    server.wait();
    server.expect_killed();
}
