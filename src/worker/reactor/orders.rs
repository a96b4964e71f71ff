//! What the master tells a worker: to pause, to go on, to retire, another log file, stacks.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Reactor;
use crate::control::{FromWorker, MAX_MESSAGE, Retire, ToWorker};
use crate::logging;
use crate::sys::fd::{self, Received};
use crate::worker::{Worker, stacks};

impl Reactor {
    pub(super) fn read_control(&self, worker: &Arc<Worker>) {
        let mut buffer = [0u8; MAX_MESSAGE];
        loop {
            match fd::receive(&worker.control, &mut buffer, false) {
                Ok(Received::Message(len, descriptor)) => match (ToWorker::decode(&buffer[..len]), descriptor) {
                    (Some(ToWorker::Retire { how, heirs }), _) => self.retire(worker, how, heirs, false),
                    (Some(ToWorker::Log), Some(file)) => logging::use_file(file),
                    (Some(ToWorker::Ping), _) => worker.tell(&FromWorker::Pong),
                    (Some(ToWorker::Pause), _) => self.pause(worker),
                    (Some(ToWorker::Resume), _) => self.resume(worker),
                    (Some(ToWorker::Stacks), Some(out)) => stacks::write(worker, out),
                    _ => log::warn!("worker {}: the master said something unknown", worker.id),
                },
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Ok(Received::End) | Err(_) => return self.retire(worker, Retire::Replaced, 0, true),
            }
        }
    }

    /// Accepts nothing and begins no request; what is read meanwhile waits.
    pub(super) fn pause(&self, worker: &Worker) {
        let mut state = self.lock();
        if state.retiring.is_some() {
            return;
        }
        worker.paused.store(true, Ordering::Relaxed);
        worker.slot().set_idle(false);
        state.shut = true;
        for index in 0..state.doors.len() {
            self.watch_door(&mut state, index, false);
        }
    }

    pub(super) fn resume(&self, worker: &Worker) {
        let mut state = self.lock();
        if !worker.paused.swap(false, Ordering::Relaxed) {
            return;
        }
        state.shut = false;
        if state.retiring.is_none() {
            self.open_doors(&mut state);
        }
        drop(state);
        self.wake.notify_all();
    }
}
