//! Applications that raise, exit, or fail in `close()`.

use super::fake::{Fake, Outcome, apps, options, serve_all, with_app, with_log};
use crate::wsgi::AppThread;
use pyo3::prelude::*;

/// An application that fails at the place `X-Where` names, once, with `ValueError: MARK`.
const FAILING: &str = "
closed = 0
class Body:
    def __init__(self, where, environ):
        self.where, self.step = where, 0
        if where == 'init':
            raise ValueError('MARK')
    def __iter__(self):
        if self.where == 'iter':
            raise ValueError('MARK')
        return self
    def __next__(self):
        self.step += 1
        if self.where == f'next{self.step}':
            raise ValueError('MARK')
        if self.step > 2:
            raise StopIteration
        return b'piece'
    def close(self):
        global closed
        closed += 1
        application.closed = closed
        if self.where == 'close':
            raise ValueError('MARK')

def application(environ, start_response):
    where = environ['HTTP_X_WHERE']
    headers = [('Content-Length', '10')] if where == 'length' or 'HTTP_X_LENGTH' in environ else []
    if where == 'before':
        raise ValueError('MARK')
    write = start_response('200 OK', headers)
    if where == 'after':
        raise ValueError('MARK')
    if 'HTTP_X_WRITE' in environ:
        write(b'written')
    if where == 'write':
        raise ValueError('MARK')
    return Body(where, environ)
";

fn fail_at(place: &str, more: &str) -> (Fake, String, Option<u32>) {
    let apps = apps(&[("", FAILING)]);
    let head = format!("GET /at/{place} HTTP/1.1\nHost: h\nX-Where: {place}{more}");
    let fake = Fake::http(&head, crate::gateway::Body::Empty);
    let (done, log) = with_log(|| serve_all(&apps, &options(), vec![fake]).remove(0));
    let closed = with_app(&apps, |app| app.getattr("closed").ok().map(|closed| closed.extract().unwrap()));
    (done, log, closed)
}

#[test]
fn an_exception_is_one_traceback_and_a_500_or_a_cut() {
    for (place, more, sent, closed) in [
        ("before", "", "", None),
        ("after", "", "", None),
        ("init", "", "", None),
        ("iter", "", "", Some(1)),
        ("next1", "", "", Some(1)),
        ("next2", "", "piece", Some(1)),
        ("next3", "", "piecepiece", Some(1)),
        ("write", "\nX-Write: 1", "written", None),
        ("next1", "\nX-Write: 1", "written", Some(1)),
        ("close", "", "piecepiece", Some(1)),
    ] {
        let (done, log, was_closed) = fail_at(place, more);
        assert_eq!((done.text().as_str(), done.outcome), (sent, Outcome::Failed(500)), "{place}{more}");
        assert_eq!(was_closed, closed, "{place}{more}");
        assert_eq!(done.exceptions, 1, "{place}{more}");
        assert_eq!(log.matches("ValueError: MARK").count(), 1, "{place}{more}: {log}");
        let line = format!("exception in GET /at/{place} from 192.0.2.1\nTraceback (most recent call last):\n");
        assert!(log.contains(&line), "{place}{more}: {log}");
    }
}

#[test]
fn an_exception_in_close_spares_a_response_with_a_length() {
    let (done, log, closed) = fail_at("close", "\nX-Length: 1");
    assert_eq!((done.text().as_str(), done.outcome, closed), ("piecepiece", Outcome::Finished, Some(1)));
    assert_eq!((done.exceptions, log.matches("ValueError: MARK").count()), (1, 1));
}

#[test]
fn what_is_no_exception_is_treated_as_one() {
    for raised in ["SystemExit(3)", "KeyboardInterrupt()", "GeneratorExit()", "BaseException('b')", "StopIteration()"] {
        let source = format!(
            "
def application(environ, start_response):
    if environ['PATH_INFO'] == '/bad':
        start_response('200 OK', [])
        raise {raised}
    start_response('200 OK', [])
    return [b'fine']
"
        );
        let name = &raised[..raised.find('(').unwrap()];
        let fakes = vec![Fake::get("/bad"), Fake::get("/good")];
        let (done, log) = with_log(|| serve_all(&apps(&[("", &source)]), &options(), fakes));
        assert_eq!((done[0].outcome, done[0].exceptions), (Outcome::Failed(500), 1), "{raised}");
        assert_eq!((done[1].outcome, done[1].text().as_str()), (Outcome::Finished, "fine"), "{raised}");
        assert!(log.contains(&format!("\n{name}")), "{raised}: {log}");
    }
}

#[test]
fn sys_exit_in_a_generator_cuts_the_response() {
    let source = "
import sys
def application(environ, start_response):
    start_response('200 OK', [])
    yield b'begun'
    sys.exit('enough 31')
";
    let (done, log) = with_log(|| super::fake::serve(source, Fake::get("/")));
    assert_eq!((done.text().as_str(), done.outcome), ("begun", Outcome::Failed(500)));
    assert!(log.contains("SystemExit: enough 31"), "{log}");
}

