//! Deadlines, and who answers: without an application.

use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use super::*;
use crate::gateway::{FilePart, Peer};
use crate::net::stream::Stream;
use crate::protocol::response::Head;
use crate::worker::connection::Step;
use crate::worker::tests::worker;
use crate::worker::work::Spare;

fn harakiri(limit: u64) -> Harakiri {
    let limits =
        Limits { limit: Duration::from_secs(limit), grace: Duration::from_secs(2), verbose: false, queue_threshold: 0 };
    Harakiri::new(&limits, 2)
}

#[test]
fn nobody_looks_while_nothing_runs() {
    let harakiri = harakiri(5);
    assert_eq!(harakiri.nothing_due_for(false), None);
    // About to run, and not known yet.
    assert_eq!(harakiri.nothing_due_for(true), Some(Duration::from_millis(5000 + GRAIN)));
}

#[test]
fn the_wait_ends_with_the_first_deadline_and_before_any_that_begins_in_it() {
    let harakiri = harakiri(5);
    harakiri.watches[0].due.store(now() + 100_000, Ordering::Relaxed);
    assert_eq!(harakiri.nothing_due_for(true), Some(Duration::from_millis(5000 + GRAIN)));
    harakiri.watches[1].due.store(1, Ordering::Relaxed);
    assert_eq!(harakiri.nothing_due_for(true), Some(Duration::from_millis(GRAIN)));
}

#[test]
fn the_application_may_want_an_earlier_end_and_take_it_back() {
    let both = harakiri(5);
    both.watches[0].running().began = now();
    both.want(0, Duration::from_secs(3));
    let due = both.watches[0].due.load(Ordering::Relaxed);
    assert!(due <= now() + 3000 && due > 0);
    both.want(0, Duration::from_secs(9));
    assert_eq!(both.watches[0].due.load(Ordering::Relaxed), both.watches[0].running().began + 5000);
    let alone = harakiri(0);
    assert_eq!(alone.nothing_due_for(true), None);
    alone.want(1, Duration::from_micros(1));
    assert!(alone.watches[1].due.load(Ordering::Relaxed) > 0 && alone.nothing_due_for(true).is_some());
    alone.want(1, Duration::ZERO);
    assert_eq!(alone.watches[1].due.load(Ordering::Relaxed), 0);
}

#[test]
fn one_of_application_and_watcher_answers() {
    let harakiri = harakiri(5);
    assert!(harakiri.application_answers(0));
    assert!(!harakiri.application_answers(0));
    harakiri.watches[1].head.store(WATCHER, Ordering::Relaxed);
    assert!(!harakiri.application_answers(1));
}

/// Who may still answer after a file of `len` bytes was handed over, with a Content-Length of `promised`.
fn after_a_file(len: u64, promised: u64) -> u8 {
    let worker = worker(|_| {});
    let harakiri = worker.harakiri.get_or_init(|| harakiri(5));
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    let mut connection = Connection::new(&worker, Stream::new(OwnedFd::from(ours)), 0, Peer::default());
    theirs.write_all(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
    assert_eq!(connection.meet(Some(false), &mut Spare::default()), Step::Request);
    connection.begin_response(0);
    harakiri.begin(0, &connection);
    let mut head = Head::new();
    head.start(b"200 OK").unwrap();
    head.field(b"Content-Length", promised.to_string().as_bytes()).unwrap();
    let file = tempfile::tempfile().unwrap();
    file.set_len(len).unwrap();
    connection.send_file(&mut head, FilePart { file, start: 0, len });
    harakiri.watches[0].head.load(Ordering::Relaxed)
}

/// How a request is stopped whose head was fixed just before its deadline; `whole`: the rest comes in the next moment.
fn late_between_head_and_rest(whole: bool) -> Option<Stopped> {
    let worker = worker(|_| {});
    let harakiri = worker.harakiri.get_or_init(|| harakiri(5));
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let mut connection = Connection::new(&worker, Stream::new(OwnedFd::from(ours)), 0, Peer::default());
    theirs.write_all(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
    assert_eq!(connection.meet(Some(false), &mut Spare::default()), Step::Request);
    connection.begin_response(0);
    harakiri.begin(0, &connection);
    let watch = &harakiri.watches[0];
    watch.due.store(1, Ordering::Release);
    assert!(harakiri.application_answers(0));
    let before = now();
    harakiri.look(&worker);
    assert_eq!(watch.running().stopped, None);
    assert!(watch.due.load(Ordering::Acquire) >= before + LAST_MOMENT);
    if whole {
        harakiri.response_is_sent(0);
    }
    watch.due.store(1, Ordering::Release);
    harakiri.look(&worker);
    watch.running().stopped
}

#[test]
fn a_response_that_is_being_sent_at_the_deadline_is_not_cut() {
    assert_eq!(late_between_head_and_rest(true), Some(Stopped::Spared));
    assert_eq!(late_between_head_and_rest(false), Some(Stopped::Cut));
}

#[test]
fn a_whole_file_is_a_whole_response_also_while_it_is_on_its_way() {
    // More than the socket takes at once.
    let large = 8 << 20;
    assert_eq!(after_a_file(large, large), SENT);
    assert_eq!(after_a_file(large, 5), SENT);
    assert_eq!(after_a_file(large, large + 1), APPLICATION);
    assert_eq!(after_a_file(0, 0), SENT);
}
