//! What a finished head looks like, case by case.

use super::*;

const DATE: &[u8; 29] = b"Sun, 22 Nov 2026 12:31:57 GMT";

fn facts() -> Facts<'static> {
    Facts {
        version: Version::Http11,
        head_request: false,
        protocol: Protocol::Http,
        keep_alive: true,
        total: None,
        date: DATE,
    }
}

fn head(status: &str, fields: &[(&str, &str)]) -> Head {
    let mut head = Head::new();
    head.start(status.as_bytes()).unwrap();
    for (name, value) in fields {
        head.field(name.as_bytes(), value.as_bytes()).unwrap();
    }
    head
}

/// The finished head without its Date line, and the framing.
fn finish(status: &str, fields: &[(&str, &str)], facts: &Facts<'_>) -> (String, BodyFraming, bool) {
    let mut head = head(status, fields);
    let framing = head.finish(facts);
    let text = String::from_utf8(head.bytes().to_vec()).unwrap();
    let lines = text.matches("\r\n").count() as u32;
    assert_eq!(head.fields(), lines - 2, "fields() counts what is on the wire: {text}");
    let text = text.replace(&format!("Date: {}\r\n", std::str::from_utf8(DATE).unwrap()), "");
    (text, framing.body, framing.keep_alive)
}

#[test]
fn status_lines() {
    let line = |status: &[u8]| {
        let mut head = Head::new();
        head.start(status).map(|()| head.bytes().to_vec())
    };
    assert_eq!(line(b"200 OK").unwrap(), b"HTTP/1.1 200 OK\r\n");
    assert_eq!(line(b"404").unwrap(), b"HTTP/1.1 404 Not Found\r\n");
    assert_eq!(line(b"799").unwrap(), b"HTTP/1.1 799 Unknown\r\n");
    assert_eq!(line(b"200 ").unwrap(), b"HTTP/1.1 200 \r\n");
    assert_eq!(line(b"200 Caf\xe9 ok").unwrap(), b"HTTP/1.1 200 Caf\xe9 ok\r\n");
    for bad in
        [&b""[..], b"20", b"OK", b"200OK", b"2000 OK", b"+20 OK", b"200 OK\r\nX: y", b"200 \0", b"099 x", b" 200"]
    {
        assert_eq!(line(bad), Err(HeadError::InvalidStatus), "{bad:?}");
    }
    assert_eq!(line(b"100 Continue"), Err(HeadError::InterimStatus));
    assert_eq!(line(b"101"), Err(HeadError::InterimStatus));
}

#[test]
fn start_again_replaces_everything() {
    let mut head = head("200 OK", &[("Content-Length", "5"), ("Connection", "close"), ("Upgrade", "x")]);
    head.start(b"500 Oops").unwrap();
    assert_eq!(head.bytes(), b"HTTP/1.1 500 Oops\r\n");
    assert_eq!((head.status(), head.fields(), head.content_length()), (500, 0, None));
    assert_eq!((head.wants_close(), head.dropped()), (false, None));
    head.clear();
    assert!(!head.is_started());
    assert!(head.bytes().is_empty());
}

#[test]
fn rfc9110_5_5_no_injection() {
    let mut head = head("200 OK", &[]);
    for name in ["", "A B", "A:", "A\r\nB", "\u{e9}", "A\0"] {
        assert_eq!(head.field(name.as_bytes(), b"x"), Err(HeadError::InvalidName), "{name:?}");
    }
    for value in ["a\r\nB: c", "a\nb", "a\rb", "a\0b", "\x7f", "\x1b[0m"] {
        assert_eq!(head.field(b"A", value.as_bytes()), Err(HeadError::InvalidValue), "{value:?}");
    }
    assert_eq!(head.bytes(), b"HTTP/1.1 200 OK\r\n", "what is refused leaves no trace");
    head.field(b"A", b"b\tc \xe9").unwrap();
    assert_eq!(head.bytes(), b"HTTP/1.1 200 OK\r\nA: b\tc \xe9\r\n");
}

