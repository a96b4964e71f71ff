//! Slow clients, many of them: what they do to everybody else, and when they are given up.

use std::io::Read;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use crate::harness::http::{Client, get, post};
use crate::harness::server::{Server, Setup};
use crate::harness::uwsgi::request;
use crate::harness::{differs, patience, raise_descriptor_limit, wait_until};

/// One worker with one thread: whatever holds it holds everybody.
fn one_thread(app: &str) -> Setup {
    Setup::http(app).set("processes", "1").set("threads", "1").set("listen", "300")
}

const PATIENT: &str = "Slow clients never hold an application thread: heads and bodies are read before the application runs, responses are sent after it.";

#[test]
fn heads_that_trickle() {
    differs(PATIENT, || {
        let server = one_thread("basic").start();
        let request = get("/environ");
        let mut slow: Vec<Client> = (0..200).map(|_| server.connect()).collect();
        for byte in request.as_bytes() {
            for client in &mut slow {
                client.send([*byte]);
            }
            if *byte == b'\n' {
                server.get("/").expect(200);
            }
        }
        for client in &mut slow {
            client.response().expect(200);
        }
    });
}

#[test]
fn bodies_that_trickle() {
    differs(PATIENT, || {
        let server = one_thread("basic").start();
        let body = vec![b'x'; 100_000];
        let whole = post("/digest", &body);
        let mut slow: Vec<Client> = (0..50).map(|_| server.connect()).collect();
        for piece in whole.chunks(10_001) {
            for client in &mut slow {
                client.send(piece);
            }
            server.get("/").expect(200);
        }
        for client in &mut slow {
            assert!(client.response().expect(200).text().starts_with("100000 "));
        }
    });
}

#[test]
fn uwsgi_packets_that_trickle() {
    differs(PATIENT, || {
        let server = Setup::uwsgi("basic").set("processes", "1").start();
        let packet = request("POST", "/echo", &[("CONTENT_LENGTH", "5")]);
        let mut slow: Vec<Client> = (0..50).map(|_| server.connect()).collect();
        for client in &mut slow {
            client.send(&packet[..packet.len() / 2]);
        }
        server.get_uwsgi("/").expect(200);
        for client in &mut slow {
            client.send(&packet[packet.len() / 2..]).send("12");
        }
        server.get_uwsgi("/").expect(200);
        for client in &mut slow {
            client.send("345");
            assert_eq!(client.response().expect(200).body, b"12345");
        }
    });
}

#[test]
fn readers_that_do_not_read() {
    differs(PATIENT, || {
        let server = one_thread("basic").start();
        let size = 8_000_000;
        let mut slow: Vec<Client> = (0..20)
            .map(|_| {
                let mut client = server.connect();
                client.send(get(&format!("/big?{size}")));
                client
            })
            .collect();
        for _ in 0..20 {
            server.get("/").expect(200);
        }
        for client in &mut slow {
            assert_eq!(client.response().expect(200).body.len(), size);
        }
    });
}

#[test]
fn connections_that_say_nothing() {
    differs(PATIENT, || {
        let server = one_thread("basic").start();
        let silent: Vec<Client> = (0..200).map(|_| server.connect()).collect();
        for _ in 0..20 {
            server.get("/").expect(200);
        }
        drop(silent);
        server.get("/").expect(200);
    });
}

#[test]
fn rfc9110_15_5_9_a_head_that_takes_too_long_gets_408() {
    differs(
        "A head or body that takes too long gets 408: `http-headers-timeout` for a whole head, `socket-timeout` or `http-timeout` between the pieces of a body.",
        || {
            let server = one_thread("basic").set("http-headers-timeout", "1").start();
            let mut client = server.connect();
            client.send("GET / HTTP/1.1\r\nHost: a\r\n");
            let response = client.response().expect(408);
            assert!(response.announces_close());
            client.expect_closed();
        },
    );
}

#[test]
fn rfc9110_15_5_9_a_body_that_takes_too_long_gets_408() {
    differs(
        "A head or body that takes too long gets 408: `http-headers-timeout` for a whole head, `socket-timeout` or `http-timeout` between the pieces of a body.",
        || {
            for key in ["socket-timeout", "http-timeout"] {
                let server = one_thread("basic").set(key, "1").start();
                let mut client = server.connect();
                client.send("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n12345");
                client.response().expect(408);
                client.expect_closed();
            }
        },
    );
}

#[test]
fn rfc9110_15_5_9_a_body_that_trickles_below_its_rate_gets_408() {
    differs("A body that brings less than `body-min-rate` (100 bytes a second, after 30 s of grace) gets 408.", || {
        // Buffered, and read by the application.
        for buffering in ["65536", "0"] {
            let server = one_thread("basic")
                .set("http-timeout", "1")
                .set("body-min-rate", "1000000")
                .set("post-buffering", buffering)
                .allow("Traceback")
                .start();
            // As slow as it is, it never pauses: silence is not what ends it.
            let mut client = server.connect();
            client.send("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000000\r\n\r\n");
            client.socket.set_read_timeout(Some(Duration::from_millis(100))).expect("a time-out");
            let (mut answered, mut sent) = (None, 0);
            let end = Instant::now() + patience();
            while answered.is_none() && Instant::now() < end && client.try_send("x".repeat(100)).is_ok() {
                sent += 100;
                answered = client.if_any();
            }
            let answer = String::from_utf8(answered.expect("an answer")).expect("text");
            let status = if buffering == "0" { "500" } else { "408" };
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
            assert!(sent > 200, "{sent}");
            // One that is fast enough is not hurt, nor one that is short.
            server.ask(post("/digest", vec![b'x'; 3_000_000])).expect(200);
            server.ask(post("/digest", "short")).expect(200);
        }
    });
}

