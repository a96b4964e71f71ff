//! The log: the server's own lines, and those of requests.
//!
//! - here: how the server's own lines look. `access`: how the line of a request looks, and which requests have one.
//! - `outlet`: where the lines of this process go; nobody waits for them, and what is dropped is counted.
//! - `file`: log files, opened, opened again, and put aside.
//! - `relay`: the process that writes what all others say, where `logger` or `log-master` asks for it; `encode`: what it makes
//!   of a line; `target`: where it writes.
//!
//! Without those options every process writes its own lines to standard error, which `logto` points to a file.

pub mod access;
mod encode;
pub mod file;
mod json;
mod outlet;
pub mod relay;
mod target;

pub use outlet::lost;

use std::fmt::Write as _;
use std::io::{self, Write};
use std::os::fd::{AsFd, RawFd};
use std::sync::{PoisonError, RwLock};

use jiff::Zoned;

use crate::sys::fd;

/// Target of messages that have several lines.
pub const LINES: &str = "rsgi::lines";

/// How the server's own lines look.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Style {
    /// Objects, one a line.
    pub json: bool,
    /// `log-date`: the format of the date; empty is ctime's, none is rsgi's own.
    pub date: Option<String>,
}

static STYLE: RwLock<Style> = RwLock::new(Style { json: false, date: None });

/// Sets how the server's own lines look from now on.
pub fn set_style(style: Style) {
    *STYLE.write().unwrap_or_else(PoisonError::into_inner) = style;
}

/// What env_logger writes to.
struct Own;

