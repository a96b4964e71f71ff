//! An environ that is used again is as good as a new one.

use pyo3::prelude::*;
use pyo3::types::PyList;

use super::fake::{Fake, apps, module, options, serve_all, with_app};
use crate::gateway::{Body, Peer, Told};
use crate::wsgi::apps::{App, Apps};
use crate::wsgi::{raw, with_app_thread};

/// Answers which dict it got and all that is in it, one line each; but what neighbours of a test change.
const DUMP: &str = "
def application(environ, start_response):
    start_response('200 OK', [])
    lines = [str(id(environ))]
    lines += sorted(f'{key}={value!r}' for key, value in environ.items() if key not in ('wsgi.input', 'wsgi.errors', 'uwsgi.node'))
    lines.append(repr(environ['wsgi.input'].read()))
    return ['\\n'.join(lines).encode()]
";

/// The identity of an environ and the rest of the dump.
fn take_apart(fake: &Fake) -> (String, String) {
    let text = fake.text();
    let (identity, rest) = text.split_once('\n').unwrap();
    (identity.into(), rest.into())
}

fn requests() -> Vec<Fake> {
    let http = |head: &str| Fake::http(head, Body::Empty);
    let from = |port: &str, addr: &str| {
        let mut fake = Fake::get("/");
        fake.peer = Peer { addr: addr.into(), port: port.into() };
        fake
    };
    let told = |scheme, host: Option<&[u8]>| {
        let mut fake = Fake::get("/told");
        fake.told = Some(Told { client: None, scheme, host: host.map(Into::into) });
        fake
    };
    let uwsgi = |vars: &[(&str, &str)]| Fake::uwsgi(vars);
    let client = |port: &str| {
        let mut fake = uwsgi(&[("REQUEST_METHOD", "GET"), ("REMOTE_ADDR", "proxy"), ("REMOTE_PORT", "9")]);
        let client = Peer { addr: "192.0.2.3".into(), port: port.into() };
        fake.told = Some(Told { client: Some(client), scheme: Some("https"), host: None });
        fake
    };
    // The same without a port of the proxy's own.
    let behind = |port: &str| {
        let mut fake = uwsgi(&[("REQUEST_METHOD", "GET"), ("REMOTE_ADDR", "proxy")]);
        let client = Peer { addr: "192.0.2.3".into(), port: port.into() };
        fake.told = Some(Told { client: Some(client), scheme: None, host: None });
        fake
    };
    vec![
        http("GET / HTTP/1.1\nHost: h"),
        http("GET / HTTP/1.1\nHost: h"),
        http("GET /a?b=c HTTP/1.1\nHost: h\nAccept: x\nUser-Agent: y"),
        http("GET /a HTTP/1.1\nHost: h\nAccept: z"),
        http("PUT /long HTTP/1.0"),
        http(&format!("GET /{} HTTP/1.1\nHost: h\nX-Long: {}", "p".repeat(300), "v".repeat(3000))),
        http(&format!("GET /{} HTTP/1.1\nHost: h\nX-Long: {}", "p".repeat(300), "v".repeat(3000))),
        http("GET / HTTP/1.1\nHost: h\nX: 1\nX: 2"),
        http("GET / HTTP/1.1\nHost: h\nX: 1"),
        http("GET / HTTP/1.1\nHost: h\nX: 1\nX: 2"),
        http("GET / HTTP/1.1\nHost: other\nCookie: a=b\nAuthorization: c"),
        http("GET / HTTP/1.1\nHost: other\nCookie: a=b"),
        http("GET / HTTP/1.1\nHost: other"),
        Fake::post(b"some bytes"),
        Fake::post(b"others"),
        Fake::get("/"),
        from("1", "192.0.2.2"),
        from("", ""),
        from("1", "192.0.2.2"),
        told(Some("https"), Some(b"told")),
        told(None, None),
        uwsgi(&[("REQUEST_METHOD", "GET"), ("PATH_INFO", "/x"), ("HTTP_HOST", "h"), ("HTTPS", "on")]),
        uwsgi(&[("REQUEST_METHOD", "GET"), ("PATH_INFO", "/x"), ("HTTP_HOST", "h"), ("REMOTE_PORT", "5")]),
        uwsgi(&[("REQUEST_METHOD", "GET"), ("REMOTE_ADDR", "a"), ("HTTP_HOST", "h"), ("HTTP_HOST", "i")]),
        uwsgi(&[("UWSGI_SCHEME", "https"), ("SCRIPT_NAME", "/s"), ("PATH_INFO", "/s/p"), ("HTTP_COOKIE", "secret")]),
        uwsgi(&[("REQUEST_METHOD", "GET"), ("SCRIPT_NAME", "/s/"), ("PATH_INFO", "/")]),
        client("7"),
        client(""),
        behind("8"),
        behind(""),
    ]
}

