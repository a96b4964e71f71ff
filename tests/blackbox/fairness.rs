//! Sharing of work between workers: a request never waits for a busy worker while another one is idle, and no
//! connection is lost on its way.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::harness::held::Held;
use crate::harness::http::{Client, get};
use crate::harness::server::{Server, Setup, processes_of};
use crate::harness::{differs, wait_until};

const FAIR: &str = "A request on a kept-alive connection never waits for a busy worker while another one is idle.";
const KEEPS_ALIVE: &str =
    "`http-socket` and `http` keep connections alive, as `http11-socket` does; there is no router process.";
const QUIET: &str = "An idle server makes no wake-ups at all.";

fn fair(processes: u32) -> Setup {
    Setup::http("fairness").set("processes", processes.to_string()).set("listen", "128")
}

/// The worker that answers on this connection.
#[track_caller]
fn pid_on(client: &mut Client) -> i32 {
    client.send(get("/pid")).response().expect(200).text().parse().expect("a number")
}

/// Holds this many workers.
#[track_caller]
fn hold(server: &Server, count: usize) -> Vec<Held> {
    let held: Vec<Held> = (0..count).map(|n| Held::begin(server, &format!("held{n}"))).collect();
    assert_eq!(held.iter().map(|one| one.pid).collect::<HashSet<_>>().len(), count, "one in each worker");
    held
}

#[test]
fn connections_of_busy_workers_move_to_an_idle_one() {
    differs(FAIR, || {
        let server = fair(4).start();
        let mut clients: Vec<Client> = (0..24).map(|_| server.connect()).collect();
        for client in &mut clients {
            pid_on(client);
        }
        let held = hold(&server, 3);
        let busy: HashSet<i32> = held.iter().map(|one| one.pid).collect();
        for round in 0..3 {
            for client in &mut clients {
                client.send(get("/pid"));
            }
            for client in &mut clients {
                let pid = client.response().expect(200).text().parse().expect("a number");
                assert!(!busy.contains(&pid), "round {round}: answered by a worker that is held");
            }
        }
        for one in held {
            one.release().expect(200);
        }
        for client in &mut clients {
            pid_on(client);
        }
    });
}

#[test]
fn a_chunked_body_moves_to_an_idle_worker_with_its_request_also_when_it_is_empty() {
    differs(FAIR, || {
        let server = fair(2).start();
        // At least four on each worker: two with an empty body, two with another.
        let (mut clients, mut of) = (Vec::new(), BTreeMap::<i32, usize>::new());
        wait_until("both workers have clients", || {
            let mut client = server.connect();
            let pid = pid_on(&mut client);
            *of.entry(pid).or_default() += 1;
            clients.push((client, pid));
            of.len() == 2 && of.values().all(|count| *count >= 4)
        });
        let held = hold(&server, 1).remove(0);
        let post = "POST /pid HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n";
        let mut number = 0;
        for (client, pid) in &mut clients {
            number += usize::from(*pid == held.pid);
            let chunks = ["0\r\n\r\n", "3\r\nabc\r\n0\r\n\r\n"][number % 2];
            // Each with one that follows it, which must not be taken for the body.
            client.send([post, chunks].concat()).send(get("/pid"));
        }
        for (client, _) in &mut clients {
            for _ in 0..2 {
                let pid: i32 = client.response().expect(200).text().parse().expect("a number");
                assert_ne!(pid, held.pid, "answered by the worker that is held");
            }
        }
        held.release().expect(200);
    });
}

/// Clients that ask without a pause until they are told to stop, each on one connection that it keeps as long as the server
/// does. Every request has a name of its own; what the application notes must be the same names, each once.
struct Load {
    threads: Vec<thread::JoinHandle<Vec<String>>>,
    stop: std::sync::Arc<AtomicBool>,
}

impl Load {
    /// `slow` clients ask for pages of 20 ms, `fast` ones for pages of none.
    fn begin(server: &Server, slow: usize, fast: usize) -> Load {
        let stop = std::sync::Arc::new(AtomicBool::new(false));
        let threads = (0..slow + fast)
            .map(|number| {
                let (endpoint, stop) = (server.endpoint().clone(), std::sync::Arc::clone(&stop));
                let query = if number < slow { "?0.02" } else { "" };
                thread::spawn(move || {
                    let mut asked = Vec::new();
                    let mut client = endpoint.connect();
                    while !stop.load(Ordering::Relaxed) {
                        let name = format!("{number}.{}", asked.len());
                        client.send(get(&format!("/served/{name}{query}")));
                        let response = client.response().expect(200);
                        assert_eq!(response.text(), name, "somebody else's response");
                        asked.push(name);
                        if response.announces_close() {
                            client = endpoint.connect();
                        }
                    }
                    asked
                })
            })
            .collect();
        Load { threads, stop }
    }

