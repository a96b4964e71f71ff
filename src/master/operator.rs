//! Commands that come through `control-socket`: from root and from the user of the master, and from nobody else.
//!
//! A command is one line. The answer begins with a line that holds the exit code for whoever gave the command, and goes
//! on with text for him. Some commands are answered only when they are carried out.

use std::fmt::Write as _;
use std::io::ErrorKind;
use std::os::fd::{AsFd, OwnedFd};

use super::Master;
use super::children::{Millis, Phase, Worker};
use super::command::Command;
use super::desk::{Answer, Guest};
use super::words;
use crate::control::ToWorker;
use crate::sys::clock::monotonic_ms;
use crate::sys::{fd, process, user};

/// How long a worker may take to tell its stacks.
const TELLING: Millis = 3_000;
/// One line in the log for the refusals of so long.
const REFUSALS: Millis = 1_000;

const COMMANDS: &str = "reload, chain-reload, stop, stats, stacks, workers, scale N";

/// What the operator may ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Order {
    Reload,
    ChainReload,
    Stop,
    Stats,
    Stacks,
    Workers,
    Scale(u32),
}

fn parse(line: &[u8]) -> Option<Order> {
    let line = line.split(|byte| *byte == b'\n').next()?;
    let mut words = std::str::from_utf8(line).ok()?.split_ascii_whitespace();
    let order = match words.next()? {
        "reload" => Order::Reload,
        "chain-reload" => Order::ChainReload,
        "stop" => Order::Stop,
        "stats" => Order::Stats,
        "stacks" => Order::Stacks,
        "workers" => Order::Workers,
        "scale" => Order::Scale(words.next()?.parse().ok()?),
        _ => return None,
    };
    words.next().is_none().then_some(order)
}

/// The stacks of one worker as they come.
struct Telling {
    id: u32,
    pid: i32,
    head: String,
    /// None: it has told all.
    pipe: Option<OwnedFd>,
    text: Vec<u8>,
}

/// Somebody waits for the stacks of all workers.
struct Round {
    guest: u64,
    until: Millis,
    tellings: Vec<Telling>,
}

/// Who waits for what.
#[derive(Default)]
pub(super) struct Operator {
    /// For the end of a reload.
    reloads: Vec<u64>,
    rounds: Vec<Round>,
    refused_at: Option<Millis>,
}

impl Operator {
    /// Pipes through which workers tell their stacks.
    pub(super) fn pipes(&self) -> impl Iterator<Item = &OwnedFd> {
        self.rounds.iter().flat_map(|round| &round.tellings).filter_map(|telling| telling.pipe.as_ref())
    }

    /// When somebody has waited long enough.
    pub(super) fn deadline(&self) -> Option<Millis> {
        self.rounds.iter().map(|round| round.until).min()
    }
}

fn reply(code: u8, text: &str) -> Vec<u8> {
    format!("{code}\n{}\n", text.trim_end()).into_bytes()
}

fn say(code: u8, text: impl AsRef<str>) -> Answer {
    Answer::Now(reply(code, text.as_ref()))
}

impl Master {
    /// Carries out what a visitor of the control socket commands.
    pub(super) fn command(&mut self, guest: Guest, line: &[u8]) -> Answer {
        let own = user::own().0;
        let from = match guest.peer {
            Some((pid, uid)) if uid == 0 || uid == own => format!("user {uid} (process {pid})"),
            peer => return self.refuse(peer, own),
        };
        let shown = String::from_utf8_lossy(line.split(|byte| *byte == b'\n').next().unwrap_or_default()).into_owned();
        let Some(order) = parse(line) else {
            return say(1, format!("{shown:?} is no command; there are {COMMANDS}"));
        };
        if self.children.stopping() && matches!(order, Order::Reload | Order::ChainReload | Order::Scale(_)) {
            return say(1, "the server stops");
        }
        let cause = format!("{shown} by {from}");
        match order {
            Order::Reload | Order::ChainReload => {
                self.obey(if order == Order::Reload { Command::Reload } else { Command::ChainReload }, &cause);
                if self.children.incoming().is_none() {
                    return Answer::Now(self.reload_outcome());
                }
                self.operator.reloads.push(guest.number);
                Answer::Later
            }
            Order::Stop => {
                self.obey(Command::Stop, &cause);
                // The end of the connection is the end of the server.
                Answer::Later
            }
            Order::Stats => say(0, String::from_utf8_lossy(&self.json())),
            Order::Workers => say(0, self.table()),
            Order::Scale(wanted) => self.scale(wanted, &cause),
            Order::Stacks => {
                self.ask_for_stacks(guest.number);
                Answer::Later
            }
        }
    }

