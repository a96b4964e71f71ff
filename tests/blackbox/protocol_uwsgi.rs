//! The uwsgi protocol on the wire.

use crate::harness::differs;
use crate::harness::http::Framing;
use crate::harness::server::Setup;
use crate::harness::uwsgi::{exchange, packet, ping, request};
use crate::harness::variables::SEEN;

#[test]
fn variables_reach_the_application() {
    let server = Setup::uwsgi("basic").start();
    let page = server.get_uwsgi("/environ?a=%20b").expect(200).json();
    for (name, value) in SEEN {
        assert_eq!(page[name], value, "{name}");
    }
}

#[test]
fn the_connection_closes_after_the_response() {
    let server = Setup::uwsgi("basic").start();
    let mut client = server.connect();
    client.send(request("GET", "/", &[]));
    client.response().expect(200);
    client.expect_closed();
}

#[test]
fn responses_are_not_chunked() {
    let server = Setup::uwsgi("responses").start();
    let response = server.get_uwsgi("/generator").expect(200);
    assert_eq!(response.framing, Framing::UntilClose);
    assert_eq!(response.text(), "first second third");
}

#[test]
fn bodies_are_read_by_their_length() {
    let server = Setup::uwsgi("basic").start();
    for size in [1, 100, 65_535, 65_536, 300_000] {
        let body: Vec<u8> = (0..size).map(|n| (n % 251) as u8).collect();
        assert_eq!(exchange(server.endpoint(), "POST", "/echo", &body, &[]).expect(200).body, body);
    }
}

#[test]
fn packets_may_come_byte_by_byte() {
    let server = Setup::uwsgi("basic").start();
    let mut client = server.connect();
    for byte in request("POST", "/echo", &[("CONTENT_LENGTH", "3")]).into_iter().chain(*b"abc") {
        client.send([byte]);
    }
    assert_eq!(client.response().expect(200).body, b"abc");
}

#[test]
fn pings_are_answered() {
    let server = Setup::uwsgi("basic").start();
    assert_eq!(ping(&mut server.connect()).expect("an answer"), [100, 0, 0, 1]);
}

#[test]
fn large_packets() {
    differs("`buffer-size` below 65536 is taken as 65536; longer request heads get 431, longer targets 414.", || {
        let server = Setup::uwsgi("basic").start();
        let long = "x".repeat(60_000);
        let response = exchange(server.endpoint(), "GET", "/environ", b"", &[("HTTP_X_LONG", &long)]).expect(200);
        assert_eq!(response.json()["HTTP_X_LONG"], long);
    });
}

#[test]
fn many_variables() {
    differs("`max-vars` has no effect: a packet may hold any number of variables.", || {
        let server = Setup::uwsgi("basic").start();
        let names: Vec<String> = (0..1000).map(|n| format!("HTTP_X_{n}")).collect();
        let vars: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "v")).collect();
        let page = exchange(server.endpoint(), "GET", "/environ", b"", &vars).expect(200).json();
        assert_eq!(page["HTTP_X_999"], "v");
    });
}

#[test]
fn modifier_30_takes_the_script_name_off_the_path() {
    differs("`uwsgi_modifier1 30` takes SCRIPT_NAME off PATH_INFO (uWSGI has forgotten how under Python 3).", || {
        let server = Setup::uwsgi("basic").start();
        let mut client = server.connect();
        client.send(packet(
            30,
            &[
                ("REQUEST_METHOD", "GET"),
                ("REQUEST_URI", "/app/environ"),
                ("SCRIPT_NAME", "/app"),
                ("PATH_INFO", "/app/environ"),
                ("QUERY_STRING", ""),
                ("SERVER_PROTOCOL", "HTTP/1.1"),
                ("SERVER_NAME", "a"),
                ("SERVER_PORT", "80"),
            ],
        ));
        let page = client.response().expect(200).json();
        assert_eq!(page["SCRIPT_NAME"], "/app");
        assert_eq!(page["PATH_INFO"], "/environ");
    });
}

#[test]
fn a_slash_between_script_name_and_path_info_is_there_once() {
    differs(
        "A SCRIPT_NAME with a slash at its end, before a PATH_INFO with one at its begin, loses it: Apache sends such.",
        || {
            let server = Setup::uwsgi("basic").start();
            let paths = |script_name: &str, path_info: &str| {
                let vars = [("SCRIPT_NAME", script_name), ("HTTP_X", "1")];
                let page = exchange(server.endpoint(), "GET", path_info, b"", &vars).expect(200).json();
                (page["SCRIPT_NAME"].clone(), page["PATH_INFO"].clone())
            };
            assert_eq!(paths("/app/", "/environ"), ("/app".into(), "/environ".into()));
            assert_eq!(paths("/", "/environ"), ("".into(), "/environ".into()));
            assert_eq!(paths("/app", "/environ"), ("/app".into(), "/environ".into()));
        },
    );
}

