//! Request bodies: lengths, chunks, limits, buffering.

use crate::harness::differs;
use crate::harness::http::{get, post, post_chunked};
use crate::harness::server::Setup;

fn pattern(size: usize) -> Vec<u8> {
    (0..251).map(|n| (n * 7 % 251) as u8).cycle().take(size).collect()
}

#[test]
fn bodies_of_all_sizes_arrive() {
    let server = Setup::http("basic").start();
    for size in [0, 1, 2, 4095, 4096, 65_535, 65_536, 65_537, 1_000_000, 5_000_000] {
        let body = pattern(size);
        assert_eq!(server.ask(post("/echo", &body)).expect(200).body, body, "{size}");
    }
}

#[test]
fn large_bodies_are_buffered_in_a_file() {
    let server = Setup::http("basic").set("post-buffering", "8192").start();
    for size in [0, 8191, 8192, 8193, 3_000_000] {
        let body = pattern(size);
        assert_eq!(server.ask(post("/echo", &body)).expect(200).body, body, "{size}");
    }
}

#[test]
fn bodies_can_be_streamed() {
    let server = Setup::http("basic").set("post-buffering", "0").start();
    for size in [0, 1, 70_000, 3_000_000] {
        let body = pattern(size);
        assert_eq!(server.ask(post("/echo", &body)).expect(200).body, body, "{size}");
    }
}

#[test]
fn streamed_bodies_on_one_connection() {
    differs(
        "`http-socket` and `http` keep connections alive, as `http11-socket` does; there is no router process.",
        || {
            let server = Setup::http("basic").set("post-buffering", "0").start();
            let mut client = server.connect();
            for size in [1, 70_000, 1_000_000] {
                let body = pattern(size);
                assert_eq!(client.send(post("/echo", &body)).response().expect(200).body, body, "{size}");
            }
            let chunks: Vec<Vec<u8>> = [1, 5000, 100_000].into_iter().map(pattern).collect();
            let chunks: Vec<&[u8]> = chunks.iter().map(Vec::as_slice).collect();
            assert_eq!(client.send(post_chunked("/echo", &chunks)).response().expect(200).body, chunks.concat());
            client.send(get("/")).response().expect(200);
        },
    );
}

#[test]
fn a_body_that_nobody_reads_does_not_mix_with_the_next_request() {
    differs(
        "`http-socket` and `http` keep connections alive, as `http11-socket` does; there is no router process.",
        || {
            for buffering in ["65536", "0"] {
                let server = Setup::http("basic").set("post-buffering", buffering).start();
                for size in [10, 60_000, 100_000] {
                    let mut client = server.connect();
                    let response = client.send(post("/", pattern(size))).response().expect(200);
                    if response.announces_close() {
                        client.expect_closed();
                        client = server.connect();
                    }
                    assert_eq!(client.send(post("/echo", "second")).response().expect(200).body, b"second");
                }
            }
        },
    );
}

#[test]
fn rfc9112_9_6_an_unread_body_does_not_cost_the_answer() {
    differs("A request body that the application leaves unread does not cost the client its answer.", || {
        let server = Setup::http("basic").start();
        // Made before the connection is: one that brings nothing is closed.
        server.ask(post("/", pattern(20_000_000))).expect(200);
    });
}

#[test]
fn rfc9112_7_1_chunked_bodies_are_decoded() {
    differs(
        "Chunked request bodies are decoded, get a CONTENT_LENGTH, and are read from `wsgi.input`; `wsgi.input_terminated` is set.",
        || {
            let server = Setup::http("basic").start();
            // Made before the connection is: one that brings nothing is closed.
            let large = pattern(3_000_000);
            let mut client = server.connect();
            assert_eq!(
                client.send(post_chunked("/echo", &[b"one ", b"two ", b"three"])).response().expect(200).body,
                b"one two three"
            );
            assert_eq!(client.send(post_chunked("/echo", &[])).response().expect(200).body, b"");
            let pieces: Vec<&[u8]> = large.chunks(70_001).collect();
            assert_eq!(client.send(post_chunked("/echo", &pieces)).response().expect(200).body, large);
            let page = client.send(post_chunked("/environ", &[b"12345"])).response().expect(200).json();
            assert_eq!(page["CONTENT_LENGTH"], "5");
            assert_eq!(page["HTTP_TRANSFER_ENCODING"], "chunked");
            assert_eq!(page["wsgi.input_terminated"], true);
        },
    );
}

#[test]
fn rfc9112_7_1_chunked_bodies_in_every_spelling() {
    differs(
        "Chunked request bodies are decoded, get a CONTENT_LENGTH, and are read from `wsgi.input`; `wsgi.input_terminated` is set.",
        || {
            let server = Setup::http("basic").start();
            let head = "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n";
            for (what, body) in [
                ("capital digits", "A\r\n0123456789\r\n0\r\n\r\n"),
                ("small digits", "a\r\n0123456789\r\n0\r\n\r\n"),
                ("leading zeros", "0000a\r\n0123456789\r\n000\r\n\r\n"),
                ("an extension", "a;name=value\r\n0123456789\r\n0;last\r\n\r\n"),
                ("a quoted extension", "a;name=\"v;\\\"x\"\r\n0123456789\r\n0\r\n\r\n"),
                ("trailers", "a\r\n0123456789\r\n0\r\nX-Sum: 1\r\nX-More: 2\r\n\r\n"),
            ] {
                let mut client = server.connect();
                client.send(format!("{head}{body}"));
                assert_eq!(client.response().expect(200).text(), "0123456789", "{what}");
                // What follows is the next request.
                client.send(get("/")).response().expect(200);
                let mut client = server.connect();
                for byte in format!("{head}{body}").into_bytes() {
                    client.send([byte]);
                }
                assert_eq!(client.response().expect(200).text(), "0123456789", "{what}, byte by byte");
            }
            // Trailers never become header fields.
            let request =
                "POST /environ HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX-Trailer: 1\r\n\r\n";
            assert!(server.ask(request).expect(200).json().get("HTTP_X_TRAILER").is_none());
        },
    );
}