    /// Ends it and compares what was asked with what was served.
    #[track_caller]
    fn end(self, served: &Path) {
        self.stop.store(true, Ordering::Relaxed);
        let mut counts: BTreeMap<String, i32> = BTreeMap::new();
        for thread in self.threads {
            for name in thread.join().expect("a client failed") {
                *counts.entry(name).or_default() += 1;
            }
        }
        for name in std::fs::read_to_string(served).expect("the file").lines() {
            *counts.entry(name.to_owned()).or_default() -= 1;
        }
        let wrong: Vec<_> = counts.iter().filter(|(_, count)| **count != 0).collect();
        assert!(wrong.is_empty(), "not served exactly once: {wrong:?}");
    }
}

/// How many requests the application has noted.
fn served(server: &Server) -> usize {
    std::fs::read_to_string(server.path("served")).map_or(0, |text| text.lines().count())
}

/// How often the application was imported.
fn imports(server: &Server) -> usize {
    std::fs::read_to_string(server.path("imported")).map_or(0, |text| text.lines().count())
}

/// Reloads and waits until every process of before is gone but for the master.
#[track_caller]
fn reload(server: &Server) {
    let before = (imports(server), processes_of(server.pid()));
    server.signal(Signal::SIGHUP);
    wait_until("the application is imported again", || imports(server) > before.0);
    wait_until("the old processes are gone", || {
        let now = processes_of(server.pid());
        before.1.iter().all(|pid| *pid == server.pid().as_raw() || !now.contains(pid))
    });
}

#[test]
fn nothing_is_lost_or_served_twice_under_mixed_load() {
    differs(FAIR, || {
        let server = fair(4).start();
        let load = Load::begin(&server, 3, 12);
        wait_until("some are served", || served(&server) > 2000);
        load.end(&server.path("served"));
    });
}

/// Ends a load, also when the test fails.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn clients_that_pipeline_without_end_leave_turns_to_others() {
    differs(KEEPS_ALIVE, || {
        let server = Setup::http("fairness").start();
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            for name in ["a", "b", "c", "d", "e", "f"] {
                let mut client = server.connect();
                let over = &over;
                scope.spawn(move || {
                    let many = get(&format!("/served/{name}?0.0005")).repeat(100);
                    client.send(&many).send(&many);
                    while !over.load(Ordering::Relaxed) {
                        for _ in 0..100 {
                            client.response().expect(200);
                        }
                        client.send(&many);
                    }
                });
            }
            wait_until("they are served", || served(&server) > 300);
            let _over = Over(&over);
            let before = served(&server);
            // On connections that are new, and on one that was not.
            let mut kept = server.connect();
            for _ in 0..5 {
                pid_on(&mut kept);
                server.get("/pid").expect(200);
            }
            // 16 each, and then it is somebody else's turn; a new connection may need several.
            let meanwhile = served(&server) - before;
            assert!(meanwhile < 10 * 6 * 100, "{meanwhile} requests of others for 10 of ours");
        });
    });
}

#[test]
fn nothing_is_lost_or_served_twice_while_reloading() {
    differs(FAIR, || {
        let server = fair(4).start();
        let load = Load::begin(&server, 3, 12);
        for _ in 0..3 {
            let before = served(&server);
            wait_until("some are served", || served(&server) > before + 300);
            reload(&server);
        }
        let before = served(&server);
        wait_until("some are served", || served(&server) > before + 300);
        load.end(&server.path("served"));
    });
}

#[test]
fn idle_connections_leave_a_retiring_worker_that_is_busy() {
    differs(FAIR, || {
        let server = fair(2).start();
        let mut clients: Vec<Client> = (0..8).map(|_| server.connect()).collect();
        for client in &mut clients {
            pid_on(client);
        }
        let held = hold(&server, 2);
        server.signal(Signal::SIGHUP);
        wait_until("the application is imported again", || imports(&server) == 2);
        for client in &mut clients {
            let pid = pid_on(client);
            assert!(held.iter().all(|one| one.pid != pid));
        }
        for one in held {
            one.release().expect(200);
        }
    });
}

