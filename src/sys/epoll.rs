//! Listening sockets in an epoll instance that mio owns: level-triggered and exclusive, which mio does not
//! offer. The kernel then wakes one worker for a new connection, not all of them.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::RawFd;

fn control(epoll: RawFd, operation: i32, fd: RawFd, event: *mut libc::epoll_event) -> io::Result<()> {
    // SAFETY: `event` is null (EPOLL_CTL_DEL ignores it since Linux 2.6.9) or points to a live value of the caller; the
    // descriptors are plain numbers that the kernel checks.
    match unsafe { libc::epoll_ctl(epoll, operation, fd, event) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Watches the listening socket `fd`; its events carry `token`.
///
/// # Errors
/// Those of epoll_ctl(2).
pub fn watch_listener(epoll: RawFd, fd: RawFd, token: usize) -> io::Result<()> {
    let events = (libc::EPOLLIN | libc::EPOLLEXCLUSIVE) as u32;
    let mut event = libc::epoll_event { events, u64: token as u64 };
    control(epoll, libc::EPOLL_CTL_ADD, fd, &mut event)
}

/// Stops watching `fd`.
///
/// # Errors
/// Those of epoll_ctl(2).
pub fn forget(epoll: RawFd, fd: RawFd) -> io::Result<()> {
    control(epoll, libc::EPOLL_CTL_DEL, fd, std::ptr::null_mut())
}
