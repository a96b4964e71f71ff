//! recv(2) and send(2) without the C library's cancellation points, and settings of listening sockets.
//!
//! In a process with threads glibc brackets each of the two with atomic operations, so that a thread could be cancelled
//! in the middle. Nobody cancels threads here, and a request has one of each.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

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
    send_with(fd, bytes, libc::MSG_NOSIGNAL)
}

/// As [`send`], saying that more will follow at once: a packet that is not full waits for it.
///
/// # Errors
/// Those of [`send`].
#[inline]
pub fn send_more(fd: RawFd, bytes: &[u8]) -> io::Result<usize> {
    send_with(fd, bytes, libc::MSG_NOSIGNAL | libc::MSG_MORE)
}

#[inline]
fn send_with(fd: RawFd, bytes: &[u8], flags: libc::c_int) -> io::Result<usize> {
    let none = std::ptr::null::<libc::c_void>();
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

fn set(fd: BorrowedFd<'_>, level: i32, name: i32, value: *const libc::c_void, len: usize) -> io::Result<()> {
    // SAFETY: every caller passes the address and length of a live value; the kernel copies it.
    match unsafe { libc::setsockopt(fd.as_raw_fd(), level, name, value, len as libc::socklen_t) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// A connection of this listening TCP socket is only shown when its first bytes are there, or after `seconds` without
/// any (0: at once). TCP_DEFER_ACCEPT, tcp(7).
///
/// # Errors
/// Those of setsockopt(2).
pub fn defer_accept(fd: BorrowedFd<'_>, seconds: u8) -> io::Result<()> {
    let seconds = libc::c_int::from(seconds);
    set(fd, libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT, (&raw const seconds).cast(), size_of_val(&seconds))
}

/// Makes a listening TCP socket, in whichever processes it is open, overlook who begins to connect: their kernels try again
/// after a second and find who listens then. Connections under way are not touched.
///
/// # Errors
/// Those of setsockopt(2).
pub fn turn_newcomers_away(fd: BorrowedFd<'_>) -> io::Result<()> {
    // The flags of a TCP header (RFC 9293 section 3.1) are its byte 13: drop what has SYN (2) without ACK (16).
    let load = libc::sock_filter { code: (libc::BPF_LD | libc::BPF_B | libc::BPF_ABS) as u16, jt: 0, jf: 0, k: 13 };
    let mask = libc::sock_filter { code: (libc::BPF_ALU | libc::BPF_AND | libc::BPF_K) as u16, jt: 0, jf: 0, k: 0x12 };
    let is_new = libc::sock_filter { code: (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16, jt: 0, jf: 1, k: 2 };
    let verdict = |keep: u32| libc::sock_filter { code: (libc::BPF_RET | libc::BPF_K) as u16, jt: 0, jf: 0, k: keep };
    let mut program = [load, mask, is_new, verdict(0), verdict(u32::MAX)];
    let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    set(fd, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, (&raw const filter).cast(), size_of_val(&filter))
}

/// Whether somebody is connected to a TCP port whom no listener was shown yet (state SYN_RECV). False where the system does
/// not tell.
///
/// It is asked by sock_diag(7): the table in /proc takes seconds where there are many connections.
pub fn somebody_connects_to(port: u16) -> bool {
    [libc::AF_INET, libc::AF_INET6].iter().any(|family| half_open(*family as u8, port).unwrap_or(false))
}

/// A request of sock_diag(7): all TCP sockets of a family in some states, and with this local port.
#[repr(C)]
struct Question {
    head: libc::nlmsghdr,
    family: u8,
    protocol: u8,
    extensions: u8,
    padding: u8,
    states: u32,
    /// Big endian, and the remote one.
    ports: [u16; 2],
    /// Addresses, interface, cookie: nothing is asked of them.
    rest: [u32; 11],
}

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SYN_RECV: u32 = 3;

fn half_open(family: u8, port: u16) -> io::Result<bool> {
    // SAFETY: makes a descriptor, or fails.
    let fd = unsafe { libc::socket(libc::AF_NETLINK, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, libc::NETLINK_SOCK_DIAG) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: open, and nobody else's.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    let question = Question {
        head: libc::nlmsghdr {
            nlmsg_len: size_of::<Question>() as u32,
            nlmsg_type: SOCK_DIAG_BY_FAMILY,
            nlmsg_flags: (libc::NLM_F_REQUEST | libc::NLM_F_DUMP) as u16,
            nlmsg_seq: 1,
            nlmsg_pid: 0,
        },
        family,
        protocol: libc::IPPROTO_TCP as u8,
        extensions: 0,
        padding: 0,
        states: 1 << SYN_RECV,
        ports: [port.to_be(), 0],
        rest: [0; 11],
    };
    // SAFETY: the value lives, has no padding of the compiler's, and the kernel reads it only.
    let sent = unsafe { libc::send(fd.as_raw_fd(), (&raw const question).cast(), size_of::<Question>(), 0) };
    if sent < 0 {
        return Err(io::Error::last_os_error());
    }
    let mut buffer = [0; 16 * 1024];
    loop {
        let count = receive(fd.as_raw_fd(), &mut buffer)?;
        match answers(&buffer[..count], port) {
            Answer::Yes => return Ok(true),
            Answer::No => return Ok(false),
            Answer::More => {}
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Answer {
    Yes,
    No,
    More,
}

/// Reads a piece of what sock_diag answers.
fn answers(mut bytes: &[u8], port: u16) -> Answer {
    /// The header, and of the body family, state, timer, retransmissions.
    const BEFORE_PORT: usize = size_of::<libc::nlmsghdr>() + 4;
    if bytes.is_empty() {
        return Answer::No;
    }
    while let Some(&[a, b, c, d, e, f]) = bytes.first_chunk::<6>() {
        let (len, kind) = (u32::from_ne_bytes([a, b, c, d]) as usize, u16::from_ne_bytes([e, f]));
        match kind {
            SOCK_DIAG_BY_FAMILY => {
                // Not every kernel looks at the port it was given.
                let found = bytes.get(BEFORE_PORT..BEFORE_PORT + 2);
                if found == Some(&port.to_be_bytes()[..]) {
                    return Answer::Yes;
                }
            }
            // The end, or an error.
            _ => return Answer::No,
        }
        bytes = bytes.get(len.next_multiple_of(4).max(16)..).unwrap_or_default();
    }
    Answer::More
}

#[inline]
fn result(value: libc::c_long) -> io::Result<usize> {
    usize::try_from(value).map_err(|_| io::Error::last_os_error())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::ErrorKind;
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsFd;
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

    #[test]
    fn who_is_connected_stays_and_who_comes_is_turned_away() {
        use std::io::{Read, Write};
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let mut early = TcpStream::connect(address).unwrap();
        turn_newcomers_away(listener.as_fd()).unwrap();
        let late = TcpStream::connect_timeout(&address, std::time::Duration::from_millis(200));
        assert_eq!(late.unwrap_err().kind(), ErrorKind::TimedOut);
        early.write_all(b"still here").unwrap();
        drop(early.shutdown(std::net::Shutdown::Write));
        let mut text = String::new();
        listener.accept().unwrap().0.read_to_string(&mut text).unwrap();
        assert_eq!(text, "still here");
    }

    #[test]
    fn a_deferred_connection_is_shown_with_its_first_bytes() {
        use std::io::Write;
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        // Longer than the test can take.
        defer_accept(listener.as_fd(), 120).unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        assert_eq!(listener.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
        assert!(somebody_connects_to(listener.local_addr().unwrap().port()));
        client.write_all(b"x").unwrap();
        listener.set_nonblocking(false).unwrap();
        listener.accept().unwrap();
        assert!(!somebody_connects_to(listener.local_addr().unwrap().port()));
    }
}
