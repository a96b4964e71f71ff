//! Reads the cases of `tests/corpus`, whose form is told in README.md there: from text to bytes and expected events. Shared by
//! the corpus and the fuzz crate, which takes the inputs for seeds.

use std::path::Path;

use super::drive::Events;

/// The protocols that have cases.
pub(crate) const PROTOCOLS: [&str; 6] = ["http", "uwsgi", "fastcgi", "scgi", "proxy", "forwarded"];

pub(crate) struct Case {
    pub(crate) place: String,
    pub(crate) input: Vec<u8>,
    pub(crate) expected: Events,
}

/// The bytes that a line of the corpus stands for: `\r \n \t \0 \\ \xNN`, and `\{N*TEXT}` for TEXT N times.
fn unescape(line: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = line;
    while let Some((before, after)) = rest.split_once('\\') {
        bytes.extend_from_slice(before.as_bytes());
        let kind = after.chars().next().expect("something behind the backslash");
        rest = &after[kind.len_utf8()..];
        match kind {
            'r' => bytes.push(b'\r'),
            'n' => bytes.push(b'\n'),
            't' => bytes.push(b'\t'),
            '0' => bytes.push(0),
            '\\' => bytes.push(b'\\'),
            'x' => {
                bytes.push(u8::from_str_radix(&rest[..2], 16).expect("two hexadecimal digits"));
                rest = &rest[2..];
            }
            '{' => {
                let (repeat, behind) = rest.split_once('}').expect("a closing brace");
                let (times, text) = repeat.split_once('*').expect("N*TEXT");
                bytes.extend(unescape(text).repeat(times.parse().expect("a number")));
                rest = behind;
            }
            other => panic!("unknown escape \\{other} in {line:?}"),
        }
    }
    bytes.extend_from_slice(rest.as_bytes());
    bytes
}

/// The bytes of a case of the uwsgi protocol: `packet MODIFIER1`, then `NAME=VALUE` lines; `raw BYTES` anywhere.
fn unescape_packets(lines: &[&str]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut start = None;
    for line in lines {
        if let Some(modifier) = line.strip_prefix("packet ") {
            start = Some(bytes.len());
            bytes.extend_from_slice(&[modifier.parse().expect("a modifier"), 0, 0, 0]);
        } else if let Some(raw) = line.strip_prefix("raw ") {
            bytes.extend(unescape(raw));
        } else {
            let (name, value) = line.split_once('=').expect("NAME=VALUE");
            for text in [unescape(name), unescape(value)] {
                bytes.extend_from_slice(&(text.len() as u16).to_le_bytes());
                bytes.extend_from_slice(&text);
            }
            let start = start.expect("a packet before its variables");
            let size = (bytes.len() - start - 4) as u16;
            bytes[start + 1..start + 3].copy_from_slice(&size.to_le_bytes());
        }
    }
    bytes
}

/// The bytes of a case of FastCGI; the lines are told in README.md.
fn unescape_records(lines: &[&str]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut padding = 0u8;
    let mut params: Option<(u16, usize, Vec<u8>)> = None;
    let record = |kind: u8, id: u16, content: &[u8], padding: u8, bytes: &mut Vec<u8>| {
        let ([a, b], [high, low]) = (id.to_be_bytes(), (content.len() as u16).to_be_bytes());
        bytes.extend_from_slice(&[1, kind, a, b, high, low, padding, 0]);
        bytes.extend_from_slice(content);
        bytes.resize(bytes.len() + usize::from(padding), b'#');
    };
    for line in lines {
        let mut words = line.splitn(2, ' ');
        let (word, rest) = (words.next().unwrap(), words.next().unwrap_or_default());
        let mut numbers = rest.split(' ').map_while(|word| word.parse::<u16>().ok());
        if params.is_none() || !line.contains('=') || line.starts_with("raw ") {
            if let Some((id, size, pairs)) = params.take() {
                pairs.chunks(size).for_each(|piece| record(4, id, piece, padding, &mut bytes));
            }
        } else if let Some((.., pairs)) = &mut params {
            let (name, value) = line.split_once('=').expect("NAME=VALUE");
            fastcgi_pair(&unescape(name), &unescape(value), pairs);
            continue;
        }
        let mut id = || numbers.next().expect("a number");
        match word {
            "padding" => padding = id() as u8,
            "begin" => {
                let (id, [a, b], flags) = (id(), id().to_be_bytes(), id() as u8);
                record(1, id, &[a, b, flags, 0, 0, 0, 0, 0], padding, &mut bytes);
            }
            "params" => params = Some((id(), numbers.next().unwrap_or(u16::MAX).into(), Vec::new())),
            "params-end" => record(4, id(), b"", padding, &mut bytes),
            "stdin" => {
                let (id, text) = rest.split_once(' ').expect("ID TEXT");
                record(5, id.parse().unwrap(), &unescape(text), padding, &mut bytes);
            }
            "stdin-end" => record(5, id(), b"", padding, &mut bytes),
            "abort" => record(2, id(), b"", padding, &mut bytes),
            "get" => {
                let (id, target) = rest.split_once(' ').expect("ID TARGET");
                let id = id.parse().unwrap();
                let (mut pairs, query) = (Vec::new(), target.split_once('?').map_or("", |(_, query)| query));
                fastcgi_pair(b"REQUEST_METHOD", b"GET", &mut pairs);
                fastcgi_pair(b"REQUEST_URI", target.as_bytes(), &mut pairs);
                fastcgi_pair(b"QUERY_STRING", query.as_bytes(), &mut pairs);
                record(1, id, b"\0\x01\x01\0\0\0\0\0", padding, &mut bytes);
                record(4, id, &pairs, padding, &mut bytes);
                record(4, id, b"", padding, &mut bytes);
                record(5, id, b"", padding, &mut bytes);
            }
            "values" => {
                let mut pairs = Vec::new();
                rest.split_whitespace().for_each(|name| fastcgi_pair(name.as_bytes(), b"", &mut pairs));
                record(9, 0, &pairs, padding, &mut bytes);
            }
            "record" => {
                let mut words = rest.splitn(3, ' ');
                let (kind, id) = (words.next().unwrap().parse().unwrap(), words.next().unwrap().parse().unwrap());
                record(kind, id, &unescape(words.next().unwrap_or_default()), padding, &mut bytes);
            }
            "raw" => bytes.extend(unescape(rest)),
            _ => panic!("unknown line {line:?}"),
        }
    }
    if let Some((id, size, pairs)) = params {
        pairs.chunks(size).for_each(|piece| record(4, id, piece, padding, &mut bytes));
    }
    bytes
}

