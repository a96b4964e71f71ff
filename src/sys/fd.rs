//! Descriptors: taking over inherited ones, passing them between processes, limits on their number.
#![allow(unsafe_code)]

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::OnceLock;
use std::time::Duration;

use nix::cmsg_space;
use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg, sendmsg, socketpair,
};

/// Whether descriptor `number` is open.
pub fn is_open(number: RawFd) -> bool {
    // SAFETY: fcntl with F_GETFD only looks the number up.
    unsafe { libc::fcntl(number, libc::F_GETFD) >= 0 }
}

/// Bytes written to a connected socket that the other side has not acknowledged (TCP) or read (unix); 0 when that is not known.
pub fn undelivered(socket: BorrowedFd<'_>) -> u64 {
    let mut count: libc::c_int = 0;
    // SAFETY: the descriptor is open while it is borrowed, and SIOCOUTQ (TIOCOUTQ) writes one int.
    let done = unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut count) };
    if done == 0 { u64::try_from(count).unwrap_or(0) } else { 0 }
}

/// Takes over a descriptor that this process was started with; close-on-exec from now on. Each number can be
/// taken once, and the caller vouches that nothing of this process opened it.
///
/// # Errors
/// `EBADF` when it isn't open.
pub fn adopt(number: RawFd) -> io::Result<OwnedFd> {
    if !is_open(number) {
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    }
    // SAFETY: open, and inherited: no other owner exists in this process.
    let fd = unsafe { OwnedFd::from_raw_fd(number) };
    set_close_on_exec(&fd, true)?;
    Ok(fd)
}

/// Sets or clears close-on-exec.
///
/// # Errors
/// The system's.
pub fn set_close_on_exec(fd: impl AsFd, on: bool) -> io::Result<()> {
    let flags = if on { FdFlag::FD_CLOEXEC } else { FdFlag::empty() };
    fcntl(fd, FcntlArg::F_SETFD(flags))?;
    Ok(())
}

/// Makes reading from and writing to this open description never wait, or wait.
///
/// # Errors
/// The system's.
pub fn set_nonblocking(fd: impl AsFd, on: bool) -> io::Result<()> {
    let before = OFlag::from_bits_retain(fcntl(&fd, FcntlArg::F_GETFL)?);
    let mut flags = before;
    flags.set(OFlag::O_NONBLOCK, on);
    if flags != before {
        fcntl(&fd, FcntlArg::F_SETFL(flags))?;
    }
    Ok(())
}

/// Sets or clears close-on-exec of an open descriptor.
///
/// # Errors
/// The system's.
pub fn set_close_on_exec_of(number: RawFd, on: bool) -> io::Result<()> {
    let flags = if on { libc::FD_CLOEXEC } else { 0 };
    // SAFETY: F_SETFD changes a flag of the number alone.
    match unsafe { libc::fcntl(number, libc::F_SETFD, flags) } {
        0.. => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// A pair of connected sockets that keep the bounds of each message; close-on-exec, blocking.
///
/// # Errors
/// The system's.
pub fn message_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?)
}

/// Descriptors that one message can carry.
pub const MOST: usize = 4;

/// Sends one message, with a descriptor if there is one. Without waiting: `WouldBlock` when the other side
/// does not read.
///
/// # Errors
/// The system's; `BrokenPipe` when the other side is gone.
pub fn send(socket: impl AsFd, bytes: &[u8], descriptor: Option<BorrowedFd<'_>>) -> io::Result<()> {
    send_all(socket, bytes, descriptor.as_slice())
}

