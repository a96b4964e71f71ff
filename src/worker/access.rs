//! The request line of the access log and the counters of the scoreboard, after each request.

use std::cell::RefCell;
use std::io::Write;

use jiff::tz::TimeZone;

use super::connection::Connection;
use super::{Worker, clock};
use crate::gateway::Exchange;
use crate::logging::access::{Format, Record};

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
    let format = worker.options.access.as_ref();
    if format.is_none() && !worker.options.keeps_time {
        return;
    }
    let micros = clock::micros().saturating_sub(work.started);
    slot.add_duration(micros);
    if let Some(format) = format {
        let total = worker.scoreboard.count_request();
        write(worker, connection, format, core, micros, (served, total));
    }
}

fn write(
    worker: &Worker,
    connection: &Connection,
    format: &Format,
    core: usize,
    micros: u64,
    (served, total): (u64, u64),
) {
    let work = connection.work();
    let response = &work.response;
    let (request, head) = connection.request();
    let record = Record {
        request,
        head,
        peer: connection.client(),
        told: connection.told_of_request(),
        local: connection.local(),
        status: if response.gone { CLIENT_LEFT } else { response.status },
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
        switches: 1,
        via: response.is_file.then_some("sendfile"),
        vsz: 0,
        rss: 0,
        write_errors: u32::from(response.gone),
        read_errors: 0,
    };
    LINE.with_borrow_mut(|line| {
        line.clear();
        format.render(&record, line);
        // One write a line: lines of several processes do not mix. A log that cannot be written does not stop the service.
        let _ = std::io::stderr().write_all(line);
    });
}

/// The time zone of the log, looked up once: the files it needs may be out of reach later.
pub(super) fn zone() -> TimeZone {
    TimeZone::system()
}
