//! Clients that ask all the time while something happens to the server, and count what is lost.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use super::http::{Client, Endpoint, get, post};
use super::wait_until;

/// What a client does with its connection after an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keeps {
    /// Asks again on it, until the server announces a close.
    Open,
    /// Asks for its close, and takes a new one.
    Closed,
}

/// Clients, each in a thread of its own.
pub struct Clients {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    threads: Vec<JoinHandle<Vec<String>>>,
}

fn ask(endpoint: &Endpoint, kept: &mut Option<Client>, keeps: Keeps, number: u64) -> Result<(), String> {
    let reused = kept.is_some();
    let mut client = match kept.take() {
        Some(client) => client,
        None => endpoint.try_connect().map_err(|error| format!("connecting: {error}"))?,
    };
    let body = format!("body {number}");
    let request = match (number % 2, keeps) {
        (0, Keeps::Open) => post("/echo", &body),
        (0, Keeps::Closed) => {
            let text = "POST /echo HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: ";
            format!("{text}{}\r\n\r\n{body}", body.len()).into_bytes()
        }
        (_, Keeps::Open) => get("/pid").into_bytes(),
        (_, Keeps::Closed) => b"GET /pid HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".to_vec(),
    };
    let how = |what: &str, error: String| format!("{what} request {number} (reused: {reused}): {error}");
    client.try_send(request).map_err(|error| how("sending", error.to_string()))?;
    let response = client.try_response_to("GET").map_err(|error| how("reading", error))?;
    if response.status != 200 || number % 2 == 0 && response.body != body.as_bytes() {
        return Err(how("the answer to", format!("{} {}", response.status, response.text())));
    }
    if keeps == Keeps::Open && !response.announces_close() {
        *kept = Some(client);
    }
    Ok(())
}

impl Clients {
    /// `count` clients of `tests/apps/basic.py` that begin at once, half of them each way.
    pub fn begin(endpoint: &Endpoint, count: usize) -> Clients {
        let all: Vec<Keeps> = (0..count).map(|n| if n % 2 == 0 { Keeps::Open } else { Keeps::Closed }).collect();
        Clients::begin_as(endpoint, &all)
    }

    /// A client for each of `all`, each of which has had answers.
    pub fn begin_as(endpoint: &Endpoint, all: &[Keeps]) -> Clients {
        let clients = Clients::begin_unanswered(endpoint, all);
        clients.wait_for(all.len() as u64 * 2);
        clients
    }

    /// A client for each of `all`; it may be that nobody answers yet.
    pub fn begin_unanswered(endpoint: &Endpoint, all: &[Keeps]) -> Clients {
        let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let client = |keeps: &Keeps| {
            let (endpoint, stop, answered, keeps) =
                (endpoint.clone(), Arc::clone(&stop), Arc::clone(&answered), *keeps);
            std::thread::spawn(move || {
                let (mut kept, mut lost, mut number) = (None, Vec::new(), 0);
                while !stop.load(Ordering::Relaxed) && lost.len() < 10 {
                    number += 1;
                    match ask(&endpoint, &mut kept, keeps, number) {
                        Ok(()) => drop(answered.fetch_add(1, Ordering::Relaxed)),
                        Err(error) => lost.push(error),
                    }
                }
                lost
            })
        };
        let threads = all.iter().map(client).collect();
        Clients { stop, answered, threads }
    }

    /// Answers so far.
    pub fn answered(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }

    /// Waits until so many more were answered.
    #[track_caller]
    pub fn wait_for(&self, more: u64) {
        let goal = self.answered() + more;
        let given_up = || self.threads.iter().any(JoinHandle::is_finished);
        wait_until("clients are answered", || self.answered() >= goal || given_up());
    }

    /// Ends them; fails the test when a request was lost.
    #[track_caller]
    pub fn expect_no_loss(self) {
        self.judge(|_| true);
    }

    /// The same of a server that is gone: who could not connect any more has lost nothing.
    #[track_caller]
    pub fn expect_no_loss_but_refusals(self) {
        self.judge(|lost| !lost.starts_with("connecting"));
    }

    #[track_caller]
    fn judge(self, counts: impl Fn(&str) -> bool) {
        let answered = self.answered();
        self.stop.store(true, Ordering::Relaxed);
        let all = self.threads.into_iter().flat_map(|thread| thread.join().expect("a client"));
        let lost: Vec<String> = all.filter(|lost| counts(lost)).collect();
        assert!(lost.is_empty(), "lost besides {answered} answered: {lost:#?}");
    }
}