/// As [`send`], with up to [`MOST`] descriptors.
///
/// # Errors
/// As [`send`].
pub fn send_all(socket: impl AsFd, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let raw: Vec<RawFd> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
    let control: &[ControlMessage<'_>] = if raw.is_empty() { &[] } else { &[ControlMessage::ScmRights(&raw)] };
    let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
    sendmsg::<()>(socket.as_fd().as_raw_fd(), &[IoSlice::new(bytes)], control, flags, None)?;
    Ok(())
}

/// What a message socket had to say.
#[derive(Debug)]
pub enum Received {
    /// A message of so many bytes, and the descriptor that came with it.
    Message(usize, Option<OwnedFd>),
    /// The other side is gone.
    End,
}

/// Receives one message. An interrupted call is repeated; on a non-blocking socket or with `wait` false,
/// `WouldBlock` means that there is none.
///
/// # Errors
/// The system's.
pub fn receive(socket: impl AsFd, buffer: &mut [u8], wait: bool) -> io::Result<Received> {
    let mut descriptors = Vec::new();
    Ok(match receive_all(socket, buffer, wait, &mut descriptors)? {
        0 if descriptors.is_empty() => Received::End,
        bytes => Received::Message(bytes, descriptors.into_iter().next()),
    })
}

/// As [`receive`], with all descriptors of the message; gives its length. 0 without a descriptor: the other side is gone.
///
/// # Errors
/// As [`receive`].
pub fn receive_all(
    socket: impl AsFd,
    buffer: &mut [u8],
    wait: bool,
    descriptors: &mut Vec<OwnedFd>,
) -> io::Result<usize> {
    let mut space = cmsg_space!([RawFd; MOST]);
    let mut flags = MsgFlags::MSG_CMSG_CLOEXEC;
    if !wait {
        flags |= MsgFlags::MSG_DONTWAIT;
    }
    loop {
        let mut parts = [IoSliceMut::new(buffer)];
        let message = match recvmsg::<()>(socket.as_fd().as_raw_fd(), &mut parts, Some(&mut space), flags) {
            Ok(message) => message,
            Err(nix::Error::EINTR) => continue,
            // Unread messages of ours died with the other side.
            Err(nix::Error::ECONNRESET) => return Ok(0),
            Err(error) => return Err(error.into()),
        };
        for control in message.cmsgs()? {
            if let ControlMessageOwned::ScmRights(numbers) = control {
                for number in numbers {
                    // SAFETY: the kernel just made this descriptor for us.
                    descriptors.push(unsafe { OwnedFd::from_raw_fd(number) });
                }
            }
        }
        return Ok(message.bytes);
    }
}

/// Waits until one of `fds` can be read or is closed on the other side, or `limit` is over; which ones. A
/// signal ends the wait early.
///
/// # Errors
/// The system's.
pub fn wait_readable(fds: &[BorrowedFd<'_>], limit: Option<Duration>) -> io::Result<Vec<bool>> {
    let mut polled: Vec<PollFd<'_>> = fds.iter().map(|fd| PollFd::new(*fd, PollFlags::POLLIN)).collect();
    // Rounded up: one that wakes too early finds nothing due and would spin.
    let timeout = limit.map_or(PollTimeout::NONE, |limit| {
        PollTimeout::try_from(limit.as_micros().div_ceil(1000)).unwrap_or(PollTimeout::MAX)
    });
    match poll(&mut polled, timeout) {
        Ok(_) => Ok(polled.iter().map(|fd| fd.any().unwrap_or(true)).collect()),
        Err(nix::Error::EINTR) => Ok(vec![false; fds.len()]),
        Err(error) => Err(error.into()),
    }
}

/// A pipe, close-on-exec: reading and writing end.
///
/// # Errors
/// The system's.
pub fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(nix::unistd::pipe2(OFlag::O_CLOEXEC)?)
}

/// Connections to a TCP listener that wait to be accepted, and how many may.
///
/// # Errors
/// The system's; for other sockets.
pub fn listen_queue(listener: impl AsFd) -> io::Result<(u64, u64)> {
    // SAFETY: plain numbers, for which zero is a value.
    let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
    let mut len = size_of::<libc::tcp_info>() as libc::socklen_t;
    let place = (&raw mut info).cast();
    let fd = listener.as_fd().as_raw_fd();
    // SAFETY: `place` has room for `len` bytes; the kernel writes no more.
    if unsafe { libc::getsockopt(fd, libc::IPPROTO_TCP, libc::TCP_INFO, place, &mut len) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // In a listener these fields hold the length of its queue, and the limit of it.
    Ok((u64::from(info.tcpi_unacked), u64::from(info.tcpi_sacked)))
}

/// Makes a named pipe for its owner alone and opens it for reading, without waiting. Open for writing too: it never
/// comes to its end when a writer goes.
///
/// # Errors
/// The system's.
pub fn make_fifo(path: &std::path::Path) -> io::Result<OwnedFd> {
    use std::os::unix::fs::OpenOptionsExt;
    nix::unistd::mkfifo(path, nix::sys::stat::Mode::S_IRUSR | nix::sys::stat::Mode::S_IWUSR)?;
    let file = std::fs::OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    Ok(file.into())
}

/// The limit of open descriptors that this process was started with and the one it has now, soft and hard each.
static LIMITS: OnceLock<((u64, u64), (u64, u64))> = OnceLock::new();

/// Descriptors left free of the original limit before it is taken back for a moment.
const SPARE: u64 = 64;

/// Raises the soft limit of open descriptors to the hard one; the new one. The original is remembered.
///
/// # Errors
/// The system's.
pub fn raise_limit() -> io::Result<u64> {
    let original = getrlimit(Resource::RLIMIT_NOFILE)?;
    let (soft, hard) = original;
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
        let _ = LIMITS.set((original, (hard, hard)));
    }
    Ok(hard)
}

/// The original limit, if [`raise_limit`] changed it: soft and hard.
pub fn original_limit() -> Option<(u64, u64)> {
    LIMITS.get().map(|(original, _)| *original)
}

/// What the program before in this process had raised, and from what.
pub fn remember_limit(original: (u64, u64)) {
    let _ = LIMITS.set((original, (original.1, original.1)));
}

/// Sets the limit of open descriptors for good, also for what is started later; the hard one is raised when it must be.
///
/// # Errors
/// The system's: raising the hard limit needs privileges.
pub fn set_limit(wanted: u64) -> io::Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    Ok(setrlimit(Resource::RLIMIT_NOFILE, wanted, hard.max(wanted))?)
}

