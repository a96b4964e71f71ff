//! Finds the applications: `module`, `wsgi-file`, `mount`, in uWSGI's order and with its names.
//!
//! What goes wrong is told twice: the traceback goes to stderr, and one line says which setting failed, why, and what to
//! do about it.

use std::cell::RefCell;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use pyo3::exceptions::{PyAttributeError, PyModuleNotFoundError, PySyntaxError, PySystemExit};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList, PyModule};

use super::apps::{App, Apps};
use super::start_response::type_name;
use super::{errors, raw};

/// What to load, and from where.
#[derive(Clone, Debug, Default)]
pub struct LoadSpec {
    /// `module`: `package.module`, `package.module:name`, `package.module:factory()`; with its origin (`app.ini:3`).
    pub module: Option<(String, String)>,
    /// `wsgi-file`: path of a Python file, or of a package's directory; with its origin.
    pub wsgi_file: Option<(String, String)>,
    /// `callable`: the name to look up where none is written; `application` by default.
    pub callable: Option<String>,
    /// `mount`.
    pub mounts: Vec<Mount>,
    /// `pythonpath`: directories or patterns of directories, in the order written.
    pub pythonpath: Vec<String>,
    /// Whether an application that cannot be loaded is an error, or is answered with 500.
    pub need_app: bool,
}

/// An application at a path.
#[derive(Clone, Debug)]
pub struct Mount {
    /// Mount point without a slash at its end; empty at the root.
    pub path: String,
    /// File or `module:callable`.
    pub what: String,
    /// Where it was asked for.
    pub origin: String,
}

/// An application that is needed cannot be loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadError {
    /// What, where and why, in one line.
    pub cause: String,
    /// What is on stderr by then; empty without an exception.
    pub traceback: String,
}

impl LoadError {
    fn plain(cause: String) -> LoadError {
        LoadError { cause, traceback: String::new() }
    }
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.cause)
    }
}

impl std::error::Error for LoadError {}

/// One setting that names an application.
struct Wanted<'a> {
    mount: &'a str,
    what: &'a str,
    /// `module = shop.wsgi (app.ini:3)`.
    shown: String,
    is_file: bool,
    /// Whether a dict `applications` in the module is looked at.
    many: bool,
    /// What was written to stderr of a failure.
    traceback: RefCell<String>,
}

/// Mount points and what answers there.
type Callables = Vec<(String, Py<PyAny>)>;

/// Sets `sys.path` and loads all applications.
///
/// # Errors
/// With `need_app`, the first application that cannot be loaded; its traceback is on stderr by then.
pub fn load(py: Python<'_>, spec: &LoadSpec) -> Result<Apps, LoadError> {
    set_path(py, &spec.pythonpath)
        .map_err(|error| LoadError::plain(format!("pythonpath can't be set: {}", errors::one_line(py, &error))))?;
    let wanted = wanted(spec);
    let mut apps: Vec<App> = Vec::new();
    let mut failed = Vec::new();
    let fail = |cause: String, traceback: String, failed: &mut Vec<String>| {
        if spec.need_app {
            return Err(LoadError { cause, traceback });
        }
        log::error!("{cause}; requests for it are answered 500 (need-app = false)");
        failed.push(cause);
        Ok(())
    };
    if wanted.is_empty() {
        fail("no application is configured: set module, wsgi-file or mount".into(), String::new(), &mut failed)?;
    }
    for wanted in &wanted {
        let begun = Instant::now();
        let found = match find(py, wanted, spec.callable.as_deref()) {
            Ok(found) => found.into_iter().map(|(mount, callable)| (mount, Some(callable))).collect(),
            Err(cause) => {
                fail(format!("{}: {cause}", wanted.shown), wanted.traceback.take(), &mut failed)?;
                vec![(wanted.mount.to_string(), None)]
            }
        };
        for (mount, callable) in found {
            if apps.iter().any(|app| app.mount == mount) {
                log::warn!("{}: skipped, there is an application at {:?} already", wanted.shown, root(&mount));
                continue;
            }
            if callable.is_some() {
                let seconds = begun.elapsed().as_secs_f64();
                log::info!("application ready at {:?} in {seconds:.2} s: {}", root(&mount), wanted.shown);
            }
            apps.push(App { mount, callable });
        }
    }
    let context = raw::copy_current_context(py)
        .map_err(|error| LoadError::plain(format!("no contextvars: {}", errors::one_line(py, &error))))?;
    Ok(Apps::new(apps, context.unbind(), failed))
}

