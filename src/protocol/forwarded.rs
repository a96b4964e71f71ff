//! Who the client really is, when proxies stand in between: Forwarded (RFC 7239) and its older relatives.
//!
//! Anybody can send these fields, so they are read from right to left, each entry only as long as the hop that wrote it is
//! trusted: the first address that is not trusted is the client. What stands left of it is hearsay. Rules:
//! - Forwarded comes first; where its last entry is well-formed, nothing else is looked at. Then X-Forwarded-For with
//!   X-Forwarded-Proto and X-Forwarded-Host, and X-Real-IP where there is no X-Forwarded-For.
//! - Scheme and host are those of the entry nearest to the client among the trusted ones that have them.
//! - A gateway's REMOTE_ADDR (over uwsgi, FastCGI, SCGI) is one more hop: it must be trusted too, since a web server passes
//!   its client's fields on as they are.
//! - A proxy must write or delete all of these fields. One that passes on a Forwarded of its client while it writes
//!   X-Forwarded-For lets the client choose: [`Told::disputed`] notices where both are there.
//! - An entry that is no address ends the walk: the client is somebody behind the hop before it, whose address is the best known.
//!
//! Addresses are the value types of `core::net`, which can do no I/O.

use core::net::{IpAddr, Ipv6Addr, SocketAddr};

use super::bytes;
use super::request::Request;

/// A network in CIDR notation, or a single address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    prefix: u32,
}

impl Network {
    /// Reads `10.0.0.0/8`, `fd00::/8` or a single address.
    ///
    /// # Errors
    /// What is wrong with `text`, for the operator.
    pub fn parse(text: &str) -> Result<Network, String> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| format!("{text:?} is no address or network"))?;
        let width = width(address);
        let prefix = match prefix {
            None => width,
            Some(digits) => (bytes::decimal(digits.as_bytes()).and_then(|n| u32::try_from(n).ok()))
                .filter(|prefix| *prefix <= width)
                .ok_or_else(|| format!("the prefix length of {text} must be 0 to {width}"))?,
        };
        let network = Network { address, prefix };
        let first = network.first();
        if first != address {
            return Err(format!("{text} has bits set behind its prefix: the network is {first}/{prefix}"));
        }
        // Clients are compared in their IPv4 form.
        Ok(match address.to_canonical() {
            IpAddr::V4(mapped) if address.is_ipv6() && prefix >= 96 => {
                Network { address: mapped.into(), prefix: prefix - 96 }
            }
            _ => network,
        })
    }

    /// The first address of the network.
    fn first(&self) -> IpAddr {
        match self.address {
            IpAddr::V4(address) => {
                let kept = u32::MAX.checked_shl(32 - self.prefix).unwrap_or(0);
                core::net::Ipv4Addr::from_bits(address.to_bits() & kept).into()
            }
            IpAddr::V6(address) => {
                let kept = u128::MAX.checked_shl(128 - self.prefix).unwrap_or(0);
                Ipv6Addr::from_bits(address.to_bits() & kept).into()
            }
        }
    }

    /// Whether `address` belongs to the network. An IPv4-mapped IPv6 address is an IPv4 address.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        address.is_ipv4() == self.address.is_ipv4() && Network { address, prefix: self.prefix }.first() == self.first()
    }
}

fn width(address: IpAddr) -> u32 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// Where bytes come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// A unix socket.
    Unix,
    /// An address.
    Address(IpAddr),
}

/// The proxies that are believed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trusted {
    networks: Vec<Network>,
    unix: bool,
}

impl Trusted {
    /// Adds networks, addresses and the word `unix`, separated by commas or blanks.
    ///
    /// # Errors
    /// What is wrong with the first bad word, for the operator.
    pub fn add(&mut self, text: &str) -> Result<(), String> {
        for word in text.split([',', ' ', '\t']).filter(|word| !word.is_empty()) {
            match word {
                "unix" => self.unix = true,
                _ => self.networks.push(Network::parse(word)?),
            }
        }
        Ok(())
    }

    /// Whether nobody is trusted, which spares all looks at the fields.
    pub fn is_empty(&self) -> bool {
        self.networks.is_empty() && !self.unix
    }

