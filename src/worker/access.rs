//! The request line of the access log and the counters of the scoreboard, after each request.

use super::Worker;
use super::connection::Connection;

/// Counts a request and writes its line.
pub(super) fn record(worker: &Worker, connection: &Connection, _core: usize) {
    let response = &connection.work().response;
    let slot = worker.slot();
    slot.add_request();
    slot.add_tx_bytes(response.head_bytes + response.body_bytes);
}
