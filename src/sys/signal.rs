//! Signals: blocked and read from a descriptor in the master, written to a pipe in the workers.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicI32, Ordering};

use nix::fcntl::OFlag;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, SigmaskHow, sigaction, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::pipe2;

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

/// Ignores `signals`, SIGPIPE above all: a client that is gone is an error of `write`, not our end.
///
/// # Errors
/// The system's.
pub fn ignore(signals: &[Signal]) -> io::Result<()> {
    signals.iter().try_for_each(|signal| set_handler(*signal, SigHandler::SigIgn))
}

/// Writing end of the one [`Pipe`] of this process.
static WRITER: AtomicI32 = AtomicI32::new(-1);

extern "C" fn note(signal: libc::c_int) {
    let byte = signal as u8;
    // SAFETY: errno is this thread's; write is async-signal-safe and `byte` outlives it. A full pipe loses nothing: the
    // reader has not yet seen the earlier ones.
    unsafe {
        let errno = libc::__errno_location();
        let saved = *errno;
        libc::write(WRITER.load(Ordering::Relaxed), (&raw const byte).cast(), 1);
        *errno = saved;
    }
}

/// Signals as bytes of a pipe, to be watched together with sockets. One in a process; made after the fork,
/// as the end that handlers write to would else be shared with the parent.
pub struct Pipe {
    reader: OwnedFd,
    writer: OwnedFd,
    signals: Vec<Signal>,
}

impl Pipe {
    /// From now on `signals` are bytes of this pipe, whatever handled them before.
    ///
    /// # Errors
    /// The system's.
    pub fn new(signals: &[Signal]) -> io::Result<Pipe> {
        let (reader, writer) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
        WRITER.store(writer.as_raw_fd(), Ordering::Relaxed);
        for signal in signals {
            set_handler(*signal, SigHandler::Handler(note))?;
        }
        Ok(Pipe { reader, writer, signals: signals.to_vec() })
    }

    /// The next signal; none when all were read.
    pub fn next(&self) -> Option<Signal> {
        let mut byte = [0];
        match nix::unistd::read(&self.reader, &mut byte) {
            Ok(1) => Signal::try_from(i32::from(byte[0])).ok(),
            _ => None,
        }
    }
}

impl AsFd for Pipe {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.reader.as_fd()
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        // Only while the handlers are ours and the pipe is the latest.
        if WRITER.compare_exchange(self.writer.as_raw_fd(), -1, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            let _ = set_no_effect(&self.signals);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_arrives_in_the_pipe() {
        let pipe = Pipe::new(&[Signal::SIGWINCH]).unwrap();
        assert_eq!(pipe.next(), None);
        nix::sys::signal::raise(Signal::SIGWINCH).unwrap();
        assert_eq!(pipe.next(), Some(Signal::SIGWINCH));
        assert_eq!(pipe.next(), None);
    }

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
