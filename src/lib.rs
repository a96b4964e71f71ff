//! rsgi hosts Python WSGI applications: a master process reads an ini file, a zygote imports the
//! application, prefork workers serve it over HTTP/1.1 and the uwsgi protocol.
//!
//! The code map is `src/README.md`; every file says at its head what it is for.

pub mod boot;
pub mod cgi;
pub mod cli;
pub mod config;
pub mod control;
pub mod exit;
mod extension;
pub mod gateway;
pub mod hooks;
pub mod interpreter;
pub mod logging;
pub mod mailbox;
pub mod master;
pub mod net;
pub mod protocol;
pub mod scoreboard;
pub mod stats;
pub mod sys;
pub mod worker;
pub mod wsgi;
pub mod zygote;
