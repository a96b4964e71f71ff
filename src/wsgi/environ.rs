//! The environ dict of a request: its listener's template, and what the request says.
//!
//! No request finds anything of another one in it (see `draft`). Text is latin-1 (PEP 3333, "Unicode Issues"). Over HTTP the keys are made from the
//! header fields; over uwsgi they are what the front end sent, and only what is missing is added.

use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyString};

use super::Options;
use super::apps::{Apps, Found, is_prefix};
use super::draft::{Draft, Last, Origin};
use super::errors;
use super::file_wrapper::FileWrapper;
use super::input::Input;
use super::names::{Kind, Known, Names};
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
    last: Last,
    joined: Joined,
}

/// Values of repeated names, with the index of their key.
type Joined = Vec<(usize, Vec<u8>)>;

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
        Environs {
            options: options.clone(),
            core,
            templates: Vec::new(),
            headers: Names::new(py, false),
            vars: Names::new(py, true),
            last: Last::default(),
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
        let origin = Origin { listener: exchange.local().index, cgi: request.cgi };
        self.need_template(py, exchange.local())?;
        let Environs { options, templates, headers, vars, last, joined, .. } = self;
        let Some(Some(template)) = templates.get(origin.listener) else { unreachable!("made right above") };
        let template = template.bind(py);
        let mut draft = last.begin(if origin.cgi { vars } else { headers }, template, origin)?;

        let length = match request.body {
            BodyLength::Chunked => body.known_len(),
            BodyLength::UntilEnd => body.known_len().filter(|len| *len > 0),
            BodyLength::Absent | BodyLength::Length(_) => None,
        };
        if !matches!(body, Body::Empty) {
            draft.set_input(Bound::new(py, Input::new(body))?.into_any())?;
        }
        let app = if request.cgi {
            add_vars(&mut draft, options, joined, apps, request, head)?
        } else {
            let app = add_request_line(&mut draft, options, joined, apps, request, head)?;
            let peer = exchange.peer();
            draft.set(Known::RemoteAddr, peer.addr.as_bytes())?;
            if !peer.port.is_empty() {
                draft.set(Known::RemotePort, peer.port.as_bytes())?;
            }
            app
        };
        if let Some(told) = exchange.told() {
            add_told(&mut draft, told, request.cgi)?;
        }
        if let Some(length) = length {
            // Frameworks read nothing without it, and by now it is known.
            draft.set(Known::ContentLength, length.to_string().as_bytes())?;
        }
        Ok((draft.finish(template)?, app))
    }

    /// Takes back what [`Environs::build`] gave, once the request is over. Nothing of it must be needed any more.
    #[inline]
    pub(super) fn keep(&mut self, environ: Bound<'_, PyDict>) {
        let Some(origin) = self.last.origin() else { return };
        let names = if origin.cgi { &mut self.vars } else { &mut self.headers };
        if let Some(Some(template)) = self.templates.get(origin.listener) {
            let py = environ.py();
            self.last.keep(environ, names, template.bind(py));
        }
    }

    /// Whether `wsgi.errors` goes to the client too.
    pub(super) fn passes_errors_on(&self, local: &Local) -> bool {
        self.options.fastcgi_stderr && local.protocol == Protocol::FastCgi
    }

    /// Makes what all environs of a listener have in common.
    fn need_template(&mut self, py: Python<'_>, local: &Local) -> PyResult<()> {
        if self.templates.len() <= local.index {
            self.templates.resize_with(local.index + 1, || None);
        }
        if self.templates[local.index].is_none() {
            self.templates[local.index] = Some(self.make_template(py, local)?);
        }
        Ok(())
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

/// Over HTTP.
fn add_request_line(
    draft: &mut Draft<'_, '_>,
    options: &Options,
    joined: &mut Joined,
    apps: &Apps,
    request: &Request,
    head: &[u8],
) -> PyResult<Option<usize>> {
    add_fields(draft, joined, request, head)?;
    // The template holds the usual values.
    if request.method.of(head) != USUAL_METHOD {
        draft.set(Known::RequestMethod, request.method.of(head))?;
    }
    draft.set(Known::RequestUri, request.target.of(head))?;
    if !request.query.is_empty() {
        draft.set(Known::QueryString, request.query.of(head))?;
    }
    if request.version != Version::Http11 {
        draft.set(Known::ServerProtocol, request.version.name().as_bytes())?;
    }
    if let Some(host) = request.host {
        draft.set(Known::HttpHost, host.of(head))?;
    }
    let Found { app, strip } = apps.find(&request.path, b"", options.manage_script_name);
    if strip > 0 {
        draft.set(Known::ScriptName, &request.path[..strip])?;
    }
    draft.set(Known::PathInfo, &request.path[strip..])?;
    Ok(app)
}

/// Over uwsgi, FastCGI and SCGI.
fn add_vars(
    draft: &mut Draft<'_, '_>,
    options: &Options,
    joined: &mut Joined,
    apps: &Apps,
    request: &Request,
    head: &[u8],
) -> PyResult<Option<usize>> {
    let seen = add_fields(draft, joined, request, head)?;
    // The variable of its own for the scheme comes before HTTPS, as in uWSGI; what clients can send (X-Forwarded-Proto)
    // means nothing.
    let https = match seen.scheme.map(|scheme| scheme.of(head)) {
        Some(scheme) if scheme.eq_ignore_ascii_case(b"https") => true,
        Some(scheme) if scheme.eq_ignore_ascii_case(b"http") => false,
        _ => seen.https,
    };
    if https {
        draft.set(Known::UrlScheme, b"https")?;
    }
    let mut script_name = seen.script_name.map_or(&b""[..], |span| span.of(head));
    let path = seen.path_info.map_or(&request.path[..], |span| span.of(head));
    // Apache says `/site/` and `/` over uwsgi. Together they are the path, which has one slash there.
    if script_name.ends_with(b"/") && path.starts_with(b"/") {
        script_name = &script_name[..script_name.len() - 1];
        draft.set(Known::ScriptName, script_name)?;
    }
    // Where the front end did not say what SCRIPT_NAME is, the mount points are all there is to tell.
    let manage = options.manage_script_name || request.path_derived;
    let Found { app, strip } = apps.find(path, script_name, manage);
    if strip > 0 {
        if options.run_once {
            draft.set(Known::ScriptName, &[script_name, &path[..strip]].concat())?;
        } else {
            draft.set(Known::ScriptName, &path[..strip])?;
        }
        draft.set(Known::PathInfo, &path[strip..])?;
    } else if request.modifier1 == MANAGE_PATH_INFO && !script_name.is_empty() && is_prefix(script_name, path) {
        draft.set(Known::PathInfo, &path[script_name.len()..])?;
    } else if seen.path_info.is_none() {
        draft.set(Known::PathInfo, path)?;
    }
    Ok(app)
}

/// What trusted proxies say. The client's address is there already, but where a web server sent its own.
fn add_told(draft: &mut Draft<'_, '_>, told: &Told, cgi: bool) -> PyResult<()> {
    if let Some(client) = told.client.as_ref().filter(|_| cgi) {
        draft.set(Known::RemoteAddr, client.addr.as_bytes())?;
        if client.port.is_empty() {
            // The port of the proxy in front of the web server.
            draft.remove(Known::RemotePort)?;
        } else {
            draft.set(Known::RemotePort, client.port.as_bytes())?;
        }
    }
    if let Some(scheme) = told.scheme {
        draft.set(Known::UrlScheme, scheme.as_bytes())?;
    }
    if let Some(host) = &told.host {
        draft.set(Known::HttpHost, host)?;
    }
    Ok(())
}

/// Sets what the header fields or variables say.
fn add_fields(draft: &mut Draft<'_, '_>, joined: &mut Joined, request: &Request, head: &[u8]) -> PyResult<Seen> {
    let py = draft.environ.py();
    let number = draft.number();
    let mut seen = Seen::default();
    joined.clear();
    for (place, field) in request.fields.iter().enumerate() {
        let index = draft.names.find(py, place, field.name.of(head));
        let key = draft.names.key(index);
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
        draft.set_key(index, bytes)?;
    }
    for (index, bytes) in joined.drain(..) {
        draft.set_once(index, &bytes)?;
    }
    Ok(seen)
}
