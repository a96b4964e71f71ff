//! One configuration file: which file and section are meant, its text, its `%x` variables.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::expand::{self, Magic};
use super::load::Facts;

/// A file that was read.
#[derive(Clone, Debug)]
pub(super) struct Source {
    /// As written, without the section.
    pub(super) written: String,
    /// Absolute, except `-`.
    pub(super) path: PathBuf,
    /// The section wanted.
    pub(super) section: String,
    pub(super) text: String,
    pub(super) magic: Magic,
    /// Letter and value of the variables that have an upper-case form for the first file.
    own: Vec<(char, String)>,
}

/// Expected, found, hint.
type Failure = (String, String, Option<String>);

impl Source {
    /// Reads `file`, `file:section`, `:section` (of the file loaded last) or `-`.
    pub(super) fn read(spec: &str, by_extension: bool, last: Option<&str>, facts: &Facts) -> Result<Source, Failure> {
        if let Some((scheme, _)) = spec.split_once("://") {
            let expected = "a file or - for standard input".to_owned();
            return Err((expected, format!("{spec:?}"), Some(format!("{scheme}:// is not supported yet"))));
        }
        let (file, section) = match spec.rsplit_once(':') {
            Some((file, section)) => (file, Some(section)),
            None => (spec, None),
        };
        let written = match (file, last) {
            ("", Some(last)) => last,
            ("", None) => return Err(("a file".into(), format!("{spec:?}"), None)),
            (file, _) => file,
        };
        if by_extension && written != "-" {
            check_extension(written, spec)?;
        }
        let failed = |error: io::Error| (format!("a readable ini file {written}"), describe(&error), None);
        let (path, bytes) = match written {
            "-" => (PathBuf::from("-"), (facts.stdin)().map_err(failed)?),
            _ => {
                let path = facts.start_directory.join(written);
                let bytes = std::fs::read(&path).map_err(failed)?;
                (path, bytes)
            }
        };
        let text = String::from_utf8_lossy(&bytes);
        let text = text.strip_prefix('\u{feff}').unwrap_or(&text).to_owned();
        let mut source = Source {
            written: written.into(),
            path,
            section: section.unwrap_or("uwsgi").into(),
            text,
            magic: Magic::default(),
            own: Vec::new(),
        };
        source.fill_magic(section.unwrap_or_default(), facts);
        Ok(source)
    }

    fn fill_magic(&mut self, section: &str, facts: &Facts) {
        let magic = &mut self.magic;
        magic.set('v', facts.start_directory.to_string_lossy());
        magic.set('h', facts.hostname.as_str());
        magic.set('V', env!("CARGO_PKG_VERSION"));
        magic.set('k', facts.cpus.to_string());
        magic.set('u', facts.uid.to_string());
        magic.set('U', facts.user_name.as_str());
        magic.set('g', facts.gid.to_string());
        magic.set('G', facts.group_name.as_str());
        magic.set('t', facts.started.as_secs().to_string());
        magic.set('T', facts.started.as_micros().to_string());
        magic.set('b', facts.binary.to_string_lossy());
        magic.set('[', "\u{1b}");
        let own = &mut self.own;
        own.push(('o', self.written.clone()));
        own.push(('x', section.to_owned()));
        if self.written == "-" {
            return;
        }
        // A link is named as it is, so that one file can be linked under several names.
        let full = match self.path.is_symlink() {
            true => self.path.clone(),
            false => self.path.canonicalize().unwrap_or_else(|_| self.path.clone()),
        };
        let full = full.to_string_lossy().into_owned();
        let (directory, name) = full.rsplit_once('/').unwrap_or(("", &full));
        for (at, part) in directory.split('/').skip(1).take(10).enumerate() {
            magic.set(char::from(b'0' + at as u8), part);
        }
        own.push(('d', format!("{directory}/")));
        own.push(('s', name.to_owned()));
        own.push(('n', name.rsplit_once('.').map_or(name, |(stem, _)| stem).to_owned()));
        own.push(('e', self.written.rsplit_once('.').map_or("", |(_, extension)| extension).to_owned()));
        own.push(('c', directory.rsplit_once('/').map_or(directory, |(_, last)| last).to_owned()));
        own.push(('i', self.path.metadata().map_or(0, |metadata| metadata.ino()).to_string()));
        own.push(('j', expand::path_hash(&full)));
        own.push(('p', full));
    }