    fn refuse(&mut self, peer: Option<(i32, u32)>, own: u32) -> Answer {
        let now = monotonic_ms();
        let who = peer.map_or_else(|| "somebody unknown".into(), |(pid, uid)| format!("user {uid} (process {pid})"));
        if self.operator.refused_at.is_none_or(|at| at + REFUSALS <= now) {
            self.operator.refused_at = Some(now);
            log::warn!("control-socket: a command of {who} is refused; root and user {own} may give commands");
        }
        say(1, format!("refused: you are {who}; root and user {own} may give commands"))
    }

    fn scale(&mut self, wanted: u32, cause: &str) -> Answer {
        let Some(generation) = self.serving_generation() else { return say(1, "no generation serves") };
        let rules = &generation.settings.cheaper;
        let (least, most) = (rules.least.max(1), generation.settings.processes);
        if !(least..=most).contains(&wanted) {
            return say(
                1,
                format!(
                    "{wanted} is out of bounds: from {least} to {most} workers (cheaper and processes); change \
                     processes and reload for more"
                ),
            );
        }
        let algorithm = rules.least > 0 && rules.algorithm != crate::config::Algorithm::Manual;
        let before = self.children.target();
        self.scale_to(wanted, cause);
        let note = if algorithm { "; cheaper-algo goes on deciding from there" } else { "" };
        say(0, format!("{} from now on, {before} before{note}", words::count(wanted.into(), "worker")))
    }

    /// How the last reload went, for whoever commanded it.
    fn reload_outcome(&self) -> Vec<u8> {
        let serving = self.children.serving();
        if self.children.stopping() {
            return reply(1, "the server stops");
        }
        match self.reloads.last {
            "done" => {
                let workers = words::count(self.children.target().into(), "worker");
                reply(0, &format!("generation {serving} serves with {workers}"))
            }
            _ => {
                let why = &self.reloads.reason;
                reply(1, &format!("the reload failed, generation {serving} goes on serving as before: {why}"))
            }
        }
    }

    /// One line for each worker number.
    fn table(&self) -> String {
        let mut rows = vec![
            ["ID", "PID", "STATE", "GEN", "BUSY", "WAITING", "CONNS", "REQUESTS", "ERRORS", "RSS MiB", "NOW"]
                .map(str::to_owned),
        ];
        let now = monotonic_ms();
        for worker in &self.survey().workers {
            let current = self.children.workers().iter().find(|known| known.pid == worker.pid && worker.pid != 0);
            let oldest = current.and_then(|known| self.board(known.generation)?.slot(known.id, known.lane).oldest());
            rows.push([
                worker.id.to_string(),
                worker.pid.to_string(),
                if worker.pid == 0 { worker.status.to_owned() } else { worker.state.to_owned() },
                worker.generation.to_string(),
                format!("{}/{}", worker.busy_threads, worker.threads),
                worker.waiting.to_string(),
                worker.connections.to_string(),
                worker.requests.to_string(),
                worker.exceptions.to_string(),
                (worker.rss >> 20).to_string(),
                oldest.map_or_else(|| "-".into(), |current| words::describe(&current, now)),
            ]);
        }
        columns(&rows)
    }

    fn ask_for_stacks(&mut self, guest: u64) {
        let mut tellings = Vec::new();
        let workers: Vec<Worker> =
            self.children.workers().iter().filter(|w| !matches!(w.phase, Phase::Asked)).cloned().collect();
        let now = monotonic_ms();
        for worker in workers {
            let Worker { id, pid, generation, .. } = worker;
            let mut telling = Telling {
                id,
                pid,
                head: format!("worker {id} (pid {pid}, generation {generation})\n"),
                pipe: None,
                text: Vec::new(),
            };
            if worker.phase == Phase::Starting {
                telling.text = b"  it starts\n".to_vec();
            } else if let Some(board) = self.board(generation) {
                // For the case that it does not answer.
                for current in (0..board.threads_per_worker())
                    .filter_map(|core| board.slot(id, worker.lane).thread(core).current())
                {
                    let _ = writeln!(telling.head, "  {}", words::describe(&current, now));
                }
                telling.pipe = self.ask_worker(worker.key);
            }
            tellings.push(telling);
        }
        self.operator.rounds.push(Round { guest, until: now + TELLING, tellings });
    }

