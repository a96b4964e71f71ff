//! The environ dict of a request: a copy of its listener's template, and what the request says.
//!
//! Every request gets a fresh dict. Text is latin-1 (PEP 3333, "Unicode Issues"). Over HTTP the keys are made from the
//! header fields; over uwsgi they are what the front end sent, and only what is missing is added.

use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyString};

use super::Options;
use super::apps::{Apps, Found, is_prefix};
use super::errors;
use super::file_wrapper::FileWrapper;
use super::input::Input;
use super::names::{Key, Kind, Names};
use super::raw::latin1;
use crate::gateway::{Body, Exchange, Local, Told};
use crate::protocol::Protocol;
use crate::protocol::request::{BodyLength, Request, Span, Version};

/// Makes the environs of one app thread.
pub(super) struct Environs {
    options: Options,
    core: u32,
    /// By [`Local::index`].
    templates: Vec<Option<Py<PyDict>>>,
    headers: Names,
    vars: Names,
    keys: Keys,
    /// Values of repeated names, with the index of their key.
    joined: Vec<(usize, Vec<u8>)>,
}

/// The keys that are set by name.
struct Keys {
    request_method: Key,
    script_name: Key,
    path_info: Key,
    query_string: Key,
    request_uri: Key,
    server_protocol: Key,
    remote_addr: Key,
    remote_port: Key,
    http_host: Key,
    content_length: Key,
    url_scheme: Key,
    input: Key,
}

/// What the fields of a request meant beside being in the environ.
#[derive(Default)]
struct Seen {
    script_name: Option<Span>,
    path_info: Option<Span>,
    https: bool,
    scheme: Option<Span>,
}

impl Environs {
    pub(super) fn new(py: Python<'_>, options: &Options, core: u32) -> Environs {
        let key = |name| Key::new(py, name, Kind::Last);
        Environs {
            options: options.clone(),
            core,
            templates: Vec::new(),
            headers: Names::new(false),
            vars: Names::new(true),
            keys: Keys {
                request_method: key("REQUEST_METHOD"),
                script_name: key("SCRIPT_NAME"),
                path_info: key("PATH_INFO"),
                query_string: key("QUERY_STRING"),
                request_uri: key("REQUEST_URI"),
                server_protocol: key("SERVER_PROTOCOL"),
                remote_addr: key("REMOTE_ADDR"),
                remote_port: key("REMOTE_PORT"),
                http_host: key("HTTP_HOST"),
                content_length: key("CONTENT_LENGTH"),
                url_scheme: key("wsgi.url_scheme"),
                input: key("wsgi.input"),
            },
            joined: Vec::new(),
        }
    }

