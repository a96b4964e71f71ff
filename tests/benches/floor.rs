//! The floor under every server: accepts, reads, and writes one fixed response, without Python, parser or promises.
//! What a real server costs above it is its own.
//!
//!     floor ADDRESS           ADDRESS is HOST:PORT or a path; there each connection ends with its response
//!
//! It says `ready` when it listens.
#![allow(clippy::print_stdout)]

use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::process::exit;

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv};
use slab::Slab;
use socket2::{Domain, SockAddr, Socket, Type};

const KEPT: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 13\r\n\
    Date: Thu, 01 Jan 1970 00:00:00 GMT\r\n\r\nHello, world\n";
const CLOSED: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 13\r\n\
    Connection: close\r\nDate: Thu, 01 Jan 1970 00:00:00 GMT\r\n\r\nHello, world\n";

const LISTENER: Token = Token(usize::MAX);

fn listen(address: &str) -> io::Result<Socket> {
    let address: SockAddr = match address.parse::<SocketAddr>() {
        Ok(address) => address.into(),
        Err(_) => SockAddr::unix(address)?,
    };
    let listener = Socket::new(address.domain(), Type::STREAM.nonblocking(), None)?;
    if address.domain() != Domain::UNIX {
        listener.set_reuse_address(true)?;
        listener.set_tcp_nodelay(true)?;
    }
    listener.bind(&address)?;
    listener.listen(2048)?;
    Ok(listener)
}

/// Reads what is there and answers; true: the connection stays.
fn answer(mut socket: &Socket, buffer: &mut [u8], closes: bool) -> bool {
    // Without a system call to make the socket non-blocking.
    match recv(socket.as_raw_fd(), buffer, MsgFlags::MSG_DONTWAIT) {
        Ok(0) => false,
        Ok(count) => {
            let closes = closes || memchr::memmem::find(&buffer[..count], b"Connection: close").is_some();
            socket.write_all(if closes { CLOSED } else { KEPT }).is_ok() && !closes
        }
        Err(error) => error == Errno::EAGAIN,
    }
}

fn serve(address: &str) -> io::Result<()> {
    let listener = listen(address)?;
    let closes = listener.local_addr()?.domain() == Domain::UNIX;
    let mut poll = Poll::new()?;
    poll.registry().register(&mut SourceFd(&listener.as_raw_fd()), LISTENER, Interest::READABLE)?;
    let mut connections: Slab<Socket> = Slab::new();
    let mut events = Events::with_capacity(1024);
    let mut buffer = vec![0; 64 * 1024];
    println!("ready");
    loop {
        poll.poll(&mut events, None)?;
        for event in &events {
            if event.token() != LISTENER {
                let number = event.token().0;
                let stays = connections.get(number).is_none_or(|socket| answer(socket, &mut buffer, closes));
                if !stays {
                    connections.remove(number);
                }
                continue;
            }
            loop {
                let socket = match listener.accept_raw() {
                    Ok((socket, _)) => socket,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) => return Err(error),
                };
                // Most requests are there already: then the connection is never watched.
                if answer(&socket, &mut buffer, closes) {
                    let entry = connections.vacant_entry();
                    let fd = socket.as_raw_fd();
                    poll.registry().register(&mut SourceFd(&fd), Token(entry.key()), Interest::READABLE)?;
                    entry.insert(socket);
                }
            }
        }
    }
}

fn main() {
    let Some(address) = std::env::args().nth(1) else {
        eprintln!("floor: an address is missing");
        exit(2)
    };
    if let Err(error) = serve(&address) {
        eprintln!("floor: {address}: {error}");
        exit(1);
    }
}
