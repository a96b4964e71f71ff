//! `wsgi.file_wrapper`: which files are sent by the worker itself and which are read, and that the client gets the same either way.

use crate::harness::http::{Framing, get};
use crate::harness::server::{Server, Setup, Speaks};
use crate::harness::{differs, fastcgi, scgi, uwsgi, wait_until};

const DIRECT: &str =
    "`wsgi.file_wrapper` sends regular files by sendfile, with their Content-Length; whatever reads otherwise is read.";

/// What `pattern` in tests/apps/bodies.py gives.
fn pattern(range: std::ops::Range<usize>) -> Vec<u8> {
    range.map(|n| (n * 7 + (n >> 8) * 13) as u8).collect()
}

fn server() -> Setup {
    Setup::http("bodies")
}

/// Whether the request line of this target says that sendfile was used.
#[track_caller]
fn is_logged_as_a_file(server: &Server, target: &str) -> bool {
    let mut line = None;
    wait_until("the request line", || {
        let mark = format!(" {target} => ");
        line = server.log().lines().rfind(|line| line.contains(&mark)).map(str::to_owned);
        line.is_some()
    });
    line.is_some_and(|line| line.contains(" via sendfile() "))
}

#[test]
fn files_of_all_kinds() {
    differs(DIRECT, || {
        let server = server().start();
        let whole = || pattern(0..200_000);
        let mut client = server.connect();
        // Kind, body, whether its length is told, whether it is taken as the file that it is and not read by the application.
        for (kind, body, told, direct) in [
            ("plain", whole(), true, true),
            ("raw", whole(), true, true),
            ("random", whole(), true, true),
            ("offset", pattern(100_000..200_000), true, true),
            ("offset-raw", pattern(100_000..200_000), true, true),
            ("half-read", pattern(10..200_000), true, true),
            ("behind", vec![], true, true),
            ("append", vec![], true, true),
            ("append-begin", whole(), true, true),
            ("written", pattern(130_000..200_000), true, true),
            ("small", pattern(0..10), true, true),
            ("empty", vec![], true, true),
            ("bytesio", whole(), false, false),
            ("spooled-small", pattern(0..10), false, false),
            ("spooled", whole(), false, false),
            ("temporary", vec![], false, false),
            ("gzip", whole(), false, false),
            ("subclass", b"overridden".repeat(4), false, false),
            ("raw-of-ours", b"one two".to_vec(), false, false),
            ("patched", b"patched read".to_vec(), false, false),
            ("pipe", b"through a pipe".to_vec(), false, false),
        ] {
            let target = format!("/file/{kind}");
            // One that is read forever gives nothing more after an empty read.
            let response = client.send(get(&target)).response().expect(200);
            assert!(response.body == body, "{kind}: {} bytes", response.body.len());
            let expected = if told { Framing::Length } else { Framing::Chunked };
            // An empty iterable is known to be empty.
            if !body.is_empty() || told {
                assert_eq!(response.framing, expected, "{kind}");
            }
            assert_eq!(is_logged_as_a_file(&server, &target), direct, "{kind}");
        }
        // Its size says nothing.
        let response = client.send(get("/file/proc")).response().expect(200);
        assert!(response.text().starts_with("Name:"), "{response:?}");
    });
}

#[test]
fn files_that_cannot_be_read_are_errors_of_the_application() {
    for (kind, error) in [("text", "TypeError"), ("write-only", "UnsupportedOperation"), ("closed", "ValueError")] {
        differs(
            "An application that raises before its head is out is answered with 500; afterwards the connection is cut without a final chunk.",
            || {
                let server = server().allow("Traceback").allow(error).start();
                server.get(&format!("/file/{kind}")).expect(500);
                server.wait_for_log(&[error]);
            },
        );
    }
}

#[test]
fn the_length_of_the_application_is_kept() {
    differs(DIRECT, || {
        let server = server().allow("bytes less than its Content-Length says").start();
        let mut client = server.connect();
        for (kind, length) in [("plain", 100), ("plain", 199_999), ("small", 3), ("offset", 70_000)] {
            let start = if kind == "offset" { 100_000 } else { 0 };
            let response = client.send(get(&format!("/file/{kind}?{length}"))).response().expect(200);
            assert!(response.body == pattern(start..start + length), "{kind} {length}");
        }
        // That of the file is the application's mistake.
        for (kind, length, comes) in [("plain", "200001", 200_000), ("small", "11", 10), ("empty", "1", 0)] {
            let mut client = server.connect();
            let error = client.send(get(&format!("/file/{kind}?{length}"))).try_response_to("GET").unwrap_err();
            assert!(error.contains("closed within a body"), "{kind}: {error}");
            let _ = comes;
        }
        server.wait_for_log(&["the application sent 1 bytes less than its Content-Length says"]);
    });
}

#[test]
fn a_head_request_gets_the_length_and_no_byte() {
    differs(DIRECT, || {
        let server = server().start();
        let mut client = server.connect();
        for (kind, length) in [("plain", "200000"), ("offset", "100000"), ("small", "10")] {
            client.send(format!("HEAD /file/{kind} HTTP/1.1\r\nHost: a\r\n\r\n"));
            assert_eq!(client.response_to("HEAD").expect(200).field("Content-Length"), Some(length), "{kind}");
        }
        client.send(get("/")).response().expect(200);
    });
}

