//! CPython from outside: how it is started, what it must hear around a fork, how it is ended.
//!
//! The interpreter is started explicitly, with a configuration of its own: UTF-8 whatever the locale says, no signal
//! handlers (the processes handle signals themselves), a program name from which `site` finds the virtual environment.
//! When one runs already (the command was installed by pip, so Python started us) it is adopted.
//! Afterwards no thread is attached; everybody uses `Python::attach`.

#![allow(unsafe_code)]

use std::ffi::{CStr, CString, c_char};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};

/// `sys.argv[0]`.
const PROGRAM: &CStr = c"rsgi";

/// How to start the interpreter.
#[derive(Clone, Debug, Default)]
pub struct Spec {
    /// Virtual environment or Python home, and where it was asked for (`app.ini:3`, `--home`, `VIRTUAL_ENV`).
    pub home: Option<(PathBuf, String)>,
}

/// What a configured home turned out to be.
#[derive(Debug, PartialEq, Eq)]
enum Home {
    /// A virtual environment (PEP 405): the path of its python.
    Venv { python: PathBuf },
    /// A whole Python installation, as PYTHONHOME takes it.
    Installation,
}

/// Starts CPython, or adopts the one that runs. Afterwards the calling thread is detached, and it is Python's main
/// thread.
///
/// Python installs no signal handlers, but when an application imports `signal` while SIGINT has its default action,
/// `signal` takes it over: who wants SIGINT sets a handler (or ignores it) before.
///
/// # Errors
/// One line: what is wrong with the home or the interpreter, where it was asked for, what to do.
pub fn start(spec: &Spec) -> Result<(), String> {
    // SAFETY: may be called at any time, by its documentation.
    let runs = unsafe { ffi::Py_IsInitialized() } != 0;
    let home = match &spec.home {
        Some((path, origin)) => {
            let path = std::path::absolute(path).unwrap_or_else(|_| path.clone());
            let kind = examine_home(&path, origin, running_version())?;
            Some((path, kind))
        }
        // A Python that runs knows its own environment better than a variable.
        None if runs => None,
        None => active_venv(),
    };
    if runs {
        if let Some((path, Home::Installation)) = &home {
            return Err(format!(
                "home = {}: Python runs already (rsgi was installed by pip), so only a virtual environment can be used; \
                 make one with `python -m venv`",
                path.display()
            ));
        }
    } else {
        initialize(home.as_ref())?;
    }
    Python::attach(|py| settle(py, runs, home.as_ref())).map_err(|error| format!("Python could not be set up: {error}"))
}

/// The virtual environment that the shell activated. Nobody wrote it for us, so one that does not fit is only warned of.
fn active_venv() -> Option<(PathBuf, Home)> {
    let path = PathBuf::from(std::env::var_os("VIRTUAL_ENV").filter(|path| !path.is_empty())?);
    match examine_home(&path, "VIRTUAL_ENV", running_version()) {
        Ok(kind @ Home::Venv { .. }) => Some((path, kind)),
        Ok(Home::Installation) => None,
        Err(cause) => {
            log::warn!("{cause}; going on without it");
            None
        }
    }
}

/// `major.minor` of the libpython in this process.
fn running_version() -> (u32, u32) {
    parse_version(Python::version_str()).unwrap_or_default()
}

