//! Finding applications, and saying why there is none.

use std::path::Path;

use pyo3::prelude::*;

use super::fake::{Fake, Outcome, options, python, serve_all, with_log};
use crate::wsgi::loader::{LoadSpec, Mount, load};
use crate::wsgi::{Apps, Options};
use std::sync::Arc;

const APP: &str = "
def application(environ, start_response):
    start_response('200 OK', [])
    return [b'application of ' + __name__.encode()]
def other(environ, start_response):
    start_response('200 OK', [])
    return [b'other']
class Holder:
    inner = other
    inner = staticmethod(other)
def make():
    return other
def broken():
    raise ValueError('no app today')
number = 5
";

/// A directory with files, and their modules' names made unique so that tests don't share modules.
fn directory(files: &[(&str, &str)]) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = directory.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    directory
}

/// The cause of a failure has the setting and its origin in front.
fn try_load(spec: &LoadSpec) -> (Result<Arc<Apps>, String>, String) {
    python();
    with_log(|| Python::attach(|py| load(py, spec)).map(Arc::new).map_err(|error| error.to_string()))
}

fn spec(directory: &Path) -> LoadSpec {
    LoadSpec { pythonpath: vec![directory.to_str().unwrap().into()], need_app: true, ..LoadSpec::default() }
}

fn module(directory: &Path, what: &str) -> LoadSpec {
    LoadSpec { module: Some((what.into(), "app.ini:3".into())), ..spec(directory) }
}

fn file(directory: &Path, name: &str) -> LoadSpec {
    let path = directory.join(name).to_str().unwrap().to_string();
    LoadSpec { wsgi_file: Some((path, "app.ini:4".into())), ..LoadSpec { need_app: true, ..LoadSpec::default() } }
}

fn text(spec: &LoadSpec, target: &str) -> String {
    let (apps, log) = try_load(spec);
    let apps = apps.unwrap_or_else(|cause| panic!("{cause}\n{log}"));
    let options = Options { manage_script_name: true, ..options() };
    serve_all(&apps, &options, vec![Fake::get(target)]).remove(0).text()
}

fn cause(spec: &LoadSpec) -> (String, String) {
    let (apps, log) = try_load(spec);
    let cause = apps.expect_err("it can't be loaded");
    assert!(!cause.contains('\n'), "one line: {cause}");
    (cause, log)
}

#[test]
fn modules_are_found_in_all_spellings() {
    let dir = directory(&[("load_a.py", APP), ("load_p/__init__.py", ""), ("load_p/sub.py", APP)]);
    for (what, wanted) in [
        ("load_a", "application of load_a"),
        ("load_p.sub", "application of load_p.sub"),
        ("load_a:other", "other"),
        ("load_a:make()", "other"),
        ("load_a:Holder.inner", "other"),
        ("load_p.sub:Holder.inner", "other"),
    ] {
        assert_eq!(text(&module(dir.path(), what), "/"), wanted, "{what}");
    }
    let named = LoadSpec { callable: Some("make()".into()), ..module(dir.path(), "load_a") };
    assert_eq!(text(&named, "/"), "other");
    let both = LoadSpec { callable: Some("number".into()), ..module(dir.path(), "load_a:other") };
    assert_eq!(text(&both, "/"), "other", "what stands behind the module wins");
}

#[test]
fn the_dict_applications_mounts_many() {
    let source = format!("{APP}\napplications = {{'': application, '/other': 'other', '/o/': other}}");
    let dir = directory(&[("load_many.py", &source)]);
    let spec = module(dir.path(), "load_many");
    assert_eq!(text(&spec, "/"), "application of load_many");
    assert_eq!(text(&spec, "/other/x"), "other");
    assert_eq!(text(&spec, "/o"), "other");
    assert_eq!(text(&module(dir.path(), "load_many:application"), "/other"), "application of load_many");
    let dir = directory(&[("load_many_bad.py", "applications = {'/x': 5}")]);
    let (cause, _) = self::cause(&module(dir.path(), "load_many_bad"));
    assert!(cause.ends_with("applications[\"/x\"] is int, not callable"), "{cause}");
}

#[test]
fn a_file_is_a_module_of_its_own() {
    let source = "
import sys, pickle
class Own: pass
def application(environ, start_response):
    start_response('200 OK', [])
    own = pickle.loads(pickle.dumps(Own()))
    assert sys.modules[__name__].application is application and type(own) is Own
    return [(__name__ + ' ' + __file__).encode()]
";
    let dir = directory(&[("site.app.wsgi", source), ("plain.py", source), ("pkg/__init__.py", source)]);
    for (name, path) in [("site.app.wsgi", "site.app.wsgi"), ("plain.py", "plain.py"), ("pkg", "pkg/__init__.py")] {
        let full = dir.path().join(name).to_str().unwrap().to_string();
        let stem = full.strip_suffix(".py").unwrap_or(&full).replace(['/', '.'], "_");
        let wanted = format!("uwsgi_file_{stem} {}", dir.path().join(path).display());
        assert_eq!(text(&file(dir.path(), name), "/"), wanted);
    }
}

