//! `wsgi.input`: the same behaviour for a body in memory, in a file and on the connection.

use std::io::{self, Seek, Write};

use super::fake::{Fake, Outcome, Trickle, serve, with_log};
use crate::gateway::Body;

/// All kinds of body with the same bytes.
fn bodies(bytes: &[u8]) -> Vec<(&'static str, Body)> {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file.rewind().unwrap();
    // In small pieces, so that lines and reads cross them.
    let pieces = bytes.chunks(if bytes.len() < 1000 { 3 } else { 1001 }).map(|piece| Ok(piece.to_vec()));
    vec![
        ("memory", Body::Memory(bytes.to_vec())),
        ("file", Body::File { file, len: bytes.len() as u64 }),
        ("stream", Trickle::body(pieces)),
    ]
}

/// The value of a Python expression over `i`, the input.
fn eval(expression: &str, body: Body) -> String {
    let source = format!(
        "
def raised(call):
    try:
        call()
    except Exception as error:
        return type(error).__name__
def application(environ, start_response):
    i = environ['wsgi.input']
    start_response('200 OK', [])
    return [repr(({expression})).encode()]
"
    );
    let done = serve(&source, Fake::http("POST / HTTP/1.1\nHost: h\nTransfer-Encoding: chunked", body));
    assert_eq!(done.outcome, Outcome::Finished, "{expression}");
    done.text()
}

#[test]
fn reading_is_like_a_files() {
    for (expression, wanted) in [
        ("i.read()", "b'one\\ntwo\\n\\nlast'"),
        ("i.read(-1)", "b'one\\ntwo\\n\\nlast'"),
        ("i.read(None)", "b'one\\ntwo\\n\\nlast'"),
        ("i.read(0)", "b''"),
        ("i.read(5), i.read(100), i.read(1), i.read()", "(b'one\\nt', b'wo\\n\\nlast', b'', b'')"),
        ("i.read(1 << 40)", "b'one\\ntwo\\n\\nlast'"),
        (
            "i.readline(), i.readline(), i.readline(), i.readline(), i.readline()",
            "(b'one\\n', b'two\\n', b'\\n', b'last', b'')",
        ),
        ("i.readline(2), i.readline(2), i.readline(9)", "(b'on', b'e\\n', b'two\\n')"),
        ("i.readline(0), i.readline(-1)", "(b'', b'one\\n')"),
        ("i.readline(None)", "b'one\\n'"),
        ("i.readlines()", "[b'one\\n', b'two\\n', b'\\n', b'last']"),
        ("i.readlines(5), i.read()", "([b'one\\n', b'two\\n'], b'\\nlast')"),
        ("i.readlines(0)", "[b'one\\n', b'two\\n', b'\\n', b'last']"),
        ("list(i), list(i)", "([b'one\\n', b'two\\n', b'\\n', b'last'], [])"),
        ("next(i), i.read(2), i.readline(), i.tell()", "(b'one\\n', b'tw', b'o\\n', 8)"),
        ("i.close(), i.read(3)", "(None, b'one')"),
        ("iter(i) is i", "True"),
    ] {
        for (kind, body) in bodies(b"one\ntwo\n\nlast") {
            assert_eq!(eval(expression, body), wanted, "{kind}: {expression}");
        }
    }
}

#[test]
fn a_body_that_is_there_can_be_sought() {
    for (expression, wanted) in [
        ("i.read(4), i.seek(0), i.tell(), i.read()", "(b'0123', 0, 0, b'0123456789')"),
        ("i.seek(8), i.read()", "(8, b'89')"),
        ("i.seek(-3, 2), i.read()", "(7, b'789')"),
        ("i.read(2), i.seek(2, 1), i.read(1)", "(b'01', 4, b'4')"),
        ("i.seek(99), i.read(), i.seek(0), i.read(1)", "(10, b'', 0, b'0')"),
        ("i.readline(3), i.seek(1), i.readline()", "(b'012', 1, b'123456789')"),
        ("i.seekable()", "True"),
    ] {
        for (kind, body) in bodies(b"0123456789").into_iter().take(2) {
            assert_eq!(eval(expression, body), wanted, "{kind}: {expression}");
        }
    }
}

#[test]
fn wrong_positions_and_streams_refuse_to_seek() {
    let raises = |call: &str, body| eval(&format!("raised(lambda: {call})"), body);
    for (kind, body) in bodies(b"0123") {
        let wanted = if kind == "stream" { "'OSError'" } else { "'ValueError'" };
        assert_eq!(raises("i.seek(-1)", body), wanted, "{kind}");
    }
    for (kind, body) in bodies(b"0123").into_iter().take(2) {
        assert_eq!(raises("i.seek(0, 7)", body), "'ValueError'", "{kind}");
    }
    for (_, body) in bodies(b"0123") {
        assert_eq!(raises("i.read('x')", body), "'TypeError'");
    }
    for kind in [io::ErrorKind::TimedOut, io::ErrorKind::UnexpectedEof, io::ErrorKind::InvalidData] {
        let stream = Trickle::body([Ok(b"part".to_vec()), Err(kind.into())]);
        assert_eq!(raises("i.read()", stream), "'OSError'", "{kind}");
    }
}

#[test]
fn a_failed_read_says_why() {
    let source = "
def application(environ, start_response):
    environ['wsgi.input'].readline()
";
    let body = || Trickle::body([Err(io::ErrorKind::UnexpectedEof.into())]);
    let head = "POST / HTTP/1.1\nHost: h\nTransfer-Encoding: chunked";
    let (done, log) = with_log(|| serve(source, Fake::http(head, body())));
    assert_eq!(done.outcome, Outcome::Failed(500));
    assert!(
        log.contains("OSError: wsgi.input: readline() failed: the client left before the end of the body"),
        "{log}"
    );
}

#[test]
fn huge_bodies_arrive_whole() {
    let line = "x".repeat(99_999) + "\n";
    let huge = line.repeat(30).into_bytes();
    for (expression, wanted) in [
        ("len(i.read()), i.read()", "(3000000, b'')"),
        ("[len(line) for line in i] == [100000] * 30", "True"),
        ("len(i.read(2500000)), len(i.readline()), len(i.readlines())", "(2500000, 100000, 4)"),
        ("sum(map(len, iter(lambda: i.read(65536), b'')))", "3000000"),
    ] {
        for (kind, body) in bodies(&huge) {
            assert_eq!(eval(expression, body), wanted, "{kind}: {expression}");
        }
    }
}

#[test]
fn a_file_shorter_than_it_should_be_ends() {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(b"short").unwrap();
    assert_eq!(eval("i.read(), i.read()", Body::File { file, len: 100 }), "(b'short', b'')");
}

#[test]
fn no_body_reads_as_empty_and_keeps_no_position() {
    let expression = "i.read(), i.readline(), list(i), i.seek(5), i.tell()";
    assert_eq!(eval(expression, Body::Empty), "(b'', b'', [], 0, 0)");
}

#[test]
fn several_threads_may_read() {
    let expression = "(lambda pool: sorted(pool.map(lambda n: len(i.read(1000)), range(40))))(__import__('concurrent.futures').futures.ThreadPoolExecutor(8))";
    for (kind, body) in bodies(&[b'x'; 20_000]) {
        let wanted = format!("[{}]", [vec!["0"; 20], vec!["1000"; 20]].concat().join(", "));
        assert_eq!(eval(expression, body), wanted, "{kind}");
    }
}
