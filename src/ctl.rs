//! `rsgi ctl`: commands for a running server, through its `control-socket`. Waits for the answer, prints it, and ends with
//! the code that the server gives.

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Arg, ArgAction, ArgMatches, value_parser};

use crate::sys;

/// How long an answer may take that needs nothing to be carried out.
const PATIENCE: Duration = Duration::from_secs(30);

/// What the command line asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// `--socket`.
    pub socket: Option<PathBuf>,
    /// `--ini`: configurations that name the socket.
    pub ini: Vec<String>,
    /// The line to send.
    pub line: String,
}

fn command() -> clap::Command {
    let plain = |name: &'static str, about: &'static str| clap::Command::new(name).about(about);
    let chain = Arg::new("chain").long("chain").action(ArgAction::SetTrue).help("Replace one worker after the other");
    let count = Arg::new("N").required(true).value_parser(value_parser!(u32)).help("Workers from now on");
    clap::Command::new("rsgi ctl")
        .about("Commands a running server through its control-socket.")
        .override_usage("rsgi ctl --socket PATH COMMAND\n       rsgi ctl --ini FILE.ini[:SECTION] COMMAND")
        .disable_help_subcommand(true)
        .subcommand_required(true)
        .max_term_width(100)
        .arg(
            Arg::new("socket")
                .long("socket")
                .value_name("PATH")
                .value_parser(value_parser!(PathBuf))
                .global(true)
                .help("The control-socket of the server"),
        )
        .arg(
            Arg::new("ini")
                .long("ini")
                .value_name("FILE")
                .action(ArgAction::Append)
                .global(true)
                .help("The server's configuration, which names its control-socket"),
        )
        .subcommand(plain("reload", "Reload; wait for the outcome, and fail if it was rolled back").arg(chain))
        .subcommand(plain("stop", "Finish the requests in flight, stop, and wait for the end"))
        .subcommand(plain("stats", "Print the statistics as JSON"))
        .subcommand(plain("stacks", "Print what every thread is doing right now"))
        .subcommand(plain("workers", "Print a table of the workers"))
        .subcommand(plain("scale", "Change the number of workers").arg(count))
}

/// Reads the words after `ctl`.
///
/// # Errors
/// What is to be printed, and whether that is what was asked for (help).
pub fn parse(arguments: &[OsString]) -> Result<Request, (String, bool)> {
    let words = std::iter::once(OsString::from("rsgi ctl")).chain(arguments.iter().cloned());
    let matches = command().try_get_matches_from(words).map_err(|error| {
        let asked = matches!(error.kind(), clap::error::ErrorKind::DisplayHelp);
        (error.to_string(), asked)
    })?;
    let Some((name, of)) = matches.subcommand() else { return Err(("a command is missing".into(), false)) };
    let line = match name {
        "scale" => format!("scale {}", of.get_one::<u32>("N").copied().unwrap_or_default()),
        "reload" if of.get_flag("chain") => "chain-reload".into(),
        name => name.to_owned(),
    };
    let ini = |of: &ArgMatches| of.get_many::<String>("ini").into_iter().flatten().cloned().collect::<Vec<_>>();
    Ok(Request { socket: of.get_one::<PathBuf>("socket").cloned(), ini: ini(of), line })
}

/// Sends a command and prints the answer. Gives the exit code.
///
/// # Errors
/// One line: the server cannot be reached, or does not answer.
pub fn send(socket: &Path, line: &str) -> Result<u8, String> {
    let answer = ask(socket, line).map_err(|error| {
        let hint = match error.kind() {
            io::ErrorKind::NotFound => "; is the server running, with this control-socket?",
            io::ErrorKind::ConnectionRefused => "; no server listens there any more",
            io::ErrorKind::PermissionDenied => "; only root and the user of the server may give commands",
            io::ErrorKind::WouldBlock => " (the server does not answer)",
            _ => "",
        };
        format!("{}: {}{hint}", socket.display(), sys::describe(&error))
    })?;
    let (code, text) = match answer.split_once('\n') {
        Some((code, text)) if code.parse::<u8>().is_ok() => (code.parse().unwrap_or(1), text),
        // The server is gone, which is what was wanted.
        _ if line == "stop" && answer.is_empty() => (0, "stopped\n"),
        _ => return Err(format!("{}: the server ended before it answered", socket.display())),
    };
    let shown = printable(text);
    let printed = match code {
        0 => io::stdout().write_all(shown.as_bytes()),
        _ => io::stderr().write_all(format!("rsgi: error: {shown}").as_bytes()),
    };
    Ok(if printed.is_ok() { code } else { 1 })
}

fn ask(socket: &Path, line: &str) -> io::Result<String> {
    let mut stream = UnixStream::connect(socket)?;
    let waits = ["reload", "chain-reload", "stop"].contains(&line);
    stream.set_read_timeout((!waits).then_some(PATIENCE))?;
    let mut bytes = Vec::new();
    // One that refuses may have answered and left before it heard the command.
    let sent = stream.write_all(format!("{line}\n").as_bytes());
    match stream.read_to_end(&mut bytes) {
        // It ended with our words unread.
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {}
        read => drop(read?),
    }
    if bytes.is_empty() {
        sent?;
    }
    let _ = stream.shutdown(Shutdown::Both);
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// What a client put into a request must not command the operator's terminal.
fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' | '\t' => shown.push(c),
            c if c.is_control() => shown.extend(c.escape_default()),
            c => shown.push(c),
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<Request, (String, bool)> {
        parse(&line.split(' ').filter(|word| !word.is_empty()).map(OsString::from).collect::<Vec<_>>())
    }

    #[test]
    fn commands_become_lines() {
        let request = read("--socket /run/c scale 3").unwrap();
        assert_eq!((request.socket.as_deref(), request.line.as_str()), (Some(Path::new("/run/c")), "scale 3"));
        let request = read("reload --chain --ini a.ini --ini b.ini:c").unwrap();
        assert_eq!((request.line.as_str(), request.ini.len()), ("chain-reload", 2));
        for wrong in ["", "explode", "scale", "scale many", "reload now"] {
            assert!(!read(wrong).unwrap_err().1, "{wrong}");
        }
        assert!(read("--help").unwrap_err().1);
    }

    #[test]
    fn an_answer_does_not_command_the_terminal() {
        assert_eq!(printable("a\tb\n\u{1b}[31m"), "a\tb\n\\u{1b}[31m");
    }
}
