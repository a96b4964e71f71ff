//! Doors that are shut.

use std::sync::Arc;

use super::Door;
use crate::net::address::Address;
use crate::net::listener::Listener;
use crate::protocol::Protocol;
use crate::worker::tests::worker;

#[test]
fn a_paused_worker_lets_nobody_in_when_descriptors_are_free_again() {
    let worker = worker(|_| ());
    let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = Address::parse(&socket.local_addr().unwrap().to_string()).unwrap();
    let listener = Listener {
        fd: socket.into(),
        asked: address.clone(),
        address,
        protocol: Protocol::Http,
        inherited: true,
        proxy_protocol: false,
        unlink: None,
    };
    let reactor = &worker.reactor;
    reactor.lock().doors.push(Door { listener: Some(Arc::new(listener)), watched: false });
    let is_watched = || reactor.lock().doors[0].watched;
    reactor.open_doors(&mut reactor.lock());
    assert!(is_watched());
    reactor.pause(&worker);
    // A letter came, or a connection that was to be accepted already: there was no descriptor for it.
    reactor.begin_shortage(&mut reactor.lock());
    reactor.open_doors(&mut reactor.lock());
    assert!(!is_watched());
    // Letters are taken in nevertheless.
    assert!(reactor.lock().short_until.is_none() && !reactor.lock().events.is_empty());
    reactor.resume(&worker);
    assert!(is_watched());
}
