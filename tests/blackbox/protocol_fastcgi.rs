//! FastCGI on the wire: kept connections, several requests at once, aborts.

use nix::sys::signal::Signal;

use crate::harness::fastcgi::{
    ABORT, BEGIN, END, GET_VALUES, GET_VALUES_RESULT, PARAMS, Records, STDERR, STDIN, STDOUT, UNKNOWN_TYPE, pair,
    record, request, request_with,
};
use crate::harness::server::{Server, Setup, Speaks};
use crate::harness::{differs, wait_until};

const KEEPS: &str = "FastCGI connections are kept when the web server asks for it, and carry several requests at once.";
const MANAGES: &str = "FastCGI's FCGI_GET_VALUES, FCGI_ABORT_REQUEST and unknown records are answered.";

fn body(out: &[u8]) -> String {
    let text = String::from_utf8_lossy(out).into_owned();
    assert!(text.starts_with("Status: 200 OK\r\n"), "{text}");
    text.split_once("\r\n\r\n").expect("a blank line").1.to_owned()
}

#[test]
fn a_request_without_keep_conn_ends_the_connection() {
    let server = Setup::of("basic").listen("fastcgi-socket", Speaks::FastCgi).start();
    let mut records = Records::new(server.connect());
    records.client.send(request(7, "POST", "/", b"hello", false));
    let (out, status) = records.response(7);
    assert_eq!((body(&out).as_str(), status), ("ready", 0));
    records.client.expect_closed();
}

#[test]
fn a_kept_connection_serves_request_after_request_with_large_bodies() {
    differs(KEEPS, || {
        let server = Setup::fastcgi("basic").start();
        let mut records = Records::new(server.connect());
        let large: Vec<u8> = (0..200_000u32).map(|n| b'a' + (n % 26) as u8).collect();
        for (id, sent) in [(1, &b"one"[..]), (1, &large), (2, b""), (1, b"again")] {
            records.client.send(request(id, "POST", "/echo", sent, true));
            let (out, status) = records.response(id);
            assert_eq!((body(&out).as_bytes() == sent, status), (true, 0), "{} bytes", sent.len());
        }
    });
}

#[test]
fn the_bytes_may_be_split_anywhere() {
    let server = Setup::fastcgi("basic").start();
    let bytes = request(1, "POST", "/", b"split", false);
    for at in (1..bytes.len()).step_by(13) {
        let mut records = Records::new(server.connect());
        records.client.send(&bytes[..at]);
        records.client.send(&bytes[at..]);
        assert_eq!(body(&records.response(1).0), "ready");
    }
}

#[test]
fn without_path_info_the_path_is_that_of_the_document() {
    differs(
        "Without PATH_INFO it is made of DOCUMENT_URI or REQUEST_URI, less the mount point, which is SCRIPT_NAME.",
        || {
            let server = Setup::fastcgi("basic").start();
            let mut records = Records::new(server.connect());
            records.client.send(request(1, "GET", "/environ", b"", false));
            let page = body(&records.response(1).0);
            assert!(page.contains("\"PATH_INFO\": \"/environ\"") && page.contains("\"SCRIPT_NAME\": \"\""), "{page}");
        },
    );
}

#[test]
fn a_fast_request_overtakes_a_slow_one_and_an_abort_leaves_the_other() {
    differs(KEEPS, || {
        let server = Setup::fastcgi("basic").set("threads", "3").start();
        let mut records = Records::new(server.connect());
        let waits = |id: u16, name: &str| request(id, "GET", &format!("/wait/{name}"), b"", true);
        let inside = |name: &str| {
            let file = server.path(&format!("{name}.in"));
            wait_until("the request is inside the application", || file.exists());
        };
        let release = |name: &str| std::fs::write(server.path(&format!("{name}.go")), "").expect("the file");
        records.client.send(waits(1, "slow"));
        inside("slow");
        records.client.send(request(2, "POST", "/echo", b"fast", true));
        assert_eq!(body(&records.response(2).0), "fast");
        records.client.send(waits(3, "aborted"));
        inside("aborted");
        records.client.send(record(ABORT, 3, b""));
        // Until the worker has read the abort, it cannot know.
        records.client.send(request(4, "POST", "/echo", b"behind the abort", true));
        assert_eq!(body(&records.response(4).0), "behind the abort");
        release("aborted");
        let (_, status) = records.response(3);
        assert_eq!(status, 1);
        release("slow");
        let (out, status) = records.response(1);
        assert_eq!(status, 0, "{}", body(&out));
    });
}

