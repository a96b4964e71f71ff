//! A mailbox for each worker number: connections that one worker gives to another.
//!
//! The master makes them before it forks and keeps both ends open. So a message never dies with its reader: what lies
//! in a dead worker's mailbox goes to its successor, and a connection in a message is open until somebody takes it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::sys::fd;

/// Longest message, in bytes; well below the default send buffer of a unix socket.
pub const MAX_LETTER: usize = 128 * 1024;

/// Descriptors that come with a letter, at most.
pub const ENCLOSED: usize = 2;

/// A letter that was taken out of a mailbox.
pub struct Taken {
    /// Bytes of it.
    pub len: usize,
    /// The connection.
    pub connection: OwnedFd,
    /// The body of its request, where that lies in a file.
    pub body: Option<OwnedFd>,
}

struct Mailbox {
    read: OwnedFd,
    write: OwnedFd,
}

/// The mailboxes of all workers of a server.
pub struct Mailboxes(Vec<Mailbox>);

impl Mailboxes {
    /// Mailboxes for workers 1 to `workers`.
    ///
    /// # Errors
    /// The system's, when there are no descriptors left.
    pub fn create(workers: usize) -> io::Result<Mailboxes> {
        let mut mailboxes = Mailboxes(Vec::new());
        mailboxes.extend(workers)?;
        Ok(mailboxes)
    }

    /// Makes more of them, when a reload raised the number of workers. Those that exist stay.
    ///
    /// # Errors
    /// The system's, when there are no descriptors left.
    pub fn extend(&mut self, workers: usize) -> io::Result<()> {
        while self.0.len() < workers {
            let (read, write) = fd::message_pair()?;
            self.0.push(Mailbox { read, write });
        }
        Ok(())
    }

    /// The same mailboxes with descriptors of their own.
    ///
    /// # Errors
    /// The system's, when there are no descriptors left.
    pub fn try_clone(&self) -> io::Result<Mailboxes> {
        let twin =
            |mailbox: &Mailbox| Ok(Mailbox { read: mailbox.read.try_clone()?, write: mailbox.write.try_clone()? });
        Ok(Mailboxes(self.0.iter().map(twin).collect::<io::Result<_>>()?))
    }

    /// Those that another program made in this process: the reading and the writing end of each.
    pub fn adopt(ends: Vec<(OwnedFd, OwnedFd)>) -> Mailboxes {
        Mailboxes(ends.into_iter().map(|(read, write)| Mailbox { read, write }).collect())
    }

    /// The reading and the writing end of each, for [`Mailboxes::adopt`].
    pub fn descriptors(&self) -> impl Iterator<Item = (BorrowedFd<'_>, BorrowedFd<'_>)> {
        self.0.iter().map(|mailbox| (mailbox.read.as_fd(), mailbox.write.as_fd()))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The end that worker `id` (from 1) reads.
    pub fn reader(&self, id: u32) -> Option<BorrowedFd<'_>> {
        Some(self.0.get(id as usize - 1)?.read.as_fd())
    }

    /// Puts a letter with a connection, and the file of a body, into the mailbox of worker `id`; never waits.
    ///
    /// # Errors
    /// `WouldBlock` when the mailbox is full, `NotFound` when there is none.
    pub fn put(
        &self,
        id: u32,
        letter: &[u8],
        connection: BorrowedFd<'_>,
        body: Option<BorrowedFd<'_>>,
    ) -> io::Result<()> {
        let mailbox = self.0.get(id as usize - 1).ok_or(io::ErrorKind::NotFound)?;
        match body {
            Some(body) => fd::send_all(&mailbox.write, letter, &[connection, body]),
            None => fd::send_all(&mailbox.write, letter, &[connection]),
        }
    }

    /// Takes the next letter out of the mailbox of worker `id`; `None` when there is none. At most [`ENCLOSED`] descriptors
    /// come with it: where so many are not free, they are lost.
    ///
    /// # Errors
    /// The system's.
    pub fn take(&self, id: u32, buffer: &mut [u8]) -> io::Result<Option<Taken>> {
        let Some(mailbox) = self.0.get(id as usize - 1) else { return Ok(None) };
        let mut enclosed = Vec::with_capacity(ENCLOSED);
        match fd::receive_all(&mailbox.read, buffer, false, &mut enclosed) {
            Ok(len) => {
                let mut enclosed = enclosed.into_iter();
                match enclosed.next() {
                    Some(connection) => Ok(Some(Taken { len, connection, body: enclosed.next() })),
                    None if len == 0 => Ok(None),
                    // A letter without its connection: there is nothing left to serve.
                    None => Err(io::Error::from_raw_os_error(libc::EMFILE)),
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }
}
