//! Requests that run for too long: what the client gets, what the log says, and what becomes of the worker.

use std::time::{Duration, Instant};

use crate::harness::held::Held;
use crate::harness::http::{Client, get, post};
use crate::harness::server::{Server, Setup, Speaks};
use crate::harness::{differs, fastcgi, uwsgi, wait_until};

const RECOVERS: &str = "`harakiri` answers with 504 and raises an exception in the one thread that is late; the worker is replaced only when that does not help.";
const SHOWS: &str =
    "`harakiri` logs the Python stack of the thread that is late, with `harakiri-verbose` of all threads.";

fn late() -> Setup {
    Setup::http("late").set("harakiri", "1").set("min-worker-lifetime", "0").allow("harakiri: ").allow("Traceback")
}

fn pid(server: &Server) -> String {
    server.get("/pid").expect(200).text()
}

/// Waits until a request of this server is inside the application.
#[track_caller]
fn wait_until_entered(server: &Server, times: usize) {
    let lines = || std::fs::read_to_string(server.path("entered")).unwrap_or_default().lines().count();
    wait_until("the request is inside", || lines() >= times);
}

#[test]
fn python_code_is_stopped_and_the_worker_lives() {
    differs(RECOVERS, || {
        let server = late().start();
        let worker = pid(&server);
        for page in ["loop", "stubborn", "doze", "cleanup"] {
            let began = Instant::now();
            let response = server.get(&format!("/{page}?x=1")).expect(504);
            assert!(began.elapsed() >= Duration::from_millis(900), "{page}: after {:?}", began.elapsed());
            assert!(response.announces_close());
            assert_eq!(pid(&server), worker, "{page}");
            server.wait_for_log(&[&format!("GET /{page}?x=1"), "from 127.0.0.1", "504", "harakiri"]);
            // The request line.
            server.wait_for_log(&[&format!("GET /{page}?x=1"), "HTTP/1.1 504"]);
        }
        assert_eq!(std::fs::read_to_string(server.path("cleaned")).unwrap_or_default(), "up\n");
        server.wait_for_log(&["rsgi.HarakiriError"]);
    });
}

#[test]
fn the_log_shows_where_it_was() {
    differs(SHOWS, || {
        let server = late().start();
        server.get("/loop").expect(504);
        server.wait_for_log(&["late.py", "in deeper"]);

        let server = late().set("harakiri-verbose", "true").set("threads", "2").start();
        let held = Held::begin(&server, "other");
        server.get("/loop").expect(504);
        server.wait_for_log(&["late.py", "in deeper"]);
        server.wait_for_log(&["late.py", "in wait"]);
        let _ = held;
    });
}

/// Stuck in a call that no exception reaches: 504 at the deadline, then the worker is replaced.
#[track_caller]
fn replaced(page: &str) {
    let server = late().set("harakiri-graceful-timeout", "1").set("worker-reload-mercy", "5").start();
    let old = pid(&server);
    let mut client = server.connect();
    client.send(get(page));
    wait_until_entered(&server, 1);
    client.response().expect(504);
    // It waits behind the one that is stuck, and the new worker takes it over.
    assert_ne!(pid(&server), old);
    server.wait_for_log(&["is replaced", "harakiri"]);
    wait_until("the old worker is gone", || !std::path::Path::new(&format!("/proc/{old}")).exists());
    assert!(!server.log().contains("takes too long to retire"), "{}", server.log());
}

#[test]
fn a_thread_that_sleeps_costs_its_worker() {
    differs(RECOVERS, || replaced("/sleep"));
}

#[test]
fn a_thread_that_waits_for_a_lock_costs_its_worker() {
    differs(RECOVERS, || replaced("/lock"));
}

#[test]
fn a_thread_that_waits_for_a_socket_costs_its_worker() {
    differs(RECOVERS, || replaced("/receive"));
}

#[test]
fn a_thread_that_keeps_the_interpreter_costs_its_worker() {
    differs(RECOVERS, || replaced("/keep"));
}

#[test]
fn requests_that_wait_for_the_interpreter_are_answered_too() {
    differs(RECOVERS, || {
        let server = late().set("threads", "2").set("harakiri-graceful-timeout", "1").start();
        let mut first = server.connect();
        first.send(get("/keep"));
        wait_until_entered(&server, 1);
        let mut second = server.connect();
        second.send(get("/loop"));
        first.response().expect(504);
        second.response().expect(504);
        server.wait_for_log(&["is replaced", "harakiri"]);
    });
}

