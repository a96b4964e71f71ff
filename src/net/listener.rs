//! Listening sockets: bound, taken from the process that started us, and kept over a reload.
//!
//! A listener is named by the address that was asked for ([`Listener::asked`]), so that a reload finds the one it
//! already has; [`Listener::address`] is what it really listens on. Accepting is the worker's business.

use std::fs;
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::SocketAddr as UnixAddr;
use std::path::{Path, PathBuf};

use socket2::{Domain, SockAddr, SockRef, Socket as Raw, Type};

use crate::config::Socket;
use crate::net::address::Address;
use crate::protocol::Protocol;
use crate::sys::{self, fd};

/// First descriptor that systemd passes.
const SYSTEMD_FIRST: RawFd = 3;

/// A socket that listens: non-blocking, close-on-exec.
#[derive(Debug)]
pub struct Listener {
    /// The socket.
    pub fd: OwnedFd,
    /// Where it listens, with the real port and an absolute path.
    pub address: Address,
    /// What it was asked for as: the option's value, paths made absolute.
    pub asked: Address,
    /// What it speaks.
    pub protocol: Protocol,
    /// Each connection begins with a header of the PROXY protocol.
    pub proxy_protocol: bool,
    /// The process that started us bound it, so it is not ours to close or to remove.
    pub inherited: bool,
    /// The socket file that we made, for `vacuum`.
    pub unlink: Option<SocketFile>,
}

/// The file of a unix socket that this program made.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct SocketFile {
    path: PathBuf,
    inode: u64,
}

impl SocketFile {
    /// Removes the file, if it is still the one that was made.
    pub fn remove(&self) {
        let SocketFile { path, inode } = self;
        if fs::symlink_metadata(path).is_ok_and(|found| found.ino() == *inode)
            && let Err(error) = fs::remove_file(path)
        {
            log::warn!("the socket {} stays: {}", path.display(), sys::why_it_stays(&error));
        }
    }
}

/// How sockets are bound.
#[derive(Clone, Debug, Default)]
pub struct BindOptions {
    /// Length of the queue, see [`backlog`].
    pub backlog: i32,
    /// Mode of unix sockets; without it the umask decides.
    pub mode: Option<u32>,
    /// `chown-socket`: user and group of unix sockets.
    pub chown: Option<(Option<u32>, Option<u32>)>,
    /// Who the workers run as; owns unix sockets that `chown` says nothing of.
    pub runs_as: (Option<u32>, Option<u32>),
    /// An IPv6 socket leaves the same port of IPv4 alone.
    pub v6_only: bool,
}

impl Listener {
    /// The same socket with a second descriptor.
    ///
    /// # Errors
    /// The system's, when there are no descriptors left.
    pub fn try_clone(&self) -> io::Result<Listener> {
        Ok(Listener {
            fd: self.fd.try_clone()?,
            address: self.address.clone(),
            asked: self.asked.clone(),
            protocol: self.protocol,
            proxy_protocol: self.proxy_protocol,
            inherited: self.inherited,
            unlink: self.unlink.clone(),
        })
    }

    /// Whether it is a TCP socket that nobody else may listen on.
    pub fn is_own_tcp(&self) -> bool {
        !self.inherited && matches!(self.address, Address::Tcp { .. })
    }

    /// Connections are accepted with their first bytes, or a second later: who connects and says nothing wakes nobody. Or at
    /// once (`no-defer-accept`). Inherited sockets are left as they are.
    pub fn defer_accept(&self, defer: bool) {
        if self.is_own_tcp()
            && let Err(error) = sys::socket::defer_accept(self.as_fd(), u8::from(defer))
        {
            log::debug!("{}: connections cannot be deferred: {}", self.address, sys::describe(&error));
        }
    }

    /// Before it is closed for good: nobody connects any more, while those who are in its queue, or about to be, can still
    /// be served. A close would reset them. Inherited sockets are left to who comes next.
    pub fn turn_newcomers_away(&self) {
        if self.inherited {
            return;
        }
        let done = match self.address {
            Address::Tcp { .. } => {
                sys::socket::turn_newcomers_away(self.as_fd()).and_then(|()| sys::socket::defer_accept(self.as_fd(), 0))
            }
            // It refuses at once, and keeps its queue.
            _ => SockRef::from(&self.fd).shutdown(std::net::Shutdown::Read),
        };
        if let Err(error) = done {
            log::warn!("{}: who connects while it is closed may be reset: {}", self.address, sys::describe(&error));
        }
    }