#[test]
fn rfc9112_7_1_chunked_bodies_that_are_refused() {
    differs(
        "Chunked request bodies are decoded, get a CONTENT_LENGTH, and are read from `wsgi.input`; `wsgi.input_terminated` is set.",
        || {
            let server = Setup::http("basic").start();
            let head = "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
            let long = format!("1;{}\r\na\r\n0\r\n\r\n", "x".repeat(100_000));
            let mut wrong = Vec::new();
            for (what, body) in [
                ("no size", "\r\n0\r\n\r\n"),
                ("no digits", "xyz\r\n"),
                ("a sign", "+5\r\n12345\r\n0\r\n\r\n"),
                ("negative", "-5\r\n12345\r\n0\r\n\r\n"),
                ("a prefix", "0x5\r\n12345\r\n0\r\n\r\n"),
                ("an underscore", "1_0\r\n0123456789abcdef\r\n0\r\n\r\n"),
                ("a blank before", " 5\r\n12345\r\n0\r\n\r\n"),
                ("a blank within", "5 5\r\n12345\r\n0\r\n\r\n"),
                ("too large for 64 bits", "fffffffffffffffff\r\n12345\r\n0\r\n\r\n"),
                ("a wrapping size", "10000000000000005\r\n12345\r\n0\r\n\r\n"),
                ("bare LF behind the size", "5\n12345\r\n0\r\n\r\n"),
                ("bare LF behind the data", "5\r\n12345\n0\r\n\r\n"),
                ("too much data", "5\r\n123456\r\n0\r\n\r\n"),
                ("too little data", "5\r\n1234\r\n0\r\n\r\n"),
                ("an endless extension", long.as_str()),
                ("a broken trailer", "0\r\nbroken\r\n\r\n"),
                ("a folded trailer", "0\r\nA: b\r\n c\r\n\r\n"),
            ] {
                let mut client = server.connect();
                let _ = client.try_send(format!("{head}{body}"));
                match client.try_response_to("POST") {
                    Ok(response) if response.status == 400 || response.status == 413 || response.status == 431 => {
                        client.expect_closed()
                    }
                    other => wrong.push(format!("{what}: {other:?}")),
                }
            }
            assert!(wrong.is_empty(), "{}", wrong.join("\n"));
            server.get("/").expect(200);
        },
    );
}

#[test]
fn rfc9112_8_a_chunked_body_that_ends_early_never_reaches_the_application() {
    differs("A request whose body ends early never reaches the application.", || {
        let server = Setup::http("basic").start();
        for cut in ["", "5", "5\r\n", "5\r\n123", "5\r\n12345", "5\r\n12345\r\n", "5\r\n12345\r\n0\r\n"] {
            let mut client = server.connect();
            client.send(format!("POST /wait/never HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{cut}"));
            drop(client);
        }
        let mut client = server.connect();
        client.send("POST /wait/never HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n12345");
        drop(client);
        // Had it been called, the application would wait for a file that nobody writes.
        server.get("/").expect(200);
        assert!(!server.path("never.in").exists());
    });
}

#[test]
fn rfc9110_15_5_14_bodies_above_the_limit_are_refused() {
    differs("A body above `limit-post` is refused with 413, chunked or not.", || {
        let server = Setup::http("basic").set("limit-post", "1000").start();
        let mut client = server.connect();
        client.send(post("/echo", pattern(1000))).response().expect(200);
        // Refused by its length alone, before any body is sent.
        client.send("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 1001\r\n\r\n").response().expect(413);
        let mut client = server.connect();
        client.send("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 1001\r\nExpect: 100-continue\r\n\r\n");
        client.response().expect(413);
        let piece = pattern(600);
        let mut client = server.connect();
        let _ = client.try_send(post_chunked("/echo", &[&piece, &piece]));
        client.response().expect(413);
        let mut client = server.connect();
        client.send("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999999\r\n\r\n");
        let status = client.response().status;
        assert!([400, 413].contains(&status), "{status}");
        server.get("/").expect(200);
    });
}

#[test]
fn rfc9110_8_6_a_length_that_overflows_is_refused() {
    differs("Bad requests get an answer (400, 413, 414, 431, 501 or 505) and not an empty reply.", || {
        let server = Setup::http("basic").start();
        for length in ["18446744073709551616", "18446744073709551621", "99999999999999999999999999"] {
            let mut client = server.connect();
            client.send(format!("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n12345"));
            let status = client.response().status;
            assert!([400, 413].contains(&status), "{length}: {status}");
            client.expect_closed();
        }
    });
}

#[test]
fn the_temporary_file_of_a_body_is_gone() {
    let folder = tempfile::tempdir().expect("a folder");
    let server =
        Setup::http("basic").set("post-buffering", "8192").env("TMPDIR", folder.path().display().to_string()).start();
    let body = pattern(2_000_000);
    assert_eq!(server.ask(post("/echo", &body)).expect(200).body, body);
    let left: Vec<_> =
        std::fs::read_dir(folder.path()).expect("the folder").flatten().map(|entry| entry.path()).collect();
    assert!(left.is_empty(), "{left:?}");
}
