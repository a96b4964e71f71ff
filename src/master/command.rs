//! What a signal to the master, or a letter in its fifo, means.

use crate::config::hooks::{Deed, Function, Hook};
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
    /// The same, and replace one worker after the other.
    ChainReload,
    /// Run the program's file anew in this process, and reload.
    Upgrade,
    /// Replace the workers.
    ReloadWorkers,
    /// Write the state of the server to the log.
    Status,
    /// One worker more.
    More,
    /// One worker less.
    Less,
    /// All workers go until somebody connects.
    GoCheap,
    /// Write the pid file again.
    WritePidfile,
    /// Listen to another fifo.
    Choose(usize),
    /// A child ended.
    Reap,
    /// Nothing is bound to it; why, for the log.
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

const NO_PAUSE: &str = "pausing is not supported yet";

/// The meaning of `signal`; none for those that come without anybody wanting something.
pub fn meaning(signal: Signal) -> Option<Command> {
    Some(match signal {
        // uWSGI 2.0 reloads on TERM unless `die-on-term`: its most reported trap, so not here.
        Signal::SIGTERM | Signal::SIGINT => Command::Stop,
        Signal::SIGQUIT => Command::End,
        Signal::SIGHUP => Command::Reload,
        Signal::SIGUSR1 => Command::Status,
        Signal::SIGCHLD => Command::Reap,
        Signal::SIGUSR2 => Command::Upgrade,
        Signal::SIGTSTP => Command::Nothing(NO_PAUSE),
        Signal::SIGALRM => Command::Nothing("nothing is bound to it"),
        // The window, the terminal and sockets send these by themselves.
        _ => return None,
    })
}

/// What the configuration wants `signal` to mean (`hook-master-start = unix_signal:...`); the last one counts.
pub fn chosen(hooks: &[Hook], signal: Signal) -> Option<Command> {
    let mut found = hooks.iter().rev().filter_map(|hook| match hook.deed {
        Deed::Signal(number, function) if number == signal as i32 => Some(function),
        _ => None,
    });
    Some(match found.next()? {
        Function::Stop => Command::Stop,
        Function::End => Command::End,
        Function::Reload => Command::Reload,
    })
}

/// The meaning of a letter in the fifo; none for white space, which `echo` adds.
pub fn letter(byte: u8) -> Option<Command> {
    Some(match byte {
        byte if byte.is_ascii_whitespace() => return None,
        b'0'..=b'9' => Command::Choose(usize::from(byte - b'0')),
        b'q' => Command::Stop,
        b'Q' => Command::End,
        // uWSGI's capitals do not wait for requests; a reload here loses none.
        b'r' | b'R' => Command::Reload,
        b'w' | b'W' => Command::ReloadWorkers,
        b'c' => Command::ChainReload,
        b'U' => Command::Upgrade,
        b's' => Command::Status,
        b'+' => Command::More,
        b'-' => Command::Less,
        b'C' => Command::GoCheap,
        b'P' => Command::WritePidfile,
        b'p' => Command::Nothing(NO_PAUSE),
        b'l' | b'L' => Command::Nothing("the log cannot be reopened yet"),
        b'f' => Command::Nothing("rsgi does not fork a second master; reload with r, upgrade with U"),
        b'B' | b'E' => Command::Nothing("there is no emperor"),
        b'S' => Command::Nothing("there are no subscriptions"),
        _ => Command::Nothing("no command has this letter"),
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

    #[test]
    fn the_configuration_chooses_what_a_signal_means() {
        let hook = |number, function| Hook {
            phase: crate::config::hooks::Phase::MasterStart,
            deed: Deed::Signal(number, function),
            shown: String::new(),
        };
        let hooks = [hook(1, Function::Reload), hook(10, Function::Reload), hook(10, Function::End)];
        assert_eq!(chosen(&hooks, Signal::SIGUSR1), Some(Command::End));
        assert_eq!(chosen(&hooks, Signal::SIGTERM), None);
    }

    #[test]
    fn letters_are_those_of_uwsgi() {
        assert_eq!(letter(b'r'), Some(Command::Reload));
        assert_eq!(letter(b'c'), Some(Command::ChainReload));
        assert_eq!(letter(b'7'), Some(Command::Choose(7)));
        assert_eq!(letter(b'\n'), None);
        assert_eq!(letter(b'z'), Some(Command::Nothing("no command has this letter")));
    }
}
