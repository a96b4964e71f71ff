//! Where a connection or a request really comes from, when proxies stand in between: the header of the PROXY protocol
//! in front of a connection's own bytes, and the fields of trusted proxies (`trusted-proxies`) in each request.
//!
//! What is read here costs nothing where it is not configured: a connection without the PROXY protocol never has the phase
//! [`Phase::Preface`], and without trusted proxies a request is not looked at.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};

use super::clock::{after, now};
use super::connection::{Connection, Filled, Phase, Step};
use super::work::{Spare, Work};
use crate::gateway::{Peer, Told};
use crate::protocol::forwarded::{self, Source, Trusted};
use crate::protocol::proxy::{self, Origin, Proxied};
use crate::protocol::request::Request;

/// Whether the one warning about proxies that contradict themselves was given.
static WARNED: AtomicBool = AtomicBool::new(false);

impl Connection {
    /// Reads the header of the PROXY protocol. Whatever else comes, or too late, is closed without an answer: it did not
    /// come by the proxy.
    pub(super) fn read_preface(&mut self, spare: &mut Spare) -> Option<Step> {
        if let Some(work) = &mut self.work
            && work.filled > work.scanned
        {
            match proxy::parse(&work.input[..work.filled]) {
                Proxied::Complete { len, origin } => {
                    work.input.copy_within(len..work.filled, 0);
                    work.filled -= len;
                    work.scanned = 0;
                    let more = work.filled > 0;
                    self.take_origin(origin);
                    self.begin_first_request(more);
                    return None;
                }
                Proxied::Partial => work.scanned = work.filled,
                Proxied::Invalid(reason) => {
                    log::info!("{}: {reason}; the connection is closed", self.who());
                    return Some(Step::Close);
                }
            }
        }
        if !self.readable {
            return Some(Step::Wait);
        }
        match self.fill(spare) {
            Filled::Some => None,
            Filled::Nothing => Some(Step::Wait),
            Filled::End | Filled::Gone => Some(Step::Close),
        }
    }

    /// The connection's own bytes begin.
    fn begin_first_request(&mut self, more: bool) {
        self.phase = if more { Phase::Head } else { Phase::Idle };
        self.deadline = after(now(), self.worker.options.timeouts.head);
    }

    fn take_origin(&mut self, origin: Origin) {
        match origin {
            Origin::Client { source, .. } => {
                self.peer = Peer { addr: source.ip().to_canonical().to_string(), port: source.port().to_string() };
            }
            // The proxy asks for itself, or for somebody without an address: the socket's address is all there is.
            Origin::Unknown | Origin::Unix => {}
        }
    }

    /// What trusted proxies say of the request that runs.
    pub(super) fn told_of_request(&self) -> Option<&Told> {
        self.work.as_ref()?.told.as_deref()
    }

    /// Whether it still has to say where it comes from.
    pub(super) fn awaits_preface(&self) -> bool {
        self.phase == Phase::Preface
    }

    /// What trusted proxies say of the request in `work`.
    pub(super) fn hear_proxies(&self, work: &Work) -> Option<Box<Told>> {
        let trusted = self.worker.options.trusted.as_ref()?;
        hear(trusted, &self.peer, &work.request, work.head())
    }
}

/// What is believed of a request that `peer` sends: nothing unless it is a trusted proxy. A peer without an address is one on a
/// unix socket.
pub fn hear(trusted: &Trusted, peer: &Peer, request: &Request, head: &[u8]) -> Option<Box<Told>> {
    let source = match peer.addr.parse::<IpAddr>() {
        Ok(address) => Source::Address(address),
        Err(_) => Source::Unix,
    };
    let told = forwarded::resolve(trusted, source, request, head);
    if told.disputed && !WARNED.swap(true, Ordering::Relaxed) {
        let from = if peer.addr.is_empty() { "a proxy on a unix socket" } else { &peer.addr };
        log::warn!(
            "a request from {from} has a Forwarded and an X-Forwarded-For that name different clients; Forwarded is \
             believed. A trusted proxy must delete those of these fields that it does not write (said once)"
        );
    }
    if told == forwarded::Told::default() {
        return None;
    }
    let port = told.port.map(|port| port.to_string()).unwrap_or_default();
    Some(Box::new(Told {
        client: told.address.map(|address| Peer { addr: address.to_string(), port }),
        scheme: told.scheme.map(forwarded::Scheme::name),
        host: told.host.map(<[u8]>::to_vec),
    }))
}
