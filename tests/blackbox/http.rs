//! HTTP/1.1 on the wire: request heads good and bad, keep-alive, pipelining, framing of responses.

use crate::harness::differs;
use crate::harness::http::{Framing, get, post, show};
use crate::harness::server::{Server, Setup};

fn basic() -> Server {
    Setup::http("basic").start()
}

/// The status of the first answer to these bytes, or what came instead.
fn status_of(server: &Server, request: impl AsRef<[u8]>) -> Result<u16, String> {
    let mut client = server.connect();
    // The server may answer and close before it has read everything.
    let _ = client.try_send(request);
    let _ = client.socket.shutdown(std::net::Shutdown::Write);
    client.try_response_to("GET").map(|response| response.status)
}

/// Checks a table of requests that all must be refused with a status, each without hurting the
/// server and with the connection closed.
#[track_caller]
fn refused(rows: &[(&str, &str, u16)]) {
    let server = basic();
    let mut wrong = Vec::new();
    for (what, request, status) in rows {
        match status_of(&server, request) {
            Ok(found) if found == *status => {}
            other => wrong.push(format!("{what}: {other:?} and not {status} for {}", show(request.as_bytes()))),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    server.get("/").expect(200);
}

/// Checks a table of requests that must be accepted.
#[track_caller]
fn accepted(rows: &[(&str, &str)]) {
    let server = basic();
    let mut wrong = Vec::new();
    for (what, request) in rows {
        match status_of(&server, request) {
            Ok(200) => {}
            other => wrong.push(format!("{what}: {other:?} for {}", show(request.as_bytes()))),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn get_is_answered() {
    let server = basic();
    let response = server.get("/").expect(200);
    assert_eq!(response.version, "HTTP/1.1");
    assert_eq!(response.reason, "OK");
    assert_eq!(response.body, b"ready");
    assert_eq!(response.field("Content-Type"), Some("text/plain"));
    assert_eq!(response.field("Content-Length"), Some("5"));
}

#[test]
fn rfc9112_3_requests_that_are_fine() {
    accepted(&[
        ("plain", "GET / HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("1.0", "GET / HTTP/1.0\r\n\r\n"),
        ("1.0 with Host", "GET / HTTP/1.0\r\nHost: a\r\n\r\n"),
        ("a method of its own", "PURGE / HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("a method with odd token characters", "M-X!#$%&'*+.^_`|~0 / HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("no space behind the colon", "GET / HTTP/1.1\r\nHost:a\r\n\r\n"),
        ("spaces and tabs around a value", "GET / HTTP/1.1\r\nHost: \t a \t \r\n\r\n"),
        ("an empty value", "GET / HTTP/1.1\r\nHost: a\r\nX-Empty:\r\n\r\n"),
        ("bytes above 127 in a value", "GET / HTTP/1.1\r\nHost: a\r\nX-Name: \u{e4}\u{20ac}\r\n\r\n"),
        ("a host with a port", "GET / HTTP/1.1\r\nHost: a:8080\r\n\r\n"),
        ("an IPv6 host", "GET / HTTP/1.1\r\nHost: [::1]:80\r\n\r\n"),
        ("an empty query", "GET /? HTTP/1.1\r\nHost: a\r\n\r\n"),
    ]);
}

#[test]
fn rfc9112_2_2_one_empty_line_before_a_request_is_ignored() {
    differs("An empty line before a request is ignored.", || {
        let server = basic();
        let page = server.ask("\r\nGET /environ HTTP/1.1\r\nHost: a\r\n\r\n").expect(200).json();
        assert_eq!(page["REQUEST_METHOD"], "GET");
    });
}

#[test]
fn rfc9112_3_2_2_absolute_targets_are_split() {
    differs(
        "A target in absolute form (`GET http://host/path`) is split: PATH_INFO holds the path and HTTP_HOST the host.",
        || {
            let server = basic();
            let page = server
                .ask("GET http://other.example:81/environ?q=1 HTTP/1.1\r\nHost: ignored\r\n\r\n")
                .expect(200)
                .json();
            assert_eq!(page["PATH_INFO"], "/environ");
            assert_eq!(page["QUERY_STRING"], "q=1");
            assert_eq!(page["HTTP_HOST"], "other.example:81");
        },
    );
}

#[test]
fn rfc9112_3_request_lines_that_are_refused() {
    differs("Bad requests get an answer (400, 413, 414, 431, 501 or 505) and not an empty reply.", || {
        refused(&[
            ("no version", "GET /\r\nHost: a\r\n\r\n", 400),
            ("no target", "GET  HTTP/1.1\r\nHost: a\r\n\r\n", 400),
            ("two spaces", "GET  / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
            ("a tab", "GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n", 400),
            ("a space at the end", "GET / HTTP/1.1 \r\nHost: a\r\n\r\n", 400),
            ("not a token", "G(T / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
            ("a control byte in the target", "GET /\x01 HTTP/1.1\r\nHost: a\r\n\r\n", 400),
            ("a target that is no path", "GET path HTTP/1.1\r\nHost: a\r\n\r\n", 400),
            ("an unknown protocol", "GET / FOO/1.1\r\nHost: a\r\n\r\n", 400),
            ("a small http", "GET / http/1.1\r\nHost: a\r\n\r\n", 400),
            ("HTTP/2.0", "GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505),
            ("HTTP/0.9", "GET / HTTP/0.9\r\nHost: a\r\n\r\n", 400),
            ("HTTP/1", "GET / HTTP/1\r\nHost: a\r\n\r\n", 400),
            ("garbage", "\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", 400),
            ("NUL in the path", "GET /a%00b HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        ]);
    });
}

#[test]
fn rfc9112_5_header_fields_that_are_refused() {
    differs(
        "Request heads are read strictly (RFC 9112): bare LF, folded lines, blanks before the colon, a missing or repeated Host and control characters are refused with 400.",
        || {
            refused(&[
                ("bare LF everywhere", "GET / HTTP/1.1\nHost: a\n\n", 400),
                ("bare LF behind a field", "GET / HTTP/1.1\r\nHost: a\nX: y\r\n\r\n", 400),
                ("bare CR in a value", "GET / HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n", 400),
                ("NUL in a value", "GET / HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n", 400),
                ("a folded line", "GET / HTTP/1.1\r\nHost: a\r\nX: a\r\n b\r\n\r\n", 400),
                ("a blank before the first field", "GET / HTTP/1.1\r\n Host: a\r\n\r\n", 400),
                ("a blank before the colon", "GET / HTTP/1.1\r\nHost: a\r\nX : b\r\n\r\n", 400),
                ("no name", "GET / HTTP/1.1\r\nHost: a\r\n: b\r\n\r\n", 400),
                ("no colon", "GET / HTTP/1.1\r\nHost: a\r\nnothing\r\n\r\n", 400),
                ("a bracket in a name", "GET / HTTP/1.1\r\nHost: a\r\nX(y): b\r\n\r\n", 400),
                ("no Host", "GET / HTTP/1.1\r\n\r\n", 400),
                ("two Hosts", "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
                ("the same Host twice", "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400),
                ("a Host with a path", "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", 400),
                ("a Host with a blank", "GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400),
            ]);
        },
    );
}

#[test]
fn rfc9112_6_3_body_lengths_that_are_refused() {
    differs(
        "Contradicting or malformed body lengths (two Content-Lengths, both Content-Length and chunked, signs, unknown transfer codings) are refused with 400 or 501.",
        || {
            let with = |fields: &str| format!("POST /echo HTTP/1.1\r\nHost: a\r\n{fields}\r\n12345");
            let rows = [
                ("two lengths", with("Content-Length: 5\r\nContent-Length: 6\r\n"), 400),
                ("a list of lengths", with("Content-Length: 5, 6\r\n"), 400),
                ("a sign", with("Content-Length: +5\r\n"), 400),
                ("negative", with("Content-Length: -5\r\n"), 400),
                ("hexadecimal", with("Content-Length: 0x5\r\n"), 400),
                ("a blank inside", with("Content-Length: 5 5\r\n"), 400),
                ("an underscore", with("Content-Length: 5_0\r\n"), 400),
                ("empty", with("Content-Length:\r\n"), 400),
                ("text", with("Content-Length: five\r\n"), 400),
                ("chunked and a length", with("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n"), 400),
                ("a length and chunked", with("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n"), 400),
                ("chunked twice", with("Transfer-Encoding: chunked, chunked\r\n"), 400),
                ("chunked not at the end", with("Transfer-Encoding: chunked, gzip\r\n"), 400),
                ("an unknown coding", with("Transfer-Encoding: gzip, chunked\r\n"), 501),
                ("an unheard-of coding", with("Transfer-Encoding: xchunked\r\n"), 400),
                ("identity", with("Transfer-Encoding: identity\r\n"), 400),
            ];
            let server = basic();
            let mut wrong = Vec::new();
            for (what, request, status) in &rows {
                match status_of(&server, request) {
                    Ok(found) if found == *status || (*status == 400 && found == 501) => {}
                    other => wrong.push(format!("{what}: {other:?} and not {status}")),
                }
            }
            assert!(wrong.is_empty(), "{}", wrong.join("\n"));
            server.get("/").expect(200);
        },
    );
}

#[test]
fn rfc9112_6_1_transfer_encoding_is_no_word_of_http_1_0() {
    differs(
        "Contradicting or malformed body lengths (two Content-Lengths, both Content-Length and chunked, signs, unknown transfer codings) are refused with 400 or 501.",
        || {
            refused(&[("1.0 and chunked", "POST /echo HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400)]);
        },
    );
}

#[test]
fn rfc6585_5_heads_that_are_too_long() {
    differs("`buffer-size` below 65536 is taken as 65536; longer request heads get 431, longer targets 414.", || {
        let server = basic();
        let long = "x".repeat(60_000);
        server.ask(format!("GET / HTTP/1.1\r\nHost: a\r\nX-Long: {long}\r\n\r\n")).expect(200);
        let long = "x".repeat(70_000);
        assert_eq!(status_of(&server, format!("GET /{long} HTTP/1.1\r\nHost: a\r\n\r\n")), Ok(414));
        assert_eq!(status_of(&server, format!("GET / HTTP/1.1\r\nHost: a\r\nX-Long: {long}\r\n\r\n")), Ok(431));
        let many: String = (0..7000).map(|n| format!("X-{n}: {n}\r\n")).collect();
        assert_eq!(status_of(&server, format!("GET / HTTP/1.1\r\nHost: a\r\n{many}\r\n")), Ok(431));
        server.get("/").expect(200);
    });
}

#[test]
fn rfc9112_2_a_head_may_come_byte_by_byte() {
    let server = basic();
    let mut client = server.connect();
    for byte in get("/environ?a=b").into_bytes() {
        client.send([byte]);
    }
    assert_eq!(client.response().expect(200).json()["QUERY_STRING"], "a=b");
}

#[test]
fn rfc9112_9_3_keep_alive() {
    differs(
        "`http-socket` and `http` keep connections alive, as `http11-socket` does; there is no router process.",
        || {
            let server = basic();
            let mut client = server.connect();
            for n in 0..20 {
                let response = client.send(get(&format!("/environ?{n}"))).response().expect(200);
                assert_eq!(response.json()["QUERY_STRING"], n.to_string());
                assert!(!response.announces_close());
            }
        },
    );
}

#[test]
fn rfc9112_9_6_connection_close_is_honoured_and_announced() {
    differs("A connection that the server closes is announced with `Connection: close`.", || {
        let server = basic();
        for value in ["close", "Close", "keep-alive, close", "foo, Close ,bar"] {
            let mut client = server.connect();
            client.send(format!("GET / HTTP/1.1\r\nHost: a\r\nConnection: {value}\r\n\r\n"));
            let response = client.response().expect(200);
            assert!(response.announces_close(), "{value}: {response:?}");
            client.expect_closed();
        }
        let mut client = server.connect();
        client.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: foo\r\nConnection: close\r\n\r\n");
        assert!(client.response().announces_close());
        client.expect_closed();
    });
}

#[test]
fn rfc9112_9_3_http_1_0_closes_unless_asked() {
    let server = basic();
    let mut client = server.connect();
    client.send("GET / HTTP/1.0\r\n\r\n").response().expect(200);
    client.expect_closed();
}

#[test]
fn rfc9112_9_3_http_1_0_keeps_alive_when_asked() {
    differs(
        "`http-socket` and `http` keep connections alive, as `http11-socket` does; there is no router process.",
        || {
            let server = basic();
            let mut client = server.connect();
            for _ in 0..3 {
                client.send("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
                let response = client.response().expect(200);
                assert_eq!(response.field("Connection").map(str::to_ascii_lowercase).as_deref(), Some("keep-alive"));
            }
        },
    );
}

#[test]
fn rfc9112_9_3_2_pipelined_requests_are_answered_in_order() {
    differs("Pipelined requests are answered, in order.", || {
        let server = basic();
        let mut client = server.connect();
        let mut bytes = Vec::new();
        for n in 0..50 {
            bytes.extend_from_slice(get(&format!("/environ?{n}")).as_bytes());
            bytes.extend_from_slice(&post("/echo", format!("body {n}")));
        }
        client.send(bytes);
        for n in 0..50 {
            assert_eq!(client.response().expect(200).json()["QUERY_STRING"], n.to_string());
            assert_eq!(client.response().expect(200).text(), format!("body {n}"));
        }
    });
}

#[test]
fn rfc9112_9_3_2_bad_requests_behind_good_ones_do_not_hide_the_good_answers() {
    differs("Pipelined requests are answered, in order.", || {
        let server = basic();
        let mut client = server.connect();
        client.send(get("/") + "garbage\r\n\r\n" + &get("/"));
        client.response().expect(200);
        let response = client.response().expect(400);
        assert!(response.announces_close());
        client.expect_closed();
    });
}

#[test]
fn rfc9110_6_6_1_every_response_has_a_date() {
    differs("Every HTTP response has a Date.", || {
        let server = basic();
        let response = server.get("/").expect(200);
        let date = response.field("Date").expect("a Date");
        assert_eq!(date.len(), 29, "{date}");
        assert!(date.ends_with(" GMT"), "{date}");
    });
}

#[test]
fn applications_may_give_their_own_date_and_server() {
    let server = Setup::http("responses").start();
    let response = server.get("/date").expect(200);
    assert_eq!(response.field("Date"), Some("Thu, 01 Jan 1970 00:00:00 GMT"));
    assert_eq!(response.field("Server"), Some("mine"));
}

#[test]
fn rfc9110_9_3_2_head_has_the_head_of_get_and_no_body() {
    differs("Responses to HEAD, and those with status 204, 205 or 304, are sent without a body.", || {
        let server = Setup::http("responses").start();
        let mut client = server.connect();
        for page in ["/one", "/list", "/generator", "/bytes", "/wrapper", "/write"] {
            client.send(format!("HEAD {page} HTTP/1.1\r\nHost: a\r\n\r\n"));
            client.response_to("HEAD").expect(200);
            // The next answer begins where the body would have been.
            assert_eq!(client.send(get("/one")).response().expect(200).body, b"one item");
        }
        client.send("HEAD /generator-length HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(client.response_to("HEAD").expect(200).field("Content-Length"), Some("10"));
        client.send("HEAD /one HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(client.response_to("HEAD").expect(200).field("Content-Length"), Some("8"));
    });
}

#[test]
fn rfc9110_15_3_5_and_15_4_5_statuses_without_a_body() {
    differs("Responses to HEAD, and those with status 204, 205 or 304, are sent without a body.", || {
        let server = Setup::http("responses").start();
        let mut client = server.connect();
        for (page, status) in [("/204", 204), ("/304", 304)] {
            let response = client.send(get(page)).response().expect(status);
            assert_eq!(response.field("Transfer-Encoding"), None);
            assert_eq!(client.send(get("/one")).response().expect(200).body, b"one item");
        }
        let response = client.send(get("/205")).response().expect(205);
        assert_eq!((response.body.as_slice(), response.field("Content-Length")), (&b""[..], Some("0")));
        assert_eq!(client.send(get("/one")).response().expect(200).body, b"one item");
    });
}

#[test]
fn rfc9110_9_3_2_a_head_request_that_is_refused_gets_no_body_either() {
    differs("Responses to HEAD, and those with status 204, 205 or 304, are sent without a body.", || {
        let server = basic();
        for (request, status) in [
            ("HEAD / HTTP/1.1\r\n\r\n", 400),
            ("HEAD / HTTP/1.1\r\nHost: a\r\nExpect: more\r\n\r\n", 417),
            ("HEAD / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n", 400),
        ] {
            let mut client = server.connect();
            let response = client.send(request).response_to("HEAD").expect(status);
            assert!(response.announces_close() && response.field("Content-Length") != Some("0"), "{request}");
            client.expect_closed();
        }
    });
}

#[test]
fn rfc9112_6_2_lengths_are_given_when_they_are_known() {
    differs(
        "A response whose length is known gets its Content-Length; otherwise it is chunked for HTTP/1.1 clients.",
        || {
            let server = Setup::http("responses").start();
            let mut client = server.connect();
            for (page, body) in [
                ("/one", "one item"),
                ("/bytes", "bytes, returned as they are"),
                ("/empty-list", ""),
                ("/list", "one, two, three"),
                ("/tuple", "a tuple"),
            ] {
                let response = client.send(get(page)).response().expect(200);
                assert_eq!(response.text(), body);
                assert_eq!(response.field("Content-Length"), Some(body.len().to_string().as_str()), "{page}");
            }
        },
    );
}

#[test]
fn rfc9112_7_1_unknown_lengths_are_chunked() {
    differs(
        "A response whose length is known gets its Content-Length; otherwise it is chunked for HTTP/1.1 clients.",
        || {
            let server = Setup::http("responses").start();
            let mut client = server.connect();
            for (page, body) in [
                ("/generator", "first second third"),
                ("/write", "written, written again, returned"),
                ("/late-start", "late"),
            ] {
                let response = client.send(get(page)).response().expect(200);
                assert_eq!(response.framing, Framing::Chunked, "{page}");
                assert_eq!(response.text(), body);
            }
            let many = client.send(get("/many")).response().expect(200);
            assert_eq!(many.framing, Framing::Chunked);
            assert_eq!(many.text(), (0..5000).map(|n| format!("{n}\n")).collect::<String>());
        },
    );
}

#[test]
fn rfc9112_6_3_http_1_0_gets_unknown_lengths_until_the_close() {
    let server = Setup::http("responses").start();
    let response = server.ask("GET /generator HTTP/1.0\r\n\r\n").expect(200);
    assert_eq!(response.framing, Framing::UntilClose);
    assert_eq!(response.text(), "first second third");
}

#[test]
fn rfc9112_6_3_http_1_0_with_keep_alive_is_still_delimited() {
    differs("A connection that the server closes is announced with `Connection: close`.", || {
        let server = Setup::http("responses").start();
        let response = server.ask("GET /generator HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").expect(200);
        assert_eq!(response.framing, Framing::UntilClose);
        assert_eq!(response.field("Connection").map(str::to_ascii_lowercase).as_deref(), Some("close"));
    });
}

#[test]
fn rfc9110_10_1_1_expect_100_continue() {
    differs("`Expect: 100-continue` is answered.", || {
        let server = basic();
        let mut client = server.connect();
        client.send("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n");
        assert_eq!(client.response().status, 100);
        assert_eq!(client.send("12345").response().expect(200).body, b"12345");
        // The same connection goes on.
        client.send(get("/")).response().expect(200);
        // Whoever sends the body at once may get the 100 or not; the answer follows either way.
        client.send("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nExpect: 100-Continue\r\n\r\nabc");
        let mut response = client.response();
        if response.status == 100 {
            response = client.response();
        }
        assert_eq!(response.expect(200).body, b"abc");
    });
}

#[test]
fn rfc9110_10_1_1_expect_of_http_1_0_is_ignored() {
    let server = basic();
    let mut client = server.connect();
    client.send("POST /echo HTTP/1.0\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n12345");
    assert_eq!(client.response().expect(200).body, b"12345");
}

#[test]
fn names_with_underscores_do_not_reach_the_application() {
    differs(
        "Request header fields with `_` in their names are dropped: they would be taken for those with `-`.",
        || {
            let server = basic();
            let page = server
                .ask("GET /environ HTTP/1.1\r\nHost: a\r\nX_Real_IP: 1.2.3.4\r\nX-Other: b\r\n\r\n")
                .expect(200)
                .json();
            assert!(page.get("HTTP_X_REAL_IP").is_none(), "{page}");
            assert_eq!(page["HTTP_X_OTHER"], "b");
        },
    );
}

#[test]
fn rfc9110_5_3_repeated_fields_are_joined() {
    differs(
        "Repeated request header fields are joined with `,`, Cookie with `; `; of Content-Type the last one counts.",
        || {
            let server = basic();
            let page = server
                .ask(
                    "GET /environ HTTP/1.1\r\nHost: a\r\nAccept: x\r\nCookie: a=1\r\nContent-Type: a/b\r\nAccept: y\r\n\
                Cookie: b=2\r\nContent-Type: c/d\r\n\r\n",
                )
                .expect(200)
                .json();
            assert_eq!((&page["HTTP_ACCEPT"], &page["CONTENT_TYPE"]), (&"x,y".into(), &"c/d".into()));
            assert_eq!(page["HTTP_COOKIE"], "a=1; b=2");
        },
    );
}

#[test]
fn rfc9112_9_6_half_closed_clients_get_their_answer() {
    let server = basic();
    let mut client = server.connect();
    client.send(get("/")).finish_sending();
    client.response().expect(200);
    client.expect_closed();
}

#[test]
fn closing_in_the_middle_of_a_head_hurts_nobody() {
    let server = basic();
    for cut in [1, 5, 20, 30] {
        server.connect().send(&get("/")[..cut]);
    }
    server.get("/").expect(200);
}

#[test]
fn closing_during_the_answer_is_no_error() {
    let server = Setup::http("responses")
        .set("ignore-sigpipe", "true")
        .set("ignore-write-errors", "true")
        .set("disable-write-exception", "true")
        .start();
    let mut client = server.connect();
    client.send(get("/endless"));
    assert!(!client.some().is_empty());
    drop(client);
    // close() is called all the same.
    let notes = server.path("notes");
    crate::harness::wait_until("close() was called", || {
        std::fs::read_to_string(&notes).is_ok_and(|text| text.contains("closed endless"))
    });
    server.get("/one").expect(200);
}
