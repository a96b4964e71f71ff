//! Who the client is when proxies stand in between: fields of trusted proxies over each protocol, and the PROXY protocol.

use nix::sys::signal::Signal;

use crate::harness::fastcgi::{self, Records};
use crate::harness::http::{Response, get};
use crate::harness::server::{Server, Setup, Speaks};
use crate::harness::{differs, scgi, uwsgi, wait_until};

const TRUSTED: &str = "`trusted-proxies` names those whose Forwarded, X-Forwarded-For, X-Forwarded-Proto, X-Forwarded-Host and X-Real-IP are believed, over each protocol; by default nobody's are.";
const PROXY: &str = "`enable-proxy-protocol` and `http-enable-proxy-protocol` demand a PROXY header (v1 or v2): a connection without is closed.";

/// A page of environ as JSON, asked for over what the endpoint speaks, with header fields given as variables.
fn environ(server: &Server, number: usize, speaks: Speaks, fields: &[(&str, &str)]) -> serde_json::Value {
    let endpoint = server.endpoint_at(number);
    let with_path = [fields, &[("PATH_INFO", "/environ")]].concat();
    match speaks {
        Speaks::Http => {
            let mut request = String::from("GET /environ HTTP/1.1\r\n");
            for (name, value) in fields {
                // The variables of the gateways are not for HTTP to send.
                if let Some(name) = name.strip_prefix("HTTP_") {
                    request += &format!("{}: {value}\r\n", name.replace('_', "-"));
                }
            }
            if !fields.iter().any(|(name, _)| *name == "HTTP_HOST") {
                request += "Host: front.example\r\n";
            }
            endpoint.connect().send(request + "\r\n").response().expect(200).json()
        }
        Speaks::Uwsgi => uwsgi::exchange(endpoint, "GET", "/environ", b"", fields).expect(200).json(),
        Speaks::Scgi => scgi::exchange(endpoint, "GET", "/environ", b"", &with_path).json(),
        Speaks::FastCgi => {
            let mut records = Records::new(endpoint.connect());
            records.client.send(fastcgi::request_with(1, "GET", "/environ", b"", false, &with_path));
            let (out, _) = records.response(1);
            let text = String::from_utf8_lossy(&out).into_owned();
            let body = text.split_once("\r\n\r\n").expect("a blank line").1.to_owned();
            serde_json::from_str(&body).unwrap_or_else(|error| panic!("{error}: {text}"))
        }
    }
}

const ALL: [(&str, Speaks); 4] = [
    ("http-socket", Speaks::Http),
    ("uwsgi-socket", Speaks::Uwsgi),
    ("fastcgi-socket", Speaks::FastCgi),
    ("scgi-socket", Speaks::Scgi),
];

fn on_all_protocols(trusted: &[&str]) -> Server {
    let mut setup = Setup::of("basic");
    for (key, speaks) in ALL {
        setup = setup.listen(key, speaks);
    }
    trusted.iter().fold(setup, |setup, line| setup.set("trusted-proxies", *line)).start()
}

#[test]
fn rfc7239_5_trusted_proxies_are_believed_over_each_protocol() {
    differs(TRUSTED, || {
        let server = on_all_protocols(&["127.0.0.1, 10.0.0.0/8", "192.0.2.7"]);
        for (number, (key, speaks)) in ALL.into_iter().enumerate() {
            // The peer is trusted; so is the client of the gateways' web server, 192.0.2.7.
            let page = environ(
                &server,
                number,
                speaks,
                &[
                    ("HTTP_X_FORWARDED_FOR", "1.1.1.1, 203.0.113.9, 10.0.0.2"),
                    ("HTTP_X_FORWARDED_PROTO", "https"),
                    ("HTTP_X_FORWARDED_HOST", "shop.example:8443"),
                    ("HTTP_X_REAL_IP", "1.1.1.1"),
                ],
            );
            assert_eq!(page["REMOTE_ADDR"], "203.0.113.9", "{key}");
            assert_eq!(page["wsgi.url_scheme"], "https", "{key}");
            assert_eq!(page["HTTP_HOST"], "shop.example:8443", "{key}");
            // It was the port of a proxy.
            assert!(page.get("REMOTE_PORT").is_none(), "{key}: {page}");
            let page = environ(
                &server,
                number,
                speaks,
                &[
                    ("HTTP_FORWARDED", "for=\"[2001:db8::7]:4711\";proto=https;host=f.example, for=10.9.9.9"),
                    ("HTTP_X_REAL_IP", "1.1.1.1"),
                ],
            );
            assert_eq!(page["REMOTE_ADDR"], "2001:db8::7", "{key}");
            assert_eq!(page["REMOTE_PORT"], "4711", "{key}");
            assert_eq!(page["wsgi.url_scheme"], "https", "{key}");
            assert_eq!(page["HTTP_HOST"], "f.example", "{key}");
            let page = environ(&server, number, speaks, &[("HTTP_X_REAL_IP", "203.0.113.8")]);
            assert_eq!(page["REMOTE_ADDR"], "203.0.113.8", "{key}");
            // Neither schemes nor hosts that are none.
            let fields = [("HTTP_X_FORWARDED_PROTO", "gopher"), ("HTTP_X_FORWARDED_HOST", "a b/c")];
            let page = environ(&server, number, speaks, &fields);
            assert_eq!(
                (&page["wsgi.url_scheme"], &page["HTTP_HOST"]),
                (&"http".into(), &"front.example".into()),
                "{key}"
            );
        }
    });
}