/// Waits until the server has read all that was sent: it answers records in their order.
fn has_read_all(records: &mut Records) {
    records.client.send(record(GET_VALUES, 0, &pair("FCGI_MAX_REQS", "")));
    assert_eq!(records.next().kind, GET_VALUES_RESULT);
}

#[test]
fn fastcgi_5_5_with_two_threads_a_fast_request_ends_first_and_an_abort_leaves_the_other() {
    differs(KEEPS, || {
        let server = Setup::fastcgi("basic").set("threads", "2").start();
        let mut records = Records::new(server.connect());
        let begin = |records: &mut Records, id: u16, name: &str| {
            records.client.send(request(id, "GET", &format!("/wait/{name}"), b"", true));
            let file = server.path(&format!("{name}.in"));
            wait_until("the request is inside the application", || file.exists());
        };
        let release = |name: &str| std::fs::write(server.path(&format!("{name}.go")), "").expect("the file");
        begin(&mut records, 1, "slow");
        records.client.send(request(2, "POST", "/echo", b"fast", true));
        assert_eq!(body(&records.response(2).0), "fast");
        begin(&mut records, 3, "other");
        // One that waits for a thread, one whose body is not there yet, one that runs: each is aborted alone.
        records.client.send(request(4, "GET", "/", b"", true)).send(record(ABORT, 4, b""));
        let whole = request(5, "POST", "/echo", b"never whole", true);
        records.client.send(&whole[..whole.len() - 8]).send(record(ABORT, 5, b""));
        let unasked = records.next();
        assert_eq!((unasked.kind, unasked.id, &unasked.content[3..5]), (END, 5, &[1, 0][..]));
        records.client.send(record(ABORT, 1, b""));
        has_read_all(&mut records);
        release("slow");
        let mut aborted = vec![records.response(1).1, records.response(4).1];
        assert_eq!(aborted, [1, 1]);
        release("other");
        let (out, status) = records.response(3);
        assert_eq!(status, 0, "{}", body(&out));
        // Its ids are free again, those of the aborted too.
        for id in [1, 4, 5] {
            records.client.send(request(id, "POST", "/echo", b"again", true));
            aborted.push(records.response(id).1);
        }
        assert_eq!(aborted, [1, 1, 0, 0, 0]);
    });
}

#[test]
fn fastcgi_5_4_an_aborted_request_that_fails_leaves_the_others() {
    differs(KEEPS, || {
        let server = Setup::fastcgi("edges").set("threads", "2").allow("Traceback").start();
        let mut records = Records::new(server.connect());
        records.client.send(request(1, "GET", "/breaks", b"", true));
        records.client.send(request_with(2, "GET", "/paused", b"", true, &[("QUERY_STRING", "3")]));
        let mut out = [Vec::new(), Vec::new()];
        while !out[0].ends_with(b"begun") || !out[1].ends_with(b"zzz") {
            let record = records.next();
            assert_eq!(record.kind, STDOUT, "{record:?}");
            out[usize::from(record.id) - 1].extend(record.content);
        }
        records.client.send(record(ABORT, 1, b""));
        has_read_all(&mut records);
        std::fs::write(server.path("go"), "").expect("the file");
        let mut ended = [None, None];
        while ended.contains(&None) {
            let record = records.next();
            match record.kind {
                STDOUT => out[usize::from(record.id) - 1].extend(record.content),
                kind => {
                    assert_eq!(kind, END, "{record:?}");
                    ended[usize::from(record.id) - 1] = Some(record.content[3]);
                }
            }
        }
        assert_eq!((body(&out[1]).as_str(), ended), ("zzzend", [Some(1), Some(0)]));
        records.client.send(request(1, "GET", "/", b"", true));
        assert_eq!(body(&records.response(1).0), "ready");
    });
}

