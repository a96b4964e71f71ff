//! The server's own log: one line for each message on standard error (which `logto` points to a file).
//!
//! Request lines are made by [`access`] and written by the workers; they have no prefix.

pub mod access;

use std::io::Write;

/// Target of messages that have several lines.
pub const LINES: &str = "rsgi::lines";

/// Starts logging. `RSGI_LOG` filters, as `RSGI_LOG=debug`; the default is `info`.
pub fn start() {
    let mut builder = env_logger::Builder::from_env(env_logger::Env::new().filter_or("RSGI_LOG", "info"));
    builder.format(|buffer, record| {
        let time = jiff::Zoned::now().strftime("%Y-%m-%d %H:%M:%S").to_string();
        let level = record.level().as_str().to_ascii_lowercase();
        let line = render_line(&time, std::process::id(), &level, &record.args().to_string(), record.target() == LINES);
        // One piece: lines of several processes must not mix.
        buffer.write_all(line.as_bytes())
    });
    // The command installed by pip could be called twice in one process.
    let _ = builder.try_init();
}

/// What tells that all is well is left out from now on, unless RSGI_LOG asks for it.
pub fn quiet() {
    if std::env::var_os("RSGI_LOG").is_none() {
        log::set_max_level(log::LevelFilter::Warn);
    }
}

/// `2026-11-22 14:03:09 rsgi[1234] info: message`.
/// With `lines`, further lines of the message follow, set in.
fn render_line(time: &str, pid: u32, level: &str, message: &str, lines: bool) -> String {
    let mut line = format!("{time} rsgi[{pid}] {level}: ");
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
            c if c.is_control() => out.extend(c.escape_default()),
            c => out.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_one_line_whatever_it_holds() {
        assert_eq!(
            render_line("2026-11-22 14:03:09", 7, "warn", "a\nb\u{1b}[31m\tü", false),
            "2026-11-22 14:03:09 rsgi[7] warn: a\\nb\\u{1b}[31m\tü\n"
        );
    }

    #[test]
    fn further_lines_are_set_in_when_they_are_meant() {
        assert_eq!(render_line("now", 7, "error", "a\nb\u{1b}\n", true), "now rsgi[7] error: a\n    b\\u{1b}\n");
    }
}