fn root(mount: &str) -> &str {
    if mount.is_empty() { "/" } else { mount }
}

fn wanted(spec: &LoadSpec) -> Vec<Wanted<'_>> {
    let mut wanted = Vec::new();
    if let Some((what, origin)) = &spec.module {
        let shown = format!("module = {what} ({origin})");
        wanted.push(Wanted {
            mount: "",
            what,
            shown,
            is_file: false,
            many: !what.contains(':'),
            traceback: RefCell::default(),
        });
    }
    if let Some((what, origin)) = &spec.wsgi_file {
        let shown = format!("wsgi-file = {what} ({origin})");
        wanted.push(Wanted { mount: "", what, shown, is_file: true, many: false, traceback: RefCell::default() });
    }
    for Mount { path, what, origin } in &spec.mounts {
        let shown = format!("mount = {}={what} ({origin})", root(path));
        let is_file = what.contains('/') || [".py", ".wsgi", ".ini"].iter().any(|end| what.ends_with(end));
        wanted.push(Wanted { mount: path, what, shown, is_file, many: false, traceback: RefCell::default() });
    }
    wanted
}

/// `.` first, then each directory in front of it: the last one written is searched first, as in uWSGI.
fn set_path(py: Python<'_>, pythonpath: &[String]) -> PyResult<()> {
    let path = py.import("sys")?.getattr("path")?.cast_into::<PyList>()?;
    if !path.contains(".")? {
        path.insert(0, ".")?;
    }
    for entry in pythonpath {
        let mut found: Vec<String> = Vec::new();
        if entry.contains(['*', '?', '[']) {
            found = py.import("glob")?.call_method1("glob", (entry,))?.extract()?;
            found.sort();
        }
        if found.is_empty() {
            found.push(entry.clone());
        }
        for directory in found {
            path.insert(0, directory)?;
        }
    }
    Ok(())
}

/// The applications that a setting names.
fn find(py: Python<'_>, wanted: &Wanted<'_>, callable: Option<&str>) -> Result<Callables, String> {
    let (module, name) = if wanted.is_file {
        (load_file(py, wanted)?, None)
    } else {
        let (module, name) = match wanted.what.split_once(':') {
            Some((module, name)) => (module, Some(name)),
            None => (wanted.what, None),
        };
        (import(py, wanted, module)?, name)
    };
    if wanted.many
        && let Some(apps) = applications(py, wanted, &module)?
    {
        return Ok(apps);
    }
    let name = name.or(callable).unwrap_or("application");
    Ok(vec![(wanted.mount.to_string(), resolve(py, wanted, &module, name)?.unbind())])
}

fn import<'py>(py: Python<'py>, wanted: &Wanted<'_>, name: &str) -> Result<Bound<'py, PyModule>, String> {
    if name.is_empty() || name.split('.').any(str::is_empty) {
        return Err("a dotted module name is expected: package.module:callable".into());
    }
    py.import(name).map_err(|error| {
        *wanted.traceback.borrow_mut() =
            errors::report(py, &format!("rsgi: {}: the module can't be imported", wanted.shown), &error);
        let missing = error.is_instance_of::<PyModuleNotFoundError>(py)
            && (error.value(py).getattr("name").and_then(|name| name.extract::<String>()))
                .is_ok_and(|missing| name == missing || name.starts_with(&format!("{missing}.")));
        if !missing {
            return import_failed(py, &error);
        }
        if let Some(stem) = name.strip_suffix(".py") {
            return format!("module takes a dotted name: module = {stem}, or wsgi-file = {name}");
        }
        format!("there is no module {name:?} in {}; check chdir and pythonpath", searched(py))
    })
}