impl Write for Own {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        outlet::MESSAGES.line(line, false);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Starts logging to standard error. `RSGI_LOG` filters, as `RSGI_LOG=debug`; the default is `info`.
pub fn start() {
    outlet::prepare();
    use_standard_error();
    let mut builder = env_logger::Builder::from_env(env_logger::Env::new().filter_or("RSGI_LOG", "info"));
    builder.target(env_logger::Target::Pipe(Box::new(Own)));
    builder.format(|buffer, record| {
        let level = record.level().as_str().to_ascii_lowercase();
        let style = STYLE.read().unwrap_or_else(PoisonError::into_inner);
        let lines = record.target() == LINES;
        // One piece: lines of several processes must not mix.
        buffer.write_all(render(&style, &Zoned::now(), &level, &record.args().to_string(), lines).as_bytes())
    });
    // The command installed by pip could be called twice in one process.
    let _ = builder.try_init();
}

/// Writes to what standard error is now.
pub fn use_standard_error() {
    outlet::MESSAGES.use_standard_error();
    outlet::REQUESTS.use_standard_error();
}

/// Standard output and standard error are this file from now on.
pub fn use_file(file: impl AsFd) {
    // Two numbers that are open: this cannot fail but for a shortage of the moment, and then the old file is written to.
    let _ = fd::replace(1, &file).and_then(|()| fd::replace(2, &file));
    use_standard_error();
}

/// The same with a number that is open; without one, what is said is lost.
fn use_number(number: Option<RawFd>) {
    if let Some(number) = number {
        fd::replace_by_number(1, number);
        fd::replace_by_number(2, number);
        use_standard_error();
    }
}

/// Writes the line of a request, its end included.
pub fn write_request(line: &[u8]) {
    outlet::REQUESTS.line(line, true);
}

/// That lines were dropped, as a line.
fn render_loss(count: u64, requests: u64, others: u64) -> String {
    let lines = if count == 1 { "1 line of the log was" } else { &format!("{count} lines of the log were") };
    let text =
        format!("{lines} dropped, as nobody took them (since the start: {requests} of requests, {others} others)");
    let style = STYLE.read().unwrap_or_else(PoisonError::into_inner);
    render(&style, &Zoned::now(), "warn", &text, false)
}

/// A message as a line, its end included.
fn render(style: &Style, now: &Zoned, level: &str, message: &str, lines: bool) -> String {
    let pid = std::process::id();
    if style.json {
        return render_json(now, pid, level, message);
    }
    let mut head = match style.date.as_deref() {
        None => now.strftime("%Y-%m-%d %H:%M:%S ").to_string(),
        Some("") => now.strftime("%a %b %e %H:%M:%S %Y - ").to_string(),
        // The format was tried when the configuration was read.
        Some(format) => jiff::fmt::strtime::format(format, now).map_or_else(|_| String::new(), |date| date + " - "),
    };
    // Writing to a string never fails.
    let _ = write!(head, "rsgi[{pid}] {level}: ");
    render_line(head, message, lines)
}

/// `{"time":"...","kind":"message","level":"info","pid":1234,"message":"..."}`
fn render_json(now: &Zoned, pid: u32, level: &str, message: &str) -> String {
    let mut out = b"{".to_vec();
    json::text("time", now.strftime("%Y-%m-%dT%H:%M:%S%.6f%:z").to_string().as_bytes(), &mut out);
    json::text("kind", b"message", &mut out);
    json::text("level", level.as_bytes(), &mut out);
    json::number("pid", pid, &mut out);
    json::text("message", message.trim_end().as_bytes(), &mut out);
    out.extend_from_slice(b"}\n");
    String::from_utf8_lossy(&out).into_owned()
}

/// What tells that all is well is left out from now on, unless RSGI_LOG asks for it.
pub fn quiet() {
    if std::env::var_os("RSGI_LOG").is_none() {
        log::set_max_level(log::LevelFilter::Warn);
    }
}

/// `2026-11-22 14:03:09 rsgi[1234] info: message`.
/// With `lines`, further lines of the message follow, set in.
fn render_line(head: String, message: &str, lines: bool) -> String {
    let mut line = head;
    if lines {
        for (number, part) in message.trim_end().split('\n').enumerate() {
            line.push_str(if number > 0 { "\n    " } else { "" });
            escape(part, &mut line);
        }
    } else {
        escape(message, &mut line);
    }
    line.push('\n');
    line
}

/// What a client or a file name put into a message must not look like another line, nor command the terminal.
fn escape(text: &str, out: &mut String) {
    for c in text.chars() {
        match c {
            '\t' => out.push('\t'),
            c if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}') => out.extend(c.escape_default()),
            c => out.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Zoned {
        jiff::civil::date(2026, 11, 22).at(14, 3, 9, 5_000).to_zoned(jiff::tz::TimeZone::UTC).unwrap()
    }

    fn rendered(style: &Style, message: &str, lines: bool) -> String {
        render(style, &now(), "warn", message, lines).replace(&std::process::id().to_string(), "7")
    }

    #[test]
    fn a_message_is_one_line_whatever_it_holds() {
        assert_eq!(
            rendered(&Style::default(), "a\nb\u{1b}[31m\tü\u{2028}", false),
            "2026-11-22 14:03:09 rsgi[7] warn: a\\nb\\u{1b}[31m\tü\\u{2028}\n"
        );
    }

    #[test]
    fn further_lines_are_set_in_when_they_are_meant() {
        let line = rendered(&Style::default(), "a\nb\u{1b}\n", true);
        assert_eq!(line, "2026-11-22 14:03:09 rsgi[7] warn: a\n    b\\u{1b}\n");
    }

    #[test]
    fn dates_are_written_as_asked() {
        let style = |date: &str| Style { json: false, date: Some(date.into()) };
        assert_eq!(rendered(&style(""), "x", false), "Sun Nov 22 14:03:09 2026 - rsgi[7] warn: x\n");
        assert_eq!(rendered(&style("%d/%m"), "x", false), "22/11 - rsgi[7] warn: x\n");
    }

    #[test]
    fn a_message_can_be_an_object() {
        let style = Style { json: true, date: None };
        let line = rendered(&style, "a \"b\"\nTraceback\u{1b}\n", true);
        assert_eq!(
            line,
            "{\"time\":\"2026-11-22T14:03:09.000005+00:00\",\"kind\":\"message\",\"level\":\"warn\",\"pid\":7,\
             \"message\":\"a \\\"b\\\"\\nTraceback\\u001b\"}\n"
        );
    }

    #[test]
    fn lost_lines_are_told_in_words() {
        let line = render_loss(1, 1, 0);
        assert!(line.contains("1 line of the log was dropped"), "{line}");
        assert!(render_loss(3, 2, 1).contains("(since the start: 2 of requests, 1 others)"));
    }
}
