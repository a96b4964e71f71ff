//! The address of a listening socket, as options write it. Pure: parsing and printing.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;

/// Where a socket listens.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    /// `host:port`; the host is an IP address or a name that is looked up when it is bound.
    /// `:port` is all IPv4 addresses, as in uWSGI.
    Tcp {
        /// IP address without brackets, or host name.
        host: String,
        /// Port; 0 lets the system choose.
        port: u16,
    },
    /// A path in the file system.
    Unix(PathBuf),
    /// Linux' abstract namespace, written `@name`.
    Abstract(String),
    /// An inherited descriptor, written `fd://N`.
    Fd(i32),
}

impl Address {
    /// Reads an address as the socket options take it.
    ///
    /// # Errors
    /// What was expected, for the operator.
    pub fn parse(text: &str) -> Result<Address, String> {
        let text = text.trim();
        if text.is_empty() {
            return Err("an address: host:port, :port, /path, @name or fd://N".into());
        }
        if let Some(number) = text.strip_prefix("fd://") {
            return match number.parse::<i32>() {
                Ok(fd) if fd >= 0 => Ok(Address::Fd(fd)),
                _ => Err("a descriptor number after fd://".into()),
            };
        }
        if let Some(name) = text.strip_prefix('@') {
            return match name.len() {
                0 => Err("a name after @".into()),
                1..=107 => Ok(Address::Abstract(name.into())),
                _ => Err("an abstract name of at most 107 bytes".into()),
            };
        }
        if let Some(path) = text.strip_prefix("unix:") {
            return unix(path);
        }
        if let Some(bracketed) = text.strip_prefix('[') {
            let Some((host, port)) = bracketed.split_once("]:") else {
                return Err("an IPv6 address as [address]:port".into());
            };
            if host.parse::<std::net::Ipv6Addr>().is_err() {
                return Err(format!("an IPv6 address between the brackets, not {host:?}"));
            }
            return Ok(Address::Tcp { host: host.into(), port: parse_port(port)? });
        }
        if let Some((scheme, rest)) = text.split_once("://") {
            return Err(format!("an address without {scheme}://, as {}", rest.trim_end_matches('/')));
        }
        // As in uWSGI: what has a colon is TCP, everything else a path.
        if let Some((host, port)) = text.rsplit_once(':')
            && !text.contains('/')
        {
            if host.contains(':') {
                return Err("brackets around an IPv6 address: [address]:port".into());
            }
            let host = match host {
                "" | "*" => "0.0.0.0",
                other => other,
            };
            return Ok(Address::Tcp { host: host.into(), port: parse_port(port)? });
        }
        if text.bytes().all(|b| b.is_ascii_digit()) {
            return Err(format!("host:port or a path; a bare port is written :{text}"));
        }
        unix(text)
    }

    /// The path of a unix socket in the file system.
    pub fn path(&self) -> Option<&PathBuf> {
        match self {
            Address::Unix(path) => Some(path),
            _ => None,
        }
    }
}

fn unix(path: &str) -> Result<Address, String> {
    if path.is_empty() {
        return Err("a path after unix:".into());
    }
    // The final name is checked again when it is bound; relative ones grow by the directory.
    if path.len() > 107 {
        return Err("a socket path of at most 107 bytes (the system's limit)".into());
    }
    Ok(Address::Unix(path.into()))
}

fn parse_port(text: &str) -> Result<u16, String> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(format!("a port from 0 to 65535, not {text:?}"));
    }
    text.parse().map_err(|_| format!("a port from 0 to 65535, not {text}"))
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp { host, port } => match host.parse::<IpAddr>() {
                Ok(IpAddr::V6(ip)) => write!(f, "[{ip}]:{port}"),
                _ => write!(f, "{host}:{port}"),
            },
            Address::Unix(path) => write!(f, "{}", path.display()),
            Address::Abstract(name) => write!(f, "@{name}"),
            Address::Fd(fd) => write!(f, "fd://{fd}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_is_read_and_printed() {
        for (text, printed) in [
            ("127.0.0.1:8000", "127.0.0.1:8000"),
            (":8000", "0.0.0.0:8000"),
            ("*:80", "0.0.0.0:80"),
            ("localhost:0", "localhost:0"),
            ("[::1]:80", "[::1]:80"),
            ("/run/app.sock", "/run/app.sock"),
            ("app.sock", "app.sock"),
            ("unix:/run/a", "/run/a"),
            ("/run/odd:name", "/run/odd:name"),
            ("@app", "@app"),
            ("fd://3", "fd://3"),
        ] {
            assert_eq!(Address::parse(text).unwrap().to_string(), printed, "{text}");
        }
    }

    #[test]
    fn wrong_ones_say_what_is_expected() {
        for (text, expected) in [
            ("", "host:port"),
            ("8000", ":8000"),
            ("::1:80", "brackets"),
            ("[::1]", "[address]:port"),
            ("[nope]:1", "IPv6"),
            ("host:", "port"),
            ("host:99999", "65535"),
            ("host:+80", "port"),
            ("fd://x", "descriptor"),
            ("http://127.0.0.1:80/", "without http://, as 127.0.0.1:80"),
            ("@", "name"),
        ] {
            let message = Address::parse(text).unwrap_err();
            assert!(message.contains(expected), "{text}: {message}");
        }
    }
}