#[test]
fn fields_of_others_are_hearsay() {
    let fields = [
        ("HTTP_FORWARDED", "for=203.0.113.9;proto=https;host=evil.example"),
        ("HTTP_X_FORWARDED_FOR", "203.0.113.9"),
        ("HTTP_X_FORWARDED_HOST", "evil.example"),
        ("HTTP_X_REAL_IP", "203.0.113.9"),
    ];
    // Nobody is trusted; somebody else is; a gateway is, but not the client that its web server names.
    for trusted in [&[][..], &["10.0.0.0/8", "unix"], &["127.0.0.1"]] {
        let server = on_all_protocols(trusted);
        for (number, (key, speaks)) in ALL.into_iter().enumerate() {
            if speaks == Speaks::Http && trusted.contains(&"127.0.0.1") {
                continue;
            }
            let page = environ(&server, number, speaks, &fields);
            let client = if speaks == Speaks::Http { "127.0.0.1" } else { "192.0.2.7" };
            assert_eq!(page["REMOTE_ADDR"], client, "{key} with {trusted:?}");
            assert_eq!(page["HTTP_HOST"], "front.example", "{key} with {trusted:?}");
            assert_eq!(page["wsgi.url_scheme"], "http", "{key} with {trusted:?}");
        }
    }
}

#[test]
fn unix_is_a_proxy_like_others() {
    differs(TRUSTED, || {
        let server = Setup::of("basic")
            .listen_unix("http-socket", "h.sock", Speaks::Http)
            .listen_unix("uwsgi-socket", "u.sock", Speaks::Uwsgi)
            .set("trusted-proxies", "unix")
            .set("log-format", "LINE %(addr) %(host) %(uri)")
            .start();
        let fields = [("HTTP_X_FORWARDED_FOR", "203.0.113.9"), ("HTTP_X_FORWARDED_HOST", "shop.example")];
        let page = environ(&server, 0, Speaks::Http, &fields);
        assert_eq!(page["REMOTE_ADDR"], "203.0.113.9");
        // The log and the application agree.
        server.wait_for_log(&["LINE 203.0.113.9 shop.example /environ"]);
        // The web server's client is a hop of its own, which `unix` does not name.
        assert_eq!(environ(&server, 1, Speaks::Uwsgi, &fields)["REMOTE_ADDR"], "192.0.2.7");
        let page = environ(&server, 1, Speaks::Uwsgi, &[fields[0], fields[1], ("REMOTE_ADDR", "unix:")]);
        assert_eq!(page["REMOTE_ADDR"], "203.0.113.9");
    });
}

#[test]
fn each_request_of_a_connection_has_its_own_client() {
    differs(TRUSTED, || {
        let server = Setup::http("basic").set("trusted-proxies", "127.0.0.0/8").start();
        let mut client = server.connect();
        for address in ["203.0.113.1", "203.0.113.2"] {
            client.send(format!("GET /environ HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: {address}\r\n\r\n"));
            assert_eq!(client.response().expect(200).json()["REMOTE_ADDR"], address);
        }
        client.send(get("/environ"));
        assert_eq!(client.response().expect(200).json()["REMOTE_ADDR"], "127.0.0.1");
        // Both kinds of fields, and they contradict each other: one of them is the client's own.
        client
            .send("GET /environ HTTP/1.1\r\nHost: a\r\nForwarded: for=192.0.2.1\r\nX-Forwarded-For: 192.0.2.2\r\n\r\n");
        assert_eq!(client.response().expect(200).json()["REMOTE_ADDR"], "192.0.2.1");
        server.wait_for_log(&["name different clients", "must delete"]);
    });
}

const V1: &[u8] = b"PROXY TCP4 203.0.113.9 192.0.2.1 4711 443\r\n";
/// TCP over IPv6, with an extension to skip.
const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\x21\x00\x28\
    \x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x07\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x01\x12\x67\x01\xbb\x05\0\x01x";
const LOCAL: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00";

fn ask(server: &Server, header: &[u8], request: &str) -> Response {
    server.connect().send([header, request.as_bytes()].concat()).response()
}

