//! How a request line looks: `log-format` and its variables.

use super::{Record, text_or_dash};

/// How a line looks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Format {
    /// uWSGI's line.
    Line {
        /// `log-micros`: the duration in microseconds.
        micros: bool,
        /// `memory-report`: address space and resident memory in front.
        memory: bool,
    },
    /// `log-format`.
    Template(Vec<Part>),
    /// `log-format = json`: an object.
    Json,
}

/// A piece of a `log-format`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// Text as it stands.
    Text(String),
    /// One of the variables known by name.
    Known(Known),
    /// Begin of the request in a format for strftime.
    Date(String),
    /// `%(var.NAME)`: a request variable.
    Var(String),
    /// Any other name: a variable that the application sets while it serves; `-` when it has not.
    LogVar(String),
}

/// Declares the variables of `log-format` once: the name in the format and the variant.
macro_rules! known {
    ($($name:literal $variant:ident),* $(,)?) => {
        /// A variable of `log-format`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Known {
            $(#[doc = concat!("`%(", $name, ")`")] $variant),*
        }

        impl Known {
            /// Every variable.
            pub const ALL: &'static [Known] = &[$(Known::$variant),*];

            /// Its name in a format.
            pub fn name(self) -> &'static str {
                match self { $(Known::$variant => $name),* }
            }
        }
    };
}

known! {
    "uri" Uri, "method" Method, "user" User, "addr" Addr, "host" Host, "proto" Proto, "uagent" UserAgent,
    "referer" Referer, "status" Status, "rsize" BodySize, "hsize" HeadSize, "size" Size, "cl" ContentLength,
    "micros" Micros, "msecs" Millis, "secs" Seconds, "time" Time, "tmsecs" TimeMillis, "tmicros" TimeMicros,
    "ltime" LogTime, "ftime" FormattedTime, "ctime" CTime, "epoch" Epoch, "pid" Pid, "wid" Worker, "core" Core,
    "switches" Switches, "vars" Vars, "pktsize" PacketSize, "modifier1" Modifier1, "modifier2" Modifier2,
    "headers" Headers, "vsz" Vsz, "rss" Rss, "vszM" VszMegabytes, "rssM" RssMegabytes, "werr" WriteErrors,
    "rerr" ReadErrors, "ioerr" IoErrors,
}

impl Default for Format {
    fn default() -> Format {
        Format::Line { micros: false, memory: false }
    }
}

impl Format {
    /// Parses a `log-format`. An opening `%(` without its `)` is text, as in uWSGI.
    ///
    /// # Errors
    /// What was expected, when a variable has no name.
    pub fn parse(text: &str) -> Result<Format, String> {
        if text == "json" {
            return Ok(Format::Json);
        }
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once("%(") {
            let Some((name, behind)) = after.split_once(')') else { break };
            if name.is_empty() || name == "var." {
                return Err(format!("the name of a variable in \"%({name})\""));
            }
            if !before.is_empty() {
                parts.push(Part::Text(before.to_owned()));
            }
            let known = Known::ALL.iter().find(|known| known.name() == name);
            parts.push(match (known, name.strip_prefix("var.")) {
                (Some(&known), _) => Part::Known(known),
                (None, Some(var)) => Part::Var(var.to_owned()),
                // As in uWSGI where there is no such metric.
                (None, None) if name.starts_with("metric.") => Part::Text("0".into()),
                (None, None) => Part::LogVar(name.to_owned()),
            });
            rest = behind;
        }
        if !rest.is_empty() {
            parts.push(Part::Text(rest.to_owned()));
        }
        Ok(Format::Template(parts))
    }

    /// Appends the line for `record`, line end included.
    pub fn render(&self, record: &Record<'_>, out: &mut Vec<u8>) {
        match self {
            Format::Line { micros, memory } => record.line(*micros, *memory, out),
            Format::Json => record.json(out),
            Format::Template(parts) => {
                for part in parts {
                    match part {
                        Part::Text(text) => out.extend_from_slice(text.as_bytes()),
                        Part::Known(known) => record.known(*known, out),
                        Part::Date(format) => record.date(format, out),
                        Part::Var(name) => text_or_dash(record.var(name), out),
                        Part::LogVar(_) => out.push(b'-'),
                    }
                }
                out.push(b'\n');
            }
        }
    }
}
