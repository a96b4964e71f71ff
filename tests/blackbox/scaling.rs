//! How many workers there are when: cheaper, cheap, idle.

use std::path::PathBuf;

use crate::harness::http::{Client, Response, get};
use crate::harness::server::{Server, Setup, processes_of};
use crate::harness::{Subject, differs, subject, wait_until};

/// A request that is inside the application until it is released.
struct Held(Client, PathBuf);

impl Held {
    fn send(server: &Server, name: &str) -> Held {
        let mut client = server.connect();
        client.send(get(&format!("/wait/{name}")));
        Held(client, server.path(&format!("{name}.go")))
    }

    #[track_caller]
    fn begin(server: &Server, name: &str) -> Held {
        let held = Held::send(server, name);
        let file = server.path(&format!("{name}.in"));
        wait_until("the request is inside the application", || file.exists());
        held
    }

    #[track_caller]
    fn release(mut self) -> Response {
        std::fs::write(&self.1, "").expect("the file");
        self.0.response().expect(200)
    }
}

/// Processes but for the master and, on rsgi, the zygote.
fn workers(server: &Server) -> usize {
    let others = if subject() == Subject::Rsgi { 2 } else { 1 };
    processes_of(server.pid()).len().saturating_sub(others)
}

#[track_caller]
fn wait_for_workers(server: &Server, count: usize) {
    wait_until(&format!("there are {count} workers"), || workers(server) == count);
}

fn cheaper(processes: &str) -> Setup {
    Setup::http("basic")
        .set("processes", processes)
        .set("cheaper", "1")
        .set("cheaper-overload", "1")
        .set("check-interval", "1")
}

#[test]
fn workers_come_when_none_is_free_and_go_when_they_are_not_needed() {
    let server = cheaper("3").start();
    wait_for_workers(&server, 1);
    let one = Held::begin(&server, "one");
    wait_for_workers(&server, 2);
    let two = Held::begin(&server, "two");
    wait_for_workers(&server, 3);
    let three = Held::begin(&server, "three");
    [one, two, three].into_iter().for_each(|held| drop(held.release()));
    wait_for_workers(&server, 1);
    server.get("/pid").expect(200);
}

#[test]
fn a_worker_that_goes_finishes_its_request() {
    let server = cheaper("3").set("cheaper-initial", "3").start();
    let held: Vec<Held> = ["a", "b", "c"].iter().map(|name| Held::begin(&server, name)).collect();
    let mut held = held.into_iter();
    let last = held.next().expect("one");
    held.for_each(|one| drop(one.release()));
    wait_for_workers(&server, 2);
    last.release();
    wait_for_workers(&server, 1);
}

#[test]
fn spare2_keeps_as_many_free_as_there_are_to_be() {
    differs("`cheaper-algo = spare2` of newer versions is there, with `cheaper-idle`.", || {
        let server = Setup::http("basic")
            .set("processes", "4")
            .set("cheaper", "2")
            .set("cheaper-algo", "spare2")
            .set("cheaper-idle", "2")
            .set("check-interval", "1")
            .start();
        wait_for_workers(&server, 2);
        // One is busy: a third one comes before anybody has to wait.
        let held = Held::begin(&server, "a");
        wait_for_workers(&server, 3);
        // None is free when the look comes before the request that asked whether it is ready has ended.
        server.wait_for_log(&["of 2 workers are free, 2 are to be", "3 workers from now on"]);
        held.release();
        wait_for_workers(&server, 2);
        server.wait_for_log(&["3 of 3 workers are free, 2 are to be", "2 workers from now on"]);
    });
}

#[test]
fn backlog_adds_workers_for_requests_that_wait() {
    differs("`cheaper-algo = backlog` counts requests that wait in workers too, so it works on unix sockets.", || {
        let server = Setup::bare()
            .set("pythonpath", crate::harness::apps().display().to_string())
            .set("module", "basic")
            .listen_unix("http-socket", "app.sock", crate::harness::server::Speaks::Http)
            .set("processes", "2")
            .set("cheaper", "1")
            .set("cheaper-algo", "backlog")
            .set("cheaper-overload", "1")
            .start();
        let names = ["a", "b", "c", "d"];
        let held: Vec<Held> = names.iter().map(|name| Held::send(&server, name)).collect();
        server.wait_for_log(&["requests wait", "2 workers from now on"]);
        names.iter().for_each(|name| std::fs::write(server.path(&format!("{name}.go")), "").expect("the file"));
        held.into_iter().for_each(|one| drop(one.release()));
    });
}

#[test]
fn two_workers_come_at_a_time_if_wanted() {
    let server = cheaper("3").set("cheaper-step", "2").start();
    let held = Held::begin(&server, "a");
    wait_for_workers(&server, 3);
    held.release();
}

