//! A recorded exchange, and applications from source text.

use std::any::Any;
use std::collections::VecDeque;
use std::ffi::CString;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use pyo3::prelude::*;
use pyo3::types::PyModule;

use crate::gateway::{Body, BodySource, Exchange, FilePart, Kept, Local, Payload, Peer, Sent, Told};
use crate::interpreter;
use crate::protocol::Protocol;
use crate::protocol::http::head::{Limits, parse};
use crate::protocol::request::{Field, Parsed, Request, Span, Version};
use crate::protocol::response::{Facts, Head};
use crate::wsgi::apps::{App, Apps};
use crate::wsgi::{Options, raw, with_app_thread};

/// Starts the interpreter once for all tests.
pub(in crate::wsgi) fn python() {
    static STARTED: OnceLock<()> = OnceLock::new();
    STARTED.get_or_init(|| interpreter::start(&interpreter::Spec::default()).expect("Python starts"));
}

/// What came of an exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Running,
    Finished,
    Failed(u16),
}

/// Hears of each step.
pub(super) type OnStep = Box<dyn Fn(&str) + Send>;

/// An exchange without a connection.
pub(super) struct Fake {
    pub(super) request: Request,
    pub(super) head: Vec<u8>,
    pub(super) local: Local,
    pub(super) peer: Peer,
    pub(super) told: Option<Told>,
    pub(super) body: Body,
    /// The response head as it went out.
    pub(super) sent_head: Option<String>,
    /// Every piece handed over.
    pub(super) pieces: Vec<Vec<u8>>,
    pub(super) kept: Vec<Kept>,
    pub(super) total: Option<u64>,
    /// Length of the file that was handed over.
    pub(super) file: Option<u64>,
    pub(super) outcome: Outcome,
    pub(super) exceptions: u32,
    /// What the application wanted of its time.
    pub(super) limits: Vec<std::time::Duration>,
    /// Answers of `send`, by number of piece; Taken beyond them.
    pub(super) answers: Vec<Sent>,
    /// How often room was waited for, and what the wait answers.
    pub(super) waits: u32,
    pub(super) room: bool,
    /// Told of each step, for tests of order.
    pub(super) on_step: Option<OnStep>,
}

impl Fake {
    /// An HTTP request as it stands on the wire, and its body.
    pub(super) fn http(head: &str, body: Body) -> Fake {
        let head = head.replace('\n', "\r\n") + "\r\n\r\n";
        let mut request = Request::default();
        let limits = Limits { max_head: 65536, max_line: 65536 };
        assert_eq!(parse(head.as_bytes(), 0, &limits, &mut request), Parsed::Complete, "{head}");
        Fake::with(request, head.into_bytes(), Protocol::Http, body)
    }

    /// A GET request for a target.
    pub(super) fn get(target: &str) -> Fake {
        Fake::http(&format!("GET {target} HTTP/1.1\nHost: h"), Body::Empty)
    }

    /// A POST with a body in memory.
    pub(super) fn post(body: &[u8]) -> Fake {
        let head = format!("POST / HTTP/1.1\nHost: h\nContent-Length: {}", body.len());
        Fake::http(&head, Body::Memory(body.to_vec()))
    }

    /// A request of a front end by its variables.
    pub(super) fn uwsgi(vars: &[(&str, &str)]) -> Fake {
        let mut head = Vec::new();
        let mut request = Request { cgi: true, ..Request::default() };
        let mut put = |text: &str| {
            let start = head.len();
            head.extend_from_slice(text.as_bytes());
            Span::new(start, head.len())
        };
        for (name, value) in vars {
            let field = Field { name: put(name), value: put(value) };
            match *name {
                "REQUEST_METHOD" => request.method = field.value,
                "REQUEST_URI" => request.target = field.value,
                "QUERY_STRING" => request.query = field.value,
                "PATH_INFO" => request.path = value.as_bytes().to_vec(),
                _ => {}
            }
            request.fields.push(field);
        }
        Fake::with(request, head, Protocol::Uwsgi, Body::Empty)
    }

