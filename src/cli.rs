//! The command line: arguments in, values out. The boot prints and exits.
//!
//! clap owns the true flags (`--help`, `--version`, `--check`); every other option is a row of the
//! option table and is read here by the rules of getopt_long, which are uWSGI's: unambiguous
//! prefixes, clusters of letters, options and files in any order. Files named without an option are
//! read after all options, as uWSGI does.

use std::ffi::OsString;

use clap::{Arg, ArgAction};

use crate::config::options::{self, AREAS, Action, Kind, Row};
use crate::config::{Argument, Error, Origin};

/// What the command line asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Print this text to standard output and exit with 0.
    Help(String),
    /// Print this text to standard output and exit with 0.
    Version(String),
    /// Load the configuration from these arguments and serve.
    Run {
        /// `--check`: only load, report, and exit with 0 or 1.
        check: bool,
        /// `--cgi`: answer the one request that the environment and standard input are.
        cgi: bool,
        /// For `config::load`, the same again at each reload.
        arguments: Vec<Argument>,
    },
}

/// Names of the flags that clap owns.
const FLAGS: &[&str] = &["help", "usage", "version", "check", "cgi"];

fn command() -> clap::Command {
    clap::Command::new("rsgi")
        .version(env!("CARGO_PKG_VERSION"))
        .about("Serves Python WSGI applications, configured by uWSGI's ini files.")
        .override_usage("rsgi [OPTIONS] [FILE.ini[:SECTION]]...\n       rsgi --ini FILE.ini [--NAME VALUE]...")
        .disable_help_flag(true)
        .disable_version_flag(true)
        .max_term_width(100)
        .arg(Arg::new("help").short('h').long("help").action(ArgAction::SetTrue).help("Print this help"))
        .arg(Arg::new("version").long("version").action(ArgAction::SetTrue).help("Print the version"))
        .arg(
            Arg::new("check")
                .long("check")
                .action(ArgAction::SetTrue)
                .help("Read the configuration, report what is wrong with it, and exit with 0 or 1"),
        )
        .arg(Arg::new("cgi").long("cgi").action(ArgAction::SetTrue).help(
            "Answer one request as a CGI program (RFC 3875), without a master or any socket; options of sockets, \
             processes, reloads, limits, statistics and request lines mean nothing then. What follows a FILE is not \
             read: web servers put words of the query there",
        ))
        .after_help(rows_help())
}

/// Reads the arguments after the program's name.
///
/// # Errors
/// All that is wrong with them; exit code 1.
pub fn parse(arguments: &[OsString]) -> Result<Command, Vec<Error>> {
    let mut reader = Reader::default();
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        let Some(text) = argument.to_str() else {
            let origin = Origin::Argument(argument.to_string_lossy().as_ref().into());
            reader.errors.push(Error::plain(&origin, "this argument is not UTF-8"));
            continue;
        };
        if text == "--" {
            for file in rest.by_ref() {
                reader.file(&file.to_string_lossy());
            }
        } else if let Some(long) = text.strip_prefix("--") {
            reader.long(long, &mut rest);
        } else if text.len() > 1 && text.starts_with('-') {
            reader.short(&text[1..], &mut rest);
        } else {
            reader.file(text);
            if reader.flags.contains(&"--cgi") {
                // The line `#!/usr/bin/rsgi --cgi` at the head of FILE makes a web server start this, with words of
                // the client's behind it (RFC 3875 section 4.4).
                break;
            }
        }
    }
    let mut command = command();
    let flags = match command.try_get_matches_from_mut(std::iter::once("rsgi").chain(reader.flags.iter().copied())) {
        Ok(flags) => flags,
        Err(error) => {
            reader.errors.push(Error::plain(&Origin::Whole, error.to_string().trim_end()));
            return Err(reader.errors);
        }
    };
    if flags.get_flag("help") {
        return Ok(Command::Help(command.render_help().to_string()));
    }
    if flags.get_flag("version") {
        return Ok(Command::Version(command.render_version()));
    }
    if !reader.errors.is_empty() {
        return Err(reader.errors);
    }
    reader.arguments.append(&mut reader.files);
    let (check, cgi) = (flags.get_flag("check"), flags.get_flag("cgi"));
    Ok(Command::Run { check, cgi, arguments: reader.arguments })
}

#[derive(Default)]
struct Reader {
    arguments: Vec<Argument>,
    files: Vec<Argument>,
    flags: Vec<&'static str>,
    errors: Vec<Error>,
}

impl Reader {
    fn file(&mut self, text: &str) {
        // uWSGI passes over these; its own re-executed command line had them.
        if !text.starts_with('[') {
            self.files.push(Argument { name: "include".into(), value: text.into(), written: text.into() });
        }
    }

    fn error(&mut self, written: &str, expected: &str, found: &str, hint: Option<String>) {
        let error = Error::new(&Origin::Argument(written.into()), "", expected, found);
        self.errors.push(match hint {
            Some(hint) => error.hint(hint),
            None => error,
        });
    }

