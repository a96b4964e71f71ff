//! Threads inside a worker: one request at a time in each, what belongs to a thread stays with it, and threads that the
//! application started run whatever the worker does.

use std::collections::BTreeMap;

use crate::harness::differs;
use crate::harness::held::Held;
use crate::harness::http::{Client, get};
use crate::harness::server::{Server, Setup};
use crate::harness::wait_until;

const KEEPS_ALIVE: &str =
    "`http-socket` and `http` keep connections alive, as `http11-socket` does; there is no router process.";

fn threads(count: u32) -> Server {
    Setup::http("fairness").set("threads", count.to_string()).set("enable-threads", "true").start()
}

#[test]
fn requests_never_interleave_in_a_thread() {
    for count in [1, 3] {
        let server = threads(count);
        // 4 MiB each: more than a response may run ahead of its client.
        let mut clients: Vec<Client> = (0..12).map(|_| server.connect()).collect();
        for (number, client) in clients.iter_mut().enumerate() {
            client.send(get(&format!("/pieces/{}-{number}/64/65536", (b'a' + number as u8) as char)));
        }
        // The last ones first: those that are inside the application are kept waiting by their clients.
        for (number, client) in clients.iter_mut().enumerate().rev().skip(12 - count as usize) {
            let body = client.response().expect(200).body;
            assert_eq!(body.len(), 64 * 65536);
            assert!(body.iter().all(|byte| *byte == b'a' + number as u8), "another response is in it");
        }
        for (number, client) in clients.iter_mut().enumerate().skip(count as usize) {
            let body = client.response().expect(200).body;
            assert_eq!(body.len(), 64 * 65536);
            assert!(body.iter().all(|byte| *byte == b'a' + number as u8), "another response is in it");
        }
        let violations = std::fs::read_to_string(server.path("violations")).unwrap_or_default();
        assert_eq!(violations, "", "with {count} threads");
    }
}

#[test]
fn what_belongs_to_a_thread_stays_with_it() {
    differs(KEEPS_ALIVE, || {
        let server = threads(4);
        let mut clients: Vec<Client> = (0..4).map(|_| server.connect()).collect();
        let mut seen: BTreeMap<u64, Vec<(u64, u64)>> = BTreeMap::new();
        for round in 0..50 {
            // At the first and the last, all four threads are inside at the same time.
            let query = if round % 49 == 0 { "?together" } else { "" };
            for client in &mut clients {
                client.send(get(&format!("/mine{query}")));
            }
            for client in &mut clients {
                let page = client.response().expect(200).json();
                assert_eq!(page["import"], "at import", "every thread begins with what the import left");
                let number = |key: &str| page[key].as_u64().expect("a number");
                seen.entry(number("thread")).or_default().push((number("local"), number("context")));
            }
        }
        assert_eq!(seen.len(), 4, "one thread for each of four requests at once, and never a new one");
        for counts in seen.values_mut() {
            counts.sort_unstable();
            for (before, (local, context)) in counts.iter().enumerate() {
                assert_eq!((*local, *context), (before as u64 + 1, before as u64 + 1), "{counts:?}");
            }
        }
    });
}

/// How often the application's own thread has run.
fn ticks(server: &Server) -> usize {
    std::fs::read(server.path("ticks")).map_or(0, |text| text.len())
}

#[track_caller]
fn expect_ticking(server: &Server, when: &str) {
    let before = ticks(server);
    wait_until(&format!("the application's thread runs {when}"), || ticks(server) > before + 100);
}

#[test]
fn threads_of_the_application_run_while_the_worker_is_idle_and_while_it_is_busy() {
    let server = threads(1);
    server.get("/background").expect(200);
    expect_ticking(&server, "while the worker is idle");

    let held = Held::begin(&server, "waiting");
    expect_ticking(&server, "while a request waits");
    held.release().expect(200);

    let held = Held::begin_on(&server, server.connect(), "spin", "spinning");
    expect_ticking(&server, "while a request computes");
    held.release().expect(200);
}

#[test]
fn threads_of_the_application_run_under_load() {
    differs(KEEPS_ALIVE, || {
        let server = threads(1);
        server.get("/background").expect(200);
        // More requests at any time than are answered at once: the worker never comes to wait.
        let mut clients: Vec<Client> = (0..16).map(|_| server.connect()).collect();
        for client in &mut clients {
            client.send(get("/pid")).send(get("/pid"));
        }
        let before = ticks(&server);
        wait_until("the application's thread runs under load", || {
            for client in &mut clients {
                client.response().expect(200);
                client.send(get("/pid"));
            }
            ticks(&server) > before + 100
        });
        for client in &mut clients {
            client.response().expect(200);
            client.response().expect(200);
        }
    });
}