#[test]
fn rfc9110_8_6_content_length_of_the_application() {
    let mut head = head("200 OK", &[("content-length", " 05 ")]);
    assert_eq!(head.content_length(), Some(5));
    assert_eq!(head.field(b"Content-Length", b"5"), Ok(()));
    assert_eq!(head.field(b"Content-Length", b"6"), Err(HeadError::TwoLengths));
    assert_eq!(head.fields(), 1);
    for bad in ["", "-1", "1,1", "5 5", "0x5", "18446744073709551616"] {
        assert_eq!(head.field(b"Content-Length", bad.as_bytes()), Err(HeadError::InvalidLength), "{bad}");
    }
    assert_eq!(head.finish(&facts()).body, BodyFraming::Length(5), "the application's length counts");
}

#[test]
fn rfc9112_6_length_known_before() {
    let (text, body, keep_alive) = finish("200 OK", &[("A", "b")], &Facts { total: Some(13), ..facts() });
    assert_eq!(text, "HTTP/1.1 200 OK\r\nA: b\r\nContent-Length: 13\r\n\r\n");
    assert_eq!((body, keep_alive), (BodyFraming::Length(13), true));
    let (text, body, _) = finish("200 OK", &[("Content-Length", "4")], &Facts { total: Some(13), ..facts() });
    assert_eq!(text, "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n");
    assert_eq!(body, BodyFraming::Length(4));
    let (text, body, _) = finish("200 OK", &[], &Facts { total: Some(0), ..facts() });
    assert_eq!(text, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(body, BodyFraming::Length(0));
}

#[test]
fn rfc9112_7_1_chunked_when_the_length_is_not_known() {
    let (text, body, keep_alive) = finish("200 OK", &[], &facts());
    assert_eq!(text, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
    assert_eq!((body, keep_alive), (BodyFraming::Chunked, true));
}

#[test]
fn rfc9112_6_1_no_transfer_coding_to_http_1_0() {
    let old = Facts { version: Version::Http10, ..facts() };
    let (text, body, keep_alive) = finish("200 OK", &[], &old);
    assert_eq!(text, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n");
    assert_eq!((body, keep_alive), (BodyFraming::UntilClose, false));
    let (text, body, keep_alive) = finish("200 OK", &[], &Facts { total: Some(2), ..old });
    assert_eq!(text, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: keep-alive\r\n\r\n");
    assert_eq!((body, keep_alive), (BodyFraming::Length(2), true));
}

#[test]
fn rfc9112_9_6_close_is_announced() {
    let (text, _, keep_alive) = finish("200 OK", &[], &Facts { keep_alive: false, total: Some(2), ..facts() });
    assert_eq!(text, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n");
    assert!(!keep_alive);
    let fields = [("Connection", "foo, Close"), ("Content-Length", "2")];
    let (text, _, keep_alive) = finish("200 OK", &fields, &facts());
    assert_eq!(text, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n");
    assert!(!keep_alive);
}

#[test]
fn rfc9110_8_6_and_rfc9112_6_1_no_framing_in_204() {
    for fields in [&[("A", "b"), ("Content-Length", "0"), ("C", "d")][..], &[("A", "b"), ("C", "d")]] {
        for total in [None, Some(0), Some(7)] {
            let (text, body, keep_alive) = finish("204 No Content", fields, &Facts { total, ..facts() });
            assert_eq!(text, "HTTP/1.1 204 No Content\r\nA: b\r\nC: d\r\n\r\n");
            assert_eq!((body, keep_alive), (BodyFraming::Nothing, true));
        }
    }
}

#[test]
fn rfc9110_15_3_6_205_has_no_content_and_says_so() {
    for (fields, total) in
        [(&[("Content-Length", "7"), ("A", "b")][..], None), (&[("A", "b")], Some(7)), (&[("A", "b")], None)]
    {
        let (text, body, keep_alive) = finish("205 Reset Content", fields, &Facts { total, ..facts() });
        assert_eq!(text, "HTTP/1.1 205 Reset Content\r\nA: b\r\nContent-Length: 0\r\n\r\n");
        assert_eq!((body, keep_alive), (BodyFraming::Nothing, true));
    }
}

#[test]
fn rfc3875_6_3_where_the_status_is_a_field_there_is_one() {
    let fields =
        [("STATUS", "404 X"), ("A", "status: b"), ("Content-Length", "7"), ("Status-A", "c"), ("status", "500")];
    for (protocol, expected) in [
        (
            Protocol::Http,
            "HTTP/1.1 200 OK\r\nSTATUS: 404 X\r\nA: status: b\r\nContent-Length: 7\r\nStatus-A: c\r\nstatus: 500\r\n",
        ),
        (Protocol::Scgi, "Status: 200 OK\r\nA: status: b\r\nContent-Length: 7\r\nStatus-A: c\r\n"),
        (Protocol::FastCgi, "Status: 200 OK\r\nA: status: b\r\nContent-Length: 7\r\nStatus-A: c\r\n"),
    ] {
        let mut head = head("200 OK", &fields);
        head.finish(&Facts { protocol, ..facts() });
        let text = String::from_utf8(head.bytes().to_vec()).unwrap();
        assert!(text.starts_with(expected), "{text}");
        let lines = text.matches("\r\n").count() - 2;
        assert_eq!((head.fields() as usize, head.dropped()), (lines, (protocol != Protocol::Http).then_some("Status")));
    }
    // The length that 204 must not have is cut out of the right place still.
    let (text, ..) = finish(
        "204",
        &[("Status", "x"), ("Content-Length", "7"), ("A", "b")],
        &Facts { protocol: Protocol::Scgi, ..facts() },
    );
    assert_eq!(text, "Status: 204 No Content\r\nA: b\r\n\r\n");
}

#[test]
fn rfc9110_15_4_5_304_keeps_the_length_it_has() {
    let (text, body, _) = finish("304 Not Modified", &[("Content-Length", "7")], &facts());
    assert_eq!(text, "HTTP/1.1 304 Not Modified\r\nContent-Length: 7\r\n\r\n");
    assert_eq!(body, BodyFraming::Nothing);
    let (text, ..) = finish("304 Not Modified", &[], &Facts { total: Some(7), ..facts() });
    assert_eq!(text, "HTTP/1.1 304 Not Modified\r\n\r\n");
}

#[test]
fn rfc9110_9_3_2_head_has_no_body_and_stays_open() {
    let head_request = Facts { head_request: true, ..facts() };
    for (fields, total, expected) in [
        (&[("Content-Length", "7")][..], None, "Content-Length: 7\r\n"),
        (&[], Some(7), "Content-Length: 7\r\n"),
        (&[], Some(0), ""),
        (&[], None, ""),
    ] {
        for version in [Version::Http11, Version::Http10] {
            let (text, body, keep_alive) = finish("200 OK", fields, &Facts { total, version, ..head_request });
            let connection = if version == Version::Http10 { "Connection: keep-alive\r\n" } else { "" };
            assert_eq!(text, format!("HTTP/1.1 200 OK\r\n{expected}{connection}\r\n"));
            assert_eq!((body, keep_alive), (BodyFraming::Nothing, true));
        }
    }
}

#[test]
fn rfc9110_7_6_1_hop_by_hop_fields_are_dropped_and_remembered() {
    for (name, value) in [
        ("Transfer-Encoding", "chunked"),
        ("keep-alive", "timeout=5"),
        ("Upgrade", "h2c"),
        ("TE", "trailers"),
        ("Trailer", "X"),
        ("Trailers", "X"),
        ("Proxy-Connection", "x"),
        ("Proxy-Authenticate", "Basic"),
        ("Proxy-Authorization", "x"),
        ("Connection", "Upgrade"),
    ] {
        let head = head("200 OK", &[(name, value)]);
        assert_eq!(head.bytes(), b"HTTP/1.1 200 OK\r\n", "{name}");
        assert!(head.dropped().is_some_and(|dropped| dropped.eq_ignore_ascii_case(name)), "{name}");
    }
    let head = head("200 OK", &[("Connection", "close"), ("Connection", "keep-alive")]);
    assert_eq!((head.wants_close(), head.dropped()), (true, None), "honoured, no warning");
}

#[test]
fn rfc9110_6_6_1_date_once() {
    let mut ours = head("200 OK", &[]);
    ours.finish(&facts());
    assert!(ours.bytes().windows(37).any(|part| part == b"Date: Sun, 22 Nov 2026 12:31:57 GMT\r\n"));
    let mut theirs = head("200 OK", &[("date", "x")]);
    theirs.finish(&facts());
    assert!(!theirs.bytes().windows(5).any(|part| part == b"Date:"));
}

#[test]
fn uwsgi_has_no_connection_and_no_chunks() {
    let uwsgi = Facts { protocol: Protocol::Uwsgi, ..facts() };
    for (total, expected, framing) in
        [(None, "", BodyFraming::UntilClose), (Some(3), "Content-Length: 3\r\n", BodyFraming::Length(3))]
    {
        let mut head = head("200 OK", &[("Connection", "close"), ("A", "b")]);
        let found = head.finish(&Facts { total, ..uwsgi });
        assert_eq!(head.bytes(), format!("HTTP/1.1 200 OK\r\nA: b\r\n{expected}\r\n").as_bytes());
        assert_eq!(found, Framing { body: framing, keep_alive: false });
    }
}

#[test]
fn rfc3875_6_3_3_a_gateway_gets_a_status_field() {
    for protocol in [Protocol::FastCgi, Protocol::Scgi] {
        let gateway = Facts { protocol, ..facts() };
        let mut head = head("404 Not Here", &[("Connection", "close"), ("A", "b")]);
        let found = head.finish(&gateway);
        assert_eq!(head.bytes(), b"Status: 404 Not Here\r\nA: b\r\n\r\n");
        assert_eq!(found, Framing { body: BodyFraming::UntilClose, keep_alive: false });
        assert_eq!(head.with_body(b"x"), b"Status: 404 Not Here\r\nA: b\r\n\r\nx");

        // The Content-Length that 204 must not carry is cut out of the right place; the value is ready for HTTP again.
        let mut head = self::head("204", &[("Content-Length", "7"), ("A", "b")]);
        head.finish(&gateway);
        assert_eq!(head.bytes(), b"Status: 204 No Content\r\nA: b\r\n\r\n");
        head.start(b"200 OK").unwrap();
        head.finish(&Facts { protocol: Protocol::Uwsgi, ..facts() });
        assert_eq!(head.bytes(), b"HTTP/1.1 200 OK\r\n\r\n");

        let mut out = Vec::new();
        plain_error(431, &gateway, &mut out);
        let text =
            "Status: 431 Request Header Fields Too Large\r\nContent-Type: text/plain\r\nContent-Length: 32\r\n\r\n";
        assert_eq!(out, format!("{text}Request Header Fields Too Large\n").as_bytes());
    }
}

#[test]
fn rfc9112_7_1_chunk_sizes() {
    for len in [1, 9, 10, 15, 16, 255, 256, 65535, 65536, 1 << 20, usize::MAX] {
        let mut out = Vec::new();
        chunk_prefix(len, &mut out);
        assert_eq!(out, format!("{len:x}\r\n").as_bytes());
    }
}

#[test]
fn plain_errors_are_whole_messages() {
    let mut out = Vec::new();
    plain_error(400, &Facts { keep_alive: false, ..facts() }, &mut out);
    let expected = "HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nContent-Length: 12\r\n\
                    Date: Sun, 22 Nov 2026 12:31:57 GMT\r\nConnection: close\r\n\r\nBad Request\n";
    assert_eq!(String::from_utf8(out).unwrap(), expected);
    for (version, connection) in [(Version::Http11, ""), (Version::Http10, "Connection: keep-alive\r\n")] {
        let mut out = Vec::new();
        plain_error(500, &Facts { version, ..facts() }, &mut out);
        let text = String::from_utf8(out).unwrap();
        assert!(text.contains(&format!(" GMT\r\n{connection}\r\nInternal")), "{text}");
    }
    let mut out = Vec::new();
    plain_error(500, &Facts { protocol: Protocol::Uwsgi, head_request: true, ..facts() }, &mut out);
    let expected = "HTTP/1.1 500 Internal Server Error\r\nContent-Type: text/plain\r\nContent-Length: 22\r\n\r\n";
    assert_eq!(String::from_utf8(out).unwrap(), expected);
}