/// The first places of `sys.path`, those that settings make.
fn searched(py: Python<'_>) -> String {
    let path = || -> PyResult<String> {
        let mut path: Vec<String> = py.import("sys")?.getattr("path")?.extract()?;
        let rest = path.len().saturating_sub(4);
        path.truncate(4);
        let here = std::env::current_dir().map_or_else(|_| ".".into(), |dir| dir.display().to_string());
        for entry in path.iter_mut().filter(|entry| *entry == ".") {
            *entry = here.clone();
        }
        Ok(format!("{} and {rest} more places of sys.path", path.join(", ")))
    };
    path().unwrap_or_else(|_| "sys.path".into())
}

/// Why the code of a module failed, with the place when the exception does not say it.
fn import_failed(py: Python<'_>, error: &PyErr) -> String {
    let line = errors::one_line(py, error);
    if error.is_instance_of::<PySystemExit>(py) {
        return format!("it exited while it was imported ({line}{})", place(py, error));
    }
    if error.is_instance_of::<PySyntaxError>(py) {
        return line;
    }
    format!("{line}{}", place(py, error))
}

/// `, file:line` of the innermost frame.
fn place(py: Python<'_>, error: &PyErr) -> String {
    let place = || -> PyResult<String> {
        let frames = py.import("traceback")?.call_method1("extract_tb", (error.traceback(py),))?;
        let last = frames.get_item(-1)?;
        Ok(format!(", {}:{}", last.getattr("filename")?, last.getattr("lineno")?))
    };
    place().unwrap_or_default()
}

/// Runs a file as a module of its own, named as uWSGI names it.
fn load_file<'py>(py: Python<'py>, wanted: &Wanted<'_>) -> Result<Bound<'py, PyModule>, String> {
    let what = wanted.what;
    if what.ends_with(".ini") {
        return Err("paste configurations can't be loaded; name a module that makes the application of it".into());
    }
    if let Some((scheme, _)) = what.split_once("://") {
        return Err(format!("{scheme}:// can't be loaded, only files"));
    }
    let mut path = std::path::absolute(what).unwrap_or_else(|_| PathBuf::from(what));
    let package = path.is_dir().then(|| path.clone());
    if package.is_some() {
        path.push("__init__.py");
    }
    let source = std::fs::read(&path).map_err(|error| format!("{} can't be read: {error}", path.display()))?;
    let name = format!("uwsgi_file_{}", what.strip_suffix(".py").unwrap_or(what).replace(['/', '.'], "_"));

    let describe = |error: PyErr| {
        *wanted.traceback.borrow_mut() =
            errors::report(py, &format!("rsgi: {}: the file can't be loaded", wanted.shown), &error);
        import_failed(py, &error)
    };
    if let Some(module) = loaded(py, &name, &path) {
        return Ok(module);
    }
    run_file(py, &name, &path, package.as_deref(), &source).map_err(describe)
}

/// The module of a file that another setting loaded already.
fn loaded<'py>(py: Python<'py>, name: &str, path: &Path) -> Option<Bound<'py, PyModule>> {
    let modules = py.import("sys").ok()?.getattr("modules").ok()?.cast_into::<PyDict>().ok()?;
    let module = modules.get_item(name).ok()??.cast_into::<PyModule>().ok()?;
    let file: PathBuf = module.getattr("__file__").ok()?.extract().ok()?;
    (file == path).then_some(module)
}

fn run_file<'py>(
    py: Python<'py>,
    name: &str,
    path: &Path,
    package: Option<&Path>,
    source: &[u8],
) -> PyResult<Bound<'py, PyModule>> {
    let builtins = py.import("builtins")?;
    // From bytes, so that Python itself reads the encoding declaration.
    let code = builtins.call_method1("compile", (PyBytes::new(py, source), path, "exec", 0, true))?;
    let module = PyModule::new(py, name)?;
    // As str: pickle, inspect and Flask's root path take no pathlib.Path here.
    module.setattr("__file__", path.as_os_str())?;
    if let Some(package) = package {
        module.setattr("__path__", [package.as_os_str()])?;
        module.setattr("__package__", name)?;
    }
    let modules = py.import("sys")?.getattr("modules")?.cast_into::<PyDict>()?;
    modules.set_item(name, &module)?;
    match builtins.call_method1("exec", (code, module.dict())) {
        Ok(_) => Ok(module),
        Err(error) => {
            modules.del_item(name)?;
            Err(error)
        }
    }
}

