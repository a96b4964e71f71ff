//! What a signal to the master means.

use crate::sys::signal::Signal;

/// What the operator wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Answer what is in flight, then exit.
    Stop,
    /// Exit at once.
    End,
    /// Read the configuration and import the application again.
    Reload,
    /// Write the state of the server to the log.
    Status,
    /// A child ended.
    Reap,
    /// Nothing is bound to the signal; why, for the log.
    Nothing(&'static str),
}

/// Every signal that a `kill` could be meant for. The others keep what they have: faults their default, and SIGPIPE is ignored
/// since Rust or Python started, for the children as well.
pub const SIGNALS: &[Signal] = &[
    Signal::SIGTERM,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGHUP,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGTSTP,
    Signal::SIGTTIN,
    Signal::SIGTTOU,
    Signal::SIGWINCH,
    Signal::SIGURG,
    Signal::SIGALRM,
    Signal::SIGCHLD,
];

/// The meaning of `signal`; none for those that come without anybody wanting something.
pub fn meaning(signal: Signal) -> Option<Command> {
    Some(match signal {
        // uWSGI 2.0 reloads on TERM unless `die-on-term`: its most reported trap, so not here.
        Signal::SIGTERM | Signal::SIGINT => Command::Stop,
        Signal::SIGQUIT => Command::End,
        Signal::SIGHUP => Command::Reload,
        Signal::SIGUSR1 => Command::Status,
        Signal::SIGCHLD => Command::Reap,
        Signal::SIGUSR2 => Command::Nothing("it is reserved for upgrades"),
        Signal::SIGTSTP => Command::Nothing("pausing is not supported yet"),
        Signal::SIGALRM => Command::Nothing("nothing is bound to it"),
        // The window, the terminal and sockets send these by themselves.
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_signal_that_means_something_is_left_to_its_default() {
        for signal in Signal::iterator() {
            assert!(meaning(signal).is_none() || SIGNALS.contains(&signal), "{signal}");
        }
    }

    #[test]
    fn term_stops() {
        assert_eq!(meaning(Signal::SIGTERM), Some(Command::Stop));
        assert_eq!(meaning(Signal::SIGTSTP), Some(Command::Nothing("pausing is not supported yet")));
    }
}