#[test]
fn fastcgi_3_5_the_end_of_the_connection_aborts_what_runs() {
    differs(KEEPS, || {
        let server = Setup::fastcgi("responses").start();
        let mut records = Records::new(server.connect());
        records.client.send(request(1, "GET", "/endless", b"", true));
        assert_eq!(records.next().kind, STDOUT);
        drop(records);
        let notes = server.path("notes");
        wait_until("close() was called", || {
            std::fs::read_to_string(&notes).is_ok_and(|text| text.contains("closed endless"))
        });
    });
}

#[test]
fn fastcgi_stderr_gets_what_the_application_writes_to_wsgi_errors() {
    differs("`fastcgi-stderr` sends `wsgi.errors` and tracebacks to the web server as FCGI_STDERR too.", || {
        let server = Setup::fastcgi("errors")
            .set("fastcgi-stderr", "true")
            .allow("Traceback")
            .listen("http-socket", Speaks::Http)
            .start();
        let mut records = Records::new(server.connect());
        let mut ask = |id: u16, path: &str| {
            records.client.send(request(id, "GET", path, b"", true));
            let (mut text, mut out, mut ended) = (Vec::new(), Vec::new(), false);
            loop {
                let next = records.next();
                assert_eq!(next.id, id, "{next:?}");
                match next.kind {
                    STDERR => {
                        assert!(!ended, "STDERR after its end");
                        // Whole lines, as web servers log them.
                        assert!(next.content.is_empty() || next.content.ends_with(b"\n"), "{next:?}");
                        ended = next.content.is_empty();
                        text.extend(next.content);
                    }
                    STDOUT => out.extend(next.content),
                    END => {
                        assert_eq!(ended, !text.is_empty(), "STDERR is ended if it was begun");
                        return (String::from_utf8(text).expect("text"), String::from_utf8(out).expect("text"));
                    }
                    _ => panic!("{next:?}"),
                }
            }
        };
        let (text, out) = ask(1, "/write");
        assert_eq!(text, "one line\ntwo lines\nprinted \u{20ac}\nlines\nof writelines\nthe end\n");
        assert!(out.ends_with("written"), "{out}");
        // The log has it all the same.
        server.wait_for_log(&["of writelines"]);
        assert_eq!(ask(1, "/quiet").0, "");
        let (text, out) = ask(2, "/raise");
        assert!(text.contains("Traceback") && text.contains("ValueError: on purpose"), "{text}");
        assert!(out.starts_with("Status: 500 "), "{out}");
        // What is written when the request is over is nobody's.
        assert_eq!(ask(3, "/late").0, "");
        assert_eq!(ask(4, "/release").0, "");
        server.wait_for_log(&["written too late"]);
        assert_eq!(ask(5, "/quiet").0, "");
        // Over HTTP there is nobody to tell.
        server.endpoint_at(1).connect().send(crate::harness::http::get("/write")).response().expect(200);
    });
}

#[test]
fn fastcgi_stderr_is_not_sent_unless_asked() {
    let server = Setup::fastcgi("errors").start();
    let mut records = Records::new(server.connect());
    records.client.send(request(1, "GET", "/write", b"", false));
    assert!(body(&records.response(1).0).ends_with("written"));
}

#[test]
fn management_records_are_answered() {
    differs(MANAGES, || {
        let server = Setup::fastcgi("basic").start();
        let mut records = Records::new(server.connect());
        records.client.send(record(GET_VALUES, 0, &pair("FCGI_MPXS_CONNS", "")));
        let values = records.next();
        assert_eq!(values.kind, GET_VALUES_RESULT);
        assert!(values.content.ends_with(b"FCGI_MPXS_CONNS1"), "{values:?}");
        records.client.send(record(77, 0, b"?"));
        let unknown = records.next();
        assert_eq!((unknown.kind, unknown.content[0]), (UNKNOWN_TYPE, 77));
        // An authorizer is not what rsgi is.
        records.client.send(record(1, 5, &[0, 2, 1, 0, 0, 0, 0, 0]));
        let refused = records.next();
        assert_eq!((refused.kind, refused.id, refused.content[4]), (END, 5, 3));
        records.client.send(request(1, "POST", "/echo", b"still there", true));
        let first = records.next();
        assert_eq!(first.kind, STDOUT);
    });
}