/// The dict `applications` of a module: mount point to callable, or to its name.
fn applications(
    py: Python<'_>,
    wanted: &Wanted<'_>,
    module: &Bound<'_, PyModule>,
) -> Result<Option<Callables>, String> {
    let found = module.dict().get_item("applications").map_err(|error| errors::one_line(py, &error))?;
    let Some(dict) = found.and_then(|found| found.cast_into::<PyDict>().ok()) else { return Ok(None) };
    let mut apps = Vec::new();
    for (mount, value) in dict.iter() {
        let Ok(mount) = mount.extract::<String>() else {
            return Err(format!(
                "the keys of its dict \"applications\" must be mount points, not {}",
                type_name(&mount)
            ));
        };
        let callable = match value.extract::<String>() {
            Ok(name) => resolve(py, wanted, module, &name)?,
            Err(_) if value.is_callable() => value,
            Err(_) => return Err(format!("applications[{mount:?}] is {}, not callable", type_name(&value))),
        };
        apps.push((mount.trim_end_matches('/').to_string(), callable.unbind()));
    }
    Ok(Some(apps))
}

/// The callable behind `name`, `name.attribute` or `factory()`.
fn resolve<'py>(
    py: Python<'py>,
    wanted: &Wanted<'_>,
    module: &Bound<'py, PyModule>,
    name: &str,
) -> Result<Bound<'py, PyAny>, String> {
    let shown = match module.name() {
        // The made-up name of a file's module helps nobody.
        Ok(name) if !wanted.is_file => format!("module {:?}", name.to_string_lossy()),
        _ => format!("file {:?}", wanted.what),
    };
    let (path, is_factory) = match name.strip_suffix("()") {
        Some(path) => (path, true),
        None => (name, false),
    };
    if path.is_empty() || path.contains(['(', ')']) {
        return Err(format!("{name:?} is no callable's name: application, name.attribute or factory() is expected"));
    }
    let mut object = module.clone().into_any();
    for attribute in path.split('.') {
        object = object.getattr(attribute).map_err(|error| {
            if error.is_instance_of::<PyAttributeError>(py) {
                return format!("{shown} has no {path:?}{}", hint(module));
            }
            *wanted.traceback.borrow_mut() =
                errors::report(py, &format!("rsgi: {}: {path} can't be looked up", wanted.shown), &error);
            format!("{path} of {shown}: {}", errors::one_line(py, &error))
        })?;
    }
    if is_factory {
        object = object.call0().map_err(|error| {
            *wanted.traceback.borrow_mut() =
                errors::report(py, &format!("rsgi: {}: {name} failed", wanted.shown), &error);
            format!("{name} of {shown} failed: {}{}", errors::one_line(py, &error), place(py, &error))
        })?;
    }
    if !object.is_callable() {
        return Err(format!("{name} of {shown} is not callable, it is {}", type_name(&object)));
    }
    Ok(object)
}

/// `; it has app, create_app: set callable = app`, when something in the module could be meant.
fn hint(module: &Bound<'_, PyModule>) -> String {
    /// Usual names, the likeliest first.
    const USUAL: [&str; 7] = ["application", "app", "wsgi_app", "wsgi", "api", "create_app", "make_app"];
    let own = module.name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let mut names: Vec<String> = Vec::new();
    for (name, value) in module.dict().iter() {
        let Ok(name) = name.extract::<String>() else { continue };
        let is_class = value.is_instance_of::<pyo3::types::PyType>();
        // Functions that were imported from elsewhere are hardly meant; instances (a Flask object) are.
        let foreign = value.hasattr("__name__").unwrap_or(false)
            && !value.getattr("__module__").is_ok_and(|of| of.extract::<String>().is_ok_and(|of| of == own));
        if !name.starts_with('_') && value.is_callable() && !is_class && !foreign {
            names.push(name);
        }
    }
    names.sort_by_key(|name| USUAL.iter().position(|usual| usual == name).unwrap_or(USUAL.len()));
    names.truncate(5);
    match names.first() {
        None => "; set callable to the name of the application".into(),
        Some(first) => {
            let call = if first.starts_with("create_") || first.starts_with("make_") { "()" } else { "" };
            format!("; it has {}: set callable = {first}{call}", names.join(", "))
        }
    }
}
