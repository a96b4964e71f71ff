//! `rsgi ctl` before a word is sent: which control socket is meant.

use std::path::PathBuf;

use super::facts::facts;
use super::refuse;
use crate::config::{self, Argument};
use crate::net::address::Address;
use crate::{ctl, sys};

/// `rsgi ctl`.
pub(super) fn control(request: &ctl::Request) -> u8 {
    let sent = socket_of(request).and_then(|socket| ctl::send(&socket, &request.line).map_err(|error| vec![error]));
    sent.unwrap_or_else(refuse)
}

/// The control socket that is meant: named, or found in a configuration.
fn socket_of(request: &ctl::Request) -> Result<PathBuf, Vec<String>> {
    if let Some(socket) = &request.socket {
        return Ok(socket.clone());
    }
    if request.ini.is_empty() {
        return Err(vec!["ctl: name the server: --socket PATH, or --ini FILE with its configuration".into()]);
    }
    let start_dir = std::env::current_dir().map_err(|error| vec![sys::describe(&error)])?;
    let named = |file: &String| Argument { name: "ini".into(), value: file.clone(), written: "--ini".into() };
    let arguments: Vec<Argument> = request.ini.iter().map(named).collect();
    // Sockets may come from whoever starts the server.
    match config::load(&arguments, &facts(start_dir, true)) {
        Ok(loaded) => match loaded.settings.reports.control {
            Some(Address::Unix(path)) => Ok(path),
            _ => Err(vec![format!("ctl: {} has no control-socket", request.ini.join(", "))]),
        },
        Err(errors) => {
            let hint = "ctl: the configuration is broken; --socket PATH works without it".to_owned();
            Err(errors.iter().map(ToString::to_string).chain([hint]).collect())
        }
    }
}