/// Descriptors that a process has open.
fn descriptors(pid: i32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count)
}

/// Whether all threads of a process wait for something.
fn sleeps(pid: i32) -> bool {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let stat = |task: std::fs::DirEntry| std::fs::read_to_string(task.path().join("stat")).unwrap_or_default();
    tasks.map(stat).all(|text| text.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('S')))
}

#[test]
fn a_connection_survives_the_death_of_the_worker_it_moves_to() {
    differs(FAIR, || {
        let server = fair(2).allow("killed by SIGKILL").start();
        let mut by_worker: BTreeMap<i32, Vec<Client>> = BTreeMap::new();
        wait_until("both workers have connections", || {
            let mut client = server.connect();
            by_worker.entry(pid_on(&mut client)).or_default().push(client);
            by_worker.len() == 2 && by_worker.values().any(|clients| clients.len() >= 2)
        });
        let (&busy, _) = by_worker.iter().find(|(_, clients)| clients.len() >= 2).expect("one with two");
        let receiver = *by_worker.keys().find(|pid| **pid != busy).expect("the other");
        let mut clients = by_worker.remove(&busy).expect("its connections");
        let mut mover = clients.pop().expect("one");
        let held = Held::begin_on(&server, clients.pop().expect("another"), "wait", "a");
        assert_eq!(held.pid, busy);

        wait_until("the receiver has come to rest", || sleeps(receiver));
        // It is idle, and cannot take what it is given.
        kill(Pid::from_raw(receiver), Signal::SIGSTOP).expect("it lives");
        let before = descriptors(busy);
        mover.send(get("/pid"));
        wait_until("the connection has left", || descriptors(busy) < before);
        kill(Pid::from_raw(receiver), Signal::SIGKILL).expect("it lives");
        let pid: i32 = mover.response().expect(200).text().parse().expect("a number");
        assert!(pid != busy && pid != receiver, "its successor answers");
        held.release().expect(200);
    });
}

#[test]
fn connections_that_are_opened_at_once_are_shared() {
    differs(KEEPS_ALIVE, || {
        let server = fair(4).start();
        // So that all of them are there.
        for one in hold(&server, 4) {
            one.release().expect(200);
        }
        let mut clients: Vec<Client> = (0..64).map(|_| server.connect()).collect();
        let mut shares: BTreeMap<i32, u32> = BTreeMap::new();
        for client in &mut clients {
            let pid = pid_on(client);
            assert_eq!(pid_on(client), pid, "a connection stays where nobody is busy");
            *shares.entry(pid).or_default() += 1;
        }
        // Without care the kernel gives all to one; how even it is, and whether all four have some, depends on who else wants
        // the processor.
        assert!(shares.values().all(|share| *share <= 48), "{shares:?}");
    });
}

/// How often threads of the server have been given the processor since they began.
fn switches(server: &Server) -> BTreeMap<String, u64> {
    let mut found = BTreeMap::new();
    for pid in processes_of(server.pid()) {
        for task in std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
            let status = std::fs::read_to_string(task.path().join("status")).unwrap_or_default();
            let of = |key: &str| status.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_default().trim();
            let count = of("voluntary_ctxt_switches:").parse().unwrap_or(0);
            found.insert(format!("{} ({})", task.path().display(), of("Name:")), count);
        }
    }
    found
}

#[test]
fn an_idle_server_sleeps() {
    differs(QUIET, || {
        let server = fair(2).set("threads", "2").start();
        let sleeps = |when: &str| {
            // Whatever the last request left to do may be done first. That nothing happens can only be seen by waiting.
            let (mut before, mut changed) = (switches(&server), Instant::now());
            wait_until(&format!("nobody wakes for a while, {when}"), || {
                let now = switches(&server);
                if now != before {
                    let awake: Vec<_> = now.iter().filter(|(task, count)| before.get(*task) != Some(count)).collect();
                    eprintln!("{when}: {awake:?}");
                    (before, changed) = (now, Instant::now());
                }
                changed.elapsed() > Duration::from_millis(1500)
            });
            assert!(before.len() >= 8, "a master, a zygote and two workers of three threads: {before:?}");
        };
        sleeps("before any request");
        let mut kept: Vec<Client> = (0..8).map(|_| server.connect()).collect();
        for client in &mut kept {
            client.send(get("/served/x?0.01")).response().expect(200);
        }
        sleeps("with connections that wait");
        drop(kept);
        sleeps("after all");
    });
}
