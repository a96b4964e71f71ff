//! Giving root up later than usual: in the workers (`master-as-root`), or when the application was imported (`drop-after-apps`).
//! Hooks of the user run where the user comes in.

use std::sync::Arc;

use super::privileges::{identity, place_of_user};
use crate::config::Settings;
use crate::config::hooks::Phase;
use crate::hooks;
use crate::sys::process;
use crate::sys::signal::Signal;
use crate::sys::user;

/// Becomes whom the configuration names. `parent`: whose end is this process' own; the change of the user has cleared that.
fn give_up(settings: &Settings, parent: Option<i32>) -> Result<(), String> {
    identity(settings).take().map_err(|error| format!("{}: {error}", place_of_user(settings)))?;
    if let Some(parent) = parent
        && let Err(error) = process::die_with_parent(parent)
    {
        log::debug!("this process may outlive its parent: {error}");
    }
    hooks::run(&settings.hooks, Phase::AsUser)
}

/// The children of a master that will be no root may be looked at by it, see [`process::be_visible`].
fn be_visible() {
    if let Err(error) = process::be_visible() {
        log::debug!("the memory of this process cannot be told: {error}");
    }
}

fn is_due(settings: &Settings) -> bool {
    settings.privileges.drop_after_apps && user::is_root()
}

/// What the master does when the first workers are ready, if anything.
pub(super) fn after_apps(settings: &Settings) -> Option<Box<dyn FnOnce()>> {
    if !is_due(settings) {
        return None;
    }
    let settings = settings.clone();
    Some(Box::new(move || match give_up(&settings, None) {
        Ok(()) => be_visible(),
        Err(error) => {
            log::error!("{error}; the server stops, since it would stay root");
            process::send_signal(process::own_id(), Signal::SIGTERM);
        }
    }))
}

/// The relay needs root no more than the workers do.
pub(super) fn in_relay(settings: &Settings) {
    if is_due(settings)
        && let Err(error) = identity(settings).take()
    {
        log::error!("{}: {error}; the process that writes the log stays root", place_of_user(settings));
    }
}

/// What a zygote does when it has imported the application.
pub(super) fn after_import(settings: &Arc<Settings>, master: i32) -> Box<dyn Fn() -> Result<(), String>> {
    let settings = Arc::clone(settings);
    Box::new(move || {
        hooks::run(&settings.hooks, Phase::PostApp)?;
        if is_due(&settings) {
            identity(&settings).take().map_err(|error| format!("{}: {error}", place_of_user(&settings)))?;
            process::die_with_parent(master).map_err(|error| format!("the zygote may outlive the master: {error}"))?;
            be_visible();
        }
        Ok(())
    })
}

/// What a worker does before anything else.
pub(super) fn in_worker(settings: &Settings, master: i32) -> Result<(), String> {
    match settings.privileges.master_as_root && user::is_root() {
        true => give_up(settings, Some(master)),
        false => Ok(()),
    }
}