    /// Adds the variables of the file itself, and those of the first file in upper case.
    pub(super) fn finish_magic(&mut self, first: Option<&Source>) {
        for (name, value) in &first.unwrap_or(self).own.clone() {
            self.magic.set(name.to_ascii_uppercase(), value.as_str());
        }
        for (name, value) in &self.own {
            self.magic.set(*name, value.as_str());
        }
    }
}

fn check_extension(written: &str, spec: &str) -> Result<(), Failure> {
    let extension = Path::new(written).extension().unwrap_or_default().to_string_lossy();
    let hint = match &*extension {
        "ini" => return Ok(()),
        "xml" | "yaml" | "yml" | "json" | "js" => {
            "only ini files are supported; write the same options as `name = value` below [uwsgi]".to_owned()
        }
        "py" | "wsgi" => format!("an application is named with --wsgi-file {spec}"),
        _ if spec.contains(':') && !spec.contains('/') => format!("an application is named with --module {spec}"),
        _ => format!("a file of another name is read with --ini {spec}"),
    };
    Err(("a file whose name ends in .ini".into(), format!("{spec:?}"), Some(hint)))
}

/// What stands for `@(name)`: the content of a file without the line ends at its end.
pub(super) fn content(name: &str, facts: &Facts) -> Result<String, String> {
    if let Some((scheme, _)) = name.split_once("://") {
        return Err(format!("{name:?}: {scheme}:// is not supported yet"));
    }
    match std::fs::read(facts.start_directory.join(name)) {
        Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).trim_end_matches(['\r', '\n']).to_owned()),
        Err(error) => Err(format!("{name}: {}", describe(&error))),
    }
}

/// A system error in the system's words, without Rust's `(os error N)`.
pub(super) fn describe(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or(&text).to_owned()
}

/// Existing paths that fit a shell pattern of `*`, `?` and literal text, sorted.
pub(super) fn glob(start: &Path, pattern: &str) -> Vec<String> {
    let mut found = vec![String::new()];
    for (at, part) in pattern.split('/').enumerate() {
        let mut next = Vec::new();
        for base in found {
            let prefix = if at == 0 { base } else { format!("{base}/") };
            if !part.contains(['*', '?']) {
                next.push(format!("{prefix}{part}"));
                continue;
            }
            let directory = if prefix.is_empty() { start.to_owned() } else { start.join(&prefix) };
            let names = std::fs::read_dir(directory).into_iter().flatten().flatten();
            let names = names.map(|entry| entry.file_name().to_string_lossy().into_owned());
            let hidden = part.starts_with('.');
            let fitting = names.filter(|name| hidden || !name.starts_with('.')).filter(|name| fits(part, name));
            next.extend(fitting.map(|name| format!("{prefix}{name}")));
        }
        found = next;
    }
    found.retain(|path| start.join(path).exists());
    found.sort();
    found
}

fn fits(pattern: &str, name: &str) -> bool {
    let mut rest = pattern.chars();
    match rest.next() {
        None => name.is_empty(),
        Some('*') => {
            let after = rest.as_str();
            name.char_indices().map(|(at, _)| at).chain([name.len()]).any(|at| fits(after, &name[at..]))
        }
        Some(wanted) => {
            let mut chars = name.chars();
            chars.next().is_some_and(|c| wanted == '?' || wanted == c) && fits(rest.as_str(), chars.as_str())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_fit_names() {
        for (pattern, name, expected) in [
            ("*.ini", "a.ini", true),
            ("*.ini", "a.ini.bak", false),
            ("?.ini", "a.ini", true),
            ("*", "", true),
            ("a*b*c", "a1b2b3c", true),
            ("a?c", "ac", false),
        ] {
            assert_eq!(fits(pattern, name), expected, "{pattern} {name}");
        }
    }
}