    /// Whether what comes from `source` is believed.
    pub fn trusts(&self, source: Source) -> bool {
        match source {
            Source::Unix => self.unix,
            Source::Address(address) => self.networks.iter().any(|network| network.contains(address)),
        }
    }
}

/// `wsgi.url_scheme`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// `http`
    Http,
    /// `https`
    Https,
}

impl Scheme {
    fn parse(text: &[u8]) -> Option<Scheme> {
        if text.eq_ignore_ascii_case(b"https") {
            Some(Scheme::Https)
        } else {
            text.eq_ignore_ascii_case(b"http").then_some(Scheme::Http)
        }
    }

    /// The name.
    pub fn name(self) -> &'static str {
        match self {
            Scheme::Http => "http",
            Scheme::Https => "https",
        }
    }
}

/// What trusted proxies say; what they do not say stays as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Told<'a> {
    /// REMOTE_ADDR, an IPv4-mapped address as IPv4.
    pub address: Option<IpAddr>,
    /// REMOTE_PORT; with an address and without a port, no port is known.
    pub port: Option<u16>,
    /// wsgi.url_scheme.
    pub scheme: Option<Scheme>,
    /// HTTP_HOST: a valid host with or without a port.
    pub host: Option<&'a [u8]>,
    /// Forwarded and X-Forwarded-For are both there and name different clients: a proxy passes on what it did not write.
    pub disputed: bool,
}

/// The fields that matter, in the order sent.
#[derive(Default)]
struct Fields<'a> {
    forwarded: Vec<&'a [u8]>,
    x_for: Vec<&'a [u8]>,
    x_proto: Vec<&'a [u8]>,
    x_host: Vec<&'a [u8]>,
    real_ip: Option<&'a [u8]>,
    remote_addr: Option<&'a [u8]>,
}

/// What is believed of a request that came from `source`.
pub fn resolve<'a>(trusted: &Trusted, source: Source, request: &Request, head: &'a [u8]) -> Told<'a> {
    if !trusted.trusts(source) {
        return Told::default();
    }
    let fields = Fields::of(request, head);
    if let Some(address) = fields.remote_addr
        && !address.is_empty()
        && !matches!(node(address), Some(Node { source, .. }) if trusted.trusts(source))
    {
        return Told::default();
    }
    let told = match fields.rfc7239(trusted) {
        None => fields.x_forwarded(trusted),
        Some(told) if fields.x_for.is_empty() => told,
        Some(told) => Told { disputed: fields.x_forwarded(trusted).address != told.address, ..told },
    };
    Told { address: told.address.map(|address| address.to_canonical()), ..told }
}

impl<'a> Fields<'a> {
    fn of(request: &Request, head: &'a [u8]) -> Fields<'a> {
        let mut fields = Fields::default();
        for field in &request.fields {
            let (name, value) = (field.name.of(head), bytes::trim(field.value.of(head)));
            let (name, len) = match name.strip_prefix(b"HTTP_") {
                Some(rest) if request.cgi => (rest, rest.len()),
                None if request.cgi => {
                    if name == b"REMOTE_ADDR" {
                        fields.remote_addr = Some(value);
                    }
                    continue;
                }
                _ => (name, name.len()),
            };
            let list = match len {
                9 if is(name, b"forwarded") => &mut fields.forwarded,
                15 if is(name, b"x-forwarded-for") => &mut fields.x_for,
                17 if is(name, b"x-forwarded-proto") => &mut fields.x_proto,
                16 if is(name, b"x-forwarded-host") => &mut fields.x_host,
                9 if is(name, b"x-real-ip") => {
                    fields.real_ip = Some(value);
                    continue;
                }
                _ => continue,
            };
            list.push(value);
        }
        fields
    }

    /// What Forwarded says; none when it is not there, or was not written by a proxy that knows it.
    fn rfc7239(&self, trusted: &Trusted) -> Option<Told<'a>> {
        let mut told = None;
        for element in self.forwarded.iter().rev().flat_map(|value| Elements(Some(value))) {
            let Some(element) = Element::parse(element) else { break };
            let told = told.get_or_insert_with(Told::default);
            told.scheme = element.proto.and_then(Scheme::parse).or(told.scheme);
            told.host = element.host.filter(|host| bytes::is_host(host)).or(told.host);
            match element.node.and_then(node) {
                Some(node) if walk(told, node, trusted) => {}
                _ => break,
            }
        }
        told
    }