    fn with(request: Request, head: Vec<u8>, protocol: Protocol, body: Body) -> Fake {
        Fake {
            request,
            head,
            local: Local { index: 0, protocol, server_name: "box".into(), server_port: "8000".into() },
            peer: Peer { addr: "192.0.2.1".into(), port: "4711".into() },
            told: None,
            body,
            sent_head: None,
            pieces: Vec::new(),
            kept: Vec::new(),
            total: None,
            file: None,
            outcome: Outcome::Running,
            exceptions: 0,
            limits: Vec::new(),
            answers: Vec::new(),
            waits: 0,
            room: true,
            on_step: None,
        }
    }

    fn step(&self, what: &str) {
        if let Some(tell) = &self.on_step {
            tell(what);
        }
    }

    fn fix(&mut self, head: &mut Head, total: Option<u64>) {
        assert_eq!(self.outcome, Outcome::Running, "nothing after the end");
        if self.sent_head.is_some() {
            return;
        }
        assert!(head.is_started(), "a head is sent only after start_response");
        let facts = Facts {
            version: Version::Http11,
            head_request: self.request.is_head(&self.head),
            protocol: self.local.protocol,
            keep_alive: true,
            total,
            date: b"Thu, 01 Jan 1970 00:00:00 GMT",
        };
        head.finish(&facts);
        self.total = total;
        self.sent_head = Some(head.bytes().iter().map(|&byte| byte as char).collect());
    }

    /// The body that the client would see.
    pub(super) fn text(&self) -> String {
        String::from_utf8_lossy(&self.pieces.concat()).into_owned()
    }

    pub(super) fn head_text(&self) -> &str {
        self.sent_head.as_deref().unwrap_or_default()
    }
}

impl Exchange for Fake {
    fn request(&self) -> (&Request, &[u8]) {
        (&self.request, &self.head)
    }

    fn local(&self) -> &Local {
        &self.local
    }

    fn peer(&self) -> &Peer {
        &self.peer
    }

    fn told(&self) -> Option<&Told> {
        self.told.as_ref()
    }

    fn take_body(&mut self) -> Body {
        std::mem::replace(&mut self.body, Body::Empty)
    }

    fn send(&mut self, head: &mut Head, piece: Payload<'_>, total: Option<u64>) -> Sent {
        self.fix(head, total);
        assert!(!piece.bytes.is_empty(), "empty pieces are not handed over");
        let kept = (piece.keep)();
        assert_eq!((*kept).as_ref(), piece.bytes);
        self.kept.push(kept);
        self.pieces.push(piece.bytes.to_vec());
        self.step("send");
        self.answers.get(self.pieces.len() - 1).copied().unwrap_or(Sent::Taken)
    }

    fn send_file(&mut self, head: &mut Head, part: FilePart) -> Sent {
        assert!(self.sent_head.is_none(), "a file is all of the body");
        self.fix(head, Some(part.len));
        let mut bytes = vec![0; part.len as usize];
        part.file.read_exact_at(&mut bytes, part.start).expect("the file is that long");
        self.pieces.push(bytes);
        self.file = Some(part.len);
        self.step("file");
        Sent::Taken
    }

    fn head_sent(&self) -> bool {
        self.sent_head.is_some()
    }

    fn wait_for_room(&mut self) -> bool {
        self.waits += 1;
        self.step("wait");
        self.room
    }

    fn finish(&mut self, head: &mut Head) {
        self.fix(head, Some(0));
        self.outcome = Outcome::Finished;
        self.step("finish");
    }

    fn fail(&mut self, status: u16) {
        assert_eq!(self.outcome, Outcome::Running, "nothing after the end");
        self.outcome = Outcome::Failed(status);
        self.step("fail");
    }

    fn limit_time(&mut self, limit: std::time::Duration, _thread: Arc<dyn Any + Send + Sync>) {
        self.limits.push(limit);
    }

    fn count_exception(&mut self) {
        self.exceptions += 1;
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any + Send> {
        self
    }
}

/// A body that arrives in the given pieces, or fails.
pub(super) struct Trickle(VecDeque<io::Result<Vec<u8>>>);

impl Trickle {
    pub(super) fn body(pieces: impl IntoIterator<Item = io::Result<Vec<u8>>>) -> Body {
        Body::Stream(Box::new(Trickle(pieces.into_iter().collect())))
    }
}

impl BodySource for Trickle {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let Some(piece) = self.0.pop_front() else { return Ok(0) };
        let mut piece = piece?;
        let taken = piece.len().min(buf.len());
        buf[..taken].copy_from_slice(&piece[..taken]);
        if taken < piece.len() {
            self.0.push_front(Ok(piece.split_off(taken)));
        }
        Ok(taken)
    }
}

