//! App threads.
//!
//! An app thread attaches to Python once for its life and detaches around every wait. It takes a ready request and
//! runs it in place: nobody is woken for a fast application. `standby` does the I/O while all are with slow ones.

use std::sync::Arc;
use std::thread;

use super::connection::Connection;
use super::reactor::{Back, Patience};
use super::work::Spare;
use super::{Worker, access, clock, standby};
use crate::control::FromWorker;
use crate::gateway::Exchange;
use crate::wsgi::{self, Apps};

/// App threads run the application's code on a stack like that of a Python thread.
const STACK: usize = 8 << 20;

/// Runs all threads of the worker until it is done; returns the exit code.
pub(super) fn run(worker: &Arc<Worker>, apps: &Arc<Apps>, options: &wsgi::Options) -> u8 {
    let mut others = Vec::new();
    let started = {
        let worker = Arc::clone(worker);
        thread::Builder::new().name("standby".into()).stack_size(512 << 10).spawn(move || standby::run(&worker))
    };
    match started {
        Ok(handle) => others.push(handle),
        Err(error) => {
            log::error!("worker {}: the standby thread cannot be started: {error}", worker.id);
            return crate::exit::ERROR;
        }
    }
    for core in 1..options.threads as usize {
        let (worker_of_thread, apps, own_options) = (Arc::clone(worker), Arc::clone(apps), options.clone());
        let name = format!("app {core}");
        let thread = thread::Builder::new().name(name).stack_size(STACK);
        match thread.spawn(move || app_thread(&worker_of_thread, &apps, &own_options, core)) {
            Ok(handle) => others.push(handle),
            Err(error) => {
                log::error!("worker {}: only {core} of {} threads can be started: {error}", worker.id, options.threads);
                break;
            }
        }
    }
    // The first app thread is the process' main thread, as code that wants to be on it expects.
    app_thread(worker, apps, options, 0);
    for handle in others {
        if handle.join().is_err() {
            return crate::exit::ERROR;
        }
    }
    if let Some(harakiri) = worker.harakiri.get() {
        harakiri.join();
    }
    worker.witness.join();
    crate::exit::OK
}

/// A panic in a thread leaves a request without an answer and maybe a lock without an owner: the worker is not to be
/// trusted any more, and the master replaces it.
pub(super) struct Unwinding;

impl Drop for Unwinding {
    fn drop(&mut self) {
        if thread::panicking() {
            std::process::abort();
        }
    }
}

fn app_thread(worker: &Arc<Worker>, apps: &Arc<Apps>, options: &wsgi::Options, core: usize) {
    let _unwinding = Unwinding;
    wsgi::with_app_thread(apps, options, core as u32, |app| {
        let mut spare = Spare::default();
        worker.standby.introduce(core);
        if worker.options.tells_stacks {
            worker.witness.introduce(core, app);
        }
        if let Some(harakiri) = worker.harakiri.get() {
            harakiri.introduce(core, app.interruptible());
        }
        let watch = |connection: &Connection| {
            if let Some(harakiri) = worker.harakiri.get() {
                harakiri.begin(core, connection);
            }
        };
        loop {
            spare.attached = false;
            let first = app.detached(|| {
                let found = worker.reactor.next(worker, &mut spare, Back::Nothing, Patience::Wait);
                if let Some(connection) = &found {
                    // Before attaching: a thread that waits for the interpreter is as good as inside the application.
                    worker.standby.enter(core);
                    watch(connection);
                }
                found
            });
            let Some(mut connection) = first else { return };
            spare.attached = true;
            loop {
                let served = serve(worker, app, core, connection);
                worker.standby.advance(core);
                match worker.reactor.next(worker, &mut spare, Back::Served(served), Patience::None) {
                    Some(next) => {
                        watch(&next);
                        connection = next;
                    }
                    None => break,
                }
            }
            worker.standby.leave(core);
        }
    });
}

fn serve(
    worker: &Worker,
    app: &mut wsgi::AppThread<'_>,
    core: usize,
    mut connection: Box<Connection>,
) -> Box<Connection> {
    connection.begin_response(core);
    let slot = worker.slot();
    let queued = std::mem::take(&mut connection.work_mut().queued);
    if queued > 0 {
        slot.add_wait(clock::micros().saturating_sub(queued));
    }
    let thread = slot.thread(core);
    let began = clock::lately();
    {
        let (request, head) = connection.request();
        let peer = connection.client().addr.as_bytes();
        thread.enter(began, request.method.of(head), request.target.of(head), peer);
    }
    let connection = app
        .serve(connection)
        .into_any()
        .downcast::<Connection>()
        .unwrap_or_else(|_| unreachable!("an exchange comes back as what it went in"));
    if worker.options.measures_busyness {
        slot.add_busy(clock::now().saturating_sub(began));
    }
    thread.leave();
    access::record(worker, &connection, core);
    if let Some(limit) = worker.meter.after_request() {
        worker.tell(&FromWorker::Reached(limit));
    }
    connection
}