#[test]
fn no_request_finds_anything_of_another_one() {
    let apps = apps(&[("", DUMP)]);
    let alone: Vec<String> =
        requests().into_iter().map(|fake| take_apart(&serve_all(&apps, &options(), vec![fake])[0]).1).collect();
    let count = alone.len();
    // Every request after every other one.
    for first in 0..count {
        for second in 0..count {
            let pick = |at: usize| requests().swap_remove(at);
            // One listener has one protocol.
            let mut fakes = vec![pick(first), pick(second), pick(first)];
            fakes.iter_mut().for_each(|fake| fake.local.index = usize::from(fake.request.cgi));
            let done = serve_all(&apps, &options(), fakes);
            for (fake, at) in done.iter().zip([first, second, first]) {
                assert_eq!(take_apart(fake).1, alone[at], "request {at} of {first}, {second}, {first}");
            }
        }
    }
    // And all of them in a row.
    let mut fakes = requests();
    fakes.iter_mut().for_each(|fake| fake.local.index = usize::from(fake.request.cgi));
    for (at, fake) in serve_all(&apps, &options(), fakes).iter().enumerate() {
        assert_eq!(take_apart(fake).1, alone[at], "request {at} of the row");
    }
}

/// Whether requests get the same dict as the one before them.
fn used_again(source: &str, fakes: Vec<Fake>) -> Vec<bool> {
    let done = serve_all(&apps(&[("", source)]), &options(), fakes);
    let identities: Vec<String> = done.iter().map(|fake| take_apart(fake).0).collect();
    identities.windows(2).map(|pair| pair[0] == pair[1]).collect()
}

#[test]
#[cfg(not(any(Py_3_14, Py_GIL_DISABLED)))]
fn an_environ_that_nobody_keeps_or_changes_is_used_again() {
    let http = |head: &str| Fake::http(head, Body::Empty);
    let fakes = vec![
        http("GET / HTTP/1.1\nHost: h"),
        http("GET /a HTTP/1.1\nHost: i\nAccept: x"),
        Fake::post(b"body"),
        http("GET / HTTP/1.1\nHost: h\nCookie: a=b"),
        http("GET / HTTP/1.1\nHost: h"),
    ];
    assert_eq!(used_again(DUMP, fakes), [true; 4]);
}

/// An application that does `what` to its first environ and then, as the others, tells what is in it.
fn first_does(what: &str) -> String {
    let source = "
kept = []
count = 0
def dump(environ):
    lines = [str(id(environ))]
    lines += sorted(f'{key}={value!r}' for key, value in environ.items() if key not in ('wsgi.input', 'wsgi.errors', 'uwsgi.node'))
    return ['\\n'.join(lines).encode()]
def application(environ, start_response):
    global count
    count += 1
    start_response('200 OK', [])
    if count == 1:
        WHAT
    return dump(environ)
";
    source.replace("WHAT", what)
}

