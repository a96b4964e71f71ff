//! What every black-box test uses: a server under test that the test gave its sockets, clients that
//! send any bytes they like, and waiting without sleeping.
//!
//! The same tests run on real uWSGI (`SERVER_UNDER_TEST=uwsgi`, `PEER_BIN=...`). Where the two are
//! meant to differ, the test names the line of README.md that says so, see [`differs`].

pub mod clients;
pub mod fastcgi;
pub mod held;
pub mod http;
pub mod scgi;
pub mod server;
pub mod uwsgi;
pub mod variables;

use std::cell::Cell;
use std::fs::OpenOptions;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// Which program the tests are run on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    Rsgi,
    Uwsgi,
}

/// The program under test, from `SERVER_UNDER_TEST`.
pub fn subject() -> Subject {
    match std::env::var("SERVER_UNDER_TEST").as_deref() {
        Err(_) | Ok("") | Ok("rsgi") => Subject::Rsgi,
        Ok("uwsgi") => Subject::Uwsgi,
        Ok(other) => panic!("SERVER_UNDER_TEST is rsgi or uwsgi, not {other}"),
    }
}

/// The executable under test.
pub fn program() -> PathBuf {
    match subject() {
        Subject::Rsgi => std::env::var_os("RSGI_BIN").unwrap_or_else(|| env!("CARGO_BIN_EXE_rsgi").into()).into(),
        Subject::Uwsgi => {
            std::env::var_os("PEER_BIN").unwrap_or_else(|| trouble("set PEER_BIN to uWSGI's executable")).into()
        }
    }
}

/// The folder of the package.
pub fn package() -> PathBuf {
    env!("CARGO_MANIFEST_DIR").into()
}

/// The folder of the applications that the tests serve.
pub fn apps() -> PathBuf {
    package().join("tests/apps")
}

/// How long something that must happen may take: more than a busy machine needs, since it costs time only when a test fails. Where
/// uWSGI differs it may hang, and is waited for only as long as its own time-outs (4 s) need.
pub fn patience() -> Duration {
    if subject() == Subject::Uwsgi && DIFFERS.get() { HANGS_BY } else { Duration::from_secs(60) }
}

/// After so long uWSGI is taken to hang.
pub const HANGS_BY: Duration = Duration::from_secs(7);

/// Waits until `done` is true; fails the test when it takes too long.
#[track_caller]
pub fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + patience();
    while !done() {
        assert!(Instant::now() < end, "waited too long until {what}");
        // The pace of asking, not a guess of how long it takes.
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

/// Gives a file a later modification time, or makes it, and waits until that has had its effect. uWSGI takes the time that it finds
/// at its first look for the old one, and workers may serve before that: it gets further ones.
#[track_caller]
pub fn touch_until(path: &Path, what: &str, mut done: impl FnMut() -> bool) {
    touch(path);
    let mut touched = Instant::now();
    wait_until(what, || {
        if subject() == Subject::Uwsgi && touched.elapsed() > HANGS_BY {
            touch(path);
            touched = Instant::now();
        }
        done()
    });
}

/// Gives a file another modification time, whatever the clock's resolution, or makes it.
pub fn touch(path: &Path) {
    let file = OpenOptions::new().create(true).append(true).open(path).expect("the file");
    let before = file.metadata().and_then(|found| found.modified()).expect("its time");
    file.set_modified(before + Duration::from_secs(5)).expect("its time");
}

thread_local! {
    static TROUBLE: Cell<bool> = const { Cell::new(false) };
    /// The test is within [`differs`].
    static DIFFERS: Cell<bool> = const { Cell::new(false) };
}

/// Fails the test because the harness itself could not work, which no expected difference excuses.
#[track_caller]
pub fn trouble(what: impl std::fmt::Display) -> ! {
    TROUBLE.set(true);
    panic!("{what}");
}

/// Lines of README.md's section "Differences from uWSGI", without their dashes.
fn readme_differences() -> &'static [String] {
    static LINES: OnceLock<Vec<String>> = OnceLock::new();
    LINES.get_or_init(|| {
        let text = std::fs::read_to_string(package().join("README.md")).expect("README.md");
        let section = text.split("\n## Differences from uWSGI\n").nth(1).expect("README.md has the section");
        let section = section.split("\n## ").next().unwrap_or(section);
        section.lines().filter_map(|line| line.strip_prefix("- ")).map(str::to_owned).collect()
    })
}

/// Lets the tests of this process have as many connections as the system allows.
pub fn raise_descriptor_limit() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("the limit");
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).expect("the limit");
}

/// A test of what uWSGI promises nothing about.
pub fn rsgis(test: impl FnOnce()) {
    if subject() == Subject::Rsgi {
        test();
    }
}

/// Runs a test of a behaviour in which rsgi differs from uWSGI. `line` is the line of README.md's
/// "Differences from uWSGI" that says so. On rsgi the test must pass; on uWSGI it must fail, so that
/// a difference that is none any more is noticed.
#[track_caller]
pub fn differs(line: &str, test: impl FnOnce()) {
    assert!(
        readme_differences().iter().any(|known| known == line),
        "README.md, \"Differences from uWSGI\", lacks this line:\n- {line}"
    );
    if subject() == Subject::Rsgi {
        return test();
    }
    DIFFERS.set(true);
    let outcome = catch_unwind(AssertUnwindSafe(test));
    DIFFERS.set(false);
    assert!(!TROUBLE.get(), "the test could not be carried out on uWSGI");
    assert!(outcome.is_err(), "uWSGI does not differ, yet README.md says so:\n- {line}");
}

#[test]
fn every_difference_of_the_readme_has_a_test() {
    let mut tests = String::new();
    for entry in std::fs::read_dir(package().join("tests/blackbox")).expect("the tests").flatten() {
        if entry.path().is_file() {
            tests.push_str(&std::fs::read_to_string(entry.path()).expect("a test"));
        }
    }
    let tests = tests.replace("\\\"", "\"");
    let untested: Vec<_> = readme_differences().iter().filter(|line| !tests.contains(line.as_str())).collect();
    assert!(untested.is_empty(), "no test names these lines of README.md: {untested:#?}");
}
