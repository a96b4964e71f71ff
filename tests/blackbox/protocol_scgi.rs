//! SCGI on the wire.

use crate::harness::http::{Framing, get};
use crate::harness::scgi::{exchange, netstring, request};
use crate::harness::server::{Setup, Speaks};
use crate::harness::variables::SEEN;
use crate::harness::{Subject, differs, subject};

const PATHS: &str =
    "Without PATH_INFO it is made of DOCUMENT_URI or REQUEST_URI, less the mount point, which is SCRIPT_NAME.";

#[test]
fn variables_reach_the_application() {
    let server = Setup::scgi("basic").start();
    let more = [("PATH_INFO", "/environ"), ("SCRIPT_NAME", "")];
    let page = exchange(server.endpoint(), "GET", "/environ?a=%20b", b"", &more).expect(200).json();
    for (name, value) in SEEN.into_iter().chain([("SCRIPT_NAME", ""), ("SCGI", "1"), ("CONTENT_LENGTH", "0")]) {
        assert_eq!(page[name], value, "{name}");
    }
}

#[test]
fn rfc3875_6_3_there_is_one_status() {
    differs(
        "A Status header of the application is dropped over FastCGI and SCGI, where it would be a second status.",
        || {
            let server = Setup::scgi("responses").start();
            let mut client = server.connect();
            client.send(request("GET", "/status-field", b"", &[("PATH_INFO", "/status-field")]));
            let response = client.response().expect(200);
            assert_eq!((response.field("Status"), response.field("X-Mine")), (None, Some("1")));
            assert_eq!(response.text(), "one status");
            server.wait_for_log(&["the application's Status header is not passed on"]);
        },
    );
}

#[test]
fn the_response_begins_with_a_status_field_and_ends_with_the_connection() {
    let server = Setup::scgi("basic").start();
    let mut client = server.connect();
    client.send(request("GET", "/", b"", &[("PATH_INFO", "/")]));
    let response = client.response().expect(200);
    assert_eq!((response.version.as_str(), response.reason.as_str()), ("Status:", "OK"));
    for name in ["Connection", "Transfer-Encoding", "Date"] {
        assert_eq!(response.field(name), None);
    }
    client.expect_closed();
}

#[test]
fn responses_are_not_chunked() {
    let server = Setup::scgi("responses").start();
    let response = exchange(server.endpoint(), "GET", "/generator", b"", &[("PATH_INFO", "/generator")]).expect(200);
    assert_eq!(response.framing, Framing::UntilClose);
    assert_eq!(response.text(), "first second third");
}

#[test]
fn bodies_are_read_by_their_length() {
    for buffering in ["65536", "0"] {
        let server = Setup::scgi("basic").set("post-buffering", buffering).start();
        for size in [0, 1, 100, 65_535, 65_536, 3_000_000] {
            let body: Vec<u8> = (0..size).map(|n| (n % 251) as u8).collect();
            let response = exchange(server.endpoint(), "POST", "/echo", &body, &[("PATH_INFO", "/echo")]).expect(200);
            assert_eq!(response.body, body, "{size} bytes, post-buffering {buffering}");
        }
    }
}

#[test]
fn requests_may_come_byte_by_byte() {
    let server = Setup::scgi("basic").start();
    let mut client = server.connect();
    let vars = [
        ("CONTENT_LENGTH", "3"),
        ("SCGI", "1"),
        ("REQUEST_METHOD", "POST"),
        ("REQUEST_URI", "/echo"),
        ("PATH_INFO", "/echo"),
    ];
    let head = netstring(&vars);
    // uWSGI takes a comma that does not come with the last variable for the body's first byte.
    let whole = if subject() == Subject::Rsgi { head.len() } else { head.len() - 2 };
    for piece in head[..whole].chunks(1).chain([&head[whole..]]).chain(b"abc".chunks(1)) {
        client.send(piece);
    }
    assert_eq!(client.response().expect(200).body, b"abc");
}

#[test]
fn without_path_info_the_path_is_that_of_the_target() {
    differs(PATHS, || {
        let server = Setup::scgi("basic").start();
        // nginx's scgi_params: DOCUMENT_URI, decoded. Its fastcgi_params: SCRIPT_NAME with the whole path.
        let page = |more: &[(&str, &str)]| {
            let response = exchange(server.endpoint(), "GET", "/environ/a%20b?c", b"", more).expect(200);
            let page = response.json();
            (page["SCRIPT_NAME"].to_string(), page["PATH_INFO"].to_string())
        };
        let expected = ("\"\"".to_owned(), "\"/environ/a b\"".to_owned());
        assert_eq!(page(&[("DOCUMENT_URI", "/environ/a b")]), expected);
        assert_eq!(page(&[("DOCUMENT_URI", "/environ/a b"), ("SCRIPT_NAME", "/environ/a b")]), expected);
        assert_eq!(page(&[("DOCUMENT_URI", ""), ("SCRIPT_NAME", "/environ/a b")]), expected);
    });
}

#[test]
fn without_path_info_script_name_is_the_mount_point() {
    differs(PATHS, || {
        let server = Setup::scgi("basic").set("mount", "/site=basic").start();
        let response = exchange(server.endpoint(), "GET", "/site/environ", b"", &[("SCRIPT_NAME", "/site/environ")]);
        let page = response.expect(200).json();
        assert_eq!((&page["SCRIPT_NAME"], &page["PATH_INFO"]), (&"/site".into(), &"/environ".into()));
        let page = exchange(server.endpoint(), "GET", "/environ", b"", &[]).expect(200).json();
        assert_eq!((&page["SCRIPT_NAME"], &page["PATH_INFO"]), (&"".into(), &"/environ".into()));
    });
}

