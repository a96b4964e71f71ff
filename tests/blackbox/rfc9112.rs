//! HTTP/1.1 clause by clause, with raw sockets: what a hostile client or a careless proxy sends, and what must come of it.
//! Each test is named after its clause. That each is read so at every split of its bytes is what `tests/corpus` holds.

use crate::harness::http::{Client, get, post, show};
use crate::harness::server::{Server, Setup};
use crate::harness::{differs, wait_until};

const STRICT: &str = "Request heads are read strictly (RFC 9112): bare LF, folded lines, blanks before the colon, a missing or repeated Host and control characters are refused with 400.";
const LENGTHS: &str = "Contradicting or malformed body lengths (two Content-Lengths, both Content-Length and chunked, signs, unknown transfer codings) are refused with 400 or 501.";
const ANSWERED: &str = "Bad requests get an answer (400, 413, 414, 431, 501 or 505) and not an empty reply.";
const IN_ORDER: &str = "Pipelined requests are answered, in order.";
const CHUNKED: &str = "Chunked request bodies are decoded, get a CONTENT_LENGTH, and are read from `wsgi.input`; `wsgi.input_terminated` is set.";

fn basic() -> Server {
    Setup::http("basic").start()
}

/// What must not be answered: it stands where the attacker wants it to begin, and says so in the counter.
const SMUGGLED: &str = "GET /count HTTP/1.1\r\nHost: smuggled\r\n\r\n";

