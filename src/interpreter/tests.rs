//! Homes, and interpreters in processes of their own.

use std::process::{Command, Stdio};

use super::*;

const OURS: (u32, u32) = (3, 11);

/// Prints what the interpreter says of itself.
const FACTS: &str = "
import sys, os, threading
def say(name, value): print(f'[{name}={value}]')
say('argv', sys.argv)
say('fs', sys.getfilesystemencoding())
say('open', open(os.devnull).encoding.lower())
say('stdout', sys.stdout.encoding)
say('stderr', sys.stderr.errors)
say('venv', sys.prefix != sys.base_prefix)
say('main', threading.current_thread() is threading.main_thread())
import subprocess
say('real', subprocess.run([sys.executable, '-c', 'import sys; print(sys.version == sys.argv[1])', sys.version], stdout=subprocess.PIPE, text=True).stdout.strip())
try:
    import only_in_this_venv
    say('package', only_in_this_venv.name)
except ImportError:
    say('package', None)
os.write(1, b'[before]')
print('[print at once \\xe9]')
os.write(1, b'[after]')
";

/// Tells of each fork hook; the thread is one that a fork loses.
const FORK: &str = "
import os, threading
print('[start]')
os.register_at_fork(before=lambda: print('[before]'), after_in_parent=lambda: print('[parent]'),
                after_in_child=lambda: print('[child]'))
threading.Thread(target=threading.Event().wait, daemon=True, name='lost').start()
";

/// A pool, a thread and functions that the end has to deal with.
const END: &str = "
import atexit, threading, concurrent.futures
go = threading.Event()
pool = concurrent.futures.ThreadPoolExecutor(1)
pool.submit(print, '[pool]').result()
def work():
    go.wait()
    print('[thread joined]')
threading.Thread(target=work).start()
threading.Timer(0, go.set).start()
atexit.register(print, '[atexit 1]')
atexit.register(lambda: 1 / 0)
atexit.register(print, '[atexit 2]')
";

/// A thread that never ends.
const STUCK: &str = "
import atexit, threading
threading.Thread(target=threading.Event().wait).start()
atexit.register(print, '[atexit]')
";

fn home(cfg: Option<&str>, directories: &[&str]) -> tempfile::TempDir {
    let home = tempfile::tempdir().unwrap();
    for directory in directories {
        fs::create_dir_all(home.path().join(directory)).unwrap();
    }
    if let Some(cfg) = cfg {
        fs::write(home.path().join("pyvenv.cfg"), cfg).unwrap();
    }
    home
}

#[test]
fn a_virtual_environment_of_our_version_is_taken() {
    for (cfg, directories) in [
        ("home = /usr/bin\nversion = 3.11.2\n", &[][..]),
        ("home = /usr/bin\nversion_info = 3.11.9.final.0\n", &[]),
        ("Version=3.11", &["lib/python3.11"]),
        ("home = /usr/bin\n", &["lib/python3.11", "lib/python3.12"]),
        ("", &[]),
    ] {
        let home = home(Some(cfg), directories);
        let python = home.path().join("bin/python");
        assert_eq!(examine_home(home.path(), "x", OURS), Ok(Home::Venv { python }), "{cfg:?}");
    }
}

#[test]
fn an_installation_is_taken() {
    let home = home(None, &["lib/python3.11"]);
    fs::write(home.path().join("lib/python3.11/os.py"), "").unwrap();
    assert_eq!(examine_home(home.path(), "x", OURS), Ok(Home::Installation));
}

#[test]
fn a_home_that_cannot_work_is_refused_in_one_line() {
    for (home, wanted) in [
        (home(Some("version = 3.12.1"), &[]), "is of Python 3.12, but this rsgi runs Python 3.11; make it again"),
        (home(Some("version = 3.1.1"), &[]), "is of Python 3.1,"),
        (home(Some("home = /usr/bin"), &["lib/python3.9"]), "is of Python 3.9,"),
        (home(None, &["lib/python3.11"]), "is neither a virtual environment (it has no pyvenv.cfg) nor"),
    ] {
        let error = examine_home(home.path(), "app.ini:5", OURS).unwrap_err();
        assert!(error.starts_with("app.ini:5: ") && error.contains(wanted) && !error.contains('\n'), "{error}");
        assert!(error.contains(home.path().to_str().unwrap()), "{error}");
    }
    let error = examine_home(Path::new("/no/such/venv"), "--home", OURS).unwrap_err();
    assert!(error.starts_with("--home: home /no/such/venv is not a directory; make the virtual env"), "{error}");
}

/// Runs `child` in a process of its own, because an interpreter is started once; gives what it printed.
fn run_child(role: &str, environment: &[(&str, &str)]) -> String {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "interpreter::tests::child", "--ignored", "--nocapture", "--test-threads=1"])
        .env_remove("VIRTUAL_ENV")
        .env("RSGI_TEST_ROLE", role)
        .envs(environment.iter().copied())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
    text
}

fn run(py: Python<'_>, code: &str) {
    let code = CString::new(code).unwrap();
    py.run(&code, None, None).unwrap_or_else(|error| error.display(py));
}

