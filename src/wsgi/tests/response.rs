//! `start_response`, `write` and what is returned.

use super::fake::{Fake, Outcome, serve, with_log};
use crate::gateway::{Body, Sent};

/// Serves GET / with a body of `application`, which has `environ` and `start_response`.
fn get(body: &str) -> Fake {
    serve(&application(body), Fake::get("/"))
}

fn application(body: &str) -> String {
    let body: String = body.trim().lines().map(|line| format!("    {line}\n")).collect();
    format!("import io\ndef application(environ, start_response):\n{body}")
}

#[test]
fn a_list_of_one_is_served_with_its_length() {
    let done = get("start_response('200 OK', [('Content-Type', 'text/plain')])\nreturn [b'Hello']");
    assert_eq!(done.text(), "Hello");
    assert_eq!(done.outcome, Outcome::Finished);
    assert!(done.head_text().starts_with("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n"));
    assert_eq!(done.exceptions, 0);
}

#[test]
fn results_that_are_there_as_a_whole_have_a_length() {
    for (result, total, text) in [
        ("[b'ab', b'', b'cd']", 4, "abcd"),
        ("(b'ab', b'cd')", 4, "abcd"),
        ("b'whole'", 5, "whole"),
        ("[]", 0, ""),
        ("()", 0, ""),
        ("b''", 0, ""),
        ("[b'']", 0, ""),
    ] {
        let done = get(&format!("start_response('200 OK', [])\nreturn {result}"));
        assert_eq!((done.total, done.text().as_str()), (Some(total), text), "{result}");
        assert!(done.head_text().contains(&format!("Content-Length: {total}\r\n")), "{result}");
        assert_eq!(done.outcome, Outcome::Finished, "{result}");
    }
}

#[test]
fn other_iterables_have_none() {
    for (result, text) in [
        ("iter([b'ab', b'', b'cd'])", "abcd"),
        ("(part for part in [b'a', b'b'])", "ab"),
        ("io.BytesIO(b'x\\ny\\n')", "x\ny\n"),
        ("{b'k': 1}", "k"),
        ("type('L', (list,), {})([b'own'])", "own"),
    ] {
        let done = get(&format!("start_response('200 OK', [])\nreturn {result}"));
        assert_eq!((done.total, done.text().as_str()), (None, text), "{result}");
        assert_eq!(done.outcome, Outcome::Finished, "{result}");
    }
}

#[test]
fn an_open_file_is_an_iterable() {
    let done = get("start_response('200 OK', [])\nreturn open(io.__file__, 'rb')");
    assert!(done.text().contains("class TextIOBase"));
}

#[test]
fn a_generator_calls_start_response_at_its_first_step() {
    let done = get("start_response('201 Created', [])\nyield b''\nyield b'made'");
    assert!(done.head_text().starts_with("HTTP/1.1 201 Created\r\n"));
    assert_eq!(done.text(), "made");
}

#[test]
fn the_head_waits_for_the_first_byte() {
    let source = "
        start_response('200 OK', [('X-Try', '1')])
        yield b''
        try:
            raise ValueError('late')
        except ValueError:
            import sys
            start_response('503 Busy', [('X-Try', '2')], sys.exc_info())
        yield b'sorry'"
        .replace("\n        ", "\n");
    let done = get(&source);
    assert!(done.head_text().starts_with("HTTP/1.1 503 Busy\r\nX-Try: 2\r\n"), "{}", done.head_text());
    assert_eq!((done.text().as_str(), done.outcome), ("sorry", Outcome::Finished));
}

#[test]
fn exc_info_is_raised_again_when_the_head_is_out() {
    let source = "
import sys
start_response('200 OK', [])
yield b'begun'
try:
    raise ValueError('too late 4711')
except ValueError:
    start_response('500 Oops', [], sys.exc_info())
yield b'never'";
    let (done, log) = with_log(|| get(source));
    assert_eq!((done.text().as_str(), done.outcome), ("begun", Outcome::Failed(500)));
    assert_eq!(log.matches("ValueError: too late 4711").count(), 1, "{log}");
    assert!(log.contains("File \"app.py\", line 7"), "where it was raised first is shown: {log}");
}