#[test]
fn a_refusal_is_not_lost_to_a_web_server_that_still_sends_the_body() {
    differs("A body above `limit-post` is refused with 413, chunked or not.", || {
        let server = Setup::fastcgi("basic").set("limit-post", "1000").start();
        for keep in [false, true] {
            let mut records = Records::new(server.connect());
            // More than the socket's buffers hold: a connection that is closed at once breaks this, and loses the answer.
            records.client.send(request(1, "POST", "/echo", &vec![b'x'; 8_000_000], keep));
            let (out, status) = records.response(1);
            let out = String::from_utf8_lossy(&out).into_owned();
            assert!(out.starts_with("Status: 413 ") && status == 0, "{out}");
            if keep {
                records.client.send(request(2, "POST", "/echo", b"and on", true));
                assert_eq!(body(&records.response(2).0), "and on");
            } else {
                records.client.expect_closed();
            }
        }
    });
}

fn streaming() -> Setup {
    Setup::fastcgi("bodies").set("post-buffering", "0")
}

const STREAMS: &str = "With `post-buffering = 0` a FastCGI connection carries one request at a time, whose body is read as the application asks for it.";

#[test]
fn a_body_is_streamed_while_it_comes() {
    differs(STREAMS, || {
        let server = Setup::fastcgi("edges").set("post-buffering", "0").start();
        let mut records = waiting_for_body(&server);
        records.client.send(record(STDIN, 1, b"bo"));
        records.client.send([record(STDIN, 1, b"dy"), record(STDIN, 1, b"")].concat());
        let (rest, status) = records.response(1);
        assert_eq!((rest.as_slice(), status), (&b"body end"[..], 0));
    });
}

#[test]
fn a_streamed_body_that_nobody_reads_is_skipped() {
    differs(KEEPS, || {
        let server = streaming().start();
        let mut records = Records::new(server.connect());
        for size in [10, 60_000, 3_000_000] {
            let (mut sender, request) = (
                records.client.socket.try_clone().expect("a socket"),
                request(1, "POST", "/unread", &vec![b'x'; size], true),
            );
            std::thread::scope(|scope| {
                scope.spawn(move || std::io::Write::write_all(&mut sender, &request).expect("sent"));
                assert_eq!(body(&records.response(1).0), "not read", "{size}");
            });
        }
        records.client.send(crate::harness::fastcgi::request(2, "GET", "/", b"", true));
        assert_eq!(body(&records.response(2).0), "ready");
    });
}

#[test]
fn a_second_request_is_declined_while_a_body_is_streamed() {
    differs(STREAMS, || {
        let server = Setup::fastcgi("basic").set("post-buffering", "0").set("threads", "2").start();
        let mut records = Records::new(server.connect());
        records.client.send(record(GET_VALUES, 0, &pair("FCGI_MPXS_CONNS", "")));
        assert!(records.next().content.ends_with(b"FCGI_MPXS_CONNS0"));
        let all = request(1, "POST", "/echo", b"streamed", true);
        // All but the end of the body: a record of a header alone.
        records.client.send(&all[..all.len() - 8]);
        records.client.send(record(BEGIN, 2, &[0, 1, 1, 0, 0, 0, 0, 0]));
        let declined = records.next();
        assert_eq!((declined.kind, declined.id, declined.content[4]), (END, 2, 1), "FCGI_CANT_MPX_CONN");
        records.client.send(&all[all.len() - 8..]);
        assert_eq!(body(&records.response(1).0), "streamed");
    });
}