/// Not a test: what `run_child` starts.
#[test]
#[ignore = "started by the other tests of this file"]
fn child() {
    let Ok(role) = std::env::var("RSGI_TEST_ROLE") else { return };
    let home = std::env::var("RSGI_TEST_HOME").ok().map(|home| (home.into(), "test".to_string()));
    if role == "adopt" {
        start(&Spec::default()).unwrap();
    }
    start(&Spec { home }).unwrap();
    match role.as_str() {
        "facts" | "adopt" => Python::attach(|py| {
            run(py, FACTS);
        }),
        "fork" => Python::attach(|py| {
            run(py, FORK);
            assert_eq!(other_threads(py), ["lost"]);
            freeze(py).unwrap();
            before_fork(py);
            // SAFETY: this is the only thread that does anything, and the child ends by _exit.
            let pid = unsafe { libc::fork() };
            if pid == 0 {
                after_fork_child(py);
                assert!(other_threads(py).is_empty());
                run(py, "assert threading.current_thread() is threading.main_thread(); print('[in child]')");
                flush(py);
                // SAFETY: ends this process, which has nothing to clean up.
                unsafe { libc::_exit(0) };
            }
            after_fork_parent(py);
            let mut status = 0;
            // SAFETY: waits for the child made above; `status` is valid for writes.
            unsafe { libc::waitpid(pid, &mut status, 0) };
            assert_eq!(status, 0);
            run(py, "print('[in parent]')");
        }),
        "end" => {
            Python::attach(|py| {
                run(py, END);
            });
            finalize(Duration::from_secs(30));
        }
        "stuck" => {
            Python::attach(|py| {
                run(py, STUCK);
            });
            finalize(Duration::from_millis(1));
            // SAFETY: as a worker ends: a thread of the application still runs.
            unsafe { libc::_exit(0) };
        }
        other => panic!("{other}"),
    }
}

#[test]
fn the_interpreter_is_utf_8_whatever_the_locale() {
    for locale in ["C", "POSIX", "C.UTF-8", "no_SUCH.ISO-8859-1"] {
        let text = run_child("facts", &[("LC_ALL", locale), ("PYTHONUTF8", "0"), ("PYTHONIOENCODING", "latin-1")]);
        for fact in [
            "[argv=['rsgi']]",
            "[fs=utf-8]",
            "[open=utf-8]",
            "[stdout=utf-8]",
            "[stderr=backslashreplace]",
            "[venv=False]",
            "[main=True]",
            "[real=True]",
            "[package=None]",
            "[before][print at once é]\n[after]",
        ] {
            assert!(text.contains(fact), "{locale}: {fact}: {text}");
        }
    }
}

#[test]
fn a_virtual_environment_is_used() {
    let directory = tempfile::tempdir().unwrap();
    let venv = directory.path().join("my venv");
    let python = find_python().expect("this test needs the python command of the libpython in use");
    let made = Command::new(python).args(["-m", "venv", "--without-pip"]).arg(&venv).status().unwrap();
    assert!(made.success());
    let (major, minor) = running_version();
    let packages = venv.join(format!("lib/python{major}.{minor}/site-packages"));
    fs::write(packages.join("only_in_this_venv.py"), "name = 'found'").unwrap();
    let venv = venv.to_str().unwrap();
    for (role, variable) in [
        ("facts", "RSGI_TEST_HOME"),
        // Activated by the shell.
        ("facts", "VIRTUAL_ENV"),
        // The interpreter runs before we come.
        ("adopt", "RSGI_TEST_HOME"),
    ] {
        let text = run_child(role, &[(variable, venv)]);
        for fact in ["[venv=True]", "[package=found]", "[real=True]"] {
            assert!(text.contains(fact), "{role} {variable}: {fact}: {text}");
        }
    }
    let text = run_child("facts", &[("VIRTUAL_ENV", "/no/such/venv")]);
    assert!(text.contains("[venv=False]"), "{text}");
}

#[test]
fn fork_hooks_run_on_both_sides() {
    let text = run_child("fork", &[]);
    let at = |mark: &str| text.find(mark).unwrap_or_else(|| panic!("{mark}: {text}"));
    assert_eq!(text.matches("[start]").count(), 1, "nothing buffered is written twice: {text}");
    assert_eq!(text.matches("[before]").count(), 1, "{text}");
    assert!(at("[before]") < at("[child]") && at("[child]") < at("[in child]"), "{text}");
    assert!(at("[before]") < at("[parent]") && at("[parent]") < at("[in parent]"), "{text}");
}

#[test]
fn the_end_joins_threads_and_runs_atexit() {
    let text = run_child("end", &[]);
    let at = |mark: &str| text.find(mark).unwrap_or_else(|| panic!("{mark}: {text}"));
    assert!(at("[thread joined]") < at("[atexit 2]"), "{text}");
    assert!(at("[atexit 2]") < at("[atexit 1]"), "the last registered comes first: {text}");
    assert_eq!(text.matches("ZeroDivisionError").count(), 1, "{text}");
}

#[test]
fn the_end_does_not_wait_for_ever() {
    assert!(run_child("stuck", &[]).contains("[atexit]"));
}