    fn ask_worker(&self, key: u32) -> Option<OwnedFd> {
        let (_, control) = self.controls.iter().find(|(known, _)| *known == key)?;
        let (reader, writer) = fd::pipe().ok()?;
        fd::set_nonblocking(&reader, true).ok()?;
        fd::send(control, &ToWorker::Stacks.encode(), Some(writer.as_fd())).ok()?;
        Some(reader)
    }

    /// Hears what workers tell of their stacks.
    pub(super) fn hear_stacks(&mut self) {
        for telling in self.operator.rounds.iter_mut().flat_map(|round| &mut round.tellings) {
            let mut buffer = [0; 16384];
            while let Some(pipe) = &telling.pipe {
                match nix::unistd::read(pipe, &mut buffer).map_err(std::io::Error::from) {
                    Ok(count) if count > 0 => telling.text.extend_from_slice(&buffer[..count]),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    _ => telling.pipe = None,
                }
            }
        }
    }

    /// Tells those who wait what is known by now.
    pub(super) fn answer_operators(&mut self) {
        let now = monotonic_ms();
        if !self.operator.reloads.is_empty() && self.children.incoming().is_none() {
            let outcome = self.reload_outcome();
            for guest in std::mem::take(&mut self.operator.reloads) {
                self.desk.tell(guest, outcome.clone(), now);
            }
        }
        let is_over = |round: &mut Round| round.until <= now || round.tellings.iter().all(|one| one.pipe.is_none());
        for round in self.operator.rounds.extract_if(.., is_over).collect::<Vec<_>>() {
            let texts = round.tellings.iter().map(told).collect::<String>();
            self.desk.tell(round.guest, reply(0, &texts), now);
        }
    }
}

/// What there is to say of a worker: what it told, or that it did not.
fn told(telling: &Telling) -> String {
    let Telling { id, pid, head, pipe, text } = telling;
    if pipe.is_none() && !text.is_empty() {
        let first = head.lines().next().unwrap_or_default();
        return format!("{first}\n{}", String::from_utf8_lossy(text));
    }
    let state = process::state_of(*pid).unwrap_or("it is gone");
    format!("{head}  worker {id} does not answer ({state})\n{}", String::from_utf8_lossy(text))
}

/// Rows with their columns one below the other; the last one as it is.
fn columns<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |at: usize| rows.iter().map(|row| row[at].chars().count()).max().unwrap_or(0);
    let widths: [usize; N] = std::array::from_fn(width);
    let mut text = String::new();
    for row in rows {
        for (at, cell) in row.iter().enumerate() {
            let _ = match at {
                _ if at + 1 == N => writeln!(text, "{cell}"),
                _ => write!(text, "{cell:>0$}  ", widths[at]),
            };
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_read_whole() {
        assert_eq!(parse(b"reload\n"), Some(Order::Reload));
        assert_eq!(parse(b" scale  3 \nmore"), Some(Order::Scale(3)));
        for wrong in ["", "\n", "scale\n", "scale -1\n", "scale 1 2\n", "reload now\n", "explode\n"] {
            assert_eq!(parse(wrong.as_bytes()), None, "{wrong}");
        }
    }

    #[test]
    fn a_table_has_straight_columns() {
        let row = |a: &str, b: &str, c: &str| [a.to_owned(), b.to_owned(), c.to_owned()];
        assert_eq!(columns(&[row("ID", "PID", "NOW"), row("1", "12345", "-")]), "ID    PID  NOW\n 1  12345  -\n");
    }

    #[test]
    fn a_worker_that_is_silent_is_told_of_by_others() {
        let mut telling = Telling {
            id: 2,
            pid: i32::MAX,
            head: "worker 2 (pid 7, generation 1)\n  GET /slow for 3.0 s\n".into(),
            pipe: None,
            text: b"  thread 0: free\n".to_vec(),
        };
        assert_eq!(told(&telling), "worker 2 (pid 7, generation 1)\n  thread 0: free\n");
        telling.text.clear();
        let silent = told(&telling);
        assert!(silent.contains("GET /slow") && silent.contains("does not answer (it is gone)"), "{silent}");
    }
}