    fn long<'a>(&mut self, text: &str, rest: &mut impl Iterator<Item = &'a OsString>) {
        let (name, value) = match text.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (text, None),
        };
        let written = format!("--{name}");
        match complete(name) {
            Completed::Flag(flag) => match value {
                None => self.flag(flag),
                Some(value) => self.error(&written, "no value", &format!("{value:?}"), None),
            },
            Completed::Row(row) => {
                // What is written stays the key: `%(name)` means it.
                let name = if options::find(name).is_some() { name } else { row.name };
                self.option(row, name, written, value, rest);
            }
            Completed::Unknown => {
                let near = options::nearest(name).map(|near| format!("did you mean --{near}?"));
                self.error(&written, "an option", "an unknown name", near.or(Some("--help lists the options".into())));
            }
            Completed::Several(names) => {
                let names: Vec<_> = names.iter().map(|name| format!("--{name}")).collect();
                self.error(&written, "one option", &format!("the beginning of {}", names.join(", ")), None);
            }
        }
    }

    fn short<'a>(&mut self, letters: &str, rest: &mut impl Iterator<Item = &'a OsString>) {
        for (at, letter) in letters.char_indices() {
            let written = format!("-{letter}");
            if letter == 'h' {
                self.flag("help");
                continue;
            }
            let Some(row) = options::find_short(letter) else {
                self.error(&written, "an option", "an unknown letter", Some("--help lists the options".into()));
                return;
            };
            let after = &letters[at + letter.len_utf8()..];
            let attached = (row.kind != Kind::Flag && !after.is_empty()).then(|| after.to_owned());
            let taken = attached.is_some();
            self.option(row, row.name, written, attached, rest);
            if taken || matches!(row.kind, Kind::Required(_)) {
                return;
            }
        }
    }

    fn option<'a>(
        &mut self,
        row: &Row,
        name: &str,
        written: String,
        value: Option<String>,
        rest: &mut impl Iterator<Item = &'a OsString>,
    ) {
        let value = match (value, row.kind) {
            (Some(value), _) => value,
            (None, Kind::Flag) => "true".into(),
            (None, Kind::Optional(_)) => String::new(),
            (None, Kind::Required(of)) => match rest.next() {
                Some(value) => match value.to_str() {
                    Some(value) => value.to_owned(),
                    None => return self.error(&written, "UTF-8", &format!("{value:?}"), None),
                },
                None => return self.error(&written, &format!("a value ({})", of.name()), "nothing", None),
            },
        };
        self.arguments.push(Argument { name: name.into(), value, written });
    }

    fn flag(&mut self, name: &'static str) {
        let flag = match name {
            "version" => "--version",
            "check" => "--check",
            "cgi" => "--cgi",
            _ => "--help",
        };
        // clap refuses a flag given twice.
        if !self.flags.contains(&flag) {
            self.flags.push(flag);
        }
    }
}