/// Whether [`raise_limit`] changed anything.
pub fn is_limit_raised() -> bool {
    LIMITS.get().is_some()
}

/// Runs `f` while this process has its original limit, which what `f` starts inherits; true if so. Not done when so
/// many descriptors are open that other threads could fail to open one meanwhile.
pub fn with_original_limit<R>(f: impl FnOnce() -> R) -> (R, bool) {
    let Some(((soft, _), raised)) = LIMITS.get() else { return (f(), true) };
    // A new descriptor has the lowest free number.
    let free = std::fs::File::open("/dev/null").map_or(u64::MAX, |file| file.as_raw_fd() as u64);
    if free.saturating_add(SPARE) > *soft || setrlimit(Resource::RLIMIT_NOFILE, *soft, raised.1).is_err() {
        return (f(), false);
    }
    let result = f();
    raise_limit_again();
    (result, true)
}

/// Gives process `id` (0: this one) the original limit.
pub fn give_original_limit(id: i32) {
    if let Some(((soft, hard), _)) = LIMITS.get() {
        let limit = libc::rlimit { rlim_cur: *soft, rlim_max: *hard };
        // SAFETY: `limit` is valid to read, and nothing is asked back. A process that is gone is no harm.
        unsafe { libc::prlimit(id, libc::RLIMIT_NOFILE, &limit, std::ptr::null_mut()) };
    }
}

/// Gives this process the raised limit again.
pub fn raise_limit_again() {
    if let Some((_, (soft, hard))) = LIMITS.get() {
        // The hard limit was never lowered, so this cannot fail.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, *soft, *hard);
    }
}

