//! PEP 3333: environ, start_response, results of every kind, and applications that fail.

use crate::harness::http::get;
use crate::harness::server::{Server, Setup};
use crate::harness::{differs, wait_until};

/// Errors that `responses.py` makes on purpose.
fn responses() -> Server {
    Setup::http("responses").allow("Traceback").allow("on purpose").allow("Content-Length").start()
}

fn notes(server: &Server) -> String {
    std::fs::read_to_string(server.path("notes")).unwrap_or_default()
}

/// How often a text stands in the log.
fn times(server: &Server, text: &str) -> usize {
    server.log().matches(text).count()
}

#[test]
fn pep3333_environ_variables_over_http() {
    let server = Setup::http("basic").start();
    let page = server.ask(
        "GET /environ/a%20b%C3%A4?q=%20x&y HTTP/1.1\r\nHost: Test:80\r\nX-Thing: a  b\r\nContent-Type: text/x\r\n\r\n",
    );
    let page = page.expect(200).json();
    let port = match server.endpoint() {
        crate::harness::http::Endpoint::Tcp(address) => address.port().to_string(),
        other => panic!("{other:?}"),
    };
    for (name, value) in [
        ("REQUEST_METHOD", "GET"),
        ("SCRIPT_NAME", ""),
        ("PATH_INFO", "/environ/a b\u{c3}\u{a4}"),
        ("QUERY_STRING", "q=%20x&y"),
        ("REQUEST_URI", "/environ/a%20b%C3%A4?q=%20x&y"),
        ("SERVER_PROTOCOL", "HTTP/1.1"),
        ("REMOTE_ADDR", "127.0.0.1"),
        ("HTTP_HOST", "Test:80"),
        ("HTTP_X_THING", "a  b"),
        ("CONTENT_TYPE", "text/x"),
        ("SERVER_PORT", port.as_str()),
        ("wsgi.url_scheme", "http"),
    ] {
        assert_eq!(page[name], value, "{name} in {page}");
    }
    assert_eq!(page["wsgi.version"], serde_json::json!([1, 0]));
    assert_eq!(page["wsgi.run_once"], false);
    assert_eq!(page["wsgi.multithread"], false);
    assert_eq!(page["wsgi.multiprocess"], false);
    for name in ["SERVER_NAME", "wsgi.input", "wsgi.errors", "wsgi.file_wrapper", "uwsgi.version", "uwsgi.node"] {
        assert!(page.get(name).is_some(), "{name} in {page}");
    }
    assert!(page.get("CONTENT_LENGTH").is_none_or(|length| length == ""), "{page}");
    assert!(page.get("HTTP_CONTENT_TYPE").is_none());
}

#[test]
fn remote_port_over_http() {
    differs("REMOTE_PORT is set over HTTP too.", || {
        let server = Setup::http("basic").start();
        let mut client = server.connect();
        let port = client.socket.local_addr().expect("address").as_socket().expect("TCP").port();
        let page = client.send(get("/environ")).response().expect(200).json();
        assert_eq!(page["REMOTE_PORT"], port.to_string());
    });
}

#[test]
fn pep3333_thread_support_processes_and_threads_are_told_truthfully() {
    let server = Setup::http("basic").set("processes", "2").set("threads", "2").start();
    let page = server.get("/environ").expect(200).json();
    assert_eq!(page["wsgi.multithread"], true);
    assert_eq!(page["wsgi.multiprocess"], true);
}