/// Sends each row with a request behind it. The status is the only answer, the connection ends in order, and the request
/// behind it never reached the application.
#[track_caller]
fn refused_with_all_behind(server: &Server, rows: &[(&str, &[u8], u16)]) {
    let count =
        || server.get("/count").expect(200).text().split_once(' ').expect("two words").1.parse::<u32>().unwrap();
    let before = count();
    let mut wrong = Vec::new();
    for (what, bytes, status) in rows {
        let mut client = server.connect();
        let sent = client.try_send([bytes, SMUGGLED.as_bytes()].concat());
        let answer = client.try_response_to("GET");
        match (sent, answer) {
            (Ok(()), Ok(answer)) if answer.status == *status && answer.announces_close() => match client.try_rest() {
                Ok(rest) if rest.is_empty() => {}
                rest => wrong.push(format!("{what}: {status}, and then {rest:?}")),
            },
            other => wrong.push(format!("{what}: {other:?} and not {status}")),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(count(), before + 1, "a request was smuggled");
}

fn with(fields: &str) -> Vec<u8> {
    format!("POST /echo HTTP/1.1\r\nHost: a\r\n{fields}\r\n").into_bytes()
}

#[test]
fn rfc9112_11_2_nothing_behind_an_ambiguous_length_is_answered() {
    differs(LENGTHS, || {
        let rows: Vec<(&str, Vec<u8>, u16)> = vec![
            ("two lengths", with("Content-Length: 5\r\nContent-Length: 0\r\n"), 400),
            ("the same length twice", with("Content-Length: 5\r\nContent-Length: 5\r\n"), 400),
            ("a list of one length", with("Content-Length: 5, 5\r\n"), 400),
            ("a plus", with("Content-Length: +5\r\n"), 400),
            ("a length and a blank in the name", with("Content-Length : 5\r\n"), 400),
            ("a length behind a vertical tab", with("Content-Length:\x0b5\r\n"), 400),
            ("a length in other digits", with("Content-Length: \u{662}\r\n"), 400),
            ("chunked and a length", with("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n"), 400),
            ("a length and chunked", with("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n"), 400),
            ("an unknown coding and a length", with("Transfer-Encoding: x\r\nContent-Length: 5\r\n"), 400),
            ("chunked, identity", with("Transfer-Encoding: chunked, identity\r\n"), 400),
            ("identity, chunked", with("Transfer-Encoding: identity, chunked\r\n"), 501),
            ("identity", with("Transfer-Encoding: identity\r\n"), 501),
            ("xchunked", with("Transfer-Encoding: xchunked\r\n"), 501),
            ("chunkedx", with("Transfer-Encoding: chunkedx\r\n"), 501),
            ("chunked in quotes", with("Transfer-Encoding: \"chunked\"\r\n"), 400),
            ("chunked with a parameter", with("Transfer-Encoding: chunked;q=1\r\n"), 400),
            ("chunked behind a vertical tab", with("Transfer-Encoding: \x0bchunked\r\n"), 400),
            ("chunked behind a NUL", with("Transfer-Encoding: \0chunked\r\n"), 400),
            ("chunked in two fields", with("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n"), 400),
            ("a coding in a second field", with("Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n"), 400),
            ("chunked in a folded line", with("Transfer-Encoding:\r\n chunked\r\n"), 400),
            ("a blank before the colon", with("Transfer-Encoding : chunked\r\n"), 400),
            ("a tab before the colon", with("Transfer-Encoding\t: chunked\r\n"), 400),
            ("a coding behind a bare CR", with("X: y\rTransfer-Encoding: chunked\r\n"), 400),
            ("a coding behind a bare LF", with("X: y\nTransfer-Encoding: chunked\r\n"), 400),
            ("HTTP/1.0", b"POST /echo HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec(), 400),
        ];
        let rows: Vec<_> = rows.iter().map(|(what, bytes, status)| (*what, &bytes[..], *status)).collect();
        refused_with_all_behind(&basic(), &rows);
    });
}

#[test]
fn rfc9112_7_1_nothing_behind_a_broken_chunk_is_answered() {
    differs(CHUNKED, || {
        let bodies: [(&str, &str); 19] = [
            ("overflow", "ffffffffffffffffff\r\n"),
            ("a wrapping size", "10000000000000000\r\n\r\n0\r\n\r\n"),
            ("a prefix", "0x0\r\n\r\n"),
            ("an underscore", "0_0\r\n\r\n"),
            ("a sign", "+0\r\n\r\n"),
            ("a blank before the size", " 0\r\n\r\n"),
            ("a blank behind the size", "0 \r\n\r\n"),
            ("a tab behind the size", "0\t\r\n\r\n"),
            ("a blank before an extension", "0 ;a\r\n\r\n"),
            ("a NUL in an extension", "0;a\0b\r\n\r\n"),
            ("a bare LF behind the size", "0\n\r\n"),
            ("a bare LF at the end", "0\r\n\n"),
            ("a bare CR behind the size", "0\rX\r\n\r\n"),
            ("a bare LF in an extension", "1;a\nb\r\nx\r\n0\r\n\r\n"),
            ("a bare CR in an extension", "1;a\rb\r\nx\r\n0\r\n\r\n"),
            ("no CRLF behind the data", "1\r\nxx\r\n0\r\n\r\n"),
            ("a bare LF behind the data", "1\r\nx\n0\r\n\r\n"),
            ("a blank before the colon of a trailer", "0\r\nX : y\r\n\r\n"),
            ("a folded trailer", "0\r\nX: y\r\n z\r\n\r\n"),
        ];
        let rows: Vec<(&str, Vec<u8>)> = bodies
            .iter()
            .map(|(what, body)| (*what, [with("Transfer-Encoding: chunked\r\n"), body.as_bytes().to_vec()].concat()))
            .collect();
        let rows: Vec<_> = rows.iter().map(|(what, bytes)| (*what, &bytes[..], 400)).collect();
        refused_with_all_behind(&basic(), &rows);
    });
}

#[test]
fn rfc9112_2_2_line_ends_and_control_bytes() {
    differs(STRICT, || {
        refused_with_all_behind(
            &basic(),
            &[
                ("bare LF behind the request line", b"GET / HTTP/1.1\nHost: a\r\n\r\n", 400),
                ("bare LF behind a field", b"GET / HTTP/1.1\r\nHost: a\nX: y\r\n\r\n", 400),
                ("bare LF as the blank line", b"GET / HTTP/1.1\r\nHost: a\r\n\n", 400),
                ("bare CR in a value", b"GET / HTTP/1.1\r\nHost: a\r\nX: y\rz\r\n\r\n", 400),
                ("bare CR as the blank line", b"GET / HTTP/1.1\r\nHost: a\r\n\rX\r\n\r\n", 400),
                ("CR CR LF", b"GET / HTTP/1.1\r\nHost: a\r\r\n\r\n", 400),
                ("NUL in a name", b"GET / HTTP/1.1\r\nHost: a\r\nX\0: y\r\n\r\n", 400),
                ("NUL in a value", b"GET / HTTP/1.1\r\nHost: a\r\nX: \0\r\n\r\n", 400),
                ("NUL in the target", b"GET /\0 HTTP/1.1\r\nHost: a\r\n\r\n", 400),
                ("DEL in a value", b"GET / HTTP/1.1\r\nHost: a\r\nX: \x7f\r\n\r\n", 400),
                ("a blank before the first field", b"GET / HTTP/1.1\r\n Host: a\r\n\r\n", 400),
                ("two empty lines in front", b"\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
            ],
        );
    });
}

#[test]
fn rfc9112_2_3_versions() {
    differs(ANSWERED, || {
        let server = basic();
        // A later minor version is answered as the one that is known.
        let response = server.ask("GET /environ HTTP/1.2\r\nHost: a\r\n\r\n").expect(200);
        assert_eq!((response.version.as_str(), &response.json()["SERVER_PROTOCOL"]), ("HTTP/1.1", &"HTTP/1.1".into()));
        refused_with_all_behind(
            &server,
            &[
                ("the HTTP/2 preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
                ("HTTP/2.0", b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505),
                ("HTTP/3.0", b"GET / HTTP/3.0\r\nHost: a\r\n\r\n", 505),
                ("HTTP/0.9", b"GET /\r\n", 400),
                ("HTTP/0.9 by name", b"GET / HTTP/0.9\r\n\r\n", 400),
                ("HTTP/1.10", b"GET / HTTP/1.10\r\nHost: a\r\n\r\n", 400),
                ("HTTP/1", b"GET / HTTP/1\r\nHost: a\r\n\r\n", 400),
                ("http/1.1", b"GET / http/1.1\r\nHost: a\r\n\r\n", 400),
                ("HTTP/+1.1", b"GET / HTTP/+1.1\r\nHost: a\r\n\r\n", 400),
                ("a blank behind it", b"GET / HTTP/1.1 \r\nHost: a\r\n\r\n", 400),
            ],
        );
    });
}

#[test]
fn rfc9112_3_1_methods() {
    let server = basic();
    // A token like others: what it means is the application's to say, and case matters.
    for method in ["get", "PROPFIND", "M-SEARCH", "a", "X!#$%&'*+.^`|~9"] {
        let page = server.ask(format!("{method} /environ HTTP/1.1\r\nHost: a\r\n\r\n")).expect(200).json();
        assert_eq!(page["REQUEST_METHOD"], method);
    }
}

#[test]
fn rfc9112_3_1_methods_that_are_none_and_long_ones() {
    differs(ANSWERED, || {
        let long = [b"A".repeat(20_000), b" / HTTP/1.1\r\nHost: a\r\n\r\n".to_vec()].concat();
        let fits = [b"A".repeat(10_000), b" /environ HTTP/1.1\r\nHost: a\r\n\r\n".to_vec()].concat();
        let server = basic();
        assert_eq!(server.ask(fits).expect(200).json()["REQUEST_METHOD"].as_str().map(str::len), Some(10_000));
        refused_with_all_behind(
            &server,
            &[
                ("a long one", &long, 414),
                ("a slash in it", b"GE/T / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
                ("a colon in it", b"GET: / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
                ("a byte above ASCII", b"G\xc3\x89T / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
                ("none", b" / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
            ],
        );
    });
}

#[test]
fn rfc9112_3_2_host() {
    differs(STRICT, || {
        refused_with_all_behind(
            &basic(),
            &[
                ("none", b"GET / HTTP/1.1\r\n\r\n", 400),
                ("two", b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
                ("the same twice", b"GET / HTTP/1.1\r\nHost: a\r\nhost: a\r\n\r\n", 400),
                ("two names", b"GET / HTTP/1.1\r\nHost: a, b\r\n\r\n", 400),
                ("a path", b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", 400),
                ("user information", b"GET / HTTP/1.1\r\nHost: me@a\r\n\r\n", 400),
                ("a port of letters", b"GET / HTTP/1.1\r\nHost: a:b\r\n\r\n", 400),
                ("none beside an absolute target", b"GET http://a/ HTTP/1.1\r\n\r\n", 400),
                ("an invalid one beside an absolute target", b"GET http://a/ HTTP/1.1\r\nHost: a b\r\n\r\n", 400),
                ("an invalid authority", b"GET http://a b/ HTTP/1.1\r\nHost: a\r\n\r\n", 400),
                ("user information in the target", b"GET http://me@a/ HTTP/1.1\r\nHost: a\r\n\r\n", 400),
            ],
        );
    });
}

#[test]
fn rfc9112_3_2_2_the_authority_of_an_absolute_target_is_the_host() {
    differs(
        "A target in absolute form (`GET http://host/path`) is split: PATH_INFO holds the path and HTTP_HOST the host.",
        || {
            let server = basic();
            for (target, host, query) in [
                ("http://real.example/environ?a=b", "real.example", "a=b"),
                ("HTTPS://real.example:444/environ", "real.example:444", ""),
                ("http://[2001:db8::1]:80/environ", "[2001:db8::1]:80", ""),
            ] {
                let page =
                    server.ask(format!("GET {target} HTTP/1.1\r\nHost: other.example\r\n\r\n")).expect(200).json();
                assert_eq!((&page["HTTP_HOST"], &page["PATH_INFO"]), (&host.into(), &"/environ".into()), "{target}");
                assert_eq!((&page["QUERY_STRING"], &page["REQUEST_URI"]), (&query.into(), &target.into()), "{target}");
            }
        },
    );
}

#[test]
fn rfc9112_3_2_3_and_3_2_4_targets_of_other_methods() {
    differs(ANSWERED, || {
        let server = Setup::http("responses").start();
        // OPTIONS * asks for the server as a whole; the application may answer.
        server.ask("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n").expect(200);
        drop(server);
        refused_with_all_behind(
            &basic(),
            &[
                ("CONNECT", b"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n", 501),
                ("CONNECT without a port", b"CONNECT a HTTP/1.1\r\nHost: a\r\n\r\n", 400),
                ("CONNECT with a path", b"CONNECT / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
                ("GET *", b"GET * HTTP/1.1\r\nHost: a\r\n\r\n", 400),
                ("GET of an authority", b"GET a:80 HTTP/1.1\r\nHost: a\r\n\r\n", 400),
                ("another scheme", b"GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n", 400),
                ("no slash", b"GET environ HTTP/1.1\r\nHost: a\r\n\r\n", 400),
            ],
        );
    });
}

#[test]
fn rfc9110_5_1_names_that_would_pass_for_others_never_reach_the_application() {
    differs(
        "Request header fields with `_` in their names are dropped: they would be taken for those with `-`.",
        || {
            let page = basic()
                .ask(
                    "GET /environ HTTP/1.1\r\nHost: a\r\nRemote_User: root\r\nRemote-User: root\r\nX_Forwarded_For: 1.1.1.1\r\n\
                     X-Forwarded_For: 1.1.1.1\r\nProxy: http://evil.example/\r\nContent_Length: 7\r\nTransfer_Encoding: chunked\r\n\
                     HTTP_HOST: b\r\nwsgi.url_scheme: https\r\n\r\n",
                )
                .expect(200)
                .json();
            for absent in ["REMOTE_USER", "HTTP_REMOTE_USER_", "HTTP_X_FORWARDED_FOR", "HTTP_PROXY", "CONTENT_LENGTH"] {
                assert!(page.get(absent).is_none(), "{absent}: {page}");
            }
            // With a dash it is a field of the client like others, and nobody's REMOTE_USER.
            assert_eq!(page["HTTP_REMOTE_USER"], "root");
            assert_eq!((&page["HTTP_HOST"], &page["wsgi.url_scheme"]), (&"a".into(), &"http".into()));
        },
    );
}

#[test]
fn rfc9112_7_1_2_trailers_never_become_fields() {
    differs(CHUNKED, || {
        let server = basic();
        let mut client = server.connect();
        client.send(
            "POST /environ HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTrailer: X-Late\r\n\r\n2;x=\"y\"\r\nab\r\n0\r\n\
             X-Late: 1\r\nHost: other\r\nContent-Length: 99\r\nTransfer-Encoding: chunked\r\n\r\n",
        );
        let page = client.response().expect(200).json();
        assert_eq!((&page["HTTP_HOST"], &page["CONTENT_LENGTH"]), (&"a".into(), &"2".into()));
        assert!(page.get("HTTP_X_LATE").is_none(), "{page}");
        // The connection stands where the body ended.
        client.send(get("/")).response().expect(200);
    });
}

#[test]
fn rfc9112_9_3_2_pipelining_goes_on_behind_an_error_of_the_application() {
    differs(IN_ORDER, || {
        let server = Setup::http("responses").allow("Traceback").allow("on purpose").start();
        let mut client = server.connect();
        let all = [get("/raise"), get("/one"), get("/status?404"), get("/raise-first"), get("/one")].concat();
        client.send(all);
        for status in [500, 200, 404, 500, 200] {
            let response = client.response().expect(status);
            assert!(!response.announces_close(), "{response:?}");
        }
        // HTTP/1.0 is told so, and HEAD has no body.
        client.send("HEAD /raise HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
        let response = client.response_to("HEAD").expect(500);
        assert_eq!(response.field("Connection").map(str::to_ascii_lowercase).as_deref(), Some("keep-alive"));
        // Its body was read, so it does not stand in the way either.
        client.send([post("/raise", "GET /never HTTP/1.1\r\n\r\n"), get("/one").into_bytes()].concat());
        client.response().expect(500);
        assert_eq!(client.response().expect(200).text(), "one item");
    });
}

#[test]
fn rfc9112_9_3_2_what_follows_a_refused_or_a_last_request_is_not_answered() {
    differs(IN_ORDER, || {
        let server = basic();
        let mut client = server.connect();
        let last = "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
        client.send(get("/") + last + SMUGGLED);
        assert!(!client.response().expect(200).announces_close());
        assert!(client.response().expect(200).announces_close());
        client.expect_closed();
        // Trailing garbage, as some old clients send behind a body, is a request line that is none.
        let mut client = server.connect();
        client.send([&post("/echo", "body")[..], b"garbage\r\n", SMUGGLED.as_bytes()].concat());
        assert_eq!(client.response().expect(200).text(), "body");
        client.response().expect(400);
        client.expect_closed();
        // One CRLF too many is forgiven.
        let mut client = server.connect();
        client.send([&post("/echo", "body")[..], b"\r\n", get("/").as_bytes()].concat());
        assert_eq!(client.response().expect(200).text(), "body");
        client.response().expect(200);
    });
}

#[test]
fn rfc9112_9_6_a_client_that_only_ends_its_side_gets_its_whole_answer() {
    // A FIN says that nothing more will be asked, and nothing about whether the answer is wanted.
    let server = Setup::http("responses").start();
    let mut client = server.connect();
    client.send("GET /many HTTP/1.0\r\n\r\n").finish_sending();
    let response = client.response().expect(200);
    assert_eq!(response.text(), (0..5000).map(|n| format!("{n}\n")).collect::<String>());
    drop(server);
    let server = basic();
    let mut client = server.connect();
    client.send(get("/wait/half")).finish_sending();
    wait_until("the request is inside the application", || server.path("half.in").exists());
    std::fs::write(server.path("half.go"), "").expect("a file");
    client.response().expect(200);
    client.expect_closed();
}

#[test]
fn rfc9112_9_6_many_answers_are_owed_to_a_client_that_ended_its_side() {
    differs(IN_ORDER, || {
        let server = Setup::http("basic").set("threads", "2").start();
        let mut client = server.connect();
        client
            .send(get("/wait/first") + &get("/environ?2") + &get("/big?3000000") + &get("/environ?4"))
            .finish_sending();
        wait_until("the request is inside the application", || server.path("first.in").exists());
        std::fs::write(server.path("first.go"), "").expect("a file");
        client.response().expect(200);
        assert_eq!(client.response().expect(200).json()["QUERY_STRING"], "2");
        assert_eq!(client.response().expect(200).body.len(), 3_000_000);
        assert_eq!(client.response().expect(200).json()["QUERY_STRING"], "4");
        client.expect_closed();
    });
}

#[test]
fn rfc9112_9_6_an_answer_without_reading_the_body_is_not_lost_in_a_reset() {
    differs("A body above `limit-post` is refused with 413, chunked or not.", || {
        let server = Setup::http("basic").set("limit-post", "1000").start();
        let mut client = server.connect();
        client.send("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 3000000\r\n\r\n");
        // The client sends all of it before it looks; closing at once would reset the answer away.
        for _ in 0..30 {
            client.send("x".repeat(100_000));
        }
        assert!(client.response().expect(413).announces_close());
        assert_eq!(client.finish_sending().try_rest().expect("an end in order"), b"");
    });
}

#[test]
fn rfc9112_6_1_and_7_8_upgrades_are_left_alone() {
    let server = Setup::http("basic").set("http-keepalive", "5").start();
    let response = server
        .ask("GET /environ HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n")
        .expect(200);
    assert_eq!(response.json()["HTTP_UPGRADE"], "h2c");
}

#[test]
fn rfc9110_15_5_15_a_request_line_above_16_kib() {
    differs("`buffer-size` below 65536 is taken as 65536; longer request heads get 431, longer targets 414.", || {
        let server = basic();
        // 14 bytes of the line are not the target.
        let line = |target: usize| format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(target - 1));
        assert_eq!(server.ask(line(16_384 - 13)).status, 404);
        refused_with_all_behind(&server, &[("one byte more", line(16_384 - 12).as_bytes(), 414)]);
    });
}

#[test]
fn rfc6585_5_a_head_above_the_buffer_names_the_option_and_a_larger_buffer_takes_it() {
    differs("`buffer-size` below 65536 is taken as 65536; longer request heads get 431, longer targets 414.", || {
        // Exactly so many bytes.
        let head = |size: usize| {
            let frame = "GET / HTTP/1.1\r\nHost: a\r\nX: \r\n\r\n".len();
            format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(size - frame))
        };
        let server = basic();
        server.ask(head(65_536)).expect(200);
        refused_with_all_behind(&server, &[("one byte more", head(65_537).as_bytes(), 431)]);
        server.wait_for_log(&["431", "buffer-size raises the limit"]);
        drop(server);
        let server = Setup::http("basic").set("buffer-size", "300000").start();
        server.ask(head(300_000)).expect(200);
        refused_with_all_behind(&server, &[("one byte more", head(300_001).as_bytes(), 431)]);
    });
}

#[test]
fn rfc9110_15_5_9_deadlines_of_a_head() {
    differs(
        "A head or body that takes too long gets 408: `http-headers-timeout` for a whole head, `socket-timeout` or `http-timeout` between the pieces of a body.",
        || {
            let server = Setup::http("basic").set("http-headers-timeout", "1").set("http-keepalive", "60").start();
            // In all: bytes do not lengthen it.
            let mut client = server.connect();
            client.send("GET / HTTP/1.1\r\nHost: a\r\n");
            client.socket.set_read_timeout(Some(std::time::Duration::from_millis(50))).expect("a time-out");
            let mut answer = None;
            wait_until("it is refused", || {
                answer = answer.take().or_else(|| client.try_send("X: y\r\n").ok().and_then(|()| client.if_any()));
                answer.is_some()
            });
            let answer = answer.unwrap_or_default();
            assert!(answer.starts_with(b"HTTP/1.1 408 "), "{}", show(&answer));
            // Also for the second request of a connection.
            let mut client = server.connect();
            client.send(get("/")).response().expect(200);
            client.send("GET").response().expect(408);
            client.expect_closed();
            // Who has asked nothing is told nothing.
            server.connect().expect_closed();
        },
    );
}

#[test]
fn rfc9110_10_1_1_expectations() {
    differs("`Expect: 100-continue` is answered.", || {
        let server = Setup::http("basic").set("limit-post", "10").start();
        let head = |fields: &str| format!("POST /echo HTTP/1.1\r\nHost: a\r\n{fields}Expect: 100-continue\r\n\r\n");
        // As soon as the head is accepted, chunked or not.
        let mut client = server.connect();
        client.send(head("Transfer-Encoding: chunked\r\n"));
        assert_eq!(client.response().status, 100);
        assert_eq!(client.send("2\r\nab\r\n0\r\n\r\n").response().expect(200).body, b"ab");
        // Nothing to wait for: only the answer.
        client.send(head("Content-Length: 0\r\n")).response().expect(200);
        client.send(head("")).response().expect(200);
        // What is refused gets its final status only.
        for (request, status) in [
            (head("Content-Length: 11\r\n"), 413),
            (head("Content-Length: 5\r\nContent-Length: 6\r\n"), 400),
            (head("Transfer-Encoding: gzip\r\n"), 501),
            ("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nExpect: magic\r\n\r\n".to_owned(), 417),
        ] {
            let mut client = server.connect();
            client.send(request).response().expect(status);
            client.expect_closed();
        }
    });
}

#[test]
fn rfc9110_8_6_a_body_against_its_length() {
    differs(
        "A body never exceeds its Content-Length; when it falls short, the connection is cut and a line logged.",
        || {
            let server = Setup::http("responses")
                .allow("sends more than its Content-Length")
                .allow("bytes less than its Content-Length")
                .start();
            let mut client = server.connect();
            assert_eq!(client.send(get("/long")).response().expect(200).text(), "12345");
            server.wait_for_log(&["sends more than its Content-Length says", "GET /long"]);
            // HEAD and 304 have the length of a body that is not there.
            client.send("HEAD /short HTTP/1.1\r\nHost: a\r\n\r\n").response_to("HEAD").expect(200);
            assert_eq!(client.send(get("/one")).response().expect(200).text(), "one item");
            let broken = client.send(get("/short")).try_response_to("GET").expect_err("a short body");
            assert!(broken.contains("closed within"), "{broken}");
            server.wait_for_log(&["45 bytes less than its Content-Length says", "GET /short"]);
            assert!(!server.log().contains("HEAD /short; "), "{}", server.log());
        },
    );
}

#[test]
fn rfc9110_7_6_1_hop_by_hop_fields_are_dropped_with_one_warning() {
    differs(
        "Hop-by-hop headers of the application (Connection, Keep-Alive, Transfer-Encoding, ...) are dropped; `Connection: close` closes.",
        || {
            let server = Setup::http("responses").start();
            let mut client = server.connect();
            for _ in 0..3 {
                let response = client.send(get("/hop")).response().expect(200);
                assert_eq!((response.field("Keep-Alive"), response.field("Transfer-Encoding")), (None, None));
                assert_eq!(response.text(), "hop by hop");
            }
            let said = server.log().matches("is not passed on: the server frames responses").count();
            assert_eq!(said, 1, "{}", server.log());
        },
    );
}

/// Bytes that are no HTTP at all.
#[test]
fn rfc9112_11_1_strangers() {
    differs(ANSWERED, || {
        let server = basic();
        for bytes in [
            &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..],
            b"SSH-2.0-OpenSSH_9.2p1\r\n",
            b"\x00\x01\x02\x03\x04\x05\x06\x07",
            b"\x05\x01\x00",
            b"EHLO example.org\r\n",
            b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        ] {
            let mut client: Client = server.connect();
            client.send(bytes);
            client.response().expect(400);
            client.expect_closed();
        }
    });
}
