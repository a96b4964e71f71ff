//! What app threads keep between requests, and what they do not.

use std::sync::{Arc, Barrier};
use std::time::Duration;

use pyo3::prelude::*;

use super::fake::{Fake, Outcome, apps, options, serve_all, with_app, with_log};
use crate::wsgi::{Options, with_app_thread};

#[test]
fn callables_of_an_earlier_request_are_dead() {
    let source = "
kept = []
def application(environ, start_response):
    if environ['PATH_INFO'] == '/keep':
        kept.append(start_response)
        kept.append(start_response('200 OK', []))
        return [b'kept']
    out = []
    for call in (lambda: kept[0]('500 Stolen', []), lambda: kept[1](b'stolen')):
        try:
            call()
        except RuntimeError as error:
            out.append(str(error))
    start_response('200 OK', [])
    return ['; '.join(out).encode()]
";
    let done =
        serve_all(&apps(&[("", source)]), &options(), vec![Fake::get("/keep"), Fake::get("/use"), Fake::get("/use")]);
    for done in &done[1..] {
        assert_eq!(
            done.text(),
            "start_response was called after its request was over; write was called after its request was over"
        );
        assert!(done.head_text().starts_with("HTTP/1.1 200 OK\r\n"));
    }
}

#[test]
fn a_request_may_limit_its_own_time_and_nobody_elses() {
    let source = "
import rsgi, threading
def failure(seconds):
    try:
        rsgi.set_user_harakiri(seconds)
    except Exception as error:
        return type(error).__name__
kept = [failure(1)]
def application(environ, start_response):
    kept.append(failure(-1))
    thread = threading.Thread(target=lambda: kept.append(failure(1)))
    thread.start()
    thread.join()
    rsgi.set_user_harakiri(1.5)
    start_response('200 OK', [])
    rsgi.set_user_harakiri(0)
    return [repr(kept).encode()]
";
    super::fake::python();
    Python::attach(|py| crate::wsgi::install(py).unwrap());
    let done = serve_all(&apps(&[("", source)]), &options(), vec![Fake::get("/")]);
    assert_eq!(done[0].text(), "['RuntimeError', 'ValueError', 'RuntimeError']");
    assert_eq!(done[0].limits, [Duration::from_millis(1500), Duration::ZERO]);
}

#[test]
fn callables_are_used_again_when_nobody_keeps_them() {
    let source = "
ids = []
def application(environ, start_response):
    ids.append(id(start_response))
    start_response('200 OK', [])
    return [repr(len(set(ids))).encode()]
";
    let done = serve_all(&apps(&[("", source)]), &options(), (0..5).map(|_| Fake::get("/")).collect());
    assert_eq!(done[4].text(), "1");
}

#[test]
fn input_kept_from_an_earlier_request_stays_its_own() {
    let source = "
kept = []
def application(environ, start_response):
    kept.append(environ['wsgi.input'])
    start_response('200 OK', [])
    return [kept[0].read(2) + b'/' + environ['wsgi.input'].read(1)]
";
    let done = serve_all(&apps(&[("", source)]), &options(), vec![Fake::post(b"abcdef"), Fake::post(b"123")]);
    assert_eq!((done[0].text(), done[1].text()), ("ab/c".into(), "de/1".into()));
}

#[test]
fn thread_locals_live_as_long_as_the_thread() {
    let source = "
import threading
local = threading.local()
def application(environ, start_response):
    local.count = getattr(local, 'count', 0) + 1
    start_response('200 OK', [])
    return [repr(local.count).encode()]
";
    let apps = apps(&[("", source)]);
    let run = || serve_all(&apps, &options(), vec![Fake::get("/"), Fake::get("/")]);
    let first = std::thread::scope(|scope| scope.spawn(run).join().unwrap());
    let second = std::thread::scope(|scope| scope.spawn(run).join().unwrap());
    assert_eq!((first[1].text(), second[1].text()), ("2".into(), "2".into()));
}