#[test]
fn exceptions_that_cannot_be_shown_are_logged_all_the_same() {
    let source = "
class Bad(Exception):
    def __str__(self):
        raise RuntimeError('no text')
def application(environ, start_response):
    raise Bad()
";
    let (done, log) = with_log(|| super::fake::serve(source, Fake::get("/unprintable")));
    assert_eq!(done.outcome, Outcome::Failed(500));
    assert!(log.contains("exception in GET /unprintable") && log.contains("Bad"), "{log}");
}

#[test]
fn a_log_line_holds_no_control_characters_of_the_client() {
    let source = "def application(environ, start_response):\n    raise ValueError";
    let mut fake = Fake::get("/aXb");
    let at = fake.head.windows(3).position(|three| three == b"aXb").unwrap();
    fake.head[at + 1] = 0x1b;
    let (_, log) = with_log(|| super::fake::serve(source, fake));
    assert!(log.contains("GET /a\\x1bb"), "{log}");
    let (_, log) = with_log(|| super::fake::serve(source, Fake::get(&format!("/{}", "y".repeat(5000)))));
    assert!(log.contains("yyy... from") && !log.contains(&"y".repeat(2000)));
}

#[test]
fn with_statements_of_a_generator_end_with_the_request() {
    let source = "
import contextlib
steps = []
@contextlib.contextmanager
def resource():
    steps.append('open')
    try:
        yield
    finally:
        steps.append('close')
        if len(steps) > 2:
            raise ValueError('at exit 88')
def application(environ, start_response):
    start_response('200 OK', [])
    if environ['PATH_INFO'] == '/steps':
        yield repr(steps).encode()
        return
    with resource():
        yield b'one'
        yield b'two'
";
    let gone = Fake { answers: vec![crate::gateway::Sent::Gone], ..Fake::get("/left") };
    let fakes = vec![gone, Fake::get("/whole"), Fake::get("/steps")];
    let (done, log) = with_log(|| serve_all(&apps(&[("", source)]), &options(), fakes));
    assert_eq!(done[0].outcome, Outcome::Finished);
    assert_eq!((done[1].text().as_str(), done[1].outcome), ("onetwo", Outcome::Failed(500)));
    assert_eq!(done[2].text(), "['open', 'close', 'open', 'close']");
    assert_eq!(log.matches("ValueError: at exit 88").count(), 1, "{log}");
}

#[test]
fn close_comes_before_the_end_and_after_the_last_piece() {
    let source = "
class Body(list):
    def close(self):
        application.tell()
def application(environ, start_response):
    start_response('200 OK', [])
    return Body([b'a', b'b'])
";
    let apps = apps(&[("", source)]);
    let steps = std::sync::Arc::new(std::sync::Mutex::new(Vec::<String>::new()));
    let (told, closed) = (steps.clone(), steps.clone());
    Python::attach(|py| {
        let tell = move |_: &Bound<'_, pyo3::types::PyTuple>, _: Option<&Bound<'_, pyo3::types::PyDict>>| {
            closed.lock().unwrap().push("close".into());
        };
        let tell = pyo3::types::PyCFunction::new_closure(py, None, None, tell).unwrap();
        with_app(&apps, |app| app.setattr("tell", tell).unwrap());
    });
    let on_step: super::fake::OnStep = Box::new(move |step| told.lock().unwrap().push(step.into()));
    serve_all(&apps, &options(), vec![Fake { on_step: Some(on_step), ..Fake::get("/") }]);
    assert_eq!(*steps.lock().unwrap(), ["send", "send", "close", "finish"]);
}

#[test]
fn replaced_stderr_that_fails_loses_nothing_else() {
    let source = "
import sys
class Broken:
    def write(self, text):
        raise OSError('full')
def application(environ, start_response):
    sys.stderr = Broken()
    raise ValueError('x')
";
    let (done, _) = with_log(|| super::fake::serve(source, Fake::get("/")));
    assert_eq!((done.outcome, done.exceptions), (Outcome::Failed(500), 1));
}

#[test]
fn wsgi_errors_reaches_the_log() {
    let source = "
def application(environ, start_response):
    errors = environ['wsgi.errors']
    errors.write('one 42\\n')
    errors.writelines(['two 42\\n', 'three 42\\n'])
    print('four \\u20ac 42', file=errors)
    errors.flush()
    start_response('200 OK', [])
    return []
";
    let (done, log) = with_log(|| super::fake::serve(source, Fake::get("/")));
    assert_eq!(done.outcome, Outcome::Finished);
    assert!(log.contains("one 42\ntwo 42\nthree 42\nfour € 42\n"), "{log}");
}

#[test]
fn an_app_thread_is_not_left_attached_while_it_waits() {
    let apps = apps(&[("", FAILING)]);
    crate::wsgi::with_app_thread(&apps, &options(), 0, |thread: &mut AppThread<'_>| {
        let other = std::thread::spawn(|| Python::attach(|py| py.version_info().major));
        assert_eq!(thread.detached(|| other.join().unwrap()), 3);
    });
}