#[test]
fn a_file_behind_written_bytes_is_read() {
    differs(
        "A response whose length is known gets its Content-Length; otherwise it is chunked for HTTP/1.1 clients.",
        || {
            let server = server().start();
            let mut client = server.connect();
            let response = client.send(get("/after-write")).response().expect(200);
            assert_eq!(response.framing, Framing::Chunked);
            assert!(response.body == [b"written, then ".to_vec(), pattern(0..200_000)].concat());
            client.send(get("/")).response().expect(200);
        },
    );
}

#[test]
fn a_file_that_shrinks_cuts_the_connection() {
    differs(
        "A file that becomes shorter while `wsgi.file_wrapper` sends it cuts the connection, with a line in the log.",
        || {
            let server = server().allow("a file became shorter").start();
            let mut client = server.connect();
            let size = 64 << 20;
            client.send(get(&format!("/shrinking?{size}")));
            let head = client.try_head().expect("a head").expect(200);
            assert_eq!(head.field("Content-Length"), Some(size.to_string().as_str()));
            // The kernel's buffers are far smaller than that.
            assert_eq!(server.get("/shrink").expect(200).text(), "cut off");
            let mut seen = 0;
            let error = loop {
                match client.try_some() {
                    Ok(piece) if piece.is_empty() => break None,
                    Ok(piece) => seen += piece.len(),
                    Err(error) => break Some(error),
                }
            };
            assert!(seen < size, "{seen} bytes, {error:?}");
            server.wait_for_log(&["a file became shorter while it was sent"]);
            server.get("/").expect(200);
        },
    );
}

#[test]
fn files_over_the_other_protocols() {
    differs(DIRECT, || {
        for (option, speaks) in
            [("uwsgi-socket", Speaks::Uwsgi), ("scgi-socket", Speaks::Scgi), ("fastcgi-socket", Speaks::FastCgi)]
        {
            let server = Setup::of("bodies").listen(option, speaks).start();
            for (kind, body) in [("plain", pattern(0..200_000)), ("small", pattern(0..10)), ("empty", vec![])] {
                let target = format!("/file/{kind}");
                let vars = [("PATH_INFO", target.as_str())];
                let (length, found) = match speaks {
                    Speaks::FastCgi => {
                        let mut records = fastcgi::Records::new(server.connect());
                        records.client.send(fastcgi::request(1, "GET", &target, b"", true));
                        let (out, status) = records.response(1);
                        assert_eq!(status, 0);
                        let end = out.windows(4).position(|bytes| bytes == b"\r\n\r\n").expect("a head") + 4;
                        let head = String::from_utf8_lossy(&out[..end]).into_owned();
                        let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: "));
                        (length.map(str::to_owned), out[end..].to_vec())
                    }
                    Speaks::Uwsgi => {
                        let response = uwsgi::exchange(server.endpoint(), "GET", &target, b"", &vars).expect(200);
                        (response.field("Content-Length").map(str::to_owned), response.body)
                    }
                    _ => {
                        let response = scgi::exchange(server.endpoint(), "GET", &target, b"", &vars).expect(200);
                        (response.field("Content-Length").map(str::to_owned), response.body)
                    }
                };
                assert!(found == body, "{option}, {kind}: {} bytes", found.len());
                assert_eq!(length, Some(body.len().to_string()), "{option}, {kind}");
            }
            assert!(is_logged_as_a_file(&server, "/file/plain"));
        }
    });
}

#[test]
fn without_sendfile_the_client_gets_the_same() {
    let server = server().set("disable-sendfile", "true").start();
    assert!(server.get("/file/plain").expect(200).body == pattern(0..200_000));
}

#[test]
fn without_sendfile_the_log_does_not_speak_of_it() {
    differs("`disable-sendfile` takes `via sendfile()` out of the request line too.", || {
        let server = server().set("disable-sendfile", "true").start();
        server.get("/file/plain").expect(200);
        assert!(!is_logged_as_a_file(&server, "/file/plain"));
    });
}

#[test]
fn the_file_wrapper_can_be_left_out() {
    let has = |server: &Server| server.get("/environ").expect(200).json().get("wsgi.file_wrapper").is_some();
    assert!(has(&Setup::http("basic").start()));
    assert!(!has(&Setup::http("basic").set("wsgi-disable-file-wrapper", "true").start()));
}

#[test]
fn without_request_lines_those_of_files_can_be_kept() {
    let server = server().set("disable-logging", "true").set("log-sendfile", "true").start();
    server.get("/unread").expect(200);
    server.get("/file/plain").expect(200);
    assert!(is_logged_as_a_file(&server, "/file/plain"));
    assert!(!server.log().contains(" /unread => "), "{}", server.log());
    server.wait_for_log(&["/file/plain => generated 200000 bytes"]);
}

#[test]
fn a_slow_reader_of_a_file_holds_no_thread() {
    differs(
        "Slow clients never hold an application thread: heads and bodies are read before the application runs, responses are sent after it.",
        || {
            let size = 32 << 20;
            let server = server().set("processes", "1").set("threads", "1").start();
            server.get(&format!("/prepare?{size}")).expect(200);
            let mut slow: Vec<_> = (0..8).map(|_| server.connect()).collect();
            for client in &mut slow {
                client.send(get(&format!("/wrapper?{size}")));
            }
            for _ in 0..20 {
                server.get("/").expect(200);
            }
            for client in &mut slow {
                assert_eq!(client.response().expect(200).body.len(), size);
            }
        },
    );
}