    /// Removes the socket file, if we made it and it is still the same one.
    pub fn remove_file(&self) {
        if let Some(file) = &self.unlink {
            file.remove();
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// The queue length for `listen`, and a warning when the kernel gives less.
pub fn backlog(listen: u32) -> (i32, Option<String>) {
    let limit = fs::read_to_string("/proc/sys/net/core/somaxconn").ok().and_then(|text| text.trim().parse().ok());
    clamp(listen, limit)
}

fn clamp(listen: u32, limit: Option<u32>) -> (i32, Option<String>) {
    match limit {
        Some(limit) if listen > limit => (
            limit.min(i32::MAX as u32) as i32,
            Some(format!(
                "listen = {listen} is above the kernel's limit net.core.somaxconn = {limit}: the queue is {limit} long \
                 (raise it with: sysctl net.core.somaxconn={listen})"
            )),
        ),
        _ => (listen.min(i32::MAX as u32) as i32, None),
    }
}

/// Descriptors that systemd passed (LISTEN_FDS, LISTEN_PID), and a line for the log when they are not for us.
pub fn systemd(own_pid: u32, var: impl Fn(&str) -> Option<String>) -> (Vec<RawFd>, Option<String>) {
    let Some(count) = var("LISTEN_FDS") else { return (Vec::new(), None) };
    let Some(pid) = var("LISTEN_PID") else {
        return (Vec::new(), Some("LISTEN_FDS without LISTEN_PID is ignored".into()));
    };
    if pid.trim().parse() != Ok(own_pid) {
        return (Vec::new(), Some(format!("LISTEN_FDS is ignored: LISTEN_PID is {pid}, this is process {own_pid}")));
    }
    match count.trim().parse::<RawFd>() {
        Ok(count @ 0..=1024) => ((SYSTEMD_FIRST..SYSTEMD_FIRST + count).collect(), None),
        _ => (Vec::new(), Some(format!("LISTEN_FDS = {count:?} is ignored: a number of descriptors is expected"))),
    }
}

/// The sockets of a configuration together with systemd's that no `fd://` names.
pub fn with_systemd(sockets: &[Socket], passed: &[RawFd], protocol: Protocol, proxy_protocol: bool) -> Vec<Socket> {
    let mut all = sockets.to_vec();
    for number in passed {
        let address = Address::Fd(*number);
        if sockets.iter().all(|socket| socket.address != address) {
            all.push(Socket { address, protocol, proxy_protocol, origin: "LISTEN_FDS".into() });
        }
    }
    all
}

/// The address by which a listener is known: paths are absolute, so that a `chdir` does not rename it.
pub fn known_as(address: &Address) -> Address {
    match address {
        Address::Unix(path) => Address::Unix(std::path::absolute(path).unwrap_or_else(|_| path.clone())),
        other => other.clone(),
    }
}

/// Makes the listeners of a configuration, in its order; those of `existing` that are wanted again are
/// cloned, never bound a second time.
///
/// # Errors
/// All that went wrong, one line each. What was bound until then is closed and its files are removed.
pub fn open(sockets: &[Socket], existing: &[Listener], options: &BindOptions) -> Result<Vec<Listener>, Vec<String>> {
    let mut errors = Vec::new();
    let mut made: Vec<(usize, Listener)> = Vec::new();
    let mut fresh: Vec<(usize, &Socket)> = Vec::new();
    for (index, socket) in sockets.iter().enumerate() {
        let name = known_as(&socket.address);
        if let Some(twin) = sockets[..index].iter().find(|other| known_as(&other.address) == name)
            && !matches!(name, Address::Tcp { port: 0, .. })
        {
            let (origin, first) = (&socket.origin, &twin.origin);
            errors.push(format!("{origin}: {} is already listened on by {first}; remove one", socket.address));
            continue;
        }
        // Port 0 may be asked for several times: each existing listener is given out once.
        let known = existing
            .iter()
            .find(|known| known.asked == name && made.iter().all(|(_, taken)| taken.address != known.address));
        match known.map(|known| known.try_clone()) {
            Some(Ok(listener)) => {
                let (protocol, proxy_protocol) = (socket.protocol, socket.proxy_protocol);
                made.push((index, Listener { protocol, proxy_protocol, ..listener }));
            }
            Some(Err(error)) => errors.push(failure(socket, &sys::describe(&error))),
            None => fresh.push((index, socket)),
        }
    }
    // Inherited ones first: a socket of our own could else be taken for one.
    fresh.sort_by_key(|(_, socket)| !matches!(socket.address, Address::Fd(_)));
    let mut ours = Vec::new();
    for (index, socket) in fresh {
        let options = BindOptions { v6_only: shares_port(socket, sockets), ..options.clone() };
        match bind(socket, &options) {
            Ok(listener) => {
                ours.push(made.len());
                made.push((index, listener));
            }
            Err(error) => errors.push(error),
        }
    }
    if !errors.is_empty() {
        for index in ours {
            made[index].1.remove_file();
        }
        return Err(errors);
    }
    made.sort_by_key(|(index, _)| *index);
    Ok(made.into_iter().map(|(_, listener)| listener).collect())
}

/// Whether `[::]:port` must leave IPv4 to another socket of the configuration.
fn shares_port(socket: &Socket, all: &[Socket]) -> bool {
    let Address::Tcp { port, .. } = socket.address else { return false };
    all.iter().any(|other| match &other.address {
        Address::Tcp { host, port: p } => *p == port && host.parse::<std::net::Ipv6Addr>().is_err(),
        _ => false,
    })
}

/// Binds one socket, or takes over the inherited one that it names.
///
/// # Errors
/// One line: where it was asked for, what went wrong, what to do.
pub fn bind(socket: &Socket, options: &BindOptions) -> Result<Listener, String> {
    let bound = match &socket.address {
        Address::Tcp { host, port } => bind_tcp(host, *port, options),
        Address::Unix(path) => bind_unix(path, options),
        Address::Abstract(name) => bind_abstract(name, options),
        Address::Fd(number) => inherit(*number),
    };
    let (raw, address, unlink) = bound.map_err(|why| failure(socket, &why))?;
    let _ = raw.set_tcp_nodelay(true); // Accepted streams inherit it; unix sockets refuse it.
    raw.set_nonblocking(true).map_err(|error| failure(socket, &sys::describe(&error)))?;
    Ok(Listener {
        fd: raw.into(),
        address,
        asked: known_as(&socket.address),
        protocol: socket.protocol,
        proxy_protocol: socket.proxy_protocol,
        inherited: matches!(socket.address, Address::Fd(_)),
        unlink,
    })
}

type Bound = (Raw, Address, Option<SocketFile>);

fn failure(socket: &Socket, why: &str) -> String {
    format!("{}: cannot listen on {}: {why}", socket.origin, socket.address)
}

/// The error without Rust's number, and what the operator can do.
fn explain(error: &io::Error, hint: &str) -> String {
    let what = match error.kind() {
        ErrorKind::AddrInUse => "the address is in use",
        ErrorKind::AddrNotAvailable => "this machine has no such address",
        ErrorKind::PermissionDenied => "permission denied",
        ErrorKind::NotFound => "the directory does not exist",
        _ => &sys::describe(error),
    };
    if hint.is_empty() { what.into() } else { format!("{what}; {hint}") }
}

fn bind_tcp(host: &str, port: u16, options: &BindOptions) -> Result<Bound, String> {
    let candidates: Vec<SocketAddr> = (host, port)
        .to_socket_addrs()
        .map_err(|error| format!("the host name cannot be looked up ({error}); write an IP address"))?
        .collect();
    // A name with both kinds of address (localhost) is IPv4, as in uWSGI.
    let address =
        candidates.iter().find(|a| a.is_ipv4()).or(candidates.first()).ok_or("the host name has no address")?;
    let bound = (|| {
        let raw = Raw::new(Domain::for_address(*address), Type::STREAM.cloexec(), None)?;
        raw.set_reuse_address(true)?;
        if address.is_ipv6() {
            raw.set_only_v6(options.v6_only)?;
        }
        raw.bind(&SockAddr::from(*address))?;
        raw.listen(options.backlog)?;
        Ok(raw)
    })();
    let raw = bound.map_err(|error: io::Error| {
        explain(
            &error,
            match error.kind() {
                ErrorKind::AddrInUse => "stop the server that has it, or choose another port",
                ErrorKind::PermissionDenied => "ports below 1024 need root or CAP_NET_BIND_SERVICE",
                ErrorKind::AddrNotAvailable => "choose one of its own or 0.0.0.0",
                _ => "",
            },
        )
    })?;
    let address = local_address(&raw)?;
    Ok((raw, address, None))
}

fn bind_unix(path: &Path, options: &BindOptions) -> Result<Bound, String> {
    make_way(path)?;
    let address = SockAddr::unix(path).map_err(|error| sys::describe(&error))?;
    let raw = Raw::new(Domain::UNIX, Type::STREAM.cloexec(), None).map_err(|error| sys::describe(&error))?;
    raw.bind(&address).map_err(|error| {
        let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let hint = match error.kind() {
            ErrorKind::NotFound => format!("create {}", parent.display()),
            ErrorKind::PermissionDenied => format!("this user must be able to write to {}", parent.display()),
            _ => String::new(),
        };
        explain(&error, &hint)
    })?;
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
    let finish = || {
        let inode = fs::symlink_metadata(path).map_err(|error| sys::describe(&error))?.ino();
        give_away(path, options)?;
        if let Some(mode) = options.mode {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(|error| {
                format!("cannot set its mode to {mode:o} (chmod-socket): {}", sys::describe(&error))
            })?;
        }
        raw.listen(options.backlog).map_err(|error| sys::describe(&error))?;
        Ok(inode)
    };
    match finish() {
        Ok(inode) => Ok((raw, Address::Unix(absolute.clone()), Some(SocketFile { path: absolute, inode }))),
        Err(error) => {
            let _ = fs::remove_file(path);
            Err(error)
        }
    }
}

/// Gives the socket file to `chown-socket`, else to the user that the workers run as.
fn give_away(path: &Path, options: &BindOptions) -> Result<(), String> {
    let (uid, gid) = options.chown.unwrap_or(options.runs_as);
    let found = fs::symlink_metadata(path).map_err(|error| sys::describe(&error))?;
    if uid.is_none_or(|uid| uid == found.uid()) && gid.is_none_or(|gid| gid == found.gid()) {
        return Ok(());
    }
    std::os::unix::fs::lchown(path, uid, gid).map_err(|error| {
        let show = |id: Option<u32>| id.map_or_else(|| "-".into(), |id| id.to_string());
        let option = if options.chown.is_some() { "chown-socket" } else { "uid and gid" };
        format!("cannot give it to {}:{} ({option}): {}", show(uid), show(gid), sys::describe(&error))
    })
}

/// Removes a socket file that nobody listens on. uWSGI removes it unasked, and takes the socket
/// of a running server away with it.
fn make_way(path: &Path) -> Result<(), String> {
    let Ok(found) = fs::symlink_metadata(path) else { return Ok(()) };
    if !found.file_type().is_socket() {
        return Err("the file exists and is not a socket; remove it or choose another path".into());
    }
    let probe =
        Raw::new(Domain::UNIX, Type::STREAM.cloexec().nonblocking(), None).map_err(|error| sys::describe(&error))?;
    let address = SockAddr::unix(path).map_err(|error| sys::describe(&error))?;
    match probe.connect(&address) {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => fs::remove_file(path)
            .map_err(|error| explain(&error, "the old socket file is in the way and cannot be removed")),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            Err("the socket file exists and belongs to another user; remove it or choose another path".into())
        }
        // Connected, or its queue is full, or it is of another type: somebody is there.
        _ => Err("another server listens on it; stop it or choose another path".into()),
    }
}

fn bind_abstract(name: &str, options: &BindOptions) -> Result<Bound, String> {
    let bound = (|| {
        let address = UnixAddr::from_abstract_name(name)?;
        std::os::unix::net::UnixListener::bind_addr(&address)
    })();
    let listener = bound.map_err(|error| explain(&error, "stop the server that has it, or choose another name"))?;
    let raw = Raw::from(listener);
    raw.listen(options.backlog).map_err(|error| sys::describe(&error))?;
    Ok((raw, Address::Abstract(name.into()), None))
}

fn inherit(number: RawFd) -> Result<Bound, String> {
    let no_socket = "it is not a socket; it must be a listening stream socket opened by the process that starts rsgi";
    let taken = fd::adopt(number)
        .map_err(|_| format!("descriptor {number} is not open; the process that starts rsgi must pass it"))?;
    let check = SockRef::from(&taken);
    let kind = match check.r#type() {
        Ok(kind) => Ok(kind),
        Err(_) => Err(no_socket.to_string()),
    };
    let verdict = kind.and_then(|kind| {
        if kind != Type::STREAM {
            return Err("it is not a stream socket".into());
        }
        match check.is_listener() {
            Ok(true) => local_address(&check),
            _ => Err("it does not listen; it must be bound and listening when rsgi starts".into()),
        }
    });
    match verdict {
        Ok(address) => Ok((Raw::from(taken), address, None)),
        Err(why) => {
            // Not ours: a standard descriptor, or something the starter wants to keep.
            let _ = fd::set_close_on_exec(&taken, false);
            let _ = std::os::fd::IntoRawFd::into_raw_fd(taken);
            Err(why)
        }
    }
}

/// Reads back where a socket listens.
fn local_address(raw: &Raw) -> Result<Address, String> {
    let local = raw.local_addr().map_err(|error| sys::describe(&error))?;
    if let Some(address) = local.as_socket() {
        return Ok(Address::Tcp { host: address.ip().to_string(), port: address.port() });
    }
    let unix = local.as_unix().ok_or("it is neither TCP nor a unix socket")?;
    if let Some(path) = unix.as_pathname() {
        return Ok(Address::Unix(path.to_path_buf()));
    }
    match unix.as_abstract_name() {
        Some(name) => Ok(Address::Abstract(String::from_utf8_lossy(name).into_owned())),
        None => Err("it has no address".into()),
    }
}

#[cfg(test)]
#[path = "listener_tests.rs"]
mod tests;
