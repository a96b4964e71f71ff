//! The signals of a worker. They are plain handlers and not a signalfd: the application's own handlers
//! and children must not find signals blocked. Nothing is set to "ignore", since that would be inherited
//! by programs the application starts.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicI32, Ordering};

use nix::errno::Errno;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use nix::unistd::pipe2;

use super::signal;

static PIPE: AtomicI32 = AtomicI32::new(-1);

extern "C" fn ask_to_retire(_signal: i32) {
    let errno = Errno::last_raw();
    let byte = [0u8];
    let fd: RawFd = PIPE.load(Ordering::Relaxed);
    // SAFETY: write(2) is async-signal-safe and the buffer lives on this stack; a full pipe is as good as one byte.
    unsafe { libc::write(fd, byte.as_ptr().cast(), 1) };
    Errno::set_raw(errno);
}

/// The signal at which faulthandler reports: one that neither the system nor, as far as can be told, anybody else sends.
pub fn report_signal() -> i32 {
    libc::SIGRTMAX() - 3
}

/// A file without a name for what faulthandler reports.
///
/// # Errors
/// The system's.
pub fn report_file() -> io::Result<OwnedFd> {
    use nix::sys::memfd::{MFdFlags, memfd_create};
    Ok(memfd_create(c"rsgi-stacks", MFdFlags::MFD_CLOEXEC)?)
}

/// Sends the signal to this thread. When this returns its handler has run.
///
/// # Errors
/// The system's.
pub fn raise_report() -> io::Result<()> {
    let signal = report_signal();
    // SAFETY: the set lives on this stack and is filled by the calls that are meant for it. A handler for the signal was
    // installed by faulthandler; raise(3) returns when it has run, since the signal is not blocked in this thread.
    let failed = unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::sigaddset(&mut set, signal);
        libc::pthread_sigmask(libc::SIG_UNBLOCK, &set, std::ptr::null_mut()) != 0 || libc::raise(signal) != 0
    };
    if failed { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Installs the handlers of a worker: TERM and HUP write to the returned pipe, INT does nothing (it belongs to
/// the master), QUIT ends the process at once. Called after the application is imported and the process is
/// forked, so that they replace what the application may have set at import, as in uWSGI.
///
/// # Errors
/// Those of pipe2(2) and sigaction(2).
pub fn install() -> io::Result<OwnedFd> {
    let (read, write) = pipe2(nix::fcntl::OFlag::O_CLOEXEC | nix::fcntl::OFlag::O_NONBLOCK)?;
    PIPE.store(write.as_raw_fd(), Ordering::SeqCst);
    // The writing end lives as long as the process: a handler can run at any time.
    std::mem::forget(write);
    let action = SigAction::new(SigHandler::Handler(ask_to_retire), SaFlags::SA_RESTART, SigSet::empty());
    for signal in [Signal::SIGTERM, Signal::SIGHUP] {
        // SAFETY: the handler above calls async-signal-safe functions only.
        unsafe { sigaction(signal, &action)? };
    }
    signal::set_no_effect(&[Signal::SIGINT])?;
    signal::set_end(&[Signal::SIGQUIT])?;
    let mut ours = SigSet::empty();
    for signal in [Signal::SIGTERM, Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT] {
        ours.add(signal);
    }
    ours.thread_unblock()?;
    Ok(read)
}
