//! What the process gets before anything is made: umask, log file, limits.

use std::path::Path;

use super::background::option_of;
use crate::config::Settings;
use crate::logging::relay::{Channel, Plan};
use crate::sys::privileges::{self, Limited};
use crate::sys::{self, fd, process};
use crate::{logging, master};

/// umask and log file first: they are for everything that follows, sockets included.
pub(super) fn set_up_process(settings: &Settings) -> Result<(), String> {
    process::set_umask(settings.umask);
    if let Some(path) = &settings.logto {
        let option = match settings.background {
            Some(kind) if !settings.places.contains_key("logto") => option_of(kind),
            _ => "logto",
        };
        redirect(settings, option, path)?;
    }
    let limits = [
        ("limit-as", Limited::AddressSpace, settings.privileges.limit_as),
        ("limit-nproc", Limited::Processes, settings.privileges.limit_nproc),
    ];
    for (option, what, wanted) in limits {
        if let Some(wanted) = wanted {
            // The next allocation would end this process without a word of why.
            if what == Limited::AddressSpace {
                let used = process::memory_of(std::process::id() as i32).map_or(0, |memory| memory.address_space);
                if wanted < used {
                    let place = settings.place(option);
                    return Err(format!("{place}: {wanted} bytes are not enough, {used} are in use already; raise it"));
                }
            }
            privileges::limit(what, wanted).map_err(|error| {
                let (place, why) = (settings.place(option), sys::describe(&error));
                let now = privileges::limit_of(what).unwrap_or(0);
                format!("{place}: cannot be {wanted}: {why}; it is {now}, and raising it needs root")
            })?;
        }
    }
    logging::set_style(master::style(settings));
    match settings.max_fd {
        Some(wanted) => fd::set_limit(wanted).map_err(|error| {
            let (place, why) = (settings.place("max-fd"), sys::describe(&error));
            format!(
                "{place}: cannot be {wanted}: {why}; more than the hard limit (ulimit -Hn) needs root, and more than \
                 fs.nr_open is not to be had"
            )
        }),
        None => fd::raise_limit()
            .map(|_| ())
            .map_err(|error| format!("the descriptor limit cannot be raised: {}", sys::describe(&error))),
    }
}

/// Points standard output and standard error to the file that `option` names.
fn redirect(settings: &Settings, option: &str, path: &Path) -> Result<(), String> {
    let file = logging::file::open(path, &master::making(settings), settings.logs.truncate);
    logging::use_file(file.map_err(|error| format!("{}: {error}", settings.place(option)))?);
    Ok(())
}

/// What goes wrong with the log when privileges are given up already, and the relay if there is to be one.
pub(super) fn open_log(settings: &Settings, start_dir: &Path) -> Result<Option<(Channel, Plan)>, Vec<String>> {
    let file = master::log_file(settings, start_dir);
    if let (Some(_), Some(file)) = (&settings.logs.late_file, &file) {
        redirect(settings, "logto2", &file.path).map_err(|error| vec![error])?;
    }
    let Some(plan) = master::plan(settings, start_dir)? else { return Ok(None) };
    let channel = Channel::open(&plan, file.map(|file| (file, master::making(settings))));
    Ok(Some((channel.map_err(|error| vec![error])?, plan)))
}
