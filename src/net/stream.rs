//! An accepted connection's socket: non-blocking reads and gathered writes over TCP and unix sockets.

use std::fs::File;
use std::io::{self, IoSlice};
use std::net::{IpAddr, Shutdown};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout};
use socket2::{SockAddr, Socket};

use crate::sys::fd;

use crate::sys::socket;

/// A connected, non-blocking stream socket.
#[derive(Debug)]
pub struct Stream(Socket);

impl Stream {
    /// Wraps a connected socket that is already non-blocking.
    pub fn new(fd: OwnedFd) -> Stream {
        Stream(Socket::from(fd))
    }

    /// Reads what is there into `buf`; `Ok(0)` is the end of the stream.
    ///
    /// # Errors
    /// `WouldBlock` when nothing is there; anything else means that the client is gone.
    #[inline]
    pub fn read(&self, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            match socket::receive(self.as_raw_fd(), buf) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return result,
            }
        }
    }

    /// Whether bytes are there to be read.
    pub fn has_bytes(&self) -> bool {
        use nix::sys::socket::{MsgFlags, recv};
        let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
        recv(self.as_raw_fd(), &mut [0], flags).is_ok_and(|count| count > 0)
    }

    /// Writes one piece; returns the bytes taken, 0 when the socket is full.
    ///
    /// # Errors
    /// The client is gone.
    #[inline]
    pub fn write_one(&self, bytes: &[u8]) -> io::Result<usize> {
        taken(|| socket::send(self.as_raw_fd(), bytes))
    }

    /// As [`Stream::write_one`], saying that more will follow at once.
    ///
    /// # Errors
    /// The client is gone.
    pub fn write_more(&self, bytes: &[u8]) -> io::Result<usize> {
        taken(|| socket::send_more(self.as_raw_fd(), bytes))
    }

    /// Writes from a file, whose own position is neither used nor moved; returns the bytes taken, 0 when the socket is full.
    ///
    /// # Errors
    /// `UnexpectedEof` when the file ends before `start`; `InvalidInput` or `Unsupported` when the file is of a kind that cannot
    /// be sent so; else the client is gone.
    pub fn send_file(&self, file: &File, start: u64, len: usize) -> io::Result<usize> {
        let mut at = i64::try_from(start).map_err(|_| io::ErrorKind::UnexpectedEof)?;
        taken(|| match nix::sys::sendfile::sendfile64(self, file, Some(&mut at), len) {
            Ok(0) if len > 0 => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => Ok(count),
            Err(error) => Err(error.into()),
        })
    }

    /// Writes several pieces with one system call; returns the bytes taken, 0 when the socket is full.
    ///
    /// # Errors
    /// The client is gone.
    #[inline]
    pub fn write(&self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        loop {
            match nix::sys::uio::writev(self, pieces) {
                Ok(taken) => return Ok(taken),
                Err(Errno::EAGAIN) => return Ok(0),
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Blocks until the socket can be read (or written, with `write`); false when `timeout` ran out.
    ///
    /// # Errors
    /// Those of poll(2).
    pub fn wait(&self, write: bool, timeout: Duration) -> io::Result<bool> {
        let flags = if write { PollFlags::POLLOUT } else { PollFlags::POLLIN };
        let timeout = PollTimeout::try_from(timeout).unwrap_or(PollTimeout::MAX);
        loop {
            match nix::poll::poll(&mut [PollFd::new(self.as_fd(), flags)], timeout) {
                Ok(ready) => return Ok(ready > 0),
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Bytes written that the client's system has not taken yet.
    pub fn undelivered(&self) -> u64 {
        fd::undelivered(self.as_fd())
    }

    /// Tells the client that nothing more comes, keeping the reading side.
    pub fn finish_writing(&self) {
        let _ = self.0.shutdown(Shutdown::Write);
    }

    /// Ends both directions, also for whoever still holds the descriptor.
    pub fn cut(&self) {
        let _ = self.0.shutdown(Shutdown::Both);
    }

    /// Reads nothing more: who waits for the client finds the end of the stream.
    pub fn finish_reading(&self) {
        let _ = self.0.shutdown(Shutdown::Read);
    }

    /// As [`Stream::cut`], with a reset at once where the transport knows such a thing.
    pub fn abort(&self) {
        self.reset_on_close();
        socket::disconnect(self.as_raw_fd());
        self.cut();
    }

    /// Makes the next close send a reset, so that the client cannot take a cut response for a whole
    /// one (a close-delimited response has no other sign of being incomplete).
    pub fn reset_on_close(&self) {
        let _ = self.0.set_linger(Some(Duration::ZERO));
    }
}

/// Repeats an interrupted write; a full socket takes 0 bytes.
#[inline]
fn taken(mut write: impl FnMut() -> io::Result<usize>) -> io::Result<usize> {
    loop {
        match write() {
            Ok(taken) => return Ok(taken),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(0),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for Stream {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// REMOTE_ADDR and REMOTE_PORT of a client's address; both empty on a unix socket. IPv4-mapped IPv6 addresses
/// are given as IPv4, as uWSGI does.
pub fn peer_names(address: &SockAddr) -> (String, String) {
    match address.as_socket() {
        Some(socket) => {
            let ip = match socket.ip() {
                IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or(IpAddr::V6(v6), IpAddr::V4),
                v4 => v4,
            };
            (ip.to_string(), socket.port().to_string())
        }
        None => (String::new(), String::new()),
    }
}