#[test]
fn one_that_was_changed_or_kept_is_not() {
    for what in [
        "environ['own.key'] = 1",
        "del environ['SERVER_NAME']",
        "environ['PATH_INFO'] = '/else'",
        "environ['QUERY_STRING'] = 'x'; environ['QUERY_STRING'] = ''",
        "environ.setdefault('own.key', 1); environ.pop('own.key')",
        "environ.update({'own.key': 1})",
        "environ.clear()",
        "environ.popitem()",
        "environ |= {'a': 1}",
        "dict.__init__(environ, a=1)",
        "kept.append(environ)",
        "kept.append(environ.items())",
        "kept.append(iter(environ))",
        "kept.append(lambda: environ)",
        "import sys; kept.append(sys._getframe())",
        "raise ValueError(kept.append(environ))",
    ] {
        let fakes = vec![Fake::get("/first?a=b"), Fake::get("/second")];
        let done = serve_all(&apps(&[("", &first_does(what))]), &options(), fakes);
        let fresh = serve_all(&apps(&[("", &first_does("pass"))]), &options(), vec![Fake::get("/second")]);
        assert_eq!(take_apart(&done[1]).1, take_apart(&fresh[0]).1, "{what}");
        if let Some((first, _)) = done[0].text().split_once('\n')
            && !what.starts_with("raise")
            && what.contains("kept")
        {
            assert_ne!(first, take_apart(&done[1]).0, "{what}");
        }
    }
}

#[test]
fn what_an_application_keeps_stays_as_it_was() {
    let source = "
kept = []
def application(environ, start_response):
    kept.append(environ)
    start_response('200 OK', [])
    return ['|'.join(environ['REQUEST_URI'] for environ in kept).encode()]
";
    let fakes = (1..=4).map(|at| Fake::get(&format!("/{at}"))).collect();
    let done = serve_all(&apps(&[("", source)]), &options(), fakes);
    assert_eq!(done[3].text(), "/1|/2|/3|/4");
}

#[test]
fn a_generator_has_its_environ_to_its_end() {
    let source = "
def application(environ, start_response):
    start_response('200 OK', [])
    for at in range(3):
        yield environ['REQUEST_URI'].encode()
";
    let fakes = (1..=3).map(|at| Fake::get(&format!("/{at}"))).collect();
    let done = serve_all(&apps(&[("", source)]), &options(), fakes);
    assert_eq!(done.iter().map(Fake::text).collect::<Vec<_>>(), ["/1/1/1", "/2/2/2", "/3/3/3"]);
}

#[test]
fn secrets_and_bodies_do_not_outlive_their_request() {
    super::fake::python();
    let source = "
kept = []
def application(environ, start_response):
    kept.extend(environ[key] for key in ('HTTP_COOKIE', 'HTTP_AUTHORIZATION', 'wsgi.input'))
    start_response('200 OK', [])
    return []
";
    let (apps, kept) = Python::attach(|py| {
        let module = module(py, source);
        let app = App { mount: String::new(), callable: Some(module.getattr("application").unwrap().unbind()) };
        let context = raw::copy_current_context(py).unwrap().unbind();
        let apps = std::sync::Arc::new(Apps::new(vec![app], context, Vec::new()));
        (apps, module.getattr("kept").unwrap().cast_into::<PyList>().unwrap().unbind())
    });
    let head = "POST / HTTP/1.1\nHost: h\nCookie: one\nAuthorization: two\nContent-Length: 4";
    let counts: Vec<isize> = with_app_thread(&apps, &options(), 0, |thread| {
        thread.serve(Box::new(Fake::http(head, Body::Memory(b"body".to_vec()))));
        with_app(&apps, |app| {
            kept.bind(app.py()).iter().map(|item| raw::references(item.py(), &item.unbind())).collect()
        })
    });
    // The list's own, and the one it is looked at with.
    assert_eq!(counts, [2, 2, 2]);
}
