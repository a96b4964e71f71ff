//! The loaded applications, and which of them a request is for. Pure but for the references it holds.

use pyo3::prelude::*;

/// One application and where it is mounted.
#[derive(Debug)]
pub(crate) struct App {
    /// Mount point without a slash at its end; empty at the root.
    pub(crate) mount: String,
    /// None: it could not be loaded (`need-app = false`), requests for it are answered 500.
    pub(crate) callable: Option<Py<PyAny>>,
}

/// Everything that was loaded. Shared by all app threads of a process.
#[derive(Debug)]
pub struct Apps {
    apps: Vec<App>,
    /// Index of the application that gets what no mount point matches.
    default: Option<usize>,
    /// The contextvars as the import left them: every app thread starts with a copy.
    pub(crate) context: Py<PyAny>,
    failed: Vec<String>,
}

/// Where a request goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    /// Index of the application; none was loaded at all when absent.
    pub(crate) app: Option<usize>,
    /// Length of the mount point to take off PATH_INFO, becoming SCRIPT_NAME.
    pub(crate) strip: usize,
}

impl Apps {
    pub(crate) fn new(apps: Vec<App>, context: Py<PyAny>, failed: Vec<String>) -> Apps {
        // As in uWSGI: the application at the root, else simply the first one.
        let default = apps.iter().position(|app| app.mount.is_empty()).or(if apps.is_empty() { None } else { Some(0) });
        Apps { apps, default, context, failed }
    }

    /// The applications that could not be loaded, one line each; only with `need-app = false`.
    pub fn failed(&self) -> &[String] {
        &self.failed
    }

    /// How many applications can be called.
    pub fn loaded(&self) -> usize {
        self.apps.iter().filter(|app| app.callable.is_some()).count()
    }

    pub(crate) fn get(&self, index: usize) -> Option<&Py<PyAny>> {
        self.apps.get(index)?.callable.as_ref()
    }

    pub(crate) fn mount(&self, index: usize) -> &str {
        self.apps.get(index).map_or("", |app| &app.mount)
    }

    /// The application for a request: with `manage`, the longest mount point that is a whole-segment prefix of `path`;
    /// then the mount point equal to the SCRIPT_NAME a front end sent; then the default one.
    pub(crate) fn find(&self, path: &[u8], script_name: &[u8], manage: bool) -> Found {
        if self.apps.len() == 1 && self.apps[0].mount.is_empty() {
            return Found { app: Some(0), strip: 0 };
        }
        if manage {
            let longest = (self.apps.iter().enumerate())
                .filter(|(_, app)| !app.mount.is_empty() && is_prefix(app.mount.as_bytes(), path))
                .max_by_key(|(_, app)| app.mount.len());
            if let Some((index, app)) = longest {
                return Found { app: Some(index), strip: app.mount.len() };
            }
        }
        let exact = (!script_name.is_empty())
            .then(|| self.apps.iter().position(|app| app.mount.as_bytes() == script_name))
            .flatten();
        Found { app: exact.or(self.default), strip: 0 }
    }
}

/// Whether `path` is `prefix`, or goes on below it: `/app` holds `/app` and `/app/x`, not `/apple`.
pub(crate) fn is_prefix(prefix: &[u8], path: &[u8]) -> bool {
    path.strip_prefix(prefix).is_some_and(|rest| matches!(rest.first(), None | Some(b'/')))
}