/// A request whose application has begun to answer, and waits for a body of four bytes.
#[track_caller]
fn waiting_for_body(server: &Server) -> Records {
    let mut records = Records::new(server.connect());
    let params = [("REQUEST_METHOD", "POST"), ("PATH_INFO", "/late"), ("CONTENT_LENGTH", "4")];
    let params: Vec<u8> = params.iter().flat_map(|(name, value)| pair(name, value)).collect();
    records.client.send(record(BEGIN, 1, &[0, 1, 1, 0, 0, 0, 0, 0]));
    records.client.send([record(PARAMS, 1, &params), record(PARAMS, 1, b"")].concat());
    let first = records.next();
    assert!((first.kind, first.id) == (STDOUT, 1) && first.content.ends_with(b"begin "), "{first:?}");
    records
}

#[test]
fn an_application_hears_that_its_streamed_body_broke_off() {
    differs(STREAMS, || {
        for (how, error) in [
            ("abort", "the client left before the end of the body"),
            ("length", "body longer than CONTENT_LENGTH"),
            ("close", "the client left before the end of the body"),
            ("silence", "the client sent nothing for too long"),
        ] {
            let server = Setup::fastcgi("edges")
                .set("post-buffering", "0")
                .set("socket-timeout", if how == "silence" { "1" } else { "60" })
                .allow("Traceback")
                .allow("OSError")
                .start();
            let mut records = waiting_for_body(&server);
            records.client.send(record(STDIN, 1, b"bo"));
            match how {
                "abort" => drop(records.client.send(record(ABORT, 1, b""))),
                "length" => drop(records.client.send(record(STDIN, 1, b"dy and more"))),
                "close" => drop(records.client.finish_sending()),
                _ => {}
            }
            server.wait_for_log(&["OSError", error]);
            let mut records = Records::new(server.connect());
            records.client.send(request(1, "GET", "/", b"", true));
            body(&records.response(1).0);
        }
    });
}

#[test]
fn a_web_server_that_leaves_within_a_body_ends_the_request() {
    differs("Bad requests get an answer (400, 413, 414, 431, 501 or 505) and not an empty reply.", || {
        let server = Setup::fastcgi("basic").start();
        let mut records = Records::new(server.connect());
        let whole = request(3, "POST", "/echo", &[b'x'; 1000], true);
        records.client.send(&whole[..whole.len() - 500]).finish_sending();
        let (out, status) = records.response(3);
        let out = String::from_utf8_lossy(&out).into_owned();
        assert!(out.starts_with("Status: 400 ") && status == 0, "{out}");
        records.client.expect_closed();
    });
}

#[test]
fn kept_connections_and_half_requests_survive_a_reload() {
    differs(KEEPS, || {
        let server = Setup::fastcgi("basic").set("processes", "2").start();
        let mut kept: Vec<Records> = (0..8).map(|_| Records::new(server.connect())).collect();
        let ask = |records: &mut Records, id: u16| {
            records.client.send(request(id, "GET", "/pid", b"", true));
            body(&records.response(id).0)
        };
        let old: Vec<String> = kept.iter_mut().map(|records| ask(records, 1)).collect();
        let mut half = Records::new(server.connect());
        let whole = request(1, "POST", "/echo", &[b'x'; 1000], true);
        half.client.send(&whole[..whole.len() - 500]);
        server.signal(Signal::SIGHUP);
        // Nobody closes them, whoever serves them: the web server may be about to send a request.
        wait_until("new workers serve them all", || {
            kept.iter_mut().all(|records| {
                let pid = ask(records, 2);
                !old.contains(&pid)
            })
        });
        half.client.send(&whole[whole.len() - 500..]);
        assert_eq!(body(&half.response(1).0).len(), 1000);
        wait_until("the old worker has let it go", || !old.contains(&ask(&mut half, 9)));
    });
}

#[test]
fn a_streamed_body_above_the_limit_is_refused() {
    differs("A body above `limit-post` is refused with 413, chunked or not.", || {
        let server = streaming().set("limit-post", "1000").start();
        let mut records = Records::new(server.connect());
        records.client.send(request(1, "POST", "/up", &[b'x'; 1001], true));
        let (out, _) = records.response(1);
        assert!(out.starts_with(b"Status: 413 "), "{}", String::from_utf8_lossy(&out));
        records.client.send(request(1, "POST", "/up", &[b'x'; 1000], true));
        assert!(body(&records.response(1).0).starts_with("1000 "));
    });
}
