//! accept4(2) with the address: a connection that is non-blocking and close-on-exec from birth, for one
//! system call.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use socket2::SockAddr;

/// As [`accept`], for whoever does not ask who it is (over a unix socket nobody has a name).
///
/// # Errors
/// As there.
pub fn accept_unnamed(listener: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let (flags, none) = (libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC, std::ptr::null_mut());
    // SAFETY: no address is asked for, and the descriptor that comes back is owned by nobody else.
    unsafe {
        let fd = libc::accept4(listener.as_raw_fd(), none, none.cast(), flags);
        if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(OwnedFd::from_raw_fd(fd)) }
    }
}

/// Accepts one connection; the socket is non-blocking and close-on-exec.
///
/// # Errors
/// `WouldBlock` when nobody waits; else those of accept4(2), EMFILE among them.
pub fn accept(listener: BorrowedFd<'_>) -> io::Result<(OwnedFd, SockAddr)> {
    // SAFETY: the closure gives accept4 the storage and the length that `try_init` made for each other, and
    // the descriptor that comes back is owned by nobody else.
    let (fd, address) = unsafe {
        SockAddr::try_init(|storage, len| {
            let flags = libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
            let fd = libc::accept4(listener.as_raw_fd(), storage.cast(), len, flags);
            if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(OwnedFd::from_raw_fd(fd)) }
        })?
    };
    Ok((fd, address))
}