/// The same open file under another number (`dup2`), as for a log file over standard error.
///
/// # Errors
/// The system's.
pub fn replace(number: RawFd, with: impl AsFd) -> io::Result<()> {
    // SAFETY: the caller names one of the standard descriptors, which no Rust value owns.
    if unsafe { libc::dup2(with.as_fd().as_raw_fd(), number) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// [`replace`] with a number instead of a value; nothing happens when it is not open.
pub fn replace_by_number(number: RawFd, with: RawFd) {
    // SAFETY: the caller names one of the standard descriptors, which no Rust value owns.
    unsafe { libc::dup2(with, number) };
}

/// [`replace`] for a number that was kept by `into_raw_fd`; programs that are started do not get it.
///
/// # Errors
/// The system's.
pub fn replace_own(number: RawFd, with: RawFd) -> io::Result<()> {
    // SAFETY: the caller vouches that no Rust value owns `number`; a number that is not open is an error.
    if unsafe { libc::dup3(with, number, libc::O_CLOEXEC) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Closes a descriptor that was kept by its number alone (`into_raw_fd`).
pub fn close(number: RawFd) {
    // SAFETY: the caller vouches that no Rust value owns it.
    unsafe { libc::close(number) };
}

/// What an open descriptor is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A file, or a device that takes everything at once.
    File,
    /// A pipe.
    Pipe,
    /// A socket.
    Socket,
    /// A terminal.
    Terminal,
}

/// What descriptor `number` is; none when it is not open.
pub fn kind_of(number: RawFd) -> Option<Kind> {
    // SAFETY: plain numbers, for which zero is a value.
    let mut found: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: `found` has room for what the kernel writes; the number is only looked up.
    if unsafe { libc::fstat(number, &raw mut found) } < 0 {
        return None;
    }
    Some(match found.st_mode & libc::S_IFMT {
        libc::S_IFIFO => Kind::Pipe,
        libc::S_IFSOCK => Kind::Socket,
        // SAFETY: the number is only looked up.
        libc::S_IFCHR if unsafe { libc::isatty(number) } == 1 => Kind::Terminal,
        _ => Kind::File,
    })
}

/// The same pipe or terminal once more, for writing without ever waiting: the flag for that belongs to the open description,
/// which is shared with other processes.
///
/// # Errors
/// The system's: it may belong to another user, or there is no /proc.
pub fn open_again(number: RawFd) -> io::Result<OwnedFd> {
    use std::os::unix::fs::OpenOptionsExt;
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
    let file = std::fs::OpenOptions::new().write(true).custom_flags(flags).open(format!("/proc/self/fd/{number}"))?;
    Ok(file.into())
}

/// Writes to a descriptor by its number, as much as it takes.
///
/// # Errors
/// The system's; `WouldBlock` where it does not wait.
pub fn write_to(number: RawFd, bytes: &[u8]) -> io::Result<usize> {
    // SAFETY: the slice is valid to read for its length; a number that is not open is an error.
    let count = unsafe { libc::write(number, bytes.as_ptr().cast(), bytes.len()) };
    usize::try_from(count).map_err(|_| io::Error::last_os_error())
}

/// The same for a stream socket, without waiting.
///
/// # Errors
/// The system's; `WouldBlock` when the other side does not read.
pub fn send_to(number: RawFd, bytes: &[u8]) -> io::Result<usize> {
    let flags = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;
    // SAFETY: as above.
    let count = unsafe { libc::send(number, bytes.as_ptr().cast(), bytes.len(), flags) };
    usize::try_from(count).map_err(|_| io::Error::last_os_error())
}

/// Whether descriptor `number` takes something within so many milliseconds; 0: just now.
pub fn takes(number: RawFd, millis: i32) -> bool {
    let mut polled = libc::pollfd { fd: number, events: libc::POLLOUT, revents: 0 };
    // SAFETY: one valid entry.
    unsafe { libc::poll(&raw mut polled, 1, millis) == 1 && polled.revents & libc::POLLOUT != 0 }
}

/// A pipe that keeps messages of up to [`PIECE`] bytes apart (`O_DIRECT`), with room for `bytes` or as much of it as the system
/// allows; close-on-exec. Its writing end waits.
///
/// # Errors
/// The system's.
pub fn message_pipe(bytes: i32) -> io::Result<(OwnedFd, OwnedFd)> {
    let (reader, writer) = nix::unistd::pipe2(OFlag::O_CLOEXEC | OFlag::O_DIRECT)?;
    // More than a user may have, or than the system allows: less does, and at last the usual size.
    let mut sizes = std::iter::successors(Some(bytes), |size| Some(size / 2)).take_while(|size| *size > USUAL_PIPE);
    sizes.any(|size| fcntl(&writer, FcntlArg::F_SETPIPE_SZ(size)).is_ok());
    Ok((reader, writer))
}

/// The room of a pipe of which nothing was asked, in bytes.
const USUAL_PIPE: i32 = 1 << 16;

/// Most bytes that a pipe keeps in one piece (pipe(7): PIPE_BUF, and with O_DIRECT the length of a packet).
pub const PIECE: usize = libc::PIPE_BUF;

/// The writing end of a pipe once more, for messages that are never waited for.
///
/// # Errors
/// The system's.
pub fn open_pipe_again(writer: impl AsFd) -> io::Result<OwnedFd> {
    let own = open_again(writer.as_fd().as_raw_fd())?;
    let flags = OFlag::O_DIRECT | OFlag::O_NONBLOCK;
    fcntl(&own, FcntlArg::F_SETFL(flags))?;
    Ok(own)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::{Read, Seek, Write};

    #[test]
    fn messages_keep_their_bounds_and_carry_descriptors() {
        let (a, b) = message_pair().unwrap();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"through the socket").unwrap();
        file.rewind().unwrap();
        send(&a, b"one", None).unwrap();
        send(&a, b"two", Some(file.as_fd())).unwrap();
        let mut buffer = [0; 16];
        assert!(matches!(receive(&b, &mut buffer, true).unwrap(), Received::Message(3, None)));
        let Received::Message(3, Some(fd)) = receive(&b, &mut buffer, true).unwrap() else { panic!("no descriptor") };
        let mut text = String::new();
        File::from(fd).read_to_string(&mut text).unwrap();
        assert_eq!(text, "through the socket");
        assert_eq!(receive(&b, &mut buffer, false).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        drop(a);
        assert!(matches!(receive(&b, &mut buffer, true).unwrap(), Received::End));
        assert_eq!(send(&b, b"x", None).unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }

    #[test]
    fn waiting_tells_who_can_be_read() {
        let (a, b) = message_pair().unwrap();
        let (c, _d) = message_pair().unwrap();
        assert_eq!(wait_readable(&[b.as_fd(), c.as_fd()], Some(Duration::ZERO)).unwrap(), [false, false]);
        send(&a, b"x", None).unwrap();
        assert_eq!(wait_readable(&[b.as_fd(), c.as_fd()], None).unwrap(), [true, false]);
        drop(a);
        assert!(wait_readable(&[b.as_fd()], None).unwrap()[0]);
    }

    #[test]
    fn the_queue_of_a_listener_is_counted() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        assert_eq!(listen_queue(&listener).unwrap().0, 0);
        let address = listener.local_addr().unwrap();
        let _waiting = [0; 2].map(|_| std::net::TcpStream::connect(address).unwrap());
        assert_eq!(listen_queue(&listener).unwrap().0, 2);
        assert!(listen_queue(&message_pair().unwrap().0).is_err());
    }

    #[test]
    fn closed_numbers_cannot_be_adopted() {
        assert_eq!(adopt(1_000_000).unwrap_err().raw_os_error(), Some(libc::EBADF));
    }
}