#[test]
fn a_file_may_declare_its_encoding_and_import_its_neighbours_on_the_path() {
    let dir = directory(&[("load_neighbour.py", "value = b'near'")]);
    let source = b"# -*- coding: latin-1 -*-\nfrom load_neighbour import value\nname = '\xe9'\n\
        def application(environ, start_response):\n    start_response('200 OK', [])\n    return [value, str(len(name)).encode()]\n";
    std::fs::write(dir.path().join("latin.wsgi"), source).unwrap();
    let spec = LoadSpec { pythonpath: spec(dir.path()).pythonpath, ..file(dir.path(), "latin.wsgi") };
    assert_eq!(text(&spec, "/"), "near1");
}

#[test]
fn mounts_take_files_and_modules() {
    let dir = directory(&[("load_m.py", APP), ("mounted.py", APP)]);
    let mount = |path: &str, what: &str| Mount { path: path.into(), what: what.into(), origin: "app.ini:7".into() };
    let path = dir.path().join("mounted.py").to_str().unwrap().to_string();
    let spec = LoadSpec {
        mounts: vec![
            mount("/file", &path),
            mount("/module", "load_m:other"),
            mount("", "load_m"),
            mount("/again", &path),
        ],
        ..spec(dir.path())
    };
    assert!(text(&spec, "/file").starts_with("application of uwsgi_file_"));
    assert_eq!(text(&spec, "/module"), "other");
    assert_eq!(text(&spec, "/"), "application of load_m");
    assert_eq!(text(&spec, "/again"), text(&spec, "/file"), "the same file is one module");
    let twice = LoadSpec { mounts: vec![mount("/m", "load_m:other"), mount("/m", "load_m")], ..spec };
    assert_eq!(text(&twice, "/m"), "other", "the first one stays");
}

#[test]
fn module_comes_before_file() {
    let dir = directory(&[("load_first.py", APP), ("second.py", APP)]);
    let both = LoadSpec { wsgi_file: file(dir.path(), "second.py").wsgi_file, ..module(dir.path(), "load_first") };
    assert_eq!(text(&both, "/"), "application of load_first");
}

#[test]
fn the_last_pythonpath_is_searched_first_and_patterns_are_expanded() {
    let answer = |text: &str| format!("def application(e, s):\n    s('200 OK', [])\n    return [b'{text}']");
    let dir = directory(&[("one/load_where.py", &answer("one")), ("two/load_where.py", &answer("two"))]);
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_string();
    let base = LoadSpec { module: Some(("load_where".into(), "x".into())), need_app: true, ..LoadSpec::default() };
    let both = LoadSpec { pythonpath: vec![path("one"), path("two")], ..base };
    assert_eq!(text(&both, "/"), "two");
    python();
    let spec = LoadSpec { pythonpath: vec![path("t*"), path("no-such-[dir]")], ..both };
    assert_eq!(text(&spec, "/"), "two");
    Python::attach(|py| {
        let sys_path: Vec<String> = py.import("sys").unwrap().getattr("path").unwrap().extract().unwrap();
        let at = |entry: &str| sys_path.iter().position(|place| place == entry).expect("in sys.path");
        assert!(at(&path("no-such-[dir]")) < at(&path("two")) && at(&path("two")) < at("."));
    });
}