enum Completed {
    Flag(&'static str),
    Row(&'static Row),
    Unknown,
    Several(Vec<&'static str>),
}

/// The option of a name or an unambiguous beginning of one. Aliases of one option are not ambiguous.
fn complete(name: &str) -> Completed {
    if let Some(flag) = FLAGS.iter().find(|flag| **flag == name) {
        return Completed::Flag(flag);
    }
    if let Some(row) = options::find(name) {
        return Completed::Row(row);
    }
    if name.is_empty() {
        return Completed::Unknown;
    }
    let flags: Vec<_> = FLAGS.iter().copied().filter(|flag| flag.starts_with(name)).collect();
    let not_flags = options::rows().filter(|row| !FLAGS.contains(&row.name));
    let rows: Vec<_> = not_flags.filter(|row| row.names().any(|known| known.starts_with(name))).collect();
    match (&flags[..], &rows[..]) {
        ([], []) => Completed::Unknown,
        ([flag], []) => Completed::Flag(flag),
        ([], [row]) => Completed::Row(row),
        _ => {
            let rows = rows.iter().flat_map(|row| row.names().filter(|known| known.starts_with(name)));
            Completed::Several(flags.iter().copied().chain(rows).take(6).collect())
        }
    }
}

/// The supported rows, by area.
fn rows_help() -> String {
    let mut text = String::from("In files the same options are lines `name = value` below a line [uwsgi].\n");
    for (area, rows) in AREAS {
        let supported = rows.iter().filter(|row| matches!(row.action, Action::Supported(_) | Action::Early));
        let mut supported = supported.filter(|row| !is_logic(row.name)).peekable();
        if supported.peek().is_some() {
            text += &format!("\n{area}:\n");
        }
        for row in supported {
            let short = row.short.map_or("    ".to_owned(), |letter| format!("-{letter}, "));
            let value = match row.kind {
                Kind::Flag => String::new(),
                Kind::Optional(of) => format!("[={}]", of.name()),
                Kind::Required(of) => format!(" {}", of.name()),
            };
            let left = format!("  {short}--{}{value}", row.name);
            let names = match row.aliases {
                [] => String::new(),
                aliases => format!(" [also {}]", aliases.join(", ")),
            };
            text += &format!("{left:<40} {}{names}\n", row.help);
        }
    }
    text
}

/// Lines of files that make no sense as arguments.
fn is_logic(name: &str) -> bool {
    ["if-", "for", "end"].iter().any(|start| name.starts_with(start))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<Command, Vec<Error>> {
        parse(&line.split(' ').filter(|word| !word.is_empty()).map(OsString::from).collect::<Vec<_>>())
    }

    /// Names and values.
    fn settings(line: &str) -> Vec<(String, String)> {
        match read(line) {
            Ok(Command::Run { arguments, .. }) => {
                arguments.into_iter().map(|argument| (argument.name, argument.value)).collect()
            }
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn options_take_values_as_in_getopt() {
        for (line, expected) in [
            ("--ini app.ini", &[("ini", "app.ini")][..]),
            ("app.ini:dev", &[("include", "app.ini:dev")]),
            ("--processes 4 --threads=2", &[("processes", "4"), ("threads", "2")]),
            ("--env A=b=c --env=A=b=c", &[("env", "A=b=c"), ("env", "A=b=c")]),
            ("--master --vacuum=false", &[("master", "true"), ("vacuum", "false")]),
            ("--http-keepalive app.ini", &[("http-keepalive", ""), ("include", "app.ini")]),
            ("--http-keepalive=5", &[("http-keepalive", "5")]),
            ("-s :1 -p4 -Mp 4", &[("socket", ":1"), ("processes", "4"), ("master", "true"), ("processes", "4")]),
            ("-C660 -C -w a:b", &[("chmod-socket", "660"), ("chmod-socket", ""), ("module", "a:b")]),
            ("--processe 3 --wsgi-f=a.py", &[("processes", "3"), ("wsgi-file", "a.py")]),
            ("--venv x --virtualenv y", &[("venv", "x"), ("virtualenv", "y")]),
            ("a.ini --threads 2", &[("threads", "2"), ("include", "a.ini")]),
            ("--threads 2 -- --odd.ini", &[("threads", "2"), ("include", "--odd.ini")]),
            ("--ini -", &[("ini", "-")]),
            ("--harakiri 20", &[("harakiri", "20")]),
            ("[uwsgi] a.ini", &[("include", "a.ini")]),
            ("--threads -1", &[("threads", "-1")]),
        ] {
            let expected: Vec<_> = expected.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
            assert_eq!(settings(line), expected, "{line}");
        }
    }

    #[test]
    fn mistakes_are_told_all_at_once() {
        let errors = read("--proceses 4 --proc --ini -Z --check=1").unwrap_err();
        let errors: Vec<_> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(errors[0], "--proceses: expected an option, found an unknown name (did you mean --processes?)");
        assert!(errors[1].starts_with("--proc: expected one option, found the beginning of --processes, "));
        // --ini took -Z as its value, as getopt does.
        assert_eq!(errors[2], "--check: expected no value, found \"1\"");
        let errors = read("-Z --ini").unwrap_err();
        assert!(errors[0].to_string().starts_with("-Z: expected an option"));
        assert_eq!(errors[1].to_string(), "--ini: expected a value (PATH), found nothing");
    }

    #[test]
    fn a_cgi_program_takes_no_words_behind_its_file() {
        assert_eq!(settings("--cgi app.ini --env A=b other.ini --proceses"), [("include".into(), "app.ini".into())]);
        let expected = [("ini".into(), "app.ini".into()), ("threads".into(), "2".into())];
        assert_eq!(settings("--cgi --ini app.ini --threads 2"), expected);
        for line in ["--cgi app.ini", "--ini app.ini --cgi", "--cgi --cgi --ini a"] {
            assert!(matches!(read(line), Ok(Command::Run { cgi: true, check: false, .. })), "{line}");
        }
    }

    #[test]
    fn true_flags_are_found_anywhere() {
        assert_eq!(read("--ini a.ini --check").map(|c| matches!(c, Command::Run { check: true, .. })), Ok(true));
        assert_eq!(read("a.ini").map(|c| matches!(c, Command::Run { check: false, .. })), Ok(true));
        for line in ["--help", "-h", "--usage", "--master --hel", "--help --help", "-Mh"] {
            match read(line) {
                Ok(Command::Help(text)) => {
                    assert!(text.contains("--check") && text.contains("-p, --processes NUMBER"), "{text}");
                }
                other => panic!("{line}: {other:?}"),
            }
        }
        let version = Command::Version(format!("rsgi {}\n", env!("CARGO_PKG_VERSION")));
        assert_eq!(read("--version"), Ok(version));
    }
}
