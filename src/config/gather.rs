//! Collects settings in the order they count: `UWSGI_` variables, then the command line, then files
//! named without an option; a file's settings stand where the file is named. Blocks, `set` and
//! included files are carried out here, as uWSGI does while it reads; so they see only what stands
//! before them. Afterwards placeholders are replaced in what is left.

use std::collections::{HashSet, VecDeque};
use std::path::PathBuf;

use super::blocks::{Blocks, Lane};
use super::error::{Error, Origin, Warning};
use super::load::{Argument, Facts};
use super::source::{self, Source};
use super::{expand, ini, options};

/// What is left to do with a setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// To be applied.
    Plain,
    /// Carried out while collecting.
    Done,
    /// `set-placeholder`: never an option.
    Placeholder,
}

/// One setting as written, with its origin.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) value: String,
    pub(super) origin: Origin,
    pub(super) state: State,
}

/// All settings, placeholders replaced, and what was found on the way.
#[derive(Debug, Default)]
pub(super) struct Gathered {
    pub(super) entries: Vec<Entry>,
    pub(super) errors: Vec<Error>,
    pub(super) warnings: Vec<Warning>,
    pub(super) files: Vec<PathBuf>,
    /// `strict`, wherever it stands.
    pub(super) strict: bool,
    /// Names that placeholders and conditions use.
    pub(super) used: HashSet<String>,
}

/// Variables that uWSGI and rsgi set themselves; they are no options.
const NOT_OPTIONS: &[&str] = &[
    "UWSGI_RELOADS",
    "UWSGI_VASSALS_DIR",
    "UWSGI_EMPEROR_FD",
    "UWSGI_EMPEROR_FD_CONFIG",
    "UWSGI_EMPEROR_PROXY",
    "UWSGI_BROODLORD_NUM",
    "UWSGI_JAIL_PID",
    "UWSGI_ORIGINAL_PROC_NAME",
];

impl Gathered {
    pub(super) fn collect(arguments: &[Argument], facts: &Facts) -> Gathered {
        let mut collector = Collector {
            facts,
            out: Gathered::default(),
            blocks: Blocks::new(),
            last_file: None,
            first: None,
            open: Vec::new(),
            heirs: VecDeque::new(),
            floor: 0,
        };
        for (name, value) in &facts.environment {
            if let Some(key) = name.strip_prefix("UWSGI_")
                && !key.is_empty()
                && !NOT_OPTIONS.contains(&name.as_str())
            {
                let key = key.to_lowercase().replace('_', "-");
                collector.add(&key, value, &Origin::Variable(name.as_str().into()));
            }
        }
        for argument in arguments {
            collector.add(&argument.name, &argument.value, &Origin::Argument(argument.written.as_str().into()));
        }
        collector.close_blocks(0);
        collector.inherit();
        collector.expand();
        collector.out
    }

    /// The value of the first setting of this name, as `%(name)` takes it.
    fn value(&self, name: &str) -> Option<String> {
        self.entries.iter().find(|entry| entry.key == name).map(|entry| entry.value.clone())
    }
}

/// A file and the section of it that is read.
type Opened = (PathBuf, String);

struct Collector<'a> {
    facts: &'a Facts,
    out: Gathered,
    blocks: Blocks,
    /// The file loaded last, as written: what `:section` means.
    last_file: Option<String>,
    /// The first file's `%x` variables, for the upper-case ones.
    first: Option<Source>,
    /// Files and sections being read, outermost first.
    open: Vec<Opened>,
    /// Files to be read when all others have been: the entry that names each, and what was being read there.
    heirs: VecDeque<(usize, Vec<Opened>)>,
    /// Blocks opened outside the file that is being read: not this file's to close.
    floor: usize,
}

