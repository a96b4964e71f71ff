//! Signals of the master, which reads them from a descriptor, and of the zygote, which leaves them to the master.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, SigmaskHow, sigaction, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};

pub use nix::sys::signal::Signal;

/// Blocked signals, read one by one.
pub struct Blocked {
    fd: SignalFd,
}

impl Blocked {
    /// Blocks `signals` in this thread and makes them readable.
    ///
    /// # Errors
    /// The system's.
    pub fn new(signals: &[Signal]) -> io::Result<Blocked> {
        let mut set = SigSet::empty();
        for signal in signals {
            set.add(*signal);
        }
        // A handled signal would be lost to the handler of somebody who had this process before us.
        for signal in signals {
            set_handler(*signal, SigHandler::SigDfl)?;
        }
        sigprocmask(SigmaskHow::SIG_BLOCK, Some(&set), None)?;
        Ok(Blocked { fd: SignalFd::with_flags(&set, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)? })
    }

    /// The next signal and the process that sent it (0: the kernel, as for Ctrl-C); none when there is none.
    pub fn next(&self) -> Option<(Signal, i32)> {
        let info = self.fd.read_signal().ok().flatten()?;
        let signal = Signal::try_from(info.ssi_signo as i32).ok()?;
        Some((signal, info.ssi_pid as i32))
    }
}

impl AsFd for Blocked {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Unblocks every signal.
///
/// # Errors
/// The system's.
pub fn unblock_all() -> io::Result<()> {
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)?;
    Ok(())
}

/// The signals this thread has blocked now.
///
/// # Errors
/// The system's.
pub fn mask() -> io::Result<SigSet> {
    Ok(SigSet::thread_get_mask()?)
}

/// Puts back what [`mask`] gave.
///
/// # Errors
/// The system's.
pub fn set_mask(mask: &SigSet) -> io::Result<()> {
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(mask), None)?;
    Ok(())
}

fn set_handler(signal: Signal, handler: SigHandler) -> io::Result<()> {
    let action = SigAction::new(handler, SaFlags::SA_RESTART, SigSet::empty());
    // SAFETY: the handlers of this file only write to a descriptor or do nothing.
    unsafe { sigaction(signal, &action) }?;
    Ok(())
}

/// Default action for `signals`.
///
/// # Errors
/// The system's.
pub fn set_default(signals: &[Signal]) -> io::Result<()> {
    signals.iter().try_for_each(|signal| set_handler(*signal, SigHandler::SigDfl))
}

/// Nothing happens on `signals`. A handler that does nothing, and not "ignore": what is ignored stays so in
/// programs that the application starts.
///
/// # Errors
/// The system's.
pub fn set_no_effect(signals: &[Signal]) -> io::Result<()> {
    extern "C" fn nothing(_: libc::c_int) {}
    signals.iter().try_for_each(|signal| set_handler(*signal, SigHandler::Handler(nothing)))
}

/// The process ends at once on `signals`, without a core dump.
///
/// # Errors
/// The system's.
pub fn set_end(signals: &[Signal]) -> io::Result<()> {
    extern "C" fn end(_: libc::c_int) {
        // SAFETY: `_exit` may be called in any state.
        unsafe { libc::_exit(0) }
    }
    signals.iter().try_for_each(|signal| set_handler(*signal, SigHandler::Handler(end)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blocked_signal_is_read_with_its_sender() {
        let before = mask().unwrap();
        let blocked = Blocked::new(&[Signal::SIGURG]).unwrap();
        assert!(blocked.next().is_none());
        // SAFETY: a signal to this very thread.
        unsafe { libc::pthread_kill(libc::pthread_self(), libc::SIGURG) };
        let (signal, sender) = blocked.next().unwrap();
        assert_eq!((signal, sender), (Signal::SIGURG, std::process::id() as i32));
        set_mask(&before).unwrap();
    }
}