#[test]
fn requests_beside_a_stuck_one_are_finished() {
    differs(RECOVERS, || {
        let server = Setup::http("late").set("harakiri-graceful-timeout", "0").set("threads", "2");
        let server = server.allow("harakiri: ").start();
        // It may take as long as the test does.
        let held = Held::begin(&server, "beside");
        let worker = held.pid.to_string();
        server.get("/own_limit_sleep").expect(504);
        server.wait_for_log(&["is replaced", "harakiri"]);
        wait_until("another worker serves", || pid(&server) != worker);
        held.release().expect(200);
        wait_until("the old worker is gone", || !std::path::Path::new(&format!("/proc/{worker}")).exists());
    });
}

#[test]
fn a_response_that_has_begun_is_cut() {
    differs(RECOVERS, || {
        let server = late().start();
        let worker = pid(&server);
        let error = server.connect().send(get("/stream")).try_response_to("GET").expect_err("a whole response");
        assert!(!error.to_string().is_empty());
        // Nothing but the close delimits this one: only a reset tells.
        let mut client = server.connect();
        client.send("GET /stream HTTP/1.0\r\n\r\n");
        let rest = client.try_rest();
        assert!(rest.is_err(), "{rest:?}");
        server.wait_for_log(&["GET /stream", "the connection is cut"]);
        assert_eq!(pid(&server), worker);
    });
}

#[test]
fn a_whole_response_is_not_harmed_by_a_close_that_hangs() {
    differs(RECOVERS, || {
        let server = late().start();
        let worker = pid(&server);
        // Its response was whole before: the connection goes on.
        let mut client = server.connect();
        client.send(get("/closing"));
        client.send(get("/next_one"));
        assert_eq!(client.response().expect(200).text(), "xxxxx");
        client.response().expect(200);
        server.wait_for_log(&["GET /closing", "its response is sent"]);
        assert_eq!(pid(&server), worker);
    });
}

/// More than the kernel holds for a client that does not read.
const LARGE: usize = 32 << 20;

#[test]
fn a_client_that_is_being_served_is_not_harmed_by_a_close_that_hangs() {
    differs(RECOVERS, || {
        let server = late().start();
        let mut client = server.connect();
        client.send(get(&format!("/closing?{LARGE}")));
        server.wait_for_log(&["GET /closing", "its response is sent"]);
        assert_eq!(client.response().expect(200).body.len(), LARGE);
        client.send(get("/next_one"));
        client.response().expect(200);
    });
}

#[test]
fn a_client_that_is_being_served_gets_the_rest_from_a_worker_that_is_given_up() {
    differs(RECOVERS, || {
        let server = late().set("harakiri-graceful-timeout", "0").start();
        let worker = pid(&server);
        let mut client = server.connect();
        client.send(get(&format!("/closing/sleep?{LARGE}")));
        server.wait_for_log(&["is replaced", "harakiri"]);
        wait_until("another worker serves", || pid(&server) != worker);
        assert_eq!(client.response().expect(200).body.len(), LARGE);
        client.expect_closed();
        wait_until("the old worker is gone", || !std::path::Path::new(&format!("/proc/{worker}")).exists());
    });
}

#[test]
fn a_whole_response_over_fastcgi_is_ended_for_a_close_that_hangs() {
    differs(RECOVERS, || {
        for how in ["loop", "sleep"] {
            let server = Setup::fastcgi("late").set("harakiri", "1").set("threads", "2");
            let server = server.set("harakiri-graceful-timeout", "1").allow("harakiri: ").allow("Traceback").start();
            let mut records = fastcgi::Records::new(server.connect());
            records.client.send(fastcgi::request(1, "GET", &format!("/closing/{how}"), b"", true));
            let (out, status) = records.response(1);
            assert!(out.ends_with(b"xxxxx") && status == 0, "{} {status}", out.escape_ascii());
            server.wait_for_log(&[&format!("GET /closing/{how}"), "its response is sent"]);
            // Nothing of it is left for the next request of the same number.
            records.client.send(fastcgi::request(1, "GET", "/pid", b"", true));
            assert!(records.response(1).0.starts_with(b"Status: 200"));
            if how == "sleep" {
                server.wait_for_log(&["is replaced", "harakiri"]);
            }
        }
    });
}