fn fastcgi_pair(name: &[u8], value: &[u8], out: &mut Vec<u8>) {
    for len in [name.len(), value.len()] {
        match u8::try_from(len) {
            Ok(short @ 0..=0x7f) => out.push(short),
            _ => out.extend_from_slice(&(len as u32 | 1 << 31).to_be_bytes()),
        }
    }
    out.extend_from_slice(name);
    out.extend_from_slice(value);
}

/// The bytes of a case of SCGI: `NAME=VALUE` lines are one netstring, `raw BYTES` stands for itself.
fn unescape_netstrings(lines: &[&str]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut pairs = Vec::new();
    let close = |pairs: &mut Vec<u8>, bytes: &mut Vec<u8>| {
        if !pairs.is_empty() {
            bytes.extend_from_slice(format!("{}:", pairs.len()).as_bytes());
            bytes.append(pairs);
            bytes.push(b',');
        }
    };
    for line in lines {
        if let Some(raw) = line.strip_prefix("raw ") {
            close(&mut pairs, &mut bytes);
            bytes.extend(unescape(raw));
        } else {
            let (name, value) = line.split_once('=').expect("NAME=VALUE");
            for text in [unescape(name), unescape(value)] {
                pairs.extend(text);
                pairs.push(0);
            }
        }
    }
    close(&mut pairs, &mut bytes);
    bytes
}

/// The bytes of a case of trusted proxies: `trusted NETWORKS`, `from SOURCE`, then fields, or variables.
fn unescape_hops(lines: &[&str]) -> Vec<u8> {
    let trusted = lines[0].strip_prefix("trusted").expect("trusted NETWORKS").trim();
    let source = lines[1].strip_prefix("from ").expect("from SOURCE");
    let mut bytes = format!("{trusted}\n{source}\n").into_bytes();
    if lines.get(2).is_some_and(|line| line.starts_with("CONTENT_LENGTH=")) {
        bytes.extend(unescape_netstrings(&lines[2..]));
    } else {
        bytes.extend_from_slice(b"GET / HTTP/1.1\r\nHost: h\r\n");
        for line in &lines[2..] {
            bytes.extend(unescape(line));
            bytes.extend_from_slice(b"\r\n");
        }
        bytes.extend_from_slice(b"\r\n");
    }
    bytes
}

/// All cases of a protocol; `corpus` is the folder of this file.
pub(crate) fn cases(corpus: &Path, protocol: &str) -> Vec<Case> {
    let folder = corpus.join(protocol);
    let mut files: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let mut cases = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        for block in text.split("\n== ").skip(1) {
            let mut lines = block.lines();
            let title = lines.next().unwrap();
            let place = format!("{}: {title}", file.file_name().unwrap().to_string_lossy());
            let (mut input, mut expected): (Vec<&str>, Events) = (Vec::new(), Vec::new());
            for line in lines.filter(|line| !line.is_empty() && !line.starts_with("# ")) {
                if let Some(event) = line.strip_prefix("-- ") {
                    expected.push(vec![event.to_owned()]);
                } else if let Some(event) = expected.last_mut() {
                    event.push(line.to_owned());
                } else {
                    input.push(line);
                }
            }
            let input = match protocol {
                "uwsgi" => unescape_packets(&input),
                "fastcgi" => unescape_records(&input),
                "scgi" => unescape_netstrings(&input),
                "forwarded" => unescape_hops(&input),
                _ => unescape(&input.concat()),
            };
            cases.push(Case { place, input, expected });
        }
    }
    assert!(!cases.is_empty(), "no cases in {}", folder.display());
    cases
}