#[test]
fn every_failure_has_its_cause_in_one_line() {
    let dir = directory(&[
        ("load_b.py", APP),
        (
            "load_app.py",
            "import os\nfrom os.path import join\ndef create_app():\n    pass\nclass C: pass\napp = C.__call__ = lambda e, s: []\n",
        ),
        ("load_empty.py", ""),
        ("load_syntax.py", "x = (\n"),
        ("load_needs.py", "\nimport not_there_at_all\n"),
        ("load_exit.py", "import sys\nsys.exit(3)\n"),
        ("load_raises.py", "def f():\n    return 1 / 0\nf()\n"),
    ]);
    let here = dir.path().display();
    for (what, wanted, traceback) in [
        ("no_such_module", format!("there is no module \"no_such_module\" in {here}, "), true),
        ("no_such.sub:app", format!("there is no module \"no_such.sub\" in {here}, "), true),
        ("load_b.sub", "there is no module \"load_b.sub\" in".into(), true),
        ("load_b.py", "module takes a dotted name: module = load_b, or wsgi-file = load_b.py".into(), true),
        ("load_b:missing", "module \"load_b\" has no \"missing\"; it has application, ".into(), false),
        (
            "load_app",
            "module \"load_app\" has no \"application\"; it has app, create_app: set callable = app".into(),
            false,
        ),
        ("load_empty", "has no \"application\"; set callable to the name of the application".into(), false),
        ("load_b:number", "number of module \"load_b\" is not callable, it is int".into(), false),
        (
            "load_b:number()",
            "number() of module \"load_b\" failed: TypeError: 'int' object is not callable".into(),
            true,
        ),
        ("load_b:broken()", format!("failed: ValueError: no app today, {here}/load_b.py:14"), true),
        ("load_app:create_app()", "create_app() of module \"load_app\" is not callable, it is NoneType".into(), false),
        ("load_b:make(1)", "\"make(1)\" is no callable's name".into(), false),
        ("load_b:", "\"\" is no callable's name".into(), false),
        ("", "a dotted module name is expected".into(), false),
        (".x", "a dotted module name is expected".into(), false),
        ("load_syntax", "SyntaxError: '(' was never closed (load_syntax.py, line 1)".into(), true),
        (
            "load_needs",
            format!("ModuleNotFoundError: No module named 'not_there_at_all', {here}/load_needs.py:2"),
            true,
        ),
        ("load_exit", format!("it exited while it was imported (SystemExit: 3, {here}/load_exit.py:2)"), true),
        ("load_raises", format!("ZeroDivisionError: division by zero, {here}/load_raises.py:2"), true),
    ] {
        let (cause, log) = cause(&module(dir.path(), what));
        assert!(cause.starts_with(&format!("module = {what} (app.ini:3): ")), "{cause}");
        assert!(cause.contains(&wanted), "{what}: {cause}");
        assert_eq!(log.matches("module = ").count(), usize::from(traceback), "{what}: {log}");
    }
}

#[test]
fn failures_of_files_name_the_file() {
    let dir = directory(&[
        ("syntax.py", "def f(:\n"),
        ("raises.wsgi", "\n\nraise KeyError('k')\n"),
        ("none.py", "app = print\n"),
    ]);
    let here = dir.path().display();
    for (name, wanted) in [
        ("missing.py", format!("{here}/missing.py can't be read: No such file")),
        ("syntax.py", "SyntaxError: ".into()),
        ("raises.wsgi", format!("KeyError: 'k', {here}/raises.wsgi:3")),
        ("none.py", format!("file \"{here}/none.py\" has no \"application\"; ")),
        ("conf.ini", "paste configurations can't be loaded".into()),
    ] {
        let (cause, _) = cause(&file(dir.path(), name));
        assert!(cause.starts_with(&format!("wsgi-file = {here}/{name} (app.ini:4): ")), "{cause}");
        assert!(cause.contains(&wanted), "{name}: {cause}");
    }
    let (_, log) = cause(&file(dir.path(), "raises.wsgi"));
    assert!(log.contains(&format!("File \"{here}/raises.wsgi\", line 3")), "{log}");
    let remote =
        LoadSpec { wsgi_file: Some(("http://x/app.py".into(), "o".into())), need_app: true, ..LoadSpec::default() };
    assert!(cause(&remote).0.contains("only files"));
}

#[test]
fn a_failed_file_can_be_loaded_again() {
    let dir = directory(&[("again.py", "raise ValueError")]);
    cause(&file(dir.path(), "again.py"));
    std::fs::write(dir.path().join("again.py"), APP).unwrap();
    assert!(text(&file(dir.path(), "again.py"), "/").starts_with("application of"));
}

#[test]
fn nothing_configured_is_said() {
    let (cause, _) = cause(&LoadSpec { need_app: true, ..LoadSpec::default() });
    assert_eq!(cause, "no application is configured: set module, wsgi-file or mount");
}

#[test]
fn without_need_app_what_failed_answers_500() {
    let dir = directory(&[("load_good.py", APP)]);
    let bad = Mount { path: "/bad".into(), what: "no_such".into(), origin: "o".into() };
    let spec = LoadSpec { mounts: vec![bad], need_app: false, ..module(dir.path(), "load_good") };
    let (apps, log) = try_load(&spec);
    let apps = apps.unwrap();
    assert!(log.contains("ModuleNotFoundError"));
    assert_eq!((apps.loaded(), apps.failed().len()), (1, 1));
    assert!(apps.failed()[0].starts_with("mount = /bad=no_such (o): there is no module"), "{:?}", apps.failed());
    let options = Options { manage_script_name: true, ..options() };
    let done = serve_all(&apps, &options, vec![Fake::get("/bad/x"), Fake::get("/x")]);
    assert_eq!((done[0].outcome, done[1].outcome), (Outcome::Failed(500), Outcome::Finished));

    let (apps, _) = try_load(&LoadSpec::default());
    let apps = apps.unwrap();
    assert_eq!((apps.loaded(), apps.failed().len()), (0, 1));
    assert_eq!(serve_all(&apps, &options, vec![Fake::get("/")])[0].outcome, Outcome::Failed(500));
}