#[test]
fn rfc9112_9_5_idle_connections_are_closed_in_silence() {
    differs(
        "`http-keepalive = N` closes connections that are idle for N seconds, in silence (75 by default and for 1, which only says yes); 0 closes after each response.",
        || {
            let server = one_thread("basic").set("http-keepalive", "2").start();
            let mut client = server.connect();
            client.send(get("/")).response().expect(200);
            client.expect_closed();
            let server = one_thread("basic").set("http-keepalive", "0").start();
            let mut client = server.connect();
            assert!(client.send(get("/")).response().expect(200).announces_close());
            client.expect_closed();
        },
    );
}

#[test]
fn a_reader_that_stops_is_given_up() {
    let server = one_thread("responses")
        .set("socket-timeout", "1")
        .set("ignore-sigpipe", "true")
        .set("ignore-write-errors", "true")
        .set("disable-write-exception", "true")
        .start();
    let mut client = server.connect();
    client.send(get("/endless"));
    assert!(!client.some().is_empty());
    let notes = server.path("notes");
    crate::harness::wait_until("close() was called", || {
        std::fs::read_to_string(&notes).is_ok_and(|text| text.contains("closed endless"))
    });
    server.get("/one").expect(200);
}

#[test]
fn many_connections_at_once() {
    let server = Setup::http("basic").set("processes", "2").set("listen", "300").start();
    let mut clients: Vec<Client> = (0..200).map(|_| server.connect()).collect();
    for client in &mut clients {
        client.send(get("/"));
    }
    for client in &mut clients {
        client.response().expect(200);
    }
}

#[test]
fn parallel_clients_get_their_own_answers() {
    let server = Setup::http("basic").set("processes", "2").set("threads", "2").start();
    std::thread::scope(|scope| {
        for number in 0..16 {
            let server = &server;
            scope.spawn(move || {
                for round in 0..25 {
                    let text = format!("{number}/{round}");
                    let body = text.repeat(1 + round * 300);
                    assert_eq!(server.ask(post("/echo", &body)).expect(200).text(), body);
                }
            });
        }
    });
}

/// Clients of each kind; how it goes for the others is measured by `tests/benches/compare --rows slow`.
const SLOW: usize = 200;

/// A megabyte, as a whole or piece by piece.
const MEGABYTE: usize = 1_000_000;

/// What the one thread of the one worker does.
#[track_caller]
fn is_idle(server: &Server) -> bool {
    let mut text = String::new();
    let told = UnixStream::connect(server.path("stats.sock")).and_then(|mut desk| desk.read_to_string(&mut text));
    assert!(told.is_ok(), "{told:?}");
    let told: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let worker = &told["workers"][0];
    worker["status"] == "idle" && worker["cores"][0]["in_request"] == 0
}

#[test]
fn six_hundred_slow_clients_hold_no_thread() {
    differs(PATIENT, || {
        raise_descriptor_limit();
        let setup = one_thread("slow")
            .unset("listen")
            .set("listen", "1000")
            .set("http-headers-timeout", "300")
            .set("socket-timeout", "300");
        let path = setup.path("stats.sock").display().to_string();
        let server = setup.set("stats", path).start();
        let patient = |request: &[u8]| {
            let mut client = server.endpoint().connect_with_buffer(4096);
            client.send(request);
            client
        };
        let head = get("/environ");
        let head = head.as_bytes();
        let bodies = [post("/digest", vec![b'x'; 10]), post("/digest", vec![b'x'; MEGABYTE])];
        let mut heads: Vec<Client> = (0..SLOW).map(|_| patient(&head[..5])).collect();
        // Bodies of 10 bytes and of 1 MB alike, begun by half.
        let mut senders: Vec<(Client, &[u8])> = (0..SLOW)
            .map(|number| {
                let whole = &bodies[number % 2];
                let cut = whole.len() - if number % 2 == 0 { 8 } else { MEGABYTE / 2 };
                (patient(&whole[..cut]), &whole[cut..])
            })
            .collect();
        let mut readers: Vec<Client> = (0..SLOW)
            .map(|number| patient(get(&format!("/{}?{MEGABYTE}", ["big", "pieces"][number % 2])).as_bytes()))
            .collect();
        for round in 0..5 {
            for client in &mut heads {
                client.send(&head[5 + round..6 + round]);
            }
            for (client, rest) in &mut senders {
                client.send(&rest[..1]);
                *rest = &rest[1..];
            }
            for client in &mut readers {
                assert!(client.try_part(1024).expect("a part of the response") > 0);
            }
            for _ in 0..20 {
                server.get("/").expect(200);
            }
            wait_until("the thread is idle", || is_idle(&server));
        }
        for client in &mut heads {
            client.send(&head[10..]).response().expect(200);
        }
        for (number, (client, rest)) in senders.iter_mut().enumerate() {
            let size = [10, MEGABYTE][number % 2];
            assert!(client.send(*rest).response().expect(200).text().starts_with(&format!("{size} ")));
        }
        for client in &mut readers {
            assert_eq!(client.response().expect(200).body, vec![b'x'; MEGABYTE]);
        }
    });
}