    /// The environ for a request, and the application it goes to.
    pub(super) fn build<'py>(
        &mut self,
        py: Python<'py>,
        apps: &Apps,
        exchange: &mut dyn Exchange,
    ) -> PyResult<(Bound<'py, PyDict>, Option<usize>)> {
        let body = exchange.take_body();
        let (request, head) = exchange.request();
        let environ = self.template(py, exchange.local())?.bind(py).copy()?;

        let length = match request.body {
            BodyLength::Chunked => body.known_len(),
            BodyLength::UntilEnd => body.known_len().filter(|len| *len > 0),
            BodyLength::Absent | BodyLength::Length(_) => None,
        };
        if !matches!(body, Body::Empty) {
            environ.set_item(self.keys.input.text.bind(py), Bound::new(py, Input::new(body))?)?;
        }
        let app = if request.cgi {
            self.add_vars(&environ, apps, request, head)?
        } else {
            let app = self.add_request_line(&environ, apps, request, head)?;
            let peer = exchange.peer();
            set(&environ, &mut self.keys.remote_addr, peer.addr.as_bytes())?;
            if !peer.port.is_empty() {
                set(&environ, &mut self.keys.remote_port, peer.port.as_bytes())?;
            }
            app
        };
        if let Some(told) = exchange.told() {
            self.add_told(&environ, told, request.cgi)?;
        }
        if let Some(length) = length {
            // Frameworks read nothing without it, and by now it is known.
            set(&environ, &mut self.keys.content_length, length.to_string().as_bytes())?;
        }
        Ok((environ, app))
    }

    /// Over HTTP.
    fn add_request_line(
        &mut self,
        environ: &Bound<'_, PyDict>,
        apps: &Apps,
        request: &Request,
        head: &[u8],
    ) -> PyResult<Option<usize>> {
        add_fields(environ, &mut self.headers, &mut self.joined, request, head)?;
        let keys = &mut self.keys;
        // The template holds the usual values.
        if request.method.of(head) != USUAL_METHOD {
            set(environ, &mut keys.request_method, request.method.of(head))?;
        }
        set(environ, &mut keys.request_uri, request.target.of(head))?;
        if !request.query.is_empty() {
            set(environ, &mut keys.query_string, request.query.of(head))?;
        }
        if request.version != Version::Http11 {
            set(environ, &mut keys.server_protocol, request.version.name().as_bytes())?;
        }
        if let Some(host) = request.host {
            set(environ, &mut keys.http_host, host.of(head))?;
        }
        let Found { app, strip } = apps.find(&request.path, b"", self.options.manage_script_name);
        if strip > 0 {
            set(environ, &mut keys.script_name, &request.path[..strip])?;
        }
        set(environ, &mut keys.path_info, &request.path[strip..])?;
        Ok(app)
    }

    /// Over uwsgi, FastCGI and SCGI.
    fn add_vars(
        &mut self,
        environ: &Bound<'_, PyDict>,
        apps: &Apps,
        request: &Request,
        head: &[u8],
    ) -> PyResult<Option<usize>> {
        let seen = add_fields(environ, &mut self.vars, &mut self.joined, request, head)?;
        let keys = &mut self.keys;
        // The variable of its own for the scheme comes before HTTPS, as in uWSGI; what clients can send (X-Forwarded-Proto)
        // means nothing.
        let https = match seen.scheme.map(|scheme| scheme.of(head)) {
            Some(scheme) if scheme.eq_ignore_ascii_case(b"https") => true,
            Some(scheme) if scheme.eq_ignore_ascii_case(b"http") => false,
            _ => seen.https,
        };
        if https {
            set(environ, &mut keys.url_scheme, b"https")?;
        }
        let mut script_name = seen.script_name.map_or(&b""[..], |span| span.of(head));
        let path = seen.path_info.map_or(&request.path[..], |span| span.of(head));
        // Apache says `/site/` and `/` over uwsgi. Together they are the path, which has one slash there.
        if script_name.ends_with(b"/") && path.starts_with(b"/") {
            script_name = &script_name[..script_name.len() - 1];
            set(environ, &mut keys.script_name, script_name)?;
        }
        // Where the front end did not say what SCRIPT_NAME is, the mount points are all there is to tell.
        let manage = self.options.manage_script_name || request.path_derived;
        let Found { app, strip } = apps.find(path, script_name, manage);
        if strip > 0 {
            if self.options.run_once {
                set(environ, &mut keys.script_name, &[script_name, &path[..strip]].concat())?;
            } else {
                set(environ, &mut keys.script_name, &path[..strip])?;
            }
            set(environ, &mut keys.path_info, &path[strip..])?;
        } else if request.modifier1 == MANAGE_PATH_INFO && !script_name.is_empty() && is_prefix(script_name, path) {
            set(environ, &mut keys.path_info, &path[script_name.len()..])?;
        } else if seen.path_info.is_none() {
            set(environ, &mut keys.path_info, path)?;
        }
        Ok(app)
    }

    /// What trusted proxies say. The client's address is there already, but where a web server sent its own.
    fn add_told(&mut self, environ: &Bound<'_, PyDict>, told: &Told, cgi: bool) -> PyResult<()> {
        let keys = &mut self.keys;
        if let Some(client) = told.client.as_ref().filter(|_| cgi) {
            set(environ, &mut keys.remote_addr, client.addr.as_bytes())?;
            let port = keys.remote_port.text.bind(environ.py());
            if !client.port.is_empty() {
                set(environ, &mut keys.remote_port, client.port.as_bytes())?;
            } else if environ.contains(port)? {
                // The port of the proxy in front of the web server.
                environ.del_item(port)?;
            }
        }
        if let Some(scheme) = told.scheme {
            set(environ, &mut keys.url_scheme, scheme.as_bytes())?;
        }
        if let Some(host) = &told.host {
            set(environ, &mut keys.http_host, host)?;
        }
        Ok(())
    }

    /// Whether `wsgi.errors` goes to the client too.
    pub(super) fn passes_errors_on(&self, local: &Local) -> bool {
        self.options.fastcgi_stderr && local.protocol == Protocol::FastCgi
    }

    /// What all environs of a listener have in common.
    fn template(&mut self, py: Python<'_>, local: &Local) -> PyResult<&Py<PyDict>> {
        if self.templates.len() <= local.index {
            self.templates.resize_with(local.index + 1, || None);
        }
        if self.templates[local.index].is_none() {
            self.templates[local.index] = Some(self.make_template(py, local)?);
        }
        match &self.templates[local.index] {
            Some(template) => Ok(template),
            None => unreachable!("set right above"),
        }
    }

    fn make_template(&self, py: Python<'_>, local: &Local) -> PyResult<Py<PyDict>> {
        let environ = PyDict::new(py);
        let set = |name: &str, value: Bound<'_, PyAny>| environ.set_item(PyString::intern(py, name), value);
        let text = |text: &str| latin1(py, text.as_bytes()).into_any();
        let truth = |value: bool| value.into_pyobject(py).map(|object| object.to_owned().into_any());
        // What every request replaces stands here too: replacing is cheaper than adding. Over uwsgi these are what
        // PEP 3333 demands of every environ, for a front end that leaves one out.
        set("REQUEST_METHOD", latin1(py, USUAL_METHOD).into_any())?;
        set("SCRIPT_NAME", text(""))?;
        set("PATH_INFO", text(""))?;
        set("QUERY_STRING", text(""))?;
        set("SERVER_NAME", text(&local.server_name))?;
        set("SERVER_PORT", text(&local.server_port))?;
        set("SERVER_PROTOCOL", text(Version::Http11.name()))?;
        if local.protocol == Protocol::Http {
            set("REQUEST_URI", text(""))?;
            set("REMOTE_ADDR", text(""))?;
        }
        set("wsgi.version", (1, 0).into_pyobject(py)?.into_any())?;
        set("wsgi.url_scheme", text("http"))?;
        // Without a body all requests can share one: there is nothing to read and no position to move.
        set("wsgi.input", Bound::new(py, Input::new(Body::Empty))?.into_any())?;
        set("wsgi.input_terminated", truth(true)?)?;
        set("wsgi.errors", errors::stream(py)?)?;
        if self.options.file_wrapper {
            set("wsgi.file_wrapper", py.get_type::<FileWrapper>().into_any())?;
        }
        set("wsgi.multithread", truth(self.options.threads > 1)?)?;
        set("wsgi.multiprocess", truth(self.options.processes > 1 || self.options.run_once)?)?;
        set("wsgi.run_once", truth(self.options.run_once)?)?;
        let version = env!("CARGO_PKG_VERSION");
        set("rsgi.version", text(version))?;
        // uWSGI gives bytes here.
        set("uwsgi.version", PyBytes::new(py, version.as_bytes()).into_any())?;
        let node: String = py.import("os")?.call_method0("uname")?.getattr("nodename")?.extract()?;
        set("uwsgi.node", PyBytes::new(py, node.as_bytes()).into_any())?;
        if self.options.threads > 1 {
            set("uwsgi.core", self.core.into_pyobject(py)?.into_any())?;
        }
        // A dict keeps the size of its table when keys go, and so do its copies: without room for the usual number of
        // fields each environ would grow once while it is filled.
        let fillers: Vec<String> = (environ.len()..ROOMY).map(|filler| format!("filler {filler}")).collect();
        for filler in &fillers {
            environ.set_item(filler, py.None())?;
        }
        for filler in &fillers {
            environ.del_item(filler)?;
        }
        Ok(environ.unbind())
    }
}