impl Collector<'_> {
    fn error(&mut self, error: Error) {
        self.out.errors.push(error);
    }

    fn warn(&mut self, origin: &Origin, message: impl Into<String>) {
        self.out.warnings.push(Warning::new(origin, message));
    }

    /// One line, once for each lane.
    fn add(&mut self, key: &str, value: &str, origin: &Origin) {
        let name = options::find(key).map_or(key, |row| row.name);
        match name {
            "endif" | "endfor" | "end" => {
                self.done(key, value, origin);
                let closed = self.blocks.close(self.floor);
                return self.block(closed, origin);
            }
            "else" => {
                self.done(key, value, origin);
                let taken = self.blocks.otherwise(self.floor);
                return self.block(taken, origin);
            }
            _ if name == "for" || name.starts_with("for-") => {
                self.done(key, value, origin);
                return self.open_loop(name, value, origin);
            }
            _ if name.starts_with("if-") && options::find(name).is_some() => {
                self.done(key, value, origin);
                return self.open_condition(name, value, origin);
            }
            _ => {}
        }
        for lane in self.blocks.lanes().to_vec() {
            self.add_one(key, &in_lane(value, &lane), origin);
        }
    }

    fn add_one(&mut self, key: &str, value: &str, origin: &Origin) {
        match options::find(key).map_or(key, |row| row.name) {
            "ini" => {
                self.done(key, value, origin);
                self.load(value, false, origin);
            }
            "include" => {
                self.done(key, value, origin);
                self.load(value, true, origin);
            }
            "inherit" => {
                self.heirs.push_back((self.out.entries.len(), self.open.clone()));
                self.done(key, value, origin);
            }
            "set" => {
                self.done(key, value, origin);
                match value.split_once('=') {
                    Some((name, value)) => self.add_one(name.trim(), value.trim(), origin),
                    None => self.error(Error::new(origin, key, "name=value", format!("{value:?}"))),
                }
            }
            "set-placeholder" => {
                self.done(key, value, origin);
                match value.split_once('=').map(|(name, value)| (name.trim(), value.trim())) {
                    Some((name, _)) if options::find(name).is_some() => {
                        let found = format!("the option {name:?}");
                        let error = Error::new(origin, key, "a name that is no option", found);
                        self.error(error.hint(format!("use set = {name}=...")));
                    }
                    Some((name, value)) => self.push(name, value, origin, State::Placeholder),
                    None => self.error(Error::new(origin, key, "name=value", format!("{value:?}"))),
                }
            }
            "strict" => {
                self.push(key, value, origin, State::Plain);
                self.out.strict = super::draft::is_true(value);
            }
            _ => self.push(key, value, origin, State::Plain),
        }
    }

    fn push(&mut self, key: &str, value: &str, origin: &Origin, state: State) {
        self.out.entries.push(Entry { key: key.into(), value: value.into(), origin: origin.clone(), state });
    }

    fn done(&mut self, key: &str, value: &str, origin: &Origin) {
        self.push(key, value, origin, State::Done);
    }

    fn block(&mut self, result: Result<(), String>, origin: &Origin) {
        if let Err(sentence) = result {
            self.error(Error::plain(origin, sentence));
        }
    }

    fn close_blocks(&mut self, floor: usize) {
        while let Some((key, origin)) = self.blocks.unclosed(floor) {
            let (key, origin) = (key.to_owned(), origin.clone());
            self.warn(&origin, format!("{key} has no end; it holds up to the end of the file"));
            if self.blocks.close(floor).is_err() {
                break;
            }
        }
    }

    fn open_loop(&mut self, name: &str, value: &str, origin: &Origin) {
        self.literal(name, value, origin);
        let words = |text: &str| text.split(' ').filter(|word| !word.is_empty()).map(str::to_owned).collect();
        let facts = self.facts;
        let mut failures = Vec::new();
        self.blocks.open_loop(name, origin, |lane| {
            let value = in_lane(value, lane);
            match name {
                "for-times" => match value.parse::<u16>() {
                    Ok(times) => (1..=times).map(|n| n.to_string()).collect(),
                    Err(_) => {
                        failures.push(Error::new(origin, name, "a whole number from 0 to 65535", format!("{value:?}")));
                        Vec::new()
                    }
                },
                "for-readline" => match std::fs::read_to_string(facts.start_directory.join(&value)) {
                    Ok(text) => {
                        text.lines().map(|line| line.trim().to_owned()).filter(|line| !line.is_empty()).collect()
                    }
                    Err(error) => {
                        failures.push(Error::new(
                            origin,
                            name,
                            "a readable file",
                            format!("{value}: {}", source::describe(&error)),
                        ));
                        Vec::new()
                    }
                },
                "for-glob" => source::glob(&facts.start_directory, &value),
                _ => words(&value),
            }
        });
        self.out.errors.append(&mut failures);
    }

    fn open_condition(&mut self, name: &str, value: &str, origin: &Origin) {
        self.literal(name, value, origin);
        let facts = self.facts;
        let entries = &self.out.entries;
        let mut unknown = None;
        if name.ends_with("-opt") {
            self.out.used.insert(value.split('=').next().unwrap_or_default().to_owned());
        }
        let what = name.trim_start_matches("if-").trim_start_matches("not-");
        let negated = name.starts_with("if-not-");
        self.blocks.open_condition(name, origin, |lane| {
            let value = in_lane(value, lane);
            let path = || facts.start_directory.join(&value);
            let (name, wanted) = match value.split_once('=') {
                Some((name, wanted)) => (name, Some(wanted)),
                None => (value.as_str(), None),
            };
            let fits = |found: &str| wanted.is_none_or(|wanted| wanted == found);
            let (holds, given) = match what {
                "env" => {
                    let found = facts.environment.iter().find(|(known, _)| known == name).map(|(_, value)| value);
                    (found.is_some_and(|found| fits(found)), found.cloned())
                }
                "opt" => {
                    let mut known = entries.iter().filter(|entry| entry.key == name);
                    let found = known.find(|entry| fits(&entry.value));
                    (found.is_some(), found.map(|entry| entry.value.clone()))
                }
                "exists" => (path().exists(), Some(value.clone())),
                "file" => (path().is_file(), Some(value.clone())),
                "dir" => (path().is_dir(), Some(value.clone())),
                "hostname" => (facts.hostname == value, Some(value.clone())),
                "plugin" => (super::draft::is_built_in(&value), Some(value.clone())),
                "reload" => (facts.reloading, None),
                _ => {
                    unknown = Some(what.to_owned());
                    (false, None)
                }
            };
            (holds != negated, given)
        });
        if unknown.is_some() {
            self.error(
                Error::plain(origin, format!("{name} is not supported yet")).hint("if-hostname compares whole names"),
            );
        }
    }

    /// Names a `%(...)` where only what is written counts.
    fn literal(&mut self, name: &str, value: &str, origin: &Origin) {
        if value.replace("%(_)", "").contains("%(") || value.contains("$(") {
            self.warn(
                origin,
                format!("{name} takes its value as written, {value:?}: it is read before placeholders are replaced"),
            );
        }
    }

    /// Reads a file where it is named.
    fn load(&mut self, spec: &str, by_extension: bool, origin: &Origin) {
        // Beyond uWSGI: the environment is known by now, so that files may be named by it.
        let spec = expand::replace(spec, '$', false, &mut |name| self.variable(name)).unwrap_or_else(|_| spec.into());
        let loaded = Source::read(&spec, by_extension, self.last_file.as_deref(), self.facts);
        let mut source = match loaded {
            Ok(source) => source,
            Err((expected, found, hint)) => {
                let error = Error::new(origin, "", expected, found);
                return self.error(match hint {
                    Some(hint) => error.hint(hint),
                    None => error,
                });
            }
        };
        let opened = (source.path.clone(), source.section.clone());
        if self.open.contains(&opened) {
            let sentence = format!("{} includes itself", source.written);
            return self.error(Error::plain(origin, sentence));
        }
        source.finish_magic(self.first.as_ref());
        if source.path.is_absolute() && !self.out.files.contains(&source.path) {
            self.out.files.push(source.path.clone());
        }
        let file: std::sync::Arc<str> = source.written.as_str().into();
        let (lines, doubts) = expand::lines(&source.text, &source.magic);
        let document = ini::parse(&lines);
        for (line, doubt) in doubts.iter().chain(&document.doubts) {
            if !document.is_elsewhere(*line, &source.section) {
                self.warn(&Origin::File(file.clone(), *line), doubt.as_str());
            }
        }
        self.last_file = Some(source.written.clone());
        if self.first.is_none() {
            self.first = Some(source.clone());
        }
        let Some(section) = document.section(&source.section) else {
            let found = match document.sections.len() {
                0 => "no section at all".to_owned(),
                _ => document.sections.iter().map(|known| format!("[{}]", known.name)).collect::<Vec<_>>().join(", "),
            };
            let expected = format!("a section [{}] in {}", source.section, source.written);
            return self.error(Error::new(origin, "", expected, found));
        };
        let floor = std::mem::replace(&mut self.floor, self.blocks.depth());
        self.open.push(opened);
        for line in &section.lines {
            if line.value.contains(char::REPLACEMENT_CHARACTER) {
                let origin = Origin::File(file.clone(), line.number);
                self.warn(&origin, format!("the value of {} is not UTF-8 and has lost characters", line.key));
            }
            self.add(&line.key, &line.value, &Origin::File(file.clone(), line.number));
        }
        self.open.pop();
        self.close_blocks(self.floor);
        self.floor = floor;
    }

    fn variable(&self, name: &str) -> Option<String> {
        self.facts.environment.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone())
    }

    /// Files that are inherited come after everything else.
    fn inherit(&mut self) {
        while let Some((at, open)) = self.heirs.pop_front() {
            let entry = self.out.entries[at].clone();
            let value = self.replaced(&entry.value, '$', &entry.origin);
            let value = self.replaced(&value, '%', &entry.origin);
            let value = self.replaced(&value, '$', &entry.origin);
            self.open = open;
            self.load(&value, true, &entry.origin);
            self.open.clear();
        }
    }

    /// The three passes of uWSGI over everything that is still to be applied.
    fn expand(&mut self) {
        for entry in &self.out.entries {
            self.out.used.extend(expand::names_in(&entry.value));
        }
        for sign in ['$', '@', '%'] {
            for at in 0..self.out.entries.len() {
                if self.out.entries[at].state != State::Done {
                    let entry = self.out.entries[at].clone();
                    self.out.entries[at].value = self.replaced(&entry.value, sign, &entry.origin);
                }
            }
        }
    }

    fn replaced(&mut self, value: &str, sign: char, origin: &Origin) -> String {
        let mut failures = Vec::new();
        let replaced = match sign {
            '$' => expand::replace(value, sign, false, &mut |name| self.variable(name)),
            '@' => expand::replace(value, sign, false, &mut |name| match source::content(name, self.facts) {
                Ok(text) => Some(text),
                Err(found) => {
                    failures.push(Error::new(origin, "", "a readable file between @( and )", found));
                    None
                }
            }),
            _ => expand::replace(value, sign, true, &mut |inside| {
                expand::calculate(inside, &|name| self.out.value(name))
            }),
        };
        self.out.errors.append(&mut failures);
        replaced.unwrap_or_else(|sentence| {
            self.error(Error::plain(origin, sentence));
            value.to_owned()
        })
    }
}

/// A value with the item of its lane.
fn in_lane(value: &str, lane: &Lane) -> String {
    match lane {
        Some(item) => value.replace("%(_)", item),
        None => value.to_owned(),
    }
}