/// The first two numbers of `3.11.7`, `3.11.7.final.0` or `3.11.7 (main, ...)`.
fn parse_version(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.trim().split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

/// Looks at a home before an interpreter is started with it, because CPython itself only fails later and obscurely.
fn examine_home(path: &Path, origin: &str, ours: (u32, u32)) -> Result<Home, String> {
    let shown = path.display();
    let (major, minor) = ours;
    if !path.is_dir() {
        return Err(format!(
            "{origin}: home {shown} is not a directory; make the virtual environment with `python{major}.{minor} -m venv \
             {shown}`"
        ));
    }
    let lib = |name: &str| path.join("lib").join(name);
    let ours_lib = lib(&format!("python{major}.{minor}"));
    let Ok(text) = fs::read_to_string(path.join("pyvenv.cfg")) else {
        return if ours_lib.join("os.py").is_file() {
            Ok(Home::Installation)
        } else {
            Err(format!(
                "{origin}: home {shown} is neither a virtual environment (it has no pyvenv.cfg) nor an installation of \
                 Python {major}.{minor}; make one with `python{major}.{minor} -m venv {shown}`"
            ))
        };
    };
    let stated = text.lines().find_map(|line| {
        let (key, value) = line.split_once('=')?;
        let key = key.trim();
        let is_version = ["version", "version_info"].iter().any(|name| key.eq_ignore_ascii_case(name));
        if is_version { parse_version(value) } else { None }
    });
    // Without a word in pyvenv.cfg, the directory of its packages tells.
    let found = stated.or_else(|| {
        let entries = fs::read_dir(path.join("lib")).ok()?;
        let mut versions: Vec<_> = entries
            .flatten()
            .filter_map(|entry| parse_version(entry.file_name().to_str()?.strip_prefix("python")?))
            .collect();
        versions.sort_unstable();
        if versions.contains(&ours) { Some(ours) } else { versions.pop() }
    });
    if let Some(theirs) = found
        && theirs != ours
    {
        return Err(format!(
            "{origin}: the virtual environment {shown} is of Python {}.{}, but this rsgi runs Python {major}.{minor}; make it \
             again with `python{major}.{minor} -m venv`, or use an rsgi built for Python {}.{}",
            theirs.0, theirs.1, theirs.0, theirs.1
        ));
    }
    Ok(Home::Venv { python: path.join("bin").join("python") })
}

/// Where the python command of the libpython in this process is: `sys.executable` should be a real one, because
/// applications start it (multiprocessing, subprocess).
fn find_python() -> Option<PathBuf> {
    // SAFETY: an all-zero Dl_info is a valid value of this plain C struct of pointers.
    let mut info: libc::Dl_info = unsafe { std::mem::zeroed() };
    let symbol = ffi::Py_IsInitialized as *const libc::c_void;
    // SAFETY: dladdr only reads the address and fills `info`, which outlives the call.
    if unsafe { libc::dladdr(symbol, &mut info) } == 0 || info.dli_fname.is_null() {
        return None;
    }
    // SAFETY: dladdr succeeded, so dli_fname is the loader's NUL-terminated name of the object.
    let name = unsafe { CStr::from_ptr(info.dli_fname) };
    let library = fs::canonicalize(std::ffi::OsStr::from_bytes(name.to_bytes())).ok()?;
    let (major, minor) = running_version();
    let command = format!("python{major}.{minor}");
    library.ancestors().skip(1).take(4).map(|dir| dir.join("bin").join(&command)).find(|path| path.is_file())
}

/// A failed step of the initialisation, as one line.
fn check(status: ffi::PyStatus) -> Result<(), String> {
    // SAFETY: PyStatus is a plain value; the test reads its fields only.
    if unsafe { ffi::PyStatus_Exception(status) } == 0 {
        return Ok(());
    }
    if status.err_msg.is_null() {
        return Err("Python could not be started".into());
    }
    // SAFETY: a non-null err_msg of a PyStatus is a static C string, by its documentation.
    let message = unsafe { CStr::from_ptr(status.err_msg) };
    Err(format!("Python could not be started: {}", message.to_string_lossy()))
}

fn initialize(home: Option<&(PathBuf, Home)>) -> Result<(), String> {
    // SAFETY: PyPreConfig is a plain C struct; the call right below fills all of it.
    let mut pre: ffi::PyPreConfig = unsafe { std::mem::zeroed() };
    // SAFETY: `pre` is valid for writes, and no interpreter exists yet.
    check(unsafe {
        ffi::PyPreConfig_InitPythonConfig(&mut pre);
        pre.parse_argv = 0;
        pre.utf8_mode = 1;
        ffi::Py_PreInitialize(&pre)
    })?;

    // SAFETY: PyConfig is a plain C struct; PyConfig_InitPythonConfig fills all of it.
    let mut config: ffi::PyConfig = unsafe { std::mem::zeroed() };
    // SAFETY: `config` is valid for writes, and Python is pre-initialised.
    unsafe { ffi::PyConfig_InitPythonConfig(&mut config) };
    config.parse_argv = 0;
    config.install_signal_handlers = 0;
    let outcome = fill(&mut config, home).and_then(|()| {
        // SAFETY: `config` was initialised and filled by the API's own functions.
        check(unsafe { ffi::Py_InitializeFromConfig(&config) })
    });
    // SAFETY: `config` was initialised above and is not used afterwards.
    unsafe { ffi::PyConfig_Clear(&mut config) };
    // The usual reason is a library that the user of the server cannot read; CPython does not say so.
    outcome.map_err(|error| {
        let (uid, _) = crate::sys::user::own();
        format!("{error}; its standard library must be installed and readable by user {uid}")
    })?;
    // SAFETY: initialisation left this thread attached. Its thread state stays registered with the thread
    // (PyGILState), so a later `Python::attach` here finds it again.
    unsafe { ffi::PyEval_SaveThread() };
    Ok(())
}

fn fill(config: &mut ffi::PyConfig, home: Option<&(PathBuf, Home)>) -> Result<(), String> {
    let mut argv: [*const c_char; 1] = [PROGRAM.as_ptr()];
    // SAFETY: `argv` holds one valid C string, which is copied.
    check(unsafe { ffi::PyConfig_SetBytesArgv(config, 1, argv.as_mut_ptr()) })?;
    let python = match home {
        Some((_, Home::Venv { python })) => Some(python.clone()),
        _ => find_python(),
    };
    if let Some(python) = python {
        // With a directory in it, the program name is taken as it is: `getpath` looks for pyvenv.cfg beside it.
        let name = c_string(&python)?;
        let field: *mut *mut libc::wchar_t = &mut config.program_name;
        // SAFETY: `field` is a string field of this very config, `name` a valid C string, which is copied.
        check(unsafe { ffi::PyConfig_SetBytesString(config, field, name.as_ptr()) })?;
    }
    if let Some((path, Home::Installation)) = home {
        let path = c_string(path)?;
        let field: *mut *mut libc::wchar_t = &mut config.home;
        // SAFETY: as above.
        check(unsafe { ffi::PyConfig_SetBytesString(config, field, path.as_ptr()) })?;
    }
    Ok(())
}

fn c_string(path: &Path) -> Result<CString, String> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| format!("{}: a path can't hold a NUL byte", path.display()))
}