#[test]
fn paths_are_normalised() {
    let server = Setup::http("basic").start();
    let mut wrong = Vec::new();
    for (target, path) in [
        ("/environ", "/environ"),
        ("/environ/", "/environ/"),
        ("/environ/./a", "/environ/a"),
        ("/environ/a/../b", "/environ/b"),
        ("/environ/a/..", "/environ/"),
        ("/environ//a", "/environ//a"),
        ("/x/../environ", "/environ"),
        ("/../environ", "/environ"),
        ("/../../environ", "/environ"),
        ("/./environ", "/environ"),
        ("/environ/a+b", "/environ/a+b"),
        ("/environ/%2525", "/environ/%25"),
        ("/environ/a%2fb", "/environ/a/b"),
        ("/environ/...", "/environ/..."),
        ("/environ/.a", "/environ/.a"),
        ("/environ/a.", "/environ/a."),
        ("/environ/a/%2e%2e/b", "/environ/a/../b"),
        ("/environ/%e4", "/environ/\u{e4}"),
    ] {
        let response = server.get(target);
        if response.status != 200 || response.json()["PATH_INFO"] != path {
            wrong.push(format!("{target} gives {} and not {path}", response.text()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn an_invalid_escape_stays_as_it_is() {
    differs("An invalid escape in a path (`%zz`) stays as it is; `%00` is refused with 400.", || {
        let server = Setup::http("basic").start();
        assert_eq!(server.get("/environ/%zz%4").expect(200).json()["PATH_INFO"], "/environ/%zz%4");
        server.get("/environ/%00").expect(400);
    });
}

#[test]
fn forwarded_headers_have_no_effect() {
    differs(
        "X-Forwarded-Proto has no effect on `wsgi.url_scheme` unless it comes from one of the `trusted-proxies`; X-Forwarded-SSL never has.",
        || {
            let server = Setup::http("basic").start();
            let page = server
                .ask("GET /environ HTTP/1.1\r\nHost: a\r\nX-Forwarded-Proto: evil\r\nX-Forwarded-For: 1.2.3.4\r\n\r\n");
            let page = page.expect(200).json();
            assert_eq!(page["wsgi.url_scheme"], "http");
            assert_eq!(page["REMOTE_ADDR"], "127.0.0.1");
            assert_eq!(page["HTTP_X_FORWARDED_PROTO"], "evil");
        },
    );
}

#[test]
fn pep3333_buffering_and_streaming_results_of_every_kind_are_sent_whole() {
    let server = responses();
    let file: String = (0..20000).map(|n| format!("{n:06}\n")).collect();
    for (page, body) in [
        ("/one", "one item"),
        ("/list", "one, two, three"),
        ("/empty-list", ""),
        ("/empty-strings", ""),
        ("/bytes", "bytes, returned as they are"),
        ("/tuple", "a tuple"),
        ("/generator", "first second third"),
        ("/late-start", "late"),
        ("/generator-length", "0123456789"),
        ("/write", "written, written again, returned"),
        ("/write-only", "only written"),
        ("/bytesio", "line one\nline two\n"),
        ("/open-file", file.as_str()),
        ("/wrapper", file.as_str()),
        ("/wrapper-bytesio", "not a real file"),
        ("/wrapper-close", "closed afterwards"),
        ("/context", "one two"),
    ] {
        let mut client = server.connect();
        client.send(format!("GET {page} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"));
        assert_eq!(client.response().expect(200).text(), body, "{page}");
    }
    wait_until("the file was closed", || notes(&server).contains("closed the wrapped file"));
    wait_until("the generator was left", || notes(&server).contains("left the generator"));
}

#[test]
fn pep3333_file_handling_files_are_sent_from_where_they_stand() {
    differs(
        "`wsgi.file_wrapper` sends a file from its current position, never more than Content-Length, and an object with nothing but `read` to its end.",
        || {
            let server = responses();
            let rest: String = (19990..20000).map(|n| format!("{n:06}\n")).collect();
            assert_eq!(server.get("/wrapper-seek").expect(200).text(), rest);
            assert_eq!(server.get("/wrapper-offset").expect(200).text(), rest);
            assert_eq!(server.get("/wrapper-readable").expect(200).text(), "read only");
            let begin: String = (0..10).map(|n| format!("{n:06}\n")).collect();
            let mut client = server.connect();
            assert_eq!(client.send(get("/wrapper-length")).response().expect(200).text(), begin);
            client.send(get("/one")).response().expect(200);
        },
    );
}

#[test]
fn pep3333_specification_close_is_called_once_on_every_path() {
    let server = responses();
    for (page, name) in [
        ("/closing", "closing"),
        ("/raise-first", "raise-first"),
        ("/raise-second", "raise-second"),
        ("/raise-end", "raise-end"),
        ("/raise-close", "raise-close"),
    ] {
        let mut client = server.connect();
        client.send(get(page)).finish_sending();
        let _ = client.try_rest();
        let line = format!("closed {name}\n");
        wait_until("close() was called", || notes(&server).contains(&line));
    }
    let mut client = server.connect();
    client.send("HEAD /closing-head HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    let _ = client.try_rest();
    wait_until("close() was called", || notes(&server).contains("closed closing-head\n"));
    server.get("/one").expect(200);
    let all = notes(&server);
    for name in ["closing", "raise-first", "raise-second", "raise-end", "raise-close", "closing-head"] {
        assert_eq!(all.matches(&format!("closed {name}\n")).count(), 1, "{name} in {all}");
    }
}

#[test]
fn pep3333_error_handling_exceptions_before_the_head_are_answered_with_500() {
    differs(
        "An application that raises before its head is out is answered with 500; afterwards the connection is cut without a final chunk.",
        || {
            let server = responses();
            let mut client = server.connect();
            for page in ["/raise", "/raise-started", "/raise-first", "/raise-in-generator"] {
                let before = times(&server, "Traceback");
                let response = client.send(get(page)).response();
                assert_eq!(response.status, 500, "{page}");
                assert!(!response.text().contains("purpose"), "the client learns nothing of the cause");
                wait_until("one traceback is logged", || times(&server, "Traceback") == before + 1);
                if response.announces_close() {
                    client.expect_closed();
                    client = server.connect();
                }
            }
            server.get("/one").expect(200);
            assert_eq!(times(&server, "Traceback"), 4);
        },
    );
}

#[test]
fn pep3333_error_handling_exceptions_after_the_head_cut_the_connection() {
    differs(
        "An application that raises before its head is out is answered with 500; afterwards the connection is cut without a final chunk.",
        || {
            let server = responses();
            for page in ["/raise-second", "/raise-end", "/raise-written", "/raise-second-length"] {
                let mut client = server.connect();
                client.send(get(page));
                let broken = client.try_response_to("GET");
                assert!(broken.is_err(), "{page}: {broken:?}");
                assert!(broken.unwrap_err().contains("closed within"), "{page}");
            }
            wait_until("the tracebacks are logged", || times(&server, "Traceback") == 4);
            server.get("/one").expect(200);
        },
    );
}

#[test]
fn exceptions_in_close_are_logged() {
    let server = responses();
    // Nothing says whether the client may learn of it: the body is whole, its end may be missing.
    let mut client = server.connect();
    client.send(get("/raise-close"));
    let answer = client.try_response_to("GET").map(|response| response.text());
    assert!(answer.as_ref().is_err() || answer == Ok("whole".into()), "{answer:?}");
    wait_until("it is logged", || server.log().contains("on purpose, in close"));
    server.get("/one").expect(200);
}

#[test]
fn exit_in_the_application_is_an_exception() {
    differs(
        "SystemExit and KeyboardInterrupt raised by an application are answered like every exception; the worker goes on.",
        || {
            let server =
                Setup::of("responses").set("mount", "/basic=basic:application").set("manage-script-name", "true");
            let server = server.listen("http-socket", crate::harness::server::Speaks::Http).allow("Traceback").start();
            let before = server.get("/basic/pid").expect(200).text();
            for page in ["/exit", "/exit-started", "/keyboard-interrupt"] {
                assert_eq!(server.get(page).status, 500, "{page}");
            }
            assert_eq!(server.get("/basic/pid").expect(200).text(), before);
        },
    );
}

#[test]
fn pep3333_specification_results_that_are_no_iterables() {
    differs(
        "An application that raises before its head is out is answered with 500; afterwards the connection is cut without a final chunk.",
        || {
            let server = responses();
            for page in ["/none", "/not-iterable", "/no-start", "/text"] {
                assert_eq!(server.get(page).status, 500, "{page}");
            }
            server.get("/one").expect(200);
        },
    );
}

#[test]
fn pep3333_start_response_exc_info_replaces_what_is_not_out_yet() {
    differs("`start_response` with exc_info replaces a head that is not out yet, and the answer goes on.", || {
        let server = responses();
        let response = server.get("/exc-info").expect(503);
        assert_eq!(response.reason, "Replaced");
        assert_eq!(response.field("X-Replaced"), Some("yes"));
        assert_eq!(response.text(), "replaced");
    });
}

#[test]
fn pep3333_start_response_exc_info_raises_again_when_the_head_is_out() {
    let server = responses();
    let mut client = server.connect();
    client.send(get("/exc-info-late"));
    let broken = client.try_response_to("GET");
    let broken = broken.map(|response| response.text());
    assert!(broken.as_ref().is_err() || broken == Ok("already out".into()), "{broken:?}");
    wait_until("it is logged", || server.log().contains("on purpose, too late"));
    server.get("/one").expect(200);
}

#[test]
fn pep3333_start_response_twice_is_an_error() {
    differs("Calling `start_response` twice without exc_info is an error, as PEP 3333 wants.", || {
        let server = responses();
        assert_eq!(server.get("/twice").status, 500);
        wait_until("it is logged", || times(&server, "Traceback") == 1);
    });
}

#[test]
fn pep3333_start_response_headers_reach_the_client_in_order() {
    let server = responses();
    let response = server.get("/headers").expect(200);
    let names: Vec<&str> = response
        .fields
        .iter()
        .map(|(name, _)| name.as_str())
        .filter(|name| !["Date", "Content-Length", "Connection"].contains(name))
        .collect();
    assert_eq!(names, ["X-One", "x-two", "Set-Cookie", "Set-Cookie"]);
    assert_eq!(response.field("x-two"), Some("zwei \u{e4}"));
}

#[test]
fn a_status_without_reason_gets_the_usual_one() {
    let server = responses();
    let response = server.get("/status?404").expect(404);
    assert_eq!(response.reason, "Not Found");
    assert_eq!(server.get("/status?299+Odd+One").expect(299).reason, "Odd One");
}

#[test]
fn pep3333_start_response_headers_cannot_be_injected() {
    differs(
        "Response headers and statuses with control characters (CR, LF, NUL) are an error of the application and never sent.",
        || {
            let server = responses();
            for page in ["/crlf-value", "/crlf-name", "/crlf-status"] {
                let response = server.get(page).expect(500);
                assert_eq!(response.field("X-Injected"), None, "{page}");
            }
        },
    );
}

#[test]
fn pep3333_other_http_features_hop_by_hop_headers_are_the_servers_business() {
    differs(
        "Hop-by-hop headers of the application (Connection, Keep-Alive, Transfer-Encoding, ...) are dropped; `Connection: close` closes.",
        || {
            let server = responses();
            let mut client = server.connect();
            let response = client.send(get("/hop")).response().expect(200);
            assert_eq!(response.text(), "hop by hop");
            assert_eq!(response.field("Keep-Alive"), None);
            let response = client.send(get("/connection-close")).response().expect(200);
            assert!(response.announces_close());
            client.expect_closed();
        },
    );
}

#[test]
fn pep3333_content_length_bytes_beyond_it_are_not_sent() {
    differs(
        "A body never exceeds its Content-Length; when it falls short, the connection is cut and a line logged.",
        || {
            let server = responses();
            let mut client = server.connect();
            assert_eq!(client.send(get("/long")).response().expect(200).text(), "12345");
            assert_eq!(client.send(get("/one")).response().expect(200).text(), "one item");
        },
    );
}

#[test]
fn pep3333_content_length_a_body_that_is_too_short_closes_the_connection() {
    let server = responses();
    let mut client = server.connect();
    client.send(get("/short"));
    let broken = client.try_response_to("GET").expect_err("a short body");
    assert!(broken.contains("closed within"), "{broken}");
    server.get("/one").expect(200);
}

#[test]
fn pep3333_input_the_body_is_read_like_a_file() {
    let server = Setup::http("inputs").start();
    let body = "one\ntwo\n\nlast";
    let mut wrong = Vec::new();
    for (page, pieces) in [
        ("read", vec![body]),
        ("read-huge", vec![body, ""]),
        ("readline", vec!["one\n", "two\n", "\n", "last", ""]),
        ("readlines", vec!["one\n", "two\n", "\n", "last"]),
        ("iterate", vec!["one\n", "two\n", "\n", "last"]),
        ("mixed", vec!["one\n", "tw", "o\n", "\nlast"]),
        ("again", vec![body, "", ""]),
        ("nothing", vec![]),
    ] {
        let found = server.ask(crate::harness::http::post(&format!("/{page}"), body)).expect(200).json();
        if found != serde_json::json!(pieces) {
            wrong.push(format!("{page}: {found} and not {pieces:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn pep3333_input_a_body_that_is_not_there_is_empty() {
    let server = Setup::http("inputs").start();
    for page in ["read", "readline", "again"] {
        let found = server.get(&format!("/{page}")).expect(200).json();
        assert!(found.as_array().expect("a list").iter().all(|piece| piece == ""), "{page}: {found}");
    }
}

#[test]
fn pep3333_input_the_body_is_read_like_a_file_also_with_limits() {
    differs(
        "`wsgi.input` is read exactly like a file: `read(0)`, `readline(size)`, `readlines(hint)`, `read(None)`, `seek` and `tell`.",
        || {
            let server = Setup::http("inputs").start();
            let body = "one\ntwo\n\nlast";
            for (page, pieces) in [
                ("readline-size", vec!["on", "e\n", "", "two\n", "\n"]),
                ("readlines-hint", vec!["one\n", "|", "two\n", "\n", "last"]),
                ("read-none", vec![body]),
                ("read-sizes", vec!["one", "", "\ntwo", "\n\nlast", "", ""]),
                ("seek", vec!["one\n", "4", "1", "ne\n", "11", "st"]),
            ] {
                let found = server.ask(crate::harness::http::post(&format!("/{page}"), body)).expect(200).json();
                assert_eq!(found, serde_json::json!(pieces), "{page}");
            }
        },
    );
}

#[test]
fn pep3333_errors_what_the_application_prints_is_in_the_log() {
    differs("`wsgi.errors` is written to the log at the end of each line.", || {
        let server = Setup::http("basic").start();
        server.get("/log?one").expect(200);
        server.get("/log?two").expect(200);
        for from in ["wsgi.errors", "print", "stderr"] {
            server.wait_for_log(&[&format!("from {from}: two")]);
        }
    });
}

#[test]
fn utf8_is_the_encoding_whatever_the_locale() {
    differs("Python's file system encoding is UTF-8 whatever the locale.", || {
        let server = Setup::http("basic").env("LC_ALL", "C").env("LANG", "C").start();
        assert_eq!(server.get("/process").expect(200).json()["encoding"], "utf-8");
    });
}
