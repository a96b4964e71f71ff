//! Generations of the application: a configuration with its sockets, its scoreboard and its zygote. `children` has their
//! numbers and decides; here is what belongs to each.

use std::collections::HashSet;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::Master;
use super::desk::Door;

use crate::config::Settings;
use crate::control::Imported;
use crate::logging::relay::Plan;
use crate::mailbox::Mailboxes;
use crate::net::listener::Listener;
use crate::scoreboard::Scoreboard;

/// A configuration with its sockets and its zygote.
pub(super) struct Generation {
    pub(super) number: u32,
    pub(super) settings: Arc<Settings>,
    pub(super) listeners: Vec<Listener>,
    /// Sockets of the master itself.
    pub(super) doors: Vec<Door>,
    pub(super) mailboxes: Arc<Mailboxes>,
    pub(super) scoreboard: Arc<Scoreboard>,
    /// Its workers are on another scoreboard, of the program before, which this one cannot read.
    pub(super) apart: bool,
    pub(super) zygote: Option<Zygote>,
    /// How long the import took.
    pub(super) import_ms: u64,
    /// Files of the application that are watched for changes.
    pub(super) modules: Vec<Imported>,
    /// Numbers of the workers that have been ready.
    pub(super) have_served: HashSet<u32>,
    /// What the relay does once this generation serves.
    pub(super) plan: Option<Plan>,
    pub(super) began: u64,
}

pub(super) struct Zygote {
    pub(super) pid: i32,
    /// None: it closed its end, and its death is awaited.
    pub(super) control: Option<OwnedFd>,
    pub(super) ready: bool,
    /// It said why it ends.
    pub(super) told: bool,
}

impl Master {
    pub(super) fn generation(&mut self, number: u32) -> Option<&mut Generation> {
        self.generations.iter_mut().find(|generation| generation.number == number)
    }

    pub(super) fn board(&self, number: u32) -> Option<Arc<Scoreboard>> {
        self.generations.iter().find(|generation| generation.number == number).map(|g| Arc::clone(&g.scoreboard))
    }

    /// Whether workers of a generation see nothing of those that serve on their scoreboard.
    pub(super) fn is_elsewhere(&self, number: u32) -> bool {
        let of = |number| self.generations.iter().find(|generation| generation.number == number);
        match (of(number), of(self.children.serving())) {
            (Some(one), Some(serving)) => {
                one.number != serving.number && (one.apart || !Arc::ptr_eq(&one.scoreboard, &serving.scoreboard))
            }
            _ => false,
        }
    }

    /// Forgets generations of which nothing is left.
    pub(super) fn tidy(&mut self) {
        let current = [Some(self.children.serving()), self.children.incoming()];
        let workers = self.children.workers();
        self.generations.retain(|generation| {
            current.contains(&Some(generation.number))
                || generation.zygote.is_some()
                || workers.iter().any(|worker| worker.generation == generation.number)
        });
    }
}
