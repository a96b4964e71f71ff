//! The PROXY protocol, versions 1 and 2: what a proxy says in front of a connection's own bytes about where it comes from.
//!
//! A wrong byte is refused as soon as it is there; the text line of version 1 is judged when it is whole.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::bytes;

/// The longest line of version 1, with its CRLF.
const MAX_LINE: usize = 107;

/// The longest address block of version 2 with its extensions: what fits beside the fixed part in 4 KiB.
const MAX_BLOCK: usize = 4080;

const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// Signature, version and command, family, length.
const FIXED: usize = 16;

/// Where a connection comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The proxy's own connection (a health check), or one it knows no address of: the socket's addresses count.
    Unknown,
    /// A client behind the proxy.
    Client {
        /// The client.
        source: SocketAddr,
        /// What the client connected to.
        destination: SocketAddr,
    },
    /// A client of the proxy on a unix socket.
    Unix,
}

/// What the first bytes of a connection are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proxied {
    /// A whole header.
    Complete {
        /// Its length; the connection's own bytes begin behind it.
        len: usize,
        /// What it says.
        origin: Origin,
    },
    /// More bytes are needed.
    Partial,
    /// Not a valid header: close the connection without an answer.
    Invalid(&'static str),
}

/// Parses the header that `buf` begins with.
pub fn parse(buf: &[u8]) -> Proxied {
    let result = match buf.first() {
        None => Ok(None),
        Some(b'P') => line(buf),
        Some(_) => block(buf),
    };
    match result {
        Ok(Some((len, origin))) => Proxied::Complete { len, origin },
        Ok(None) => Proxied::Partial,
        Err(reason) => Proxied::Invalid(reason),
    }
}

type Header = Result<Option<(usize, Origin)>, &'static str>;

const NOT_PROXY: &str = "no PROXY protocol header";
const BAD_LINE: &str = "malformed PROXY protocol line";

/// Whether `buf` begins with `start`, as far as it goes.
fn agrees(buf: &[u8], start: &[u8]) -> bool {
    let common = buf.len().min(start.len());
    buf[..common] == start[..common]
}

/// Version 1.
fn line(buf: &[u8]) -> Header {
    if !agrees(buf, b"PROXY ") {
        return Err(NOT_PROXY);
    }
    let view = &buf[..buf.len().min(MAX_LINE)];
    let Some(lf) = memchr::memchr(b'\n', view) else {
        return if buf.len() >= MAX_LINE { Err("PROXY protocol line without an end") } else { Ok(None) };
    };
    let Some([text @ .., b'\r']) = view[..lf].strip_prefix(b"PROXY ") else { return Err(BAD_LINE) };
    let mut words = text.split(|&byte| byte == b' ');
    let origin = match words.next() {
        // Whatever else the line holds must be ignored.
        Some(b"UNKNOWN") => return Ok(Some((lf + 1, Origin::Unknown))),
        Some(b"TCP4") => tcp::<Ipv4Addr>(&mut words),
        Some(b"TCP6") => tcp::<Ipv6Addr>(&mut words),
        _ => None,
    };
    match (origin, words.next()) {
        (Some(origin), None) => Ok(Some((lf + 1, origin))),
        _ => Err(BAD_LINE),
    }
}

/// Two addresses of one family and two ports.
fn tcp<'a, A: core::str::FromStr + Into<IpAddr>>(words: &mut impl Iterator<Item = &'a [u8]>) -> Option<Origin> {
    let mut address = || str::from_utf8(words.next()?).ok()?.parse::<A>().ok().map(Into::into);
    let (source, destination) = (address()?, address()?);
    let mut port = || port(words.next()?);
    let (source_port, destination_port) = (port()?, port()?);
    Some(Origin::Client {
        source: SocketAddr::new(source, source_port),
        destination: SocketAddr::new(destination, destination_port),
    })
}

fn port(digits: &[u8]) -> Option<u16> {
    if digits.len() > 1 && digits[0] == b'0' {
        return None;
    }
    u16::try_from(bytes::decimal(digits)?).ok()
}

/// Version 2.
fn block(buf: &[u8]) -> Header {
    if !agrees(buf, SIGNATURE) {
        return Err(NOT_PROXY);
    }
    let command = match buf.get(12) {
        None => return Ok(None),
        Some(byte @ (0x20 | 0x21)) => *byte,
        Some(_) => return Err("unknown version or command of the PROXY protocol"),
    };
    let need = match buf.get(13) {
        None => return Ok(None),
        Some(0x00) => 0,
        Some(0x11 | 0x12) => 12,
        Some(0x21 | 0x22) => 36,
        Some(0x31 | 0x32) => 216,
        Some(_) => return Err("unknown address family of the PROXY protocol"),
    };
    let Some(fixed) = buf.first_chunk::<FIXED>() else { return Ok(None) };
    let len = usize::from(u16::from_be_bytes([fixed[14], fixed[15]]));
    if len > MAX_BLOCK {
        return Err("PROXY protocol header too long");
    }
    // With LOCAL the addresses mean nothing and may be missing.
    let local = command == 0x20;
    if len < need && !local {
        return Err("PROXY protocol header shorter than its addresses");
    }
    let Some(block) = buf.get(FIXED..FIXED + len) else { return Ok(None) };
    let origin = match (local, need) {
        (true, _) | (_, 0) => Origin::Unknown,
        (_, 12) => client::<4>(block),
        (_, 36) => client::<16>(block),
        _ => Origin::Unix,
    };
    Ok(Some((FIXED + len, origin)))
}

/// Two addresses of `N` bytes and two ports at the beginning of `block`, which is long enough.
fn client<const N: usize>(block: &[u8]) -> Origin
where
    IpAddr: From<[u8; N]>,
{
    let address = |at: usize| {
        let mut octets = [0; N];
        octets.copy_from_slice(&block[at..at + N]);
        IpAddr::from(octets)
    };
    let port = |at: usize| u16::from_be_bytes([block[at], block[at + 1]]);
    Origin::Client {
        source: SocketAddr::new(address(0), port(2 * N)),
        destination: SocketAddr::new(address(N), port(2 * N + 2)),
    }
}