#[test]
fn clients_that_hold_a_thread_are_cut() {
    differs(RECOVERS, || {
        let server = late().set("post-buffering", "0").start();
        let worker = pid(&server);
        let mut reads_nothing = server.connect();
        reads_nothing.send(get("/flood"));
        server.wait_for_log(&["GET /flood", "the connection is cut"]);
        let mut sends_nothing = server.connect();
        sends_nothing.send("POST /body HTTP/1.1\r\nHost: test\r\nContent-Length: 10\r\n\r\n12345");
        sends_nothing.response().expect(504);
        assert_eq!(pid(&server), worker);
        assert!(!server.log().contains("is replaced"), "{}", server.log());
        let whole = server.connect().send(post("/body", b"12345")).response();
        assert_eq!(whole.expect(200).text(), "5");
    });
}

#[test]
fn the_next_request_is_never_hit() {
    differs(RECOVERS, || {
        let server = late().set("threads", "4").start();
        let worker = pid(&server);
        let expected = server.get("/next_one").expect(200).text();
        let (mut late, mut in_time) = (0, 0);
        for round in 0..6 {
            // From well before to well after the deadline, all at once: threads change requests just when it strikes.
            let mut clients: Vec<Client> = (0..4).map(|_| server.connect()).collect();
            for (number, client) in clients.iter_mut().enumerate() {
                // The first is in time on the busiest machine.
                let seconds = match (round * 4 + number as u32) % 8 {
                    0 => 0.1,
                    step => 0.97 + 0.01 * f64::from(step),
                };
                client.send(get(&format!("/edge?{seconds:.2}")));
                for _ in 0..20 {
                    client.send(get("/next_one"));
                }
            }
            for client in &mut clients {
                match client.response().status {
                    504 => late += 1,
                    200 => {
                        in_time += 1;
                        for _ in 0..20 {
                            assert_eq!(client.response().expect(200).text(), expected);
                        }
                    }
                    other => panic!("status {other}"),
                }
            }
            for _ in 0..50 {
                assert_eq!(server.get("/next_one").expect(200).text(), expected);
            }
        }
        assert!(late > 0 && in_time > 0, "{late} late, {in_time} in time");
        assert_eq!(pid(&server), worker);
    });
}

#[test]
fn over_the_uwsgi_protocol_it_is_a_504_as_well() {
    differs(RECOVERS, || {
        let server = Setup::of("late").listen("socket", Speaks::Uwsgi).set("harakiri", "1");
        let server = server.allow("harakiri: ").allow("Traceback").start();
        let mut client = server.connect();
        client.send(uwsgi::request("GET", "/loop", &[]));
        assert_eq!(client.response().expect(504).status, 504);
    });
}

#[test]
fn over_fastcgi_only_the_late_request_is_answered_with_504() {
    differs(RECOVERS, || {
        let server = Setup::fastcgi("late").set("harakiri", "1").set("threads", "2");
        let server = server.allow("harakiri: ").allow("Traceback").start();
        let mut records = fastcgi::Records::new(server.connect());
        for id in [1, 2] {
            records.client.send(fastcgi::request(id, "GET", "/loop", b"", true));
            let (out, _) = records.response(id);
            assert!(out.starts_with(b"Status: 504"), "{}", out.escape_ascii());
        }
        records.client.send(fastcgi::request(3, "GET", "/pid", b"", true));
        assert!(records.response(3).0.starts_with(b"Status: 200"));
        let mut alone = fastcgi::Records::new(server.connect());
        alone.client.send(fastcgi::request(1, "GET", "/sleep", b"", false));
        assert!(alone.response(1).0.starts_with(b"Status: 504"));
        alone.client.expect_closed();
        server.wait_for_log(&["is replaced", "harakiri"]);
    });
}

#[test]
fn without_harakiri_requests_take_their_time() {
    let server = Setup::http("late").set("harakiri", "0").start();
    let server_pid = pid(&server);
    assert_eq!(server.get("/edge?1.5").expect(200).text(), "in time");
    assert_eq!(pid(&server), server_pid);
}

