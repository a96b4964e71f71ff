//! Tests of the whole program from outside, on rsgi and, where it makes sense, on real uWSGI:
//!
//!     cargo test --test blackbox
//!     SERVER_UNDER_TEST=uwsgi PEER_BIN=.../uwsgi cargo test --test blackbox

#![allow(unreachable_pub)]

mod bodies;
mod cgi;
mod config;
mod control;
mod crossings;
mod daemons;
mod edges;
mod fairness;
mod files;
mod harakiri;
mod harness;
mod hooks;
mod http;
mod large;
mod listeners;
mod logs;
mod options;
mod privileges;
mod processes;
mod protocol_fastcgi;
mod protocol_scgi;
mod protocol_uwsgi;
mod proxies;
mod recycle;
mod reloads;
mod rfc9112;
mod scaling;
mod slow;
mod startup;
mod stats;
mod stops;
mod streams;
mod systemd;
mod threads;
mod triggers;
mod upgrade;
mod wsgi;