#[test]
fn every_thread_starts_with_the_contextvars_of_the_import() {
    let source = "
import contextvars
var = contextvars.ContextVar('var', default='unset')
def application(environ, start_response):
    before = var.get()
    var.set(before + '+')
    start_response('200 OK', [])
    return [before.encode()]
";
    super::fake::python();
    let apps = Python::attach(|py| {
        let module = super::fake::module(py, source);
        let context = py.import("contextvars").unwrap().call_method0("copy_context").unwrap();
        context.call_method1("run", (module.getattr("var").unwrap().getattr("set").unwrap(), "import")).unwrap();
        let app = crate::wsgi::apps::App {
            mount: String::new(),
            callable: Some(module.getattr("application").unwrap().unbind()),
        };
        Arc::new(crate::wsgi::Apps::new(vec![app], context.unbind(), Vec::new()))
    });
    for _ in 0..2 {
        let done = serve_all(&apps, &options(), vec![Fake::get("/"), Fake::get("/")]);
        assert_eq!((done[0].text(), done[1].text()), ("import".into(), "import+".into()));
    }
}

#[test]
fn threads_serve_at_once_and_have_names() {
    let source = "
import threading
barrier = threading.Barrier(3)
def application(environ, start_response):
    barrier.wait(30)
    start_response('200 OK', [])
    name = threading.current_thread().name if environ['uwsgi.core'] else 'first'
    return [f\"{environ['uwsgi.core']} {name}\".encode()]
";
    let apps = apps(&[("", source)]);
    let options = Options { threads: 3, ..options() };
    let texts: Vec<String> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..3)
            .map(|core| {
                let (apps, options) = (&apps, &options);
                scope.spawn(move || {
                    with_app_thread(apps, options, core, |thread| {
                        let done = thread.serve(Box::new(Fake::get("/")));
                        done.into_any().downcast::<Fake>().unwrap().text()
                    })
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(texts, ["0 first", "1 rsgi-core-1", "2 rsgi-core-2"]);
}

#[test]
fn background_threads_run_while_a_thread_waits() {
    let source = "
import threading
ticked = threading.Event()
def application(environ, start_response):
    threading.Thread(target=ticked.set, daemon=True).start()
    start_response('200 OK', [])
    return []
def wait():
    return ticked.wait(30)
application.wait = wait
";
    let apps = apps(&[("", source)]);
    let both = Barrier::new(2);
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| {
            let waited: bool = with_app(&apps, |app| app.call_method0("wait").unwrap().extract().unwrap());
            both.wait();
            waited
        });
        with_app_thread(&apps, &options(), 0, |thread| {
            thread.serve(Box::new(Fake::get("/")));
            thread.detached(|| both.wait());
        });
        assert!(waiter.join().unwrap());
    });
}

#[test]
fn another_thread_of_the_application_may_write() {
    let source = "
import threading
def application(environ, start_response):
    write = start_response('200 OK', [])
    thread = threading.Thread(target=write, args=(b'elsewhere ',))
    thread.start()
    thread.join()
    return iter([b'here'])
";
    let done = super::fake::serve(source, Fake::get("/"));
    assert_eq!((done.text().as_str(), done.outcome), ("elsewhere here", Outcome::Finished));
}

#[test]
fn applications_that_were_not_loaded_answer_500() {
    super::fake::python();
    let apps = Python::attach(|py| {
        let context = crate::wsgi::raw::copy_current_context(py).unwrap().unbind();
        Arc::new(crate::wsgi::Apps::new(Vec::new(), context, vec!["why".into()]))
    });
    let (done, log) = with_log(|| serve_all(&apps, &options(), vec![Fake::get("/")]).remove(0));
    assert_eq!((done.outcome, done.exceptions), (Outcome::Failed(500), 0));
    assert!(!log.contains("Traceback"), "{log}");
}
