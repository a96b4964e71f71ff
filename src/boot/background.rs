//! `daemonize` and `daemonize2`: the server goes on in the background, in a session of its own, and whoever started it
//! gets the terminal back when the server is far enough, with the exit code that tells how it went.

use std::fs::File;
use std::io::{self, Read, Write};

use super::complain;
use crate::config::{Background, Settings};
use crate::sys::process::{self, Fork};
use crate::sys::{self, fd};

/// Tells the waiting starter how the start went. Dropped without a word it tells of a failure.
pub(super) struct Herald(File);

impl Herald {
    /// Lets the starter end with `code`.
    pub(super) fn tell(mut self, code: u8) {
        // One that does not wait any more does not mind.
        let _ = self.0.write_all(&[code]);
    }
}

/// Which process this is.
pub(super) enum Side {
    /// The one that was started; its exit code.
    Starter(u8),
    /// The one that goes on.
    Server(Herald),
}

/// Goes into the background. Standard input is nothing from now on; where the output goes was seen to before.
///
/// # Errors
/// The system's.
fn enter(fork: fn() -> io::Result<Fork>) -> io::Result<Side> {
    let (reader, writer) = fd::pipe()?;
    match fork()? {
        Fork::Parent(between) => {
            drop(writer);
            process::reap_one(between);
            let mut code = [crate::exit::ERROR];
            // Without a word it died.
            let _ = File::from(reader).read(&mut code);
            Ok(Side::Starter(code[0]))
        }
        Fork::Child => {
            drop(reader);
            process::leave_session()?;
            // Not the leader of its session: no terminal can become its own.
            match process::fork() {
                Ok(Fork::Child) => {}
                Ok(Fork::Parent(_)) => process::exit_now(crate::exit::OK),
                Err(error) => {
                    log::error!("the server cannot go into the background: {}", sys::describe(&error));
                    process::exit_now(crate::exit::ERROR);
                }
            }
            fd::replace(0, File::open("/dev/null")?)?;
            Ok(Side::Server(Herald(File::from(writer))))
        }
    }
}

/// Forks when the configuration asks for it. None: it does not, and this process goes on.
pub(super) fn go_into_background(settings: &Settings, fork: fn() -> io::Result<Fork>) -> Result<Side, Option<String>> {
    let Some(kind) = settings.background else { return Err(None) };
    let option = option_of(kind);
    let side = enter(fork).map_err(|error| {
        Some(format!("{}: cannot go into the background: {}", settings.place(option), sys::describe(&error)))
    })?;
    if let Side::Starter(code @ 1..) = side {
        let log = settings.logto.as_ref().map(|path| path.display().to_string()).unwrap_or_default();
        complain(&format!("error: {}: the server did not start; what it says is in {log}", settings.place(option)));
        return Ok(Side::Starter(code));
    }
    Ok(side)
}

pub(super) fn option_of(kind: Background) -> &'static str {
    match kind {
        Background::WhenBound => "daemonize",
        Background::WhenReady => "daemonize2",
    }
}
