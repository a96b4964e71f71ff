//! Statistics in the text format of Prometheus (version 0.0.4).

use std::fmt::{Display, Write};

use super::{Stats, Worker, add_up};
use crate::scoreboard::DURATIONS;

/// The media type of [`Stats::metrics`].
pub const MEDIA_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

struct Text(String);

impl Text {
    /// One metric: its name and kind, what it is, and its samples with their labels.
    fn metric<V: Display>(
        &mut self,
        name: &str,
        kind: &str,
        help: &str,
        samples: impl IntoIterator<Item = (String, V)>,
    ) {
        // Writing to a string never fails.
        let _ = writeln!(self.0, "# HELP rsgi_{name} {help}\n# TYPE rsgi_{name} {kind}");
        for (labels, value) in samples {
            let _ = match labels.is_empty() {
                true => writeln!(self.0, "rsgi_{name} {value}"),
                false => writeln!(self.0, "rsgi_{name}{{{labels}}} {value}"),
            };
        }
    }

    fn one(&mut self, name: &str, kind: &str, help: &str, value: impl Display) {
        self.metric(name, kind, help, [(String::new(), value)]);
    }
}

/// `name="value"`, escaped as the format wants it.
fn label(name: &str, value: impl Display) -> String {
    let value = value.to_string().replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    format!("{name}=\"{value}\"")
}

fn seconds(micros: u64) -> String {
    format!("{}.{:06}", micros / 1_000_000, micros % 1_000_000)
}

impl Stats {
    /// A histogram of all workers together: one for each would be many series.
    fn histogram(&self, out: &mut Text, name: &str, help: &str, counts: [u64; DURATIONS.len() + 1], micros: u64) {
        out.metric::<u64>(name, "histogram", help, []);
        let mut count = 0;
        for (bound, more) in DURATIONS.map(seconds).into_iter().chain(["+Inf".into()]).zip(counts) {
            count += more;
            let _ = writeln!(out.0, "rsgi_{name}_bucket{{{}}} {count}", label("le", bound));
        }
        let _ = writeln!(out.0, "rsgi_{name}_sum {}\nrsgi_{name}_count {count}", seconds(micros));
    }

    /// How long requests took, and how long they waited before.
    fn histograms(&self, out: &mut Text) {
        let sum = |of: fn(&Worker) -> u64| self.workers.iter().map(of).sum::<u64>();
        let durations = add_up(self.workers.iter().map(|worker| worker.durations));
        let help = "Time that requests took, from their first byte to the end of the response.";
        self.histogram(out, "request_seconds", help, durations, sum(|worker| worker.running_time));
        let mut waits = add_up(self.workers.iter().map(|worker| worker.waits));
        // Only those that had to wait are counted when they do.
        let all: u64 = durations.iter().sum();
        waits[0] += all.saturating_sub(waits.iter().sum());
        let help = "Time that complete requests waited for an application thread.";
        self.histogram(out, "request_queue_seconds", help, waits, sum(|worker| worker.waited_time));
    }