    fn x_forwarded(&self, trusted: &Trusted) -> Told<'a> {
        let mut told = Told::default();
        let mut hops = 0;
        for entry in from_right(&self.x_for) {
            let Some(node) = node(entry) else { break };
            hops += 1;
            if !walk(&mut told, node, trusted) {
                break;
            }
        }
        if self.x_for.is_empty()
            && let Some(Node { source: Source::Address(address), port }) = self.real_ip.and_then(node)
        {
            told.address = Some(address);
            told.port = port;
        }
        // Each proxy adds to its list, or only the outermost one sets a single value.
        let of_hop = |list: &[&'a [u8]]| from_right(list).take(hops.max(1)).last();
        told.scheme = of_hop(&self.x_proto).and_then(Scheme::parse);
        told.host = of_hop(&self.x_host).filter(|host| bytes::is_host(host));
        told
    }
}

/// Names compare without case, and `_` of a variable is `-` of a field.
fn is(name: &[u8], lower: &[u8]) -> bool {
    name.len() == lower.len()
        && name.iter().zip(lower).all(|(a, b)| a.eq_ignore_ascii_case(b) || (*a == b'_' && *b == b'-'))
}

/// Takes one hop; whether to go on to the one before.
fn walk(told: &mut Told<'_>, node: Node, trusted: &Trusted) -> bool {
    if let Source::Address(address) = node.source {
        told.address = Some(address);
        told.port = node.port;
    }
    trusted.trusts(node.source)
}

/// The members of comma separated lists, the last one first.
fn from_right<'a>(values: &[&'a [u8]]) -> impl Iterator<Item = &'a [u8]> {
    values
        .iter()
        .rev()
        .flat_map(|value| value.rsplit(|&byte| byte == b','))
        .map(bytes::trim)
        .filter(|member| !member.is_empty())
}

/// An entry's address.
#[derive(Clone, Copy)]
struct Node {
    source: Source,
    port: Option<u16>,
}

/// Reads an address with or without a port. Names and obfuscated identifiers (RFC 7239 section 6) are none.
fn node(text: &[u8]) -> Option<Node> {
    if text.starts_with(b"unix:") {
        // As nginx shows the peer of a unix socket.
        return Some(Node { source: Source::Unix, port: None });
    }
    let text = str::from_utf8(text).ok()?;
    if let Ok(address) = text.parse() {
        return Some(Node { source: Source::Address(address), port: None });
    }
    if let Ok(pair) = text.parse::<SocketAddr>() {
        let plain = !matches!(pair, SocketAddr::V6(v6) if v6.scope_id() != 0);
        return plain.then(|| Node { source: Source::Address(pair.ip()), port: Some(pair.port()) });
    }
    let (address, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (address, port) = rest.split_once(']')?;
            (IpAddr::V6(address.parse().ok()?), port)
        }
        None => {
            let (address, port) = text.split_at(text.find(':')?);
            (IpAddr::V4(address.parse().ok()?), port)
        }
    };
    // An obfuscated port is a port that is not known.
    let known = port.is_empty() || port.starts_with(":_");
    known.then_some(Node { source: Source::Address(address), port: None })
}

/// The elements of a Forwarded field, the last one first. Cut from the right, so that a quote left open by a client
/// cannot swallow what a proxy added behind it.
struct Elements<'a>(Option<&'a [u8]>);

impl<'a> Iterator for Elements<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        loop {
            let value = self.0?;
            let mut quoted = false;
            let comma = value.iter().rposition(|&byte| {
                quoted ^= byte == b'"';
                byte == b',' && !quoted
            });
            let element = bytes::trim(&value[comma.map_or(0, |at| at + 1)..]);
            self.0 = comma.map(|at| &value[..at]);
            if !element.is_empty() {
                return Some(element);
            }
        }
    }
}