/// The method that most requests have; it stands in the template.
const USUAL_METHOD: &[u8] = b"GET";

/// Keys that make CPython give a dict its next larger table, with room for 42 in all.
const ROOMY: usize = 24;

/// The uwsgi modifier that asks to take SCRIPT_NAME off PATH_INFO.
const MANAGE_PATH_INFO: u8 = 30;

#[inline]
fn set(environ: &Bound<'_, PyDict>, key: &mut Key, bytes: &[u8]) -> PyResult<()> {
    let value = key.value(environ.py(), bytes);
    environ.set_item(key.text.bind(environ.py()), value)
}

/// Sets what the header fields or variables say.
fn add_fields(
    environ: &Bound<'_, PyDict>,
    names: &mut Names,
    joined: &mut Vec<(usize, Vec<u8>)>,
    request: &Request,
    head: &[u8],
) -> PyResult<Seen> {
    let py = environ.py();
    let number = names.begin();
    let mut seen = Seen::default();
    joined.clear();
    for field in &request.fields {
        let index = names.find(py, field.name.of(head));
        let key = names.key(index);
        let bytes = field.value.of(head);
        match key.kind {
            Kind::Last => {}
            Kind::Join(separator) => {
                if key.met == number {
                    let first = key.first;
                    let all = match joined.iter().position(|(key, _)| *key == index) {
                        Some(at) => &mut joined[at].1,
                        None => {
                            joined.push((index, first.of(head).to_vec()));
                            let last = joined.len() - 1;
                            &mut joined[last].1
                        }
                    };
                    all.extend_from_slice(separator);
                    all.extend_from_slice(bytes);
                    continue;
                }
                key.met = number;
                key.first = field.value;
            }
            Kind::Drop | Kind::Host => continue,
            Kind::ScriptName => seen.script_name = Some(field.value),
            Kind::PathInfo => seen.path_info = Some(field.value),
            Kind::Https => seen.https = bytes == b"1" || bytes.eq_ignore_ascii_case(b"on"),
            Kind::Scheme => seen.scheme = Some(field.value),
        }
        set(environ, key, bytes)?;
    }
    for (index, bytes) in joined.drain(..) {
        environ.set_item(names.key(index).text.bind(py), latin1(py, &bytes))?;
    }
    Ok(seen)
}