#[test]
fn broken_requests_get_an_answer() {
    differs("A broken SCGI request is answered with 400 or 431, and not dropped without a word.", || {
        let server = Setup::scgi("basic").start();
        for (bytes, status) in [
            (b"GET / HTTP/1.1\r\n\r\n".to_vec(), 400),
            (netstring(&[("SCGI", "1"), ("CONTENT_LENGTH", "0"), ("REQUEST_METHOD", "GET")]), 400),
            (netstring(&[("CONTENT_LENGTH", "0"), ("REQUEST_METHOD", "GET")]), 400),
            (b"99999999:".to_vec(), 431),
        ] {
            let mut client = server.connect();
            let response = client.send(bytes).response();
            assert_eq!((response.status, response.version.as_str()), (status, "Status:"));
            client.expect_closed();
        }
    });
}

#[test]
fn a_body_above_the_limit_gets_413() {
    differs("A body above `limit-post` is refused with 413, chunked or not.", || {
        let server = Setup::scgi("basic").set("limit-post", "1000").start();
        exchange(server.endpoint(), "POST", "/echo", &[b'x'; 1001], &[]).expect(413);
        exchange(server.endpoint(), "POST", "/echo", &[b'x'; 1000], &[]).expect(200);
    });
}

#[test]
fn each_socket_has_its_own_protocol() {
    let server = Setup::of("basic").listen("scgi-socket", Speaks::Scgi).listen("http-socket", Speaks::Http).start();
    let vars = [("PATH_INFO", "/environ")];
    exchange(server.endpoint(), "GET", "/environ", b"", &vars).expect(200);
    server.endpoint_at(1).connect().send(get("/environ")).response().expect(200);
}

#[test]
fn the_protocol_of_plain_sockets() {
    let server = Setup::of("basic").set("protocol", "scgi").listen("socket", Speaks::Scgi).start();
    exchange(server.endpoint(), "GET", "/", b"", &[("PATH_INFO", "/")]).expect(200);
}

#[test]
fn a_client_that_has_ended_its_side_gets_its_response() {
    for size in [0, 5, 100_000] {
        let server = Setup::scgi("basic").start();
        let body = vec![b'x'; size];
        let mut client = server.connect();
        client.send(request("POST", "/echo", &body, &[("PATH_INFO", "/echo")])).finish_sending();
        assert_eq!(client.response().expect(200).body, body);
        client.expect_closed();
    }
}

#[test]
fn bytes_behind_the_body_do_not_cost_the_response() {
    let server = Setup::scgi("basic").start();
    // uWSGI closes without reading them: what becomes of the response then is the network's.
    let behind: &[usize] = if subject() == Subject::Rsgi { &[10, 3_000_000] } else { &[] };
    for behind in behind {
        let mut client = server.connect();
        client.send(request("POST", "/echo", b"body", &[("PATH_INFO", "/echo")]));
        let mut sender = client.socket.try_clone().expect("a socket");
        std::thread::scope(|scope| {
            // The server may close once it has let some of it pass.
            scope.spawn(move || std::io::Write::write_all(&mut sender, &vec![b'x'; *behind]));
            assert_eq!(client.response().expect(200).body, b"body", "{behind}");
        });
        // And are no request.
        client.expect_closed();
    }
}

#[test]
fn a_body_that_ends_early_never_reaches_the_application() {
    differs("A request whose body ends early never reaches the application.", || {
        for buffering in ["65536", "8"] {
            let server = Setup::scgi("basic").set("post-buffering", buffering).start();
            let whole = request("POST", "/wait/never", &[b'x'; 100], &[("PATH_INFO", "/wait/never")]);
            let mut client = server.connect();
            client.send(&whole[..whole.len() - 1]).finish_sending();
            client.response().expect(400);
            client.expect_closed();
            // In the midst of the netstring.
            let mut client = server.connect();
            client.send(&whole[..50]).finish_sending();
            client.response().expect(400);
            client.expect_closed();
            assert!(!server.path("never.in").exists());
            // One that says nothing is told nothing.
            server.connect().finish_sending().expect_closed();
        }
    });
}

#[test]
fn a_response_that_fails_midway_ends_in_a_reset() {
    differs(
        "An application that raises before its head is out is answered with 500; afterwards the connection is cut without a final chunk.",
        || {
            let server = Setup::scgi("responses").allow("Traceback").allow("Error").start();
            let mut client = server.connect();
            client.send(request("GET", "/raise-second", b"", &[("PATH_INFO", "/raise-second")]));
            // Where only the end of the connection ends a response, it must not look like one.
            let error = client.try_response_to("GET").map(|response| response.text()).unwrap_err();
            assert!(error.contains("reset"), "{error}");
        },
    );
}

#[test]
fn a_client_that_leaves_ends_the_application() {
    let server = Setup::scgi("responses")
        .set("ignore-sigpipe", "true")
        .set("ignore-write-errors", "true")
        .set("disable-write-exception", "true")
        .start();
    let mut client = server.connect();
    client.send(request("GET", "/endless", b"", &[("PATH_INFO", "/endless")]));
    assert!(!client.some().is_empty());
    drop(client);
    let notes = server.path("notes");
    crate::harness::wait_until("close() was called", || {
        std::fs::read_to_string(&notes).is_ok_and(|text| text.contains("closed endless"))
    });
    exchange(server.endpoint(), "GET", "/one", b"", &[("PATH_INFO", "/one")]).expect(200);
}