    /// As metrics for Prometheus.
    pub fn metrics(&self) -> String {
        let mut out = Text(String::with_capacity(4096));
        let workers = |of: fn(&Worker) -> u64| {
            self.workers.iter().map(move |worker| (label("worker", worker.id), of(worker))).collect::<Vec<_>>()
        };
        out.metric("info", "gauge", "The version that runs.", [(label("version", self.version), 1)]);
        out.one("ready", "gauge", "1 when requests are answered.", u8::from(self.ready));
        out.one("generation", "gauge", "The generation of the application that serves.", self.generation);
        let (counter, gauge) = ("counter", "gauge");
        out.metric("requests_total", counter, "Requests answered.", workers(|w| w.requests));
        out.metric("exceptions_total", counter, "Exceptions that the application raised.", workers(|w| w.exceptions));
        out.metric("response_bytes_total", counter, "Bytes sent to clients.", workers(|w| w.tx));
        self.histograms(&mut out);
        let help = "Requests that ran longer than harakiri allows.";
        out.metric("harakiris_total", counter, help, workers(|w| w.harakiri_count));
        let aborted = |w: &Worker| w.cores.iter().flatten().map(|core| core.write_errors).sum();
        let help = "Responses that their clients did not wait for.";
        out.metric("responses_cut_total", counter, help, workers(aborted));
        out.metric("worker_starts_total", counter, "Processes started.", workers(|w| w.respawn_count));
        let threads = self.workers.iter().flat_map(|worker| {
            // Where there is no process there are no threads.
            let all = if worker.pid == 0 { 0 } else { worker.threads };
            let states = [("busy", worker.busy_threads), ("idle", all.saturating_sub(worker.busy_threads))];
            let of = label("worker", worker.id);
            states.map(|(state, count)| (format!("{of},{}", label("state", state)), count))
        });
        out.metric("threads", gauge, "Application threads, inside a request or free.", threads);
        let count = |state: &str| self.workers.iter().filter(|worker| worker.state == state).count() as u64;
        let states = [("ready", count("ready")), ("starting", count("starting")), ("retiring", self.retiring)];
        let states = states.map(|(state, count)| (label("state", state), count));
        out.metric("workers", gauge, "Worker processes.", states);
        out.metric("requests_waiting", gauge, "Complete requests that wait for a thread.", workers(|w| w.waiting));
        out.metric("connections", gauge, "Open connections.", workers(|w| w.connections));
        out.metric("worker_resident_bytes", gauge, "Resident memory.", workers(|w| w.rss));
        let help = "Memory, what is shared with others counted in part.";
        out.metric("worker_proportional_bytes", gauge, help, workers(|w| w.pss));
        out.metric("worker_address_space_bytes", gauge, "Address space.", workers(|w| w.vsz));
        let queues = self.sockets.iter().map(|socket| (label("socket", &socket.name), socket.queue));
        out.metric("listen_queue", gauge, "Connections that wait to be accepted (TCP).", queues);
        let queues = self.sockets.iter().map(|socket| (label("socket", &socket.name), socket.max_queue));
        out.metric("listen_queue_limit", gauge, "Connections that may wait to be accepted (TCP).", queues);
        let outcomes = [("done", self.reloads.done), ("failed", self.reloads.failed)];
        let outcomes = outcomes.map(|(outcome, count)| (label("outcome", outcome), count));
        let dropped = [("request", self.log.dropped_requests), ("message", self.log.dropped_messages)];
        let dropped = dropped.map(|(kind, count)| (label("kind", kind), count));
        out.metric("log_lines_dropped_total", counter, "Lines that the log did not take.", dropped);
        out.metric("reloads_total", counter, "Reloads by their outcome.", outcomes);
        out.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scoreboard::Scoreboard;
    use crate::stats::{Holder, Moment, Socket};

    #[test]
    fn samples_are_named_and_labelled() {
        let board = Scoreboard::create(1, 2).unwrap();
        board.slot(1, 0).add_duration(1_500_000);
        board.slot(1, 0).add_duration(500);
        board.slot(1, 0).add_wait(20_000);
        let holder = Holder { pid: 7, state: "ready", ..Holder::default() };
        let now = Moment { monotonic_ms: 0, wall_ms: 0 };
        let odd = Socket { name: "a\"\\".into(), proto: "http", queue: 3, max_queue: 9, shared: 0, can_offload: 0 };
        let workers = vec![Worker::new(&board, 1, Some(holder), false, now)];
        let text = Stats { workers, sockets: vec![odd], ready: true, ..Stats::default() }.metrics();
        for line in [
            "rsgi_ready 1",
            "rsgi_request_seconds_bucket{le=\"1.000000\"} 1",
            "rsgi_request_seconds_bucket{le=\"2.500000\"} 2",
            "rsgi_request_seconds_bucket{le=\"+Inf\"} 2",
            "rsgi_request_seconds_sum 1.500500",
            "rsgi_request_queue_seconds_bucket{le=\"0.001000\"} 1",
            "rsgi_request_queue_seconds_bucket{le=\"0.025000\"} 2",
            "rsgi_request_queue_seconds_sum 0.020000",
            "rsgi_request_queue_seconds_count 2",
            "rsgi_threads{worker=\"1\",state=\"idle\"} 2",
            "rsgi_workers{state=\"ready\"} 1",
            "rsgi_listen_queue{socket=\"a\\\"\\\\\"} 3",
            "# TYPE rsgi_requests_total counter",
        ] {
            assert!(text.lines().any(|known| known == line), "{line} is not in {text}");
        }
    }
}
