//! The request line of the access log and the counters of the scoreboard, after each request.

use jiff::tz::TimeZone;
use std::cell::RefCell;

use super::connection::Connection;
use super::{Worker, clock};
use crate::gateway::Exchange;
use crate::logging;
use crate::logging::access::{Access, Record, SENDFILE};
use crate::sys::process;

/// Status of a request whose client left before the response was whole.
const CLIENT_LEFT: u16 = 499;

thread_local! {
    static LINE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Counts a request and writes its line.
pub(super) fn record(worker: &Worker, connection: &Connection, core: usize) {
    let work = connection.work();
    let response = &work.response;
    let slot = worker.slot();
    let served = slot.add_request();
    slot.add_tx_bytes(response.head_bytes + response.body_bytes);
    if response.gone {
        slot.thread(core).add_write_error();
    }
    let access = worker.options.access.as_ref();
    if access.is_none() && !worker.options.keeps_time {
        return;
    }
    let micros = clock::micros().saturating_sub(work.started);
    slot.add_duration(micros);
    if let Some(access) = access {
        let total = worker.scoreboard.count_request();
        write(worker, connection, access, core, micros, (served, total));
    }
}

fn write(
    worker: &Worker,
    connection: &Connection,
    access: &Access,
    core: usize,
    micros: u64,
    (served, total): (u64, u64),
) {
    let work = connection.work();
    let response = &work.response;
    let status = if response.gone { CLIENT_LEFT } else { response.status };
    // What cannot be read never becomes a request.
    let (via, read_errors) = (response.is_file.then_some(SENDFILE), 0);
    if !access.wants(status, response.body_bytes, micros, via, response.gone && read_errors > 0) {
        return;
    }
    let memory = match access.memory {
        true => process::memory_of(process::own_id()).unwrap_or_default(),
        false => process::Memory::default(),
    };
    let (request, head) = connection.request();
    let record = Record {
        request,
        head,
        peer: connection.client(),
        told: connection.told_of_request(),
        local: connection.local(),
        status,
        body_bytes: response.body_bytes,
        head_bytes: response.head_bytes,
        headers: response.fields,
        started: (clock::wall().as_micros() as u64).saturating_sub(micros),
        micros,
        zone: &worker.zone,
        pid: std::process::id(),
        worker: worker.id,
        core: core as u32,
        app: 0,
        app_requests: served,
        total_requests: total,
        // As uWSGI counts: the pieces it was given, of which a file is none.
        switches: if response.is_file { 0 } else { response.pieces },
        via,
        vsz: memory.address_space,
        rss: memory.resident,
        write_errors: u32::from(response.gone),
        read_errors,
        forwarded: access.forwarded,
    };
    LINE.with_borrow_mut(|line| {
        line.clear();
        access.format.render(&record, line);
        // One write a line: lines of several processes do not mix. A log that takes nothing does not stop the service.
        logging::write_request(line);
    });
}

/// The time zone of the log, looked up once: the files it needs may be out of reach later.
pub(super) fn zone() -> TimeZone {
    TimeZone::system()
}