/// What is the same for a started and an adopted interpreter.
fn settle(py: Python<'_>, adopted: bool, home: Option<&(PathBuf, Home)>) -> PyResult<()> {
    let sys = py.import("sys")?;
    sys.setattr("argv", PyList::new(py, [PROGRAM.to_string_lossy()])?)?;
    if adopted && let Some((path, Home::Venv { .. })) = home {
        adopt_venv(py, path)?;
    }
    // What print() writes must be in the log at once, also when the log is a file. Streams that the host replaced
    // are left alone.
    for (name, errors) in [("stdout", None), ("stderr", Some("backslashreplace"))] {
        let stream = sys.getattr(name)?;
        if let Ok(reconfigure) = stream.getattr("reconfigure") {
            let options = PyDict::new(py);
            options.set_item("line_buffering", true)?;
            // With PYTHONUNBUFFERED a print would be two writes, which lines of other processes may part.
            options.set_item("write_through", false)?;
            options.set_item("encoding", "utf-8")?;
            options.set_item("errors", errors.unwrap_or("surrogateescape"))?;
            reconfigure.call((), Some(&options))?;
        }
    }
    // The thread that imports `threading` first is its main thread for ever.
    py.import("threading")?;
    Ok(())
}

/// Puts a virtual environment in front of the interpreter's own packages, `.pth` files included.
fn adopt_venv(py: Python<'_>, home: &Path) -> PyResult<()> {
    let sys = py.import("sys")?;
    if Path::new(&sys.getattr("prefix")?.extract::<String>()?) == home {
        return Ok(());
    }
    let (major, minor) = running_version();
    let packages = home.join("lib").join(format!("python{major}.{minor}")).join("site-packages");
    let path = sys.getattr("path")?.cast_into::<PyList>()?;
    let before = path.len();
    py.import("site")?.call_method1("addsitedir", (packages,))?;
    let added = path.get_slice(before, path.len());
    path.del_slice(before, path.len())?;
    path.set_slice(0, 0, &added)?;
    sys.setattr("prefix", home)?;
    sys.setattr("exec_prefix", home)?;
    Ok(())
}

/// Before a `fork` that both sides go on from: runs the `os.register_at_fork` functions, takes the import lock.
/// To be called with nothing between it and the fork that could detach.
pub fn before_fork(py: Python<'_>) {
    flush(py);
    // SAFETY: `py` proves that this thread is attached.
    unsafe { ffi::PyOS_BeforeFork() }
}

/// After a fork, in the process that forked.
pub fn after_fork_parent(_py: Python<'_>) {
    // SAFETY: the token proves that this thread is attached; `before_fork` ran.
    unsafe { ffi::PyOS_AfterFork_Parent() }
}

/// After a fork, in the new process: CPython forgets the other threads and makes its locks anew.
pub fn after_fork_child(_py: Python<'_>) {
    // SAFETY: this thread was attached when it forked and still is; `before_fork` ran.
    unsafe { ffi::PyOS_AfterFork_Child() }
}

/// So many objects more than were thrown away begin a collection while an application is imported. Most of what an import makes
/// stays: by CPython's own threshold (700) it is looked through a hundred times, for nothing.
const IMPORT_THRESHOLD: u32 = 100_000;

/// Thresholds of the three generations, as `gc` has them.
type Thresholds = (u32, u32, u32);

