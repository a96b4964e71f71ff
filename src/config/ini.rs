//! Ini text to sections of key and value, with line numbers, by the rules of uWSGI's own reader.
//! Pure. `%` variables are replaced before (`expand`); what keys mean is elsewhere.
//!
//! serde_ini's `Parser` gives one item for each line. It refuses bare keys, indented lines and
//! unclosed headers, which uWSGI reads, so every line is trimmed and completed before it sees it.

use std::convert::Infallible;

use serde_ini::parse::{Item, Parser};

/// A line `key = value`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Number in the file, from 1.
    pub number: usize,
    /// Key.
    pub key: String,
    /// Value; empty for a bare key.
    pub value: String,
}

/// All lines of the sections of one name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Section {
    /// Name.
    pub name: String,
    /// Lines of all its occurrences in order.
    pub lines: Vec<Line>,
}

/// A file's sections, and what looks like a mistake: line number and sentence.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Document {
    /// Sections in the order of their first headers.
    pub sections: Vec<Section>,
    /// Line and section of each header; none for a section that nobody can ask for.
    headers: Vec<(usize, Option<String>)>,
    /// Doubtful lines.
    pub doubts: Vec<(usize, String)>,
}

impl Document {
    /// The section of this name.
    pub fn section(&self, name: &str) -> Option<&Section> {
        self.sections.iter().find(|section| section.name == name)
    }

    /// True if a line belongs to another section than this one, so that its mistakes are nobody's business.
    pub fn is_elsewhere(&self, line: usize, name: &str) -> bool {
        // What is odd about a header may be the reason why its section is not the one that was asked for.
        match self.headers.iter().rev().find(|(at, _)| *at <= line) {
            Some((at, section)) => *at < line && section.as_deref() != Some(name),
            None => false,
        }
    }
}

/// Reads numbered lines.
pub fn parse(lines: &[(usize, String)]) -> Document {
    let mut document = Document::default();
    let mut current: Option<usize> = None;
    let completed = lines.iter().map(|(_, line)| Ok::<String, Infallible>(complete(line)));
    for ((number, written), item) in lines.iter().zip(Parser::new(completed)) {
        let written = trim(written);
        match item {
            Ok(Item::Section { name }) => {
                if !written.ends_with(']') || written.len() < 2 {
                    let doubt = format!("the header {written:?} has no ] at its end and is read as section {name:?}");
                    document.doubts.push((*number, doubt));
                }
                document.headers.push((*number, Some(name.clone())));
                current = Some(match document.sections.iter().position(|section| section.name == name) {
                    Some(at) => at,
                    None => {
                        document.sections.push(Section { name, lines: Vec::new() });
                        document.sections.len() - 1
                    }
                });
            }
            Ok(Item::Value { key, value }) => match current {
                Some(at) => {
                    if key.is_empty() {
                        document
                            .doubts
                            .push((*number, format!("no name before = in {written:?}; the line is ignored")));
                        continue;
                    }
                    document.sections[at].lines.push(Line { number: *number, key, value });
                }
                None if document.headers.is_empty() => {
                    document.doubts.push((*number, format!("{key:?} stands before the first section and is ignored")));
                }
                None => {}
            },
            Ok(Item::Empty | Item::Comment { .. }) => {}
            // The one thing left that the parser refuses: a name that holds a ].
            Err(_) => {
                let doubt = format!("text after ] in the header {written:?}: this section and its lines are ignored");
                document.doubts.push((*number, doubt));
                document.headers.push((*number, None));
                current = None;
            }
        }
    }
    document
}

/// What uWSGI strips at both ends of lines, keys and values.
fn trim(line: &str) -> &str {
    line.trim_matches([' ', '\t', '\r'])
}

fn complete(line: &str) -> String {
    let line = trim(line);
    if line.starts_with('[') {
        // The last character is dropped without a look at it, as uWSGI does.
        let mut name = line.chars().skip(1).collect::<String>();
        name.pop();
        return format!("[{name}]");
    }
    if line.is_empty() || line.starts_with([';', '#']) || line.contains('=') {
        return line.into();
    }
    format!("{line}=")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Document {
        parse(&text.split('\n').enumerate().map(|(at, line)| (at + 1, line.to_owned())).collect::<Vec<_>>())
    }

    fn pairs(text: &str) -> Vec<(usize, String, String)> {
        let section = read(text).section("uwsgi").cloned().unwrap_or_default();
        section.lines.into_iter().map(|line| (line.number, line.key, line.value)).collect()
    }

    #[test]
    fn lines_are_read_as_uwsgi_reads_them() {
        for (text, expected) in [
            ("[uwsgi]\na=1", vec![(2, "a", "1")]),
            ("[uwsgi]\r\na = 1 \r\n\r\n", vec![(2, "a", "1")]),
            ("[uwsgi]\n\t a\t=\t1\n", vec![(2, "a", "1")]),
            ("[uwsgi]\nmaster\nvacuum =\n", vec![(2, "master", ""), (3, "vacuum", "")]),
            ("[uwsgi]\n; a = 1\n  # b = 1\nc = 1 ; d\n", vec![(4, "c", "1 ; d")]),
            ("[uwsgi]\nenv = A=B=C\n", vec![(2, "env", "A=B=C")]),
            ("[uwsgi]\na = \"x\"\n", vec![(2, "a", "\"x\"")]),
            ("  [uwsgi]  \na=1\n[other]\nb=1\n[uwsgi]\na=2\n", vec![(2, "a", "1"), (6, "a", "2")]),
        ] {
            let expected: Vec<_> = expected.into_iter().map(|(n, k, v)| (n, k.to_owned(), v.to_owned())).collect();
            assert_eq!(pairs(text), expected, "{text:?}");
        }
    }

    #[test]
    fn odd_headers_are_read_as_uwsgi_does_and_named() {
        let document = read("[uwsgi)\na=1\n[uwsgi] ; x\nb=1\n[uwsgi]\nc=1\n");
        let keys: Vec<_> = document.section("uwsgi").unwrap().lines.iter().map(|line| line.key.as_str()).collect();
        assert_eq!(keys, ["a", "c"]);
        let doubts: Vec<_> = document.doubts.iter().map(|(line, _)| *line).collect();
        assert_eq!(doubts, [1, 3]);
    }

    #[test]
    fn lines_before_any_section_and_without_a_key_are_named() {
        let document = read("a=1\n[uwsgi]\n= 3\n");
        assert_eq!(document.doubts.len(), 2);
        assert!(document.section("uwsgi").unwrap().lines.is_empty());
    }
}