#[test]
fn start_response_refuses_what_is_wrong() {
    for (call, wanted) in [
        ("start_response('200 OK')", "TypeError"),
        ("start_response(200, [])", "TypeError: start_response: status must be str, not int"),
        ("start_response(b'200 OK', [])", "status must be str, not bytes"),
        ("start_response('OK', [])", "ValueError: start_response: status must be three digits"),
        ("start_response('100 Continue', [])", "ValueError"),
        ("start_response('200 O\\nK', [])", "ValueError"),
        ("start_response('200 \\u20ac', [])", "status must be latin-1"),
        ("start_response('200 OK', None)", "headers must be str, not NoneType (a list is wanted)"),
        ("start_response('200 OK', ['ab'])", "TypeError: start_response: headers must be (name, value) tuples"),
        ("start_response('200 OK', [('a',)])", "tuples"),
        ("start_response('200 OK', [('a', 1)])", "a header value must be str, not int"),
        ("start_response('200 OK', [(b'a', '1')])", "a header name must be str, not bytes"),
        ("start_response('200 OK', [('X-A', 'b\\r\\nSet-Cookie: x=1')])", "ValueError: start_response: header \"X-A\""),
        ("start_response('200 OK', [('X A', 'b')])", "header \"X A\""),
        ("start_response('200 OK', [('X-\\u20ac', 'b')])", "latin-1"),
        ("start_response('200 OK', [('X', '\\ud800')])", "latin-1"),
        ("start_response('200 OK', [('Content-Length', 'x')])", "Content-Length"),
        (
            "start_response('200 OK', []); start_response('200 OK', [])",
            "AssertionError: start_response was called a second time",
        ),
    ] {
        let (done, log) = with_log(|| get(&format!("{call}\nreturn [b'never']")));
        assert_eq!((done.outcome, done.text().as_str()), (Outcome::Failed(500), ""), "{call}");
        assert!(log.contains(wanted), "{call}: {log}");
        assert_eq!(done.exceptions, 1);
    }
}

