//! Descriptors: taking over inherited ones, passing them between processes, limits on their number.
#![allow(unsafe_code)]

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::cmsg_space;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg, sendmsg, socketpair,
};

/// Whether descriptor `number` is open.
pub fn is_open(number: RawFd) -> bool {
    // SAFETY: fcntl with F_GETFD only looks the number up.
    unsafe { libc::fcntl(number, libc::F_GETFD) >= 0 }
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

/// A pair of connected sockets that keep the bounds of each message; close-on-exec, blocking.
///
/// # Errors
/// The system's.
pub fn message_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?)
}

/// Sends one message, with a descriptor if there is one. Without waiting: `WouldBlock` when the other side
/// does not read.
///
/// # Errors
/// The system's; `BrokenPipe` when the other side is gone.
pub fn send(socket: impl AsFd, bytes: &[u8], descriptor: Option<BorrowedFd<'_>>) -> io::Result<()> {
    let raw: Vec<RawFd> = descriptor.iter().map(AsRawFd::as_raw_fd).collect();
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
    let mut space = cmsg_space!([RawFd; 4]);
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
            Err(nix::Error::ECONNRESET) => return Ok(Received::End),
            Err(error) => return Err(error.into()),
        };
        let mut descriptor = None;
        for control in message.cmsgs()? {
            if let ControlMessageOwned::ScmRights(numbers) = control {
                for number in numbers {
                    // SAFETY: the kernel just made this descriptor for us.
                    let fd = unsafe { OwnedFd::from_raw_fd(number) };
                    descriptor.get_or_insert(fd);
                }
            }
        }
        return Ok(match message.bytes {
            0 if descriptor.is_none() => Received::End,
            bytes => Received::Message(bytes, descriptor),
        });
    }
}

/// Soft and hard limit of open descriptors.
///
/// # Errors
/// The system's.
pub fn descriptor_limits() -> io::Result<(u64, u64)> {
    Ok(getrlimit(Resource::RLIMIT_NOFILE)?)
}

/// Sets soft and hard limit of open descriptors.
///
/// # Errors
/// The system's: raising the hard limit needs privileges.
pub fn set_descriptor_limits(soft: u64, hard: u64) -> io::Result<()> {
    Ok(setrlimit(Resource::RLIMIT_NOFILE, soft, hard)?)
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
    fn closed_numbers_cannot_be_adopted() {
        assert_eq!(adopt(1_000_000).unwrap_err().raw_os_error(), Some(libc::EBADF));
    }
}
