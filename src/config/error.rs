//! What the operator is told: errors, all of them at once, and warnings; each with where it comes from.

use std::fmt;
use std::sync::Arc;

/// Where a setting was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A line of a file.
    File(Arc<str>, usize),
    /// A whole file, or an argument as written (`--processes`).
    Argument(Arc<str>),
    /// A variable of the environment.
    Variable(Arc<str>),
    /// The configuration as a whole.
    Whole,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::File(file, line) => write!(f, "{file}:{line}"),
            Origin::Argument(text) => f.write_str(text),
            Origin::Variable(name) => write!(f, "environment variable {name}"),
            Origin::Whole => f.write_str("configuration"),
        }
    }
}

impl Origin {
    /// The head of a message about an option. An argument as written already says its name.
    pub(super) fn place(&self, option: &str) -> String {
        match self {
            Origin::Argument(text) if text.contains(option) => text.to_string(),
            _ => format!("{self}: {option}"),
        }
    }

    /// Puts messages in the order in which somebody reads the files: line by line.
    pub(super) fn sort<T>(messages: &mut [T], origin: impl Fn(&T) -> &Origin) {
        let mut files: Vec<Arc<str>> = Vec::new();
        for message in messages.iter() {
            if let Origin::File(file, _) = origin(message)
                && !files.contains(file)
            {
                files.push(file.clone());
            }
        }
        messages.sort_by_key(|message| match origin(message) {
            Origin::Variable(_) => (0, 0, 0),
            Origin::Argument(_) => (1, 0, 0),
            Origin::File(file, line) => (2, files.iter().position(|known| known == file).unwrap_or(0), *line),
            Origin::Whole => (3, 0, 0),
        });
    }
}

/// Something that keeps rsgi from starting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// Where.
    pub origin: Origin,
    /// Name of the option, where there is one.
    pub option: String,
    /// What was expected; without `found`, the whole sentence.
    pub expected: String,
    /// What was found.
    pub found: Option<String>,
    /// What to do, or what may have been meant.
    pub hint: Option<String>,
}

impl Error {
    pub(crate) fn new(origin: &Origin, option: &str, expected: impl Into<String>, found: impl Into<String>) -> Error {
        let found = Some(found.into());
        Error { origin: origin.clone(), option: option.into(), expected: expected.into(), found, hint: None }
    }

    pub(crate) fn plain(origin: &Origin, sentence: impl Into<String>) -> Error {
        Error { origin: origin.clone(), option: String::new(), expected: sentence.into(), found: None, hint: None }
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Error {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.option.as_str() {
            "" => write!(f, "{}: ", self.origin)?,
            option => write!(f, "{}: ", self.origin.place(option))?,
        }
        match &self.found {
            Some(found) => write!(f, "expected {}, found {found}", self.expected)?,
            None => f.write_str(&self.expected)?,
        }
        match &self.hint {
            Some(hint) => write!(f, " ({hint})"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Error {}

/// Something the operator should know; rsgi starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// Where.
    pub origin: Origin,
    /// What.
    pub message: String,
}

impl Warning {
    pub(crate) fn new(origin: &Origin, message: impl Into<String>) -> Warning {
        Warning { origin: origin.clone(), message: message.into() }
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.origin, self.message)
    }
}