/// One element of a Forwarded field.
#[derive(Default)]
struct Element<'a> {
    node: Option<&'a [u8]>,
    proto: Option<&'a [u8]>,
    host: Option<&'a [u8]>,
}

impl<'a> Element<'a> {
    /// RFC 7239 section 4; none when it is malformed.
    fn parse(mut text: &'a [u8]) -> Option<Element<'a>> {
        let mut element = Element::default();
        loop {
            let (len, _) = bytes::token_len(text);
            let (name, rest) = text.split_at(len);
            let rest = rest.strip_prefix(b"=").filter(|_| !name.is_empty())?;
            let (value, rest) = value(rest)?;
            let place = match len {
                3 if name.eq_ignore_ascii_case(b"for") => Some(&mut element.node),
                5 if name.eq_ignore_ascii_case(b"proto") => Some(&mut element.proto),
                4 if name.eq_ignore_ascii_case(b"host") => Some(&mut element.host),
                _ => None,
            };
            if let Some(place) = place
                && place.replace(value).is_some()
            {
                return None;
            }
            text = match bytes::trim(rest) {
                [] => return Some(element),
                [b';', rest @ ..] => bytes::trim(rest),
                _ => return None,
            };
        }
    }
}

/// A token or a quoted string, and what stands behind it. Addresses, schemes and hosts need no escapes, so there are none.
fn value(text: &[u8]) -> Option<(&[u8], &[u8])> {
    if let Some(rest) = text.strip_prefix(b"\"") {
        let end = memchr::memchr2(b'"', b'\\', rest)?;
        return (rest[end] == b'"').then(|| (&rest[..end], &rest[end + 1..]));
    }
    let (len, _) = bytes::token_len(text);
    (len > 0).then(|| text.split_at(len))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_and_single_addresses() {
        let network = |text: &str| Network::parse(text).unwrap();
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        for (text, inside, outside) in [
            ("10.0.0.0/8", "10.255.0.1", "11.0.0.0"),
            ("192.0.2.1", "192.0.2.1", "192.0.2.2"),
            ("192.0.2.128/25", "192.0.2.255", "192.0.2.127"),
            ("0.0.0.0/0", "203.0.113.9", "::1"),
            ("::/0", "2001:db8::1", "192.0.2.1"),
            ("::1", "::1", "::2"),
            ("fd00::/8", "fdff::1", "fe00::1"),
            ("2001:db8::/33", "2001:db8:7fff::1", "2001:db8:8000::1"),
            ("127.0.0.1", "::ffff:127.0.0.1", "::127.0.0.1"),
            ("::ffff:10.0.0.0/104", "10.1.2.3", "11.1.2.3"),
        ] {
            assert!(network(text).contains(ip(inside)), "{inside} in {text}");
            assert!(!network(text).contains(ip(outside)), "{outside} not in {text}");
        }
    }

    #[test]
    fn a_bad_network_is_told() {
        for (text, told) in [
            ("10.0.0.0/33", "must be 0 to 32"),
            ("10.0.0.0/", "must be 0 to 32"),
            ("10.0.0.0/+8", "must be 0 to 32"),
            ("::/129", "must be 0 to 128"),
            ("10.1.2.3/8", "the network is 10.0.0.0/8"),
            ("2001:db8::1/32", "the network is 2001:db8::/32"),
            ("localhost", "\"localhost\" is no address or network"),
            ("*", "is no address or network"),
            ("10.0.0/8", "is no address or network"),
        ] {
            let error = Trusted::default().add(text).unwrap_err();
            assert!(error.contains(told), "{text}: {error}");
        }
    }

    #[test]
    fn nobody_is_trusted_by_default() {
        let mut trusted = Trusted::default();
        assert!(trusted.is_empty() && !trusted.trusts(Source::Unix));
        trusted.add(" unix, 127.0.0.1 ,, ::1").unwrap();
        assert!(!trusted.is_empty() && trusted.trusts(Source::Unix));
        assert!(trusted.trusts(Source::Address("::1".parse().unwrap())));
        assert!(!trusted.trusts(Source::Address("127.0.0.2".parse().unwrap())));
    }
}