#[test]
fn other_modifiers_are_refused() {
    differs("A uwsgi packet with a modifier that is not served gets a 501, and a log line.", || {
        let server = Setup::uwsgi("basic").start();
        for modifier in [5, 9, 17, 31, 110, 111, 173, 255] {
            let mut client = server.connect();
            client.send(packet(
                modifier,
                &[("REQUEST_METHOD", "GET"), ("PATH_INFO", "/"), ("SERVER_PROTOCOL", "HTTP/1.1")],
            ));
            client.response().expect(501);
            client.expect_closed();
        }
        server.wait_for_log(&["173"]);
        server.get_uwsgi("/").expect(200);
    });
}

#[test]
fn broken_packets_hurt_nobody() {
    let server = Setup::uwsgi("basic").start();
    for bytes in [
        // A variable longer than the block.
        &b"\x00\x06\x00\x00\xff\xff\x00\x00ab"[..],
        // A block that ends within a length.
        b"\x00\x03\x00\x00\x01\x00a",
        // HTTP by mistake.
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        // Nothing at all.
        b"\x00\x00\x00\x00",
        // Cut short.
        b"\x00\x40\x00\x00\x05\x00abc",
    ] {
        let mut client = server.connect();
        client.send(bytes).finish_sending();
        let _ = client.try_rest();
    }
    server.get_uwsgi("/").expect(200);
}

#[test]
fn broken_packets_are_answered() {
    differs("Bad requests get an answer (400, 413, 414, 431, 501 or 505) and not an empty reply.", || {
        let server = Setup::uwsgi("basic").start();
        let mut client = server.connect();
        client.send(b"\x00\x06\x00\x00\xff\xff\x00\x00ab");
        client.response().expect(400);
        let mut client = server.connect();
        client.send(request("POST", "/echo", &[("CONTENT_LENGTH", "-3")]));
        client.response().expect(400);
    });
}

#[test]
fn repeated_variables_are_joined() {
    differs(
        "Repeated HTTP_* variables over uwsgi are joined like repeated header fields; of others the last one counts.",
        || {
            let server = Setup::uwsgi("basic").start();
            let mut client = server.connect();
            client.send(packet(
                0,
                &[
                    ("REQUEST_METHOD", "GET"),
                    ("REQUEST_URI", "/environ"),
                    ("PATH_INFO", "/environ"),
                    ("SERVER_PROTOCOL", "HTTP/1.1"),
                    ("SERVER_NAME", "a"),
                    ("SERVER_PORT", "80"),
                    ("HTTP_COOKIE", "a=1"),
                    ("HTTP_X_FORWARDED_FOR", "10.0.0.1"),
                    ("HTTP_COOKIE", "b=2"),
                    ("HTTP_X_FORWARDED_FOR", "10.0.0.2"),
                ],
            ));
            let page = client.response().expect(200).json();
            assert_eq!(page["HTTP_COOKIE"], "a=1; b=2");
            assert_eq!(page["HTTP_X_FORWARDED_FOR"], "10.0.0.1,10.0.0.2");
        },
    );
}

#[test]
fn script_name_is_always_set() {
    differs("SCRIPT_NAME is always in environ.", || {
        let server = Setup::uwsgi("basic").start();
        assert_eq!(server.get_uwsgi("/environ").expect(200).json()["SCRIPT_NAME"], "");
    });
}

#[test]
fn https_makes_the_scheme() {
    let server = Setup::uwsgi("basic").start();
    let page = exchange(server.endpoint(), "GET", "/environ", b"", &[("HTTPS", "on"), ("REQUEST_SCHEME", "https")]);
    assert_eq!(page.expect(200).json()["wsgi.url_scheme"], "https");
}

#[test]
fn variables_that_load_code_are_ignored() {
    differs(
        "Variables of a request never choose code (UWSGI_FILE, UWSGI_MODULE, UWSGI_SETENV, ...): only the configuration does.",
        || {
            let server = Setup::uwsgi("basic")
                .file("evil.py", "def application(e, s):\n    s('200 OK', [])\n    return [b'evil']\n")
                .start();
            let evil = server.path("evil.py").display().to_string();
            let response =
                exchange(server.endpoint(), "GET", "/", b"", &[("UWSGI_FILE", &evil), ("UWSGI_APPID", "evil")]);
            assert_eq!(response.expect(200).text(), "ready");
        },
    );
}

#[test]
fn content_type_and_length_come_from_their_own_variables() {
    differs("HTTP_CONTENT_TYPE and HTTP_CONTENT_LENGTH from a front end are dropped.", || {
        let server = Setup::uwsgi("basic").start();
        let more = [("HTTP_CONTENT_LENGTH", "99"), ("HTTP_CONTENT_TYPE", "text/evil"), ("CONTENT_TYPE", "text/good")];
        let page = exchange(server.endpoint(), "GET", "/environ", b"", &more).expect(200).json();
        assert_eq!(page["CONTENT_TYPE"], "text/good");
        assert!(page.get("HTTP_CONTENT_LENGTH").is_none(), "{page}");
        assert!(page.get("HTTP_CONTENT_TYPE").is_none(), "{page}");
    });
}

#[test]
fn head_has_no_body() {
    differs("Responses to HEAD, and those with status 204, 205 or 304, are sent without a body.", || {
        let server = Setup::uwsgi("responses").start();
        let mut client = server.connect();
        client.send(request("HEAD", "/one", &[]));
        client.response_to("HEAD").expect(200);
        client.expect_closed();
    });
}
