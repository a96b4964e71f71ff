//! What is configured about the sockets on which the master tells how the server is.

use super::draft::{Draft, Setting};
use super::{Settings, Socket};
use crate::net::address::Address;
use crate::protocol::Protocol;

/// What is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Report {
    /// JSON, to everybody who connects.
    Stats,
    /// Metrics as Prometheus reads them, over HTTP.
    Metrics,
    /// What the operator asks for, to the operator alone.
    Control,
}

impl Report {
    /// All of them.
    pub const ALL: [Report; 3] = [Report::Stats, Report::Metrics, Report::Control];

    /// The option that asks for it.
    pub fn option(self) -> &'static str {
        match self {
            Report::Stats => "stats",
            Report::Metrics => "metrics-socket",
            Report::Control => "control-socket",
        }
    }
}

/// Where the master tells how the server is, and how.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reports {
    /// `stats`.
    pub stats: Option<Address>,
    /// `metrics-socket`.
    pub metrics: Option<Address>,
    /// `control-socket`.
    pub control: Option<Address>,
    /// `stats-http`.
    pub http: bool,
    /// `stats-minified`.
    pub minified: bool,
    /// `stats-no-cores`.
    pub no_cores: bool,
}

impl Reports {
    /// Whether anything is told to anybody.
    pub fn any(&self) -> bool {
        self.stats.is_some() || self.metrics.is_some() || self.control.is_some()
    }
}

impl Settings {
    /// The sockets to bind for reports.
    pub fn report_sockets(&self) -> Vec<(Report, Socket)> {
        let asked = [
            (Report::Stats, &self.reports.stats),
            (Report::Metrics, &self.reports.metrics),
            (Report::Control, &self.reports.control),
        ];
        let asked = asked.into_iter().filter_map(|(report, address)| Some((report, address.clone()?)));
        asked
            .map(|(report, address)| {
                let origin = self.place(report.option()).to_owned();
                (report, Socket { address, protocol: Protocol::Http, proxy_protocol: false, origin })
            })
            .collect()
    }
}

impl Draft<'_> {
    pub(super) fn report(&mut self, s: &Setting, report: Report) {
        let reports = &mut self.settings.reports;
        let place = match report {
            Report::Stats => &mut reports.stats,
            Report::Metrics => &mut reports.metrics,
            Report::Control => &mut reports.control,
        };
        match Address::parse(&s.value) {
            // Who may give commands is told by the file's mode and by the kernel, which knows the user of a unix socket.
            Ok(address) if report == Report::Control && !matches!(address, Address::Unix(_)) => {
                self.error(s, "the path of a unix socket");
            }
            Ok(Address::Unix(path)) if report == Report::Control => {
                *place = Some(Address::Unix(self.facts.start_directory.join(path)));
            }
            Ok(address) => *place = Some(address),
            Err(expected) => self.error(s, expected),
        }
    }
}