#[test]
fn after_a_refused_head_another_one_is_taken() {
    let done = get("
try:
    start_response('200 OK', [('a', 'b'), ('bad name', 'x')])
except ValueError:
    start_response('500 Oops', [('c', 'd')])
return [b'x']");
    assert!(done.head_text().starts_with("HTTP/1.1 500 Oops\r\nc: d\r\n"), "{}", done.head_text());
}

#[test]
fn headers_are_latin_1_lists_or_tuples_of_pairs() {
    let done = get("start_response('200 D\\u00e9j\\u00e0', (['X-A', '\\u00fc'], ('X-B', 'b')))\nreturn [b'x']");
    assert!(done.head_text().starts_with("HTTP/1.1 200 Déjà\r\nX-A: ü\r\nX-B: b\r\n"), "{}", done.head_text());
    let done = get("start_response('404', headers=[], exc_info=None)\nreturn [b'x']");
    assert!(done.head_text().starts_with("HTTP/1.1 404 Not Found\r\n"));
}

#[test]
fn hop_by_hop_headers_are_the_servers() {
    let done =
        get("start_response('200 OK', [('Transfer-Encoding', 'chunked'), ('Connection', 'close')])\nreturn [b'x']");
    assert!(!done.head_text().contains("Transfer-Encoding"));
    assert!(done.head_text().contains("Connection: close\r\n"));
}

#[test]
fn write_sends_before_what_is_returned() {
    let done = get("
write = start_response('200 OK', [])
write(b'one ')
write(b'')
write(b'two ')
return [b'three']");
    assert_eq!(done.pieces, [b"one ".to_vec(), b"two ".to_vec(), b"three".to_vec()]);
    assert_eq!(done.total, None);
    assert_eq!(done.outcome, Outcome::Finished);
}

#[test]
fn write_takes_bytes_only() {
    let (done, log) = with_log(|| get("start_response('200 OK', [])('text')\nreturn []"));
    assert_eq!(done.outcome, Outcome::Failed(500));
    assert!(log.contains("TypeError: write() takes bytes, not str"), "{log}");
}

#[test]
fn what_is_not_bytes_is_an_error() {
    for (result, wanted) in [
        ("'text'", "TypeError: the application returned str, not bytes"),
        ("''", "TypeError: the application returned str, not bytes"),
        ("['text']", "TypeError: the application's iterable gave str, not bytes"),
        ("[b'a', 'text']", "gave str, not bytes"),
        ("[None]", "gave NoneType, not bytes"),
        ("iter([1])", "gave int, not bytes"),
        ("[bytearray(b'x')]", "gave bytearray, not bytes"),
        ("None", "TypeError: 'NoneType' object is not iterable"),
        ("42", "TypeError: 'int' object is not iterable"),
    ] {
        let (done, log) = with_log(|| get(&format!("start_response('200 OK', [])\nreturn {result}")));
        assert_eq!((done.outcome, done.text().as_str()), (Outcome::Failed(500), ""), "{result}");
        assert!(log.contains(wanted), "{result}: {log}");
    }
}

#[test]
fn a_response_without_start_response_is_an_error() {
    for result in ["[b'x']", "[]", "b'x'", "iter([b'x'])", "iter([])"] {
        let (done, log) = with_log(|| get(&format!("return {result}")));
        assert_eq!((done.outcome, done.text().as_str()), (Outcome::Failed(500), ""), "{result}");
        assert!(log.contains("AssertionError: the application did not call start_response"), "{result}: {log}");
    }
}

#[test]
fn a_file_wrapper_sends_from_the_position_of_the_file() {
    let done = get("
file = io.BytesIO(b'0123456789')
file.seek(4)
start_response('200 OK', [])
return environ['wsgi.file_wrapper'](file, 2)");
    assert_eq!(done.text(), "456789");
}

#[test]
fn a_regular_file_is_handed_over_and_not_read() {
    let made = |how: &str, more: &str| {
        get(&format!(
            "
import tempfile, os
fd, path = tempfile.mkstemp()
os.write(fd, b'0123456789' * 10000)
os.close(fd)
application.file = file = {how}
os.unlink(path)
{more}
start_response('200 OK', [])
return environ['wsgi.file_wrapper'](file)"
        ))
    };
    for (how, more, len, direct) in [
        ("open(path, 'rb')", "", 100_000, true),
        ("open(path, 'rb', 0)", "file.seek(7)", 99_993, true),
        ("open(path, 'r+b')", "file.seek(0, 2); file.write(b'more'); file.seek(99_990 - 70_000)", 70_014, true),
        // What is small is read, but as a whole.
        ("open(path, 'rb')", "file.seek(99_990)", 10, false),
        ("open(path, 'rb')", "file.read = lambda size: {}.pop(size, b'')", 0, false),
        ("type('Mine', (io.FileIO,), {})(path)", "", 100_000, false),
    ] {
        let done = made(how, more);
        assert_eq!((done.pieces.concat().len(), done.file.is_some()), (len, direct), "{how} {more}");
        assert_eq!(done.outcome, Outcome::Finished);
    }
}

#[test]
fn a_file_wrapper_takes_whatever_reads_and_closes_it() {
    let done = get("
class Source:
    left = [b'ab', b'cd', b'']
    def read(self, size):
        assert size == 3, size
        return self.left.pop(0)
    def close(self):
        application.closed = True
start_response('200 OK', [('Content-Length', '4')])
return environ['wsgi.file_wrapper'](Source(), 3)");
    assert_eq!(done.pieces, [b"ab".to_vec(), b"cd".to_vec()]);
    let done = get("
class Bare:
    left = [b'ab', b'']
    def read(self, size):
        return self.left.pop(0)
wrapper = environ['wsgi.file_wrapper'](Bare())
assert list(wrapper) == [b'ab']
wrapper.close()
start_response('200 OK', [])
return [b'fine']");
    assert_eq!(done.text(), "fine");
}

#[test]
fn a_slow_client_is_waited_for_before_the_next_piece_only() {
    let source = application("start_response('200 OK', [])\nreturn iter([b'a', b'b', b'c'])");
    let done = serve(&source, Fake { answers: vec![Sent::Taken, Sent::Full, Sent::Full], ..Fake::get("/") });
    assert_eq!((done.text().as_str(), done.waits), ("abc", 1), "after the last piece nobody waits");
    let source = application("write = start_response('200 OK', [])\nwrite(b'a')\nwrite(b'b')\nreturn []");
    let done = serve(&source, Fake { answers: vec![Sent::Full, Sent::Full], ..Fake::get("/") });
    assert_eq!((done.text().as_str(), done.waits), ("ab", 1));
}

#[test]
fn a_finished_response_is_never_waited_for() {
    let source = application("start_response('200 OK', [])\nreturn [b'a', b'b', b'c']");
    let done = serve(&source, Fake { answers: vec![Sent::Full; 3], ..Fake::get("/") });
    assert_eq!((done.text().as_str(), done.waits), ("abc", 0));
}

#[test]
fn a_client_that_is_gone_ends_the_iteration_and_is_no_error() {
    let source = application(
        "
class Endless:
    def __iter__(self):
        while True:
            yield b'x'
    def close(self):
        environ['closed'](b'closed')
start_response('200 OK', [])
application.result = Endless()
environ['closed'] = lambda what: setattr(application, 'closed', what)
return application.result",
    );
    for (answers, room) in [(vec![Sent::Taken, Sent::Gone], true), (vec![Sent::Taken, Sent::Full], false)] {
        let apps = super::fake::apps(&[("", &source)]);
        let fake = Fake { answers, room, ..Fake::get("/") };
        let (done, log) = with_log(|| super::fake::serve_all(&apps, &super::fake::options(), vec![fake]).remove(0));
        assert_eq!((done.text().as_str(), &done.outcome, done.exceptions), ("xx", &Outcome::Finished, 0));
        assert!(!log.contains("rsgi: exception"), "{log}");
        super::fake::with_app(&apps, |app| {
            let closed: Vec<u8> = pyo3::prelude::PyAnyMethods::extract(
                &pyo3::prelude::PyAnyMethods::getattr(app, "closed").expect("close() was called"),
            )
            .unwrap();
            assert_eq!(closed, b"closed");
        });
    }
}

#[test]
fn write_raises_when_nobody_listens_and_that_is_not_logged() {
    let source = application("write = start_response('200 OK', [])\nwhile True:\n    write(b'x')");
    let (done, log) =
        with_log(|| serve(&source, Fake { answers: vec![Sent::Taken, Sent::Gone], ..Fake::get("/gone-77") }));
    assert_eq!((done.text().as_str(), done.outcome, done.exceptions), ("xx", Outcome::Finished, 0));
    assert!(!log.contains("/gone-77"), "{log}");
}

#[test]
fn bytes_are_lent_and_can_be_kept() {
    // The fake keeps every piece and compares; here the keeper outlives the request, an instance of a subclass too.
    let done = get("class Own(bytes): pass\nstart_response('200 OK', [])\nreturn iter([Own(b'own'), bytes(3)])");
    let kept: Vec<u8> = done.kept.iter().flat_map(|kept| (**kept).as_ref().to_vec()).collect();
    assert_eq!(kept, b"own\0\0\0");
}

#[test]
fn a_head_request_runs_the_application() {
    let source = application("start_response('200 OK', [])\nreturn [environ['REQUEST_METHOD'].encode()]");
    let done = serve(&source, Fake::http("HEAD / HTTP/1.1\nHost: h", Body::Empty));
    assert_eq!((done.text().as_str(), done.outcome), ("HEAD", Outcome::Finished));
}

#[test]
fn the_validator_of_the_standard_library_has_no_complaint() {
    let source = "
import warnings
from wsgiref.validate import validator
warnings.simplefilter('error')
@validator
def checked(environ, start_response):
    body = environ['wsgi.input'].read(100)
    environ['wsgi.errors'].write('checked\\n')
    write = start_response('200 OK', [('Content-Type', 'text/plain'), ('X-Body', body.decode())])
    write(b'written ')
    return [b'returned']
def application(environ, start_response):
    # What the validator gives is no list, so this is the streamed way.
    return checked(environ, start_response)
";
    let vars = [
        ("REQUEST_METHOD", "GET"),
        ("PATH_INFO", "/"),
        ("SERVER_NAME", "s"),
        ("SERVER_PORT", "80"),
        ("SERVER_PROTOCOL", "HTTP/1.1"),
    ];
    for fake in [Fake::post(b"sent"), Fake::get("/x?y"), Fake::uwsgi(&vars)] {
        let (done, log) = with_log(|| serve(source, fake));
        assert_eq!((done.text().as_str(), done.outcome), ("written returned", Outcome::Finished), "{log}");
    }
}
