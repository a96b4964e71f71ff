//! `rsgi --cgi`: this process answers one request and ends. No master, no zygote, no worker, no socket; the same configuration, the
//! same interpreter and the same applications.
//!
//! Exit codes: 0 when the application's answer went out whole, 22 when the application cannot be loaded, 1 for everything
//! else; the client gets an answer in any case, but for words on a terminal, where nobody asked anything.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use super::complain;
use super::facts::{complete, facts};
use super::privileges::{identity, place_of_user};
use super::setup::set_up_process;
use super::zygote::{environment_changes, home, load_spec};
use crate::cgi::{Limits, Once, Streams};
use crate::config::hooks::Phase;
use crate::config::{self, Argument, Facts, Settings};
use crate::interpreter::{self, Spec};
use crate::protocol::cgi;
use crate::protocol::request::{Refusal, Request};
use crate::sys::process;
use crate::{exit, hooks, logging, master, wsgi, zygote};

/// A client that sends a Proxy field must not choose the proxy of the application's own requests ("httpoxy").
const PROXY: &str = "HTTP_PROXY";

/// Why there is no answer of the application.
struct Failure {
    code: u8,
    status: u16,
    lines: Vec<String>,
}

fn failure(lines: Vec<String>) -> Failure {
    Failure { code: exit::ERROR, status: 500, lines }
}

/// Answers the request that the environment describes. Does not come back: threads of the application may still run.
pub(super) fn run(arguments: &[Argument], start_dir: &Path) -> u8 {
    let environment: Vec<(OsString, OsString)> = std::env::vars_os().collect();
    if std::env::var_os("REQUEST_METHOD").is_none() {
        complain(
            "error: --cgi: there is no REQUEST_METHOD in the environment; a web server runs this as a CGI program",
        );
        return exit::ERROR;
    }
    let head_request = std::env::var_os("REQUEST_METHOD").is_some_and(|method| method == "HEAD");
    process::remove_variable(PROXY);
    logging::quiet();
    let streams = match Streams::take() {
        Ok(streams) => streams,
        Err(error) => {
            complain(&format!("error: --cgi: standard input and output cannot be used: {error}"));
            return exit::ERROR;
        }
    };
    let mut streams = Some(streams);
    let code = match answer(arguments, start_dir, &environment, &mut streams) {
        Ok(code) => code,
        Err(failure) => {
            for line in &failure.lines {
                complain(&format!("error: {line}"));
            }
            if let Some(streams) = streams {
                streams.refuse(failure.status, head_request);
            }
            failure.code
        }
    };
    process::exit_now(code)
}

fn answer(
    arguments: &[Argument],
    start_dir: &Path,
    environment: &[(OsString, OsString)],
    streams: &mut Option<Streams>,
) -> Result<u8, Failure> {
    // Sockets are not needed, so none need be configured.
    let facts = Facts {
        stdin: Box::new(|| Err(std::io::Error::other("with --cgi, standard input is the body of the request"))),
        ..facts(start_dir.to_path_buf(), true)
    };
    let loaded =
        config::load(arguments, &facts).map_err(|errors| failure(errors.iter().map(ToString::to_string).collect()))?;
    let settings = complete(loaded.settings);
    prepare(&settings, start_dir).map_err(|error| failure(vec![error]))?;
    for warning in &loaded.warnings {
        log::warn!("{warning}");
    }
    if let Some(shown) = &loaded.shown {
        log::info!("{shown}");
    }
    let refused = |refusal: Refusal| {
        let lines = vec![format!("{} (answered with {})", refusal.reason, refusal.status)];
        Failure { code: exit::ERROR, status: refusal.status, lines }
    };
    let (mut head, mut request) = (Vec::new(), Request::default());
    let variables = environment.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes()));
    cgi::environment(variables, &mut head, &mut request).map_err(refused)?;
    let apps = load(&settings)?;
    let limits = Limits {
        body: if settings.limit_post == 0 { u64::MAX } else { settings.limit_post },
        buffering: settings.post_buffering,
    };
    let Some(taken) = streams.take() else { return Ok(exit::ERROR) };
    let once =
        Once::receive(request, head, taken, limits, &settings.trusted_proxies).map_err(|(returned, refusal)| {
            *streams = Some(returned);
            refused(refusal)
        })?;
    let options = wsgi::Options {
        threads: 1,
        processes: 1,
        manage_script_name: settings.manage_script_name,
        fastcgi_stderr: false,
        file_wrapper: settings.file_wrapper,
        run_once: true,
    };
    let done = wsgi::with_app_thread(&apps, &options, 0, |thread| thread.serve(Box::new(once)));
    let answered = done.into_any().downcast::<Once>().is_ok_and(|once| once.is_answered());
    // The answer is closed by now: the client does not wait for what the application does at its end.
    interpreter::finalize(zygote::PATIENCE);
    Ok(if answered { exit::OK } else { exit::ERROR })
}

/// What of the configuration is for this process.
fn prepare(settings: &Settings, start_dir: &Path) -> Result<(), String> {
    set_up_process(settings)?;
    let identity = identity(settings);
    identity
        .may_be_taken()
        .and_then(|()| identity.take())
        .map_err(|error| format!("{}: {error}", place_of_user(settings)))?;
    master::enter(settings, start_dir)?;
    for (name, value) in &settings.env {
        process::set_variable(name, value);
    }
    let with_app = |phase: Phase| matches!(phase, Phase::PreApp | Phase::PostApp);
    for hook in settings.hooks.iter().filter(|hook| !with_app(hook.phase)) {
        log::warn!("{}: not carried out with --cgi, only hooks around the loading of the application are", hook.shown);
    }
    if !settings.daemons.is_empty() {
        log::warn!("{}: not started with --cgi", settings.place("attach-daemon"));
    }
    Ok(())
}

fn load(settings: &Settings) -> Result<Arc<wsgi::Apps>, Failure> {
    let one = |line: String| failure(vec![line]);
    let spec = Spec { home: home(settings) };
    zygote::start_python(&spec, &environment_changes(settings)).map_err(one)?;
    hooks::run(&settings.hooks, Phase::PreApp).map_err(one)?;
    let apps = zygote::import(&load_spec(settings), None).map_err(|cause| Failure {
        code: exit::NO_APP,
        status: 500,
        lines: vec![cause],
    })?;
    hooks::run(&settings.hooks, Phase::PostApp).map_err(one)?;
    Ok(apps)
}