/// As long as it lives, there are no collections unless there is very much to look through: during an import and until
/// [`freeze`] has collected. (With the usual threshold back before that, everything would be looked through twice.) What the
/// application itself says to the collector meanwhile stands.
pub struct RareCollections {
    usual: Thresholds,
    rare: Thresholds,
}

impl RareCollections {
    /// None: the collector is off, or does not say how it works.
    pub fn begin() -> Option<RareCollections> {
        Python::attach(|py| {
            let usual = thresholds(py).ok().filter(|usual| usual.0 > 0)?;
            let rare = (usual.0.max(IMPORT_THRESHOLD), usual.1, usual.2);
            set_thresholds(py, rare).ok().map(|()| RareCollections { usual, rare })
        })
    }
}

impl Drop for RareCollections {
    fn drop(&mut self) {
        let restored = Python::attach(|py| match thresholds(py)? == self.rare {
            true => set_thresholds(py, self.usual),
            false => Ok(()),
        });
        if let Err(error) = restored {
            log::warn!("the garbage collector keeps the threshold of the import: {error}");
        }
    }
}

fn thresholds(py: Python<'_>) -> PyResult<Thresholds> {
    py.import("gc")?.call_method0("get_threshold")?.extract()
}

fn set_thresholds(py: Python<'_>, thresholds: Thresholds) -> PyResult<()> {
    py.import("gc")?.call_method1("set_threshold", thresholds).map(|_| ())
}

/// Before the first fork of a zygote: throws garbage away and puts what is left out of the collector's reach, so
/// that collections in the workers do not touch (and by that copy) the pages they share.
///
/// # Errors
/// What the collector raised.
pub fn freeze(py: Python<'_>) -> PyResult<()> {
    let gc = py.import("gc")?;
    gc.call_method0("collect")?;
    gc.call_method0("freeze")?;
    trim();
    Ok(())
}

/// Gives free memory back to the system.
fn trim() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim has no precondition.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// How many threads Python knows beside the calling one, and their names: the ones that a fork would lose.
pub fn other_threads(py: Python<'_>) -> Vec<String> {
    let names = || -> PyResult<Vec<String>> {
        let threading = py.import("threading")?;
        let own = threading.call_method0("get_ident")?;
        let mut names = Vec::new();
        for thread in threading.call_method0("enumerate")?.try_iter()? {
            let thread = thread?;
            if !thread.getattr("ident")?.eq(&own)? {
                names.push(thread.getattr("name")?.extract()?);
            }
        }
        Ok(names)
    };
    names().unwrap_or_default()
}

/// The end of a worker: joins the application's threads that are no daemons for at most `patience`, runs its
/// `atexit` functions, flushes its streams. The interpreter itself is left standing (tearing it down runs the destructors
/// of every extension module, for nothing): the process is to leave with `_exit`.
pub fn finalize(patience: Duration) {
    Python::attach(|py| {
        if let Err(error) = join_threads(py, patience) {
            error.display(py);
        }
        // Prints the exceptions of the functions it calls itself.
        if let Err(error) = py.import("atexit").and_then(|atexit| atexit.call_method0("_run_exitfuncs")) {
            error.display(py);
        }
        flush(py);
    });
}

/// What `Py_FinalizeEx` does first, but with a time limit (and therefore not by `threading._shutdown`): functions that
/// `threading` runs at the end, which is how thread pools are ended, then joining.
fn join_threads(py: Python<'_>, patience: Duration) -> PyResult<()> {
    let code = c"
def finish(seconds):
    import threading, time
    end = time.monotonic() + seconds
    def run():
        # Names of CPython's own: 3.9 and later; without them pools are only joined.
        for function in reversed(getattr(threading, '_threading_atexits', ())):
            function()
    others = [thread for thread in threading.enumerate()
              if not thread.daemon and thread not in (threading.current_thread(), threading.main_thread())]
    if not others:
        return True
    first = threading.Thread(target=run, name='rsgi-end', daemon=True)
    first.start()
    for thread in [first, *others]:
        thread.join(max(0, end - time.monotonic()))
    return not any(thread.is_alive() for thread in others)
";
    let module = PyModule::from_code(py, code, c"<rsgi>", c"rsgi_end")?;
    let done: bool = module.getattr("finish")?.call1((patience.as_secs_f64(),))?.extract()?;
    if !done {
        log::warn!("threads of the application still run at its end: {}", other_threads(py).join(", "));
    }
    Ok(())
}

/// Writes what stdout and stderr hold back.
pub fn flush(py: Python<'_>) {
    for name in ["stdout", "stderr"] {
        // A closed or missing stream has nothing to lose.
        let _ = py.import("sys").and_then(|sys| sys.getattr(name)).and_then(|stream| stream.call_method0("flush"));
    }
}

#[cfg(test)]
mod tests;