/// Options of one worker with one thread.
pub(super) fn options() -> Options {
    Options {
        threads: 1,
        processes: 1,
        manage_script_name: false,
        fastcgi_stderr: false,
        file_wrapper: true,
        run_once: false,
    }
}

/// Applications by mount point, each the `application` of its source.
pub(super) fn apps(sources: &[(&str, &str)]) -> Arc<Apps> {
    python();
    Python::attach(|py| {
        let apps = sources.iter().map(|(mount, source)| {
            let callable = module(py, source).getattr("application").unwrap().unbind();
            App { mount: (*mount).into(), callable: Some(callable) }
        });
        Arc::new(Apps::new(apps.collect(), raw::copy_current_context(py).unwrap().unbind(), Vec::new()))
    })
}

/// A module made of source text.
pub(super) fn module<'py>(py: Python<'py>, source: &str) -> Bound<'py, PyModule> {
    // A name of its own: a second module of the same name would share the dict of the first.
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let name = CString::new(format!("app_{}", NUMBER.fetch_add(1, Ordering::Relaxed))).unwrap();
    let code = CString::new(source).unwrap();
    PyModule::from_code(py, &code, c"app.py", &name).unwrap_or_else(|error| {
        error.display(py);
        panic!("{source}")
    })
}

/// Runs exchanges one after the other on one app thread.
pub(super) fn serve_all(apps: &Arc<Apps>, options: &Options, exchanges: Vec<Fake>) -> Vec<Fake> {
    with_app_thread(apps, options, 0, |thread| {
        exchanges
            .into_iter()
            .map(|exchange| {
                let exchange = thread.serve(Box::new(exchange));
                *exchange.into_any().downcast::<Fake>().expect("the exchange comes back")
            })
            .collect()
    })
}

/// Runs one exchange with the `application` of a source.
pub(super) fn serve(source: &str, exchange: Fake) -> Fake {
    serve_all(&apps(&[("", source)]), &options(), vec![exchange]).remove(0)
}

thread_local! {
    /// What this thread logs while somebody wants to know.
    static LOGGED: std::cell::RefCell<Option<String>> = const { std::cell::RefCell::new(None) };
}

struct Keep;

impl log::Log for Keep {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        LOGGED.with_borrow_mut(|logged| {
            if let Some(text) = logged {
                text.push_str(&format!("{}\n", record.args()));
            }
        });
    }

    fn flush(&self) {}
}

/// Runs `f` with `sys.stderr` and the log of this thread caught; gives its result and what was written. Tests of the log run one at a time.
pub(super) fn with_log<T>(f: impl FnOnce() -> T) -> (T, String) {
    static ONE: Mutex<()> = Mutex::new(());
    python();
    let _one = ONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let (sys, before, log) = Python::attach(|py| {
        let sys = py.import("sys").unwrap();
        let log = py.import("io").unwrap().call_method0("StringIO").unwrap();
        let before = sys.getattr("stderr").unwrap();
        sys.setattr("stderr", &log).unwrap();
        (sys.unbind(), before.unbind(), log.unbind())
    });
    if log::set_logger(&Keep).is_ok() {
        log::set_max_level(log::LevelFilter::Info);
    }
    LOGGED.set(Some(String::new()));
    let value = f();
    let logged = LOGGED.take().unwrap_or_default();
    let text: String = Python::attach(|py| {
        sys.bind(py).setattr("stderr", before).unwrap();
        log.bind(py).call_method0("getvalue").unwrap().extract().unwrap()
    });
    (value, text + &logged)
}

/// Looks at the first application, attached.
pub(super) fn with_app<T>(apps: &Apps, f: impl FnOnce(&Bound<'_, PyAny>) -> T) -> T {
    Python::attach(|py| f(apps.get(0).expect("an application").bind(py)))
}