#[test]
fn the_worker_with_the_highest_number_goes() {
    let line = "The worker that cheaper removes is the one with the highest number; a worker with a free thread counts as free.";
    differs(line, || {
        let server = cheaper("2").set("cheaper-initial", "2").set("threads", "2").start();
        // The second worker has a thread left: both are free.
        let held = Held::begin(&server, "a");
        server.wait_for_log(&["2 of 2 workers are free"]);
        server.wait_for_log(&["1 worker from now on"]);
        held.release();
        server.wait_for_log(&["worker 2", "retired"]);
    });
}

#[test]
fn memory_limits_the_number_of_workers() {
    // In bytes: any worker has more.
    let server = cheaper("3")
        .set("cheaper-initial", "3")
        .set("memory-report", "true")
        .set("cheaper-rss-limit-hard", "2000")
        .set("cheaper-rss-limit-soft", "1000")
        .start();
    wait_for_workers(&server, 1);
    if subject() == Subject::Rsgi {
        server.wait_for_log(&["cheaper-rss-limit-hard"]);
        let held = Held::begin(&server, "a");
        server.wait_for_log(&["no worker is added", "cheaper-rss-limit-soft"]);
        assert_eq!(workers(&server), 1);
        held.release();
    }
}

#[test]
fn a_queue_is_an_emergency_for_busyness() {
    let line = "`cheaper-algo = backlog` counts requests that wait in workers too, so it works on unix sockets.";
    for (option, value) in [("cheaper-busyness-backlog-alert", "1"), ("cheaper-busyness-backlog-nonzero", "1")] {
        differs(line, || {
            let server = cheaper("3")
                .unset("cheaper-overload")
                .set("cheaper-overload", "100")
                .set("cheaper-algo", "busyness")
                .set(option, value)
                .set("cheaper-busyness-backlog-step", "2")
                .set("cheaper-busyness-backlog-multiplier", "1")
                .listen_unix("http-socket", "app.sock", crate::harness::server::Speaks::Http)
                .start();
            let names = ["a", "b", "c", "d"];
            let held: Vec<Held> = names.iter().map(|name| Held::send(&server, name)).collect();
            server.wait_for_log(&["wait", "3 workers from now on"]);
            names.iter().for_each(|name| std::fs::write(server.path(&format!("{name}.go")), "").expect("the file"));
            held.into_iter().for_each(|one| drop(one.release()));
        });
    }
}

#[test]
fn busyness_adds_workers_for_work() {
    let server = cheaper("2")
        .set("cheaper-algo", "busyness")
        .set("cheaper-busyness-multiplier", "1")
        .set("cheaper-busyness-max", "40")
        .set("cheaper-busyness-min", "10")
        .set("cheaper-busyness-penalty", "1")
        .start();
    let held = Held::begin(&server, "a");
    wait_for_workers(&server, 2);
    held.release();
    wait_for_workers(&server, 1);
}

#[test]
fn the_fewest_workers_are_below_the_most() {
    cheaper("1").run().expect(1, &["cheaper"]);
}

#[test]
fn without_workers_the_first_connection_starts_them() {
    let server = Setup::http("basic").set("cheap", "true").set("processes", "2").unasked().start();
    wait_until("the application is imported", || {
        let log = server.log();
        log.contains("starts the workers") || log.contains("cheap mode")
    });
    assert_eq!(workers(&server), 0);
    server.get("/pid").expect(200);
    wait_for_workers(&server, 2);
}

#[test]
fn idle_workers_go_and_come_back() {
    let server = Setup::http("basic").set("idle", "1").set("processes", "2").start();
    wait_for_workers(&server, 0);
    server.get("/pid").expect(200);
    wait_for_workers(&server, 0);
}

#[test]
fn an_idle_server_can_end() {
    let server = Setup::http("basic").set("idle", "1").set("die-on-idle", "true").start();
    server.expect_end();
}

#[test]
fn plus_and_minus_in_the_fifo_change_the_number_of_workers() {
    let server = cheaper("3").set("cheaper-algo", "manual").set("master-fifo", "fifo").start();
    wait_for_workers(&server, 1);
    std::fs::write(server.path("fifo"), "+").expect("the fifo");
    wait_for_workers(&server, 2);
    std::fs::write(server.path("fifo"), "-").expect("the fifo");
    wait_for_workers(&server, 1);
}

#[test]
fn as_many_workers_as_processors() {
    differs("`processes = auto` starts a worker for each processor that the container may use.", || {
        let server = Setup::http("basic").set("processes", "auto").start();
        let processors = std::thread::available_parallelism().expect("a number").get();
        wait_for_workers(&server, processors);
    });
}

#[test]
fn keep_alive_connections_survive_the_end_of_their_worker() {
    differs("A worker that cheaper removes retires: its connections go to the others.", || {
        let server = cheaper("3").set("cheaper-initial", "3").start();
        let mut kept: Vec<Client> = (0..12).map(|_| server.connect()).collect();
        kept.iter_mut().for_each(|client| drop(client.send(get("/pid")).response().expect(200)));
        wait_for_workers(&server, 1);
        kept.iter_mut().for_each(|client| drop(client.send(get("/pid")).response().expect(200)));
    });
}
