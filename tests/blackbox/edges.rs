//! What clients and applications do at the edges of a request: clients that end within one or read no answer,
//! applications that answer before they read, pause within an answer, keep what is the server's. And the edge of the
//! server's own life: clients that come while it stops.

use std::io::ErrorKind;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::sys::signal::Signal;

use crate::harness::http::{Client, Endpoint, get, post};
use crate::harness::server::{Setup, Speaks};
use crate::harness::{differs, wait_until};

fn edges() -> Setup {
    Setup::http("edges")
}

#[test]
fn rfc9112_8_a_client_that_ends_within_a_request_gets_400() {
    differs("Bad requests get an answer (400, 413, 414, 431, 501 or 505) and not an empty reply.", || {
        let server = edges().start();
        for cut in [
            "GET / HT",
            "GET / HTTP/1.1\r\nHost: a\r\n",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n12345",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n123",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n12345\r\n0\r\n",
        ] {
            let mut client = server.connect();
            client.send(cut).finish_sending();
            client.response().expect(400);
            client.expect_closed();
        }
        // One that has asked nothing is told nothing.
        server.connect().finish_sending().expect_closed();
    });
}

#[test]
fn an_interim_answer_never_stands_within_a_response() {
    differs("`Expect: 100-continue` is answered.", || {
        let server = edges().set("post-buffering", "0").start();
        let mut client = server.connect();
        client.send("POST /late HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n");
        let head = client.try_head().expect("a head");
        assert_eq!(head.status, 200);
        assert_eq!(client.try_chunk().expect("the first chunk"), b"begin ");
        client.send("body");
        let mut rest = Vec::new();
        while let Ok(chunk) = client.try_chunk()
            && !chunk.is_empty()
        {
            rest.extend(chunk);
        }
        assert_eq!(rest, b"body end");
    });
}

#[test]
fn a_streamed_body_that_comes_after_the_answer_does_not_cost_it() {
    differs("A request body that the application leaves unread does not cost the client its answer.", || {
        let server = edges().set("post-buffering", "0").start();
        let mut client = server.connect();
        client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 300000\r\n\r\n");
        assert!(client.response().expect(200).announces_close());
        // The server may not reset the connection under a client that has not looked yet.
        for _ in 0..3 {
            client.send(vec![b'x'; 100_000]);
        }
        client.finish_sending();
        assert_eq!(client.try_rest().expect("a close in order"), b"");
    });
}

#[test]
fn a_piece_arrives_whole_while_the_application_pauses() {
    for threads in ["1", "2"] {
        for how in ["length", "chunked"] {
            let server = edges().set("threads", threads).start();
            let mut client = server.connect();
            let size = 8_000_000;
            client.send(get(&format!("/paused?{size},{how}")));
            client.try_head().expect("a head");
            let mut got = 0;
            while got < size {
                got += client.some().len();
            }
            std::fs::write(server.path("go"), "").expect("a file");
            let mut tail = Vec::new();
            while !tail.windows(3).any(|end| end == b"end") {
                tail.extend(client.some());
            }
        }
    }
}

#[test]
fn a_generator_with_a_length_waits_for_its_client_too() {
    let server = edges().set("threads", "2").start();
    let mut slow = server.connect();
    slow.send(get("/pieces?2000"));
    slow.try_head().expect("a head");
    let made = || server.get("/made").expect(200).text().parse::<usize>().expect("a number");
    let (mut before, mut same) = (0, 0);
    wait_until("it waits", || {
        let now = made();
        same = if now == before { same + 1 } else { 0 };
        before = now;
        same == 50
    });
    // 1 MiB of our own, and what the system holds for the two sockets.
    assert!(before < 1000, "{before} of 2000 pieces");
}

#[test]
fn what_is_cut_by_the_write_deadline_ends_in_a_reset() {
    differs(
        "A response that the write deadline cuts ends in a reset, so that no client takes it for a whole one.",
        || {
            let server = edges().set("socket-timeout", "1").start();
            let mut client = server.connect();
            // Without a length: only the way it ends tells that something is missing.
            client.send("GET /pieces?200 HTTP/1.0\r\n\r\n");
            server.wait_for_log(&["took nothing of the response for too long"]);
            let ended = client.try_rest().expect_err("a reset");
            assert_eq!(ended.kind(), ErrorKind::ConnectionReset);
        },
    );
}

#[test]
fn an_application_that_keeps_its_input_does_not_keep_the_connection() {
    differs(
        "`http-socket` and `http` keep connections alive, as `http11-socket` does; there is no router process.",
        || {
            let server = edges().set("post-buffering", "0").start();
            let mut client = server.connect();
            assert_eq!(client.send(post("/keep", "kept")).response().expect(200).body, b"kept");
            let old = client.send(get("/pid")).response().expect(200).text();
            server.signal(Signal::SIGHUP);
            wait_until("the new worker serves it", || client.send(get("/pid")).response().expect(200).text() != old);
        },
    );
}

#[test]
fn clients_that_come_during_a_stop_are_served_or_refused() {
    differs(
        "TERM and INT stop gracefully: requests in flight are finished. A second one, or QUIT, stops at once; `die-on-term` has no effect.",
        || {
            let setup = Setup::of("edges").listen_unix("http-socket", "own.sock", Speaks::Http);
            let server = setup.set("http-socket", "127.0.0.1:0").set("processes", "2").start();
            server.wait_for_log(&["http on 127.0.0.1:"]);
            let log = server.log();
            let tcp = log.split("http on ").filter_map(|text| text.lines().next()?.parse().ok()).next();
            let endpoints = [server.endpoint().clone(), Endpoint::Tcp(tcp.expect("its address"))];
            let answered = AtomicU32::new(0);
            // Each asks again and again, on a new connection when the server closes one, until it is refused.
            let ask = |endpoint: &Endpoint| {
                while let Ok(mut client) = endpoint.try_connect() {
                    loop {
                        let response = exchange(&mut client).map_err(|error| format!("{endpoint:?}: {error}"))?;
                        answered.fetch_add(1, Ordering::Relaxed);
                        if response {
                            break;
                        }
                    }
                }
                Ok::<(), String>(())
            };
            std::thread::scope(|scope| {
                let (ask, endpoints) = (&ask, &endpoints);
                let clients: Vec<_> = (0..16).map(|n| scope.spawn(move || ask(&endpoints[n % 2]))).collect();
                wait_until("the load is there", || answered.load(Ordering::Relaxed) > 500);
                server.signal(Signal::SIGTERM);
                let lost: Vec<_> =
                    clients.into_iter().filter_map(|client| client.join().expect("no panic").err()).collect();
                assert!(lost.is_empty(), "{lost:?}");
            });
            server.expect_end();
        },
    );
}

/// One request; whether the server announced that it closes.
fn exchange(client: &mut Client) -> Result<bool, String> {
    client.try_send(get("/")).map_err(|error| error.to_string())?;
    Ok(client.try_response_to("GET")?.announces_close())
}