#[test]
fn a_request_may_limit_itself() {
    differs(
        "`rsgi.set_user_harakiri(seconds)` limits the running request alone; uWSGI's is in its module `uwsgi`.",
        || {
            for harakiri in ["0", "60"] {
                let server =
                    Setup::http("late").set("harakiri", harakiri).allow("harakiri: ").allow("Traceback").start();
                let worker = pid(&server);
                for page in ["own_limit?0.5", "own_limit?0.5"] {
                    server.get(&format!("/{page}")).expect(504);
                    assert_eq!(pid(&server), worker);
                }
                // Taken back, and kept: nobody else is meant.
                assert_eq!(server.get("/own_limit_taken_back").expect(200).text(), "in time");
                assert_eq!(server.get("/own_limit_kept").expect(200).text(), "in time");
                assert_eq!(server.get("/edge?1").expect(200).text(), "in time");
                // From the middle of a response.
                let error = server.connect().send(get("/own_limit_late")).try_response_to("GET");
                assert!(error.is_err(), "a whole response");
                assert_eq!(pid(&server), worker);
                server.wait_for_log(&["GET /own_limit_late", "the connection is cut"]);
            }
        },
    );
}

#[test]
fn an_own_limit_for_a_close_spares_the_client() {
    differs(
        "`rsgi.set_user_harakiri(seconds)` limits the running request alone; uWSGI's is in its module `uwsgi`.",
        || {
            let server = Setup::http("late").allow("harakiri: ").allow("Traceback").start();
            let mut client = server.connect();
            client.send(get("/closing_with_own_limit"));
            client.send(get("/next_one"));
            assert_eq!(client.response().expect(200).text(), "whole");
            client.response().expect(200);
            server.wait_for_log(&["GET /closing_with_own_limit", "its response is sent"]);
        },
    );
}

#[test]
fn an_own_limit_costs_the_worker_when_nothing_else_helps() {
    differs(
        "`rsgi.set_user_harakiri(seconds)` limits the running request alone; uWSGI's is in its module `uwsgi`.",
        || {
            let server = Setup::http("late").set("harakiri-graceful-timeout", "1").set("threads", "2");
            let server = server.allow("harakiri: ").start();
            let old = pid(&server);
            server.get("/own_limit_sleep").expect(504);
            server.wait_for_log(&["is replaced", "harakiri"]);
            wait_until("another worker serves", || pid(&server) != old);
        },
    );
}

#[test]
fn nobody_is_stopped_while_nobody_waits() {
    differs(
        "`harakiri-queue-threshold` counts requests that wait in workers too, so it works on unix sockets.",
        || {
            let server = Setup::bare()
                .set("pythonpath", crate::harness::apps().display().to_string())
                .set("module", "late")
                .listen_unix("http-socket", "app.sock", Speaks::Http)
                .set("harakiri", "1")
                .set("harakiri-queue-threshold", "2")
                .allow("harakiri: ")
                .allow("Traceback")
                .start();
            let worker = pid(&server);
            assert_eq!(server.get("/edge?2.5").expect(200).text(), "in time");
            let mut stuck = server.connect();
            stuck.send(get("/loop"));
            wait_until_entered(&server, 1);
            let mut waiting: Vec<Client> = (0..3).map(|_| server.connect()).collect();
            for client in &mut waiting {
                client.send(get("/pid"));
            }
            stuck.response().expect(504);
            for client in &mut waiting {
                assert_eq!(client.response().expect(200).text(), worker);
            }
        },
    );
}

#[test]
fn a_worker_with_a_stuck_request_waits_for_others_no_longer_than_its_mercy() {
    differs(RECOVERS, || {
        let server = Setup::http("late").set("harakiri-graceful-timeout", "0").set("threads", "2");
        let server = server.set("worker-reload-mercy", "1").allow("harakiri: ").allow("takes too long to retire");
        let server = server.allow("killed by SIGKILL").start();
        let held = Held::begin(&server, "beside");
        server.get("/own_limit_sleep").expect(504);
        server.wait_for_log(&["takes too long to retire"]);
        wait_until("another worker serves", || pid(&server) != held.pid.to_string());
    });
}

#[test]
fn a_router_that_hangs_is_another_matter() {
    // On uWSGI it is about the process of `http`, which does not hang while a request runs.
    let server = Setup::of("late").listen("http", Speaks::Http).set("http-harakiri", "1").start();
    assert_eq!(server.get("/edge?2.5").expect(200).text(), "in time");
}
