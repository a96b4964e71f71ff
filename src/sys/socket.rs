//! recv(2) and send(2) without the C library's cancellation points.
//!
//! In a process with threads glibc brackets each of the two with atomic operations, so that a thread could be cancelled
//! in the middle. Nobody cancels threads here, and a request has one of each.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, RawFd};

/// Reads what is there; `Ok(0)` is the end of the stream.
///
/// # Errors
/// `WouldBlock` when nothing is there on a non-blocking socket; else those of recv(2).
#[inline]
pub fn receive(fd: RawFd, buffer: &mut [u8]) -> io::Result<usize> {
    let none = std::ptr::null_mut::<libc::c_void>();
    // SAFETY: pointer and length are those of a live slice that the kernel writes to; no address is asked for.
    let got = unsafe { libc::syscall(libc::SYS_recvfrom, fd, buffer.as_mut_ptr(), buffer.len(), 0, none, none) };
    result(got)
}

/// Writes as much as the socket takes, without SIGPIPE.
///
/// # Errors
/// `WouldBlock` when the socket is full; else those of send(2).
#[inline]
pub fn send(fd: RawFd, bytes: &[u8]) -> io::Result<usize> {
    let (none, flags) = (std::ptr::null::<libc::c_void>(), libc::MSG_NOSIGNAL);
    // SAFETY: pointer and length are those of a live slice that the kernel reads; no address is given.
    let sent = unsafe { libc::syscall(libc::SYS_sendto, fd, bytes.as_ptr(), bytes.len(), flags, none, 0) };
    result(sent)
}

/// Process and user at the other end of a unix socket, as of when it was connected.
///
/// # Errors
/// The system's; for other sockets.
pub fn peer(socket: &impl AsFd) -> io::Result<(i32, u32)> {
    let found = nix::sys::socket::getsockopt(socket, nix::sys::socket::sockopt::PeerCredentials)?;
    Ok((found.pid(), found.uid()))
}

/// Takes a TCP connection down with a reset, without closing the descriptor. Unix sockets know no reset.
pub fn disconnect(fd: RawFd) {
    let nobody = libc::sockaddr { sa_family: libc::AF_UNSPEC as libc::sa_family_t, sa_data: [0; 14] };
    // SAFETY: the address is a live value of the length given; on a bad descriptor connect(2) fails.
    unsafe { libc::connect(fd, &nobody, size_of::<libc::sockaddr>() as libc::socklen_t) };
}

#[inline]
fn result(value: libc::c_long) -> io::Result<usize> {
    usize::try_from(value).map_err(|_| io::Error::last_os_error())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::ErrorKind;
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixStream;

    #[test]
    fn bytes_go_through_and_errors_are_told() {
        let (here, there) = UnixStream::pair().unwrap();
        here.set_nonblocking(true).unwrap();
        let mut buffer = [0; 8];
        assert_eq!(receive(here.as_raw_fd(), &mut buffer).unwrap_err().kind(), ErrorKind::WouldBlock);
        assert_eq!(send(there.as_raw_fd(), b"hello").unwrap(), 5);
        assert_eq!(receive(here.as_raw_fd(), &mut buffer).unwrap(), 5);
        assert_eq!(&buffer[..5], b"hello");
        drop(there);
        assert_eq!(receive(here.as_raw_fd(), &mut buffer).unwrap(), 0);
        assert_eq!(send(here.as_raw_fd(), b"x").unwrap_err().kind(), ErrorKind::BrokenPipe);
    }
}