#[test]
fn proxy_protocol_tells_the_client() {
    differs(PROXY, || {
        let server = Setup::http("basic")
            .set("enable-proxy-protocol", "true")
            .set("processes", "2")
            .set("log-format", "LINE %(addr) %(uri)")
            .unasked()
            .start();
        for (header, address, port) in [
            (V1, "203.0.113.9", Some("4711")),
            (V2, "2001:db8::7", Some("4711")),
            (b"PROXY TCP6 ::ffff:192.0.2.1 ::1 1 65535\r\n", "192.0.2.1", Some("1")),
            // The socket's own address: the proxy asks for itself, or does not know.
            (LOCAL, "127.0.0.1", None),
            (b"PROXY UNKNOWN\r\n", "127.0.0.1", None),
            (b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n", "127.0.0.1", None),
        ] {
            let page = ask(&server, header, &get("/environ")).expect(200).json();
            assert_eq!(page["REMOTE_ADDR"], address);
            if let Some(port) = port {
                assert_eq!(page["REMOTE_PORT"], port);
            }
            server.wait_for_log(&[&format!("LINE {address} /environ")]);
        }
        // One for the connection, not for each request; byte by byte.
        let mut client = server.connect();
        for byte in V2.iter().chain(get("/environ").as_bytes()) {
            client.send([*byte]);
        }
        assert_eq!(client.response().expect(200).json()["REMOTE_ADDR"], "2001:db8::7");
        client.send(get("/environ"));
        assert_eq!(client.response().expect(200).json()["REMOTE_ADDR"], "2001:db8::7");
        client.send(V1).response().expect(400);
    });
}

#[test]
fn without_a_proxy_header_there_is_no_answer() {
    differs(PROXY, || {
        let server = Setup::http("basic")
            .set("enable-proxy-protocol", "true")
            .set("http-headers-timeout", "1")
            .unasked()
            .start();
        ask(&server, LOCAL, &get("/")).expect(200);
        let head = get("/");
        for header in [
            &b""[..],
            b"PROXY TCP4 203.0.113.9 192.0.2.1 4711\r\n",
            b"PROXY TCP4 203.0.113.9 192.0.2.1 4711 443\n",
            b"PROXY TCP4 2001:db8::7 192.0.2.1 4711 443\r\n",
            b"\r\n\r\n\0\r\nQUIT\n\x31\x00\x00\x00",
            b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x04abcd",
        ] {
            server.connect().send([header, head.as_bytes()].concat()).expect_closed();
        }
        // Nor for one that begins and does not end, or says nothing at all.
        server.connect().send("PROXY TCP4 203").expect_closed();
        server.connect().expect_closed();
        server.wait_for_log(&["no PROXY protocol header"]);
        ask(&server, V1, &head).expect(200);
    });
}

#[test]
fn proxy_protocol_is_asked_for_by_kind_of_socket() {
    differs(PROXY, || {
        let server = Setup::of("basic")
            .listen("http", Speaks::Http)
            .listen("http-socket", Speaks::Http)
            .listen("socket", Speaks::Uwsgi)
            .set("http-enable-proxy-protocol", "true")
            .set("enable-proxy-protocol", "false")
            .unasked()
            .start();
        server.connect().send(get("/")).expect_closed();
        ask(&server, V1, &get("/")).expect(200);
        server.endpoint_at(1).connect().send(get("/")).response().expect(200);
        uwsgi::exchange(server.endpoint_at(2), "GET", "/", b"", &[]).expect(200);
    });
}

#[test]
fn proxy_protocol_and_trusted_proxies_together() {
    differs(TRUSTED, || {
        let server = Setup::http("basic")
            .set("enable-proxy-protocol", "true")
            .set("trusted-proxies", "203.0.113.0/24")
            .unasked()
            .start();
        // The header's client is a proxy that is believed; the peer of the socket is not asked.
        let request = "GET /environ HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 198.51.100.4\r\n\r\n";
        assert_eq!(ask(&server, V1, request).expect(200).json()["REMOTE_ADDR"], "198.51.100.4");
        assert_eq!(ask(&server, V2, request).expect(200).json()["REMOTE_ADDR"], "2001:db8::7");
    });
}

#[test]
fn a_reload_and_a_stop_in_the_middle_of_a_proxy_header() {
    differs(PROXY, || {
        let server = Setup::http("basic").set("enable-proxy-protocol", "true").set("processes", "2").unasked().start();
        let pid = || ask(&server, V1, &get("/pid")).expect(200).text();
        let old = [pid(), pid(), pid(), pid()];
        let (begun, rest) = V2.split_at(20);
        let mut clients: Vec<_> = (0..8).map(|_| server.connect()).collect();
        for client in &mut clients {
            client.send(begun);
        }
        server.signal(Signal::SIGHUP);
        wait_until("new workers serve", || !old.contains(&pid()));
        // What had begun goes on with them.
        for client in &mut clients {
            client.send([rest, get("/environ").as_bytes()].concat());
            assert_eq!(client.response().expect(200).json()["REMOTE_ADDR"], "2001:db8::7");
        }
        // Nobody waits for a header that does not come.
        let mut late = server.connect();
        late.send(begun);
        server.signal(Signal::SIGTERM);
        late.expect_closed();
        server.expect_end();
    });
}
