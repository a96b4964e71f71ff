//! Keeps the house in order: who imports whom (the table of src/README.md), where `unsafe` may stand,
//! and that nothing half-done or tied to one machine is left.

use std::path::{Path, PathBuf};

/// A module and the modules of ours that it may use besides itself. What is missing here may use all.
const MAY_USE: &[(&str, &[&str])] = &[
    ("control", &[]),
    ("exit", &[]),
    ("protocol", &[]),
    ("sys", &[]),
    ("gateway", &["protocol"]),
    ("scoreboard", &["sys"]),
    ("stats", &["scoreboard"]),
    ("ctl", &["sys"]),
    ("interpreter", &["sys"]),
    ("config", &["net::address", "protocol::Protocol", "protocol::forwarded"]),
    ("net", &["sys", "config::Socket", "config::Owner", "protocol::Protocol"]),
    ("wsgi", &["gateway", "protocol"]),
    ("mailbox", &["sys"]),
    ("logging", &["protocol", "gateway", "sys", "config::logs"]),
    ("cgi", &["gateway", "protocol", "sys", "worker::Broken", "worker::Incoming", "worker::hear"]),
    ("zygote", &["interpreter", "wsgi", "control", "scoreboard", "sys", "exit"]),
    (
        "worker",
        &[
            "protocol",
            "net",
            "gateway",
            "wsgi",
            "scoreboard",
            "control",
            "sys",
            "logging",
            "mailbox",
            "config::Timeouts",
            "exit",
        ],
    ),
    (
        "master",
        &["config", "control", "scoreboard", "sys", "net", "mailbox", "exit", "logging", "protocol::Protocol", "stats"],
    ),
];

/// Crates that a module never names.
const NEVER: &[(&str, &[&str])] = &[
    (
        "protocol",
        &["std::io", "std::net", "std::fs", "std::time", "std::env", "log::", "pyo3", "mio", "nix", "libc", "socket2"],
    ),
    ("config", &["pyo3", "mio", "nix", "libc"]),
    ("control", &["pyo3", "mio", "nix", "std::io"]),
    ("net", &["pyo3"]),
    ("wsgi", &["mio", "nix", "libc", "socket2"]),
    ("zygote", &["mio"]),
    ("cgi", &["pyo3", "mio"]),
    ("master", &["pyo3"]),
    ("scoreboard", &["pyo3", "mio"]),
];

/// Who reads the wall clock, and only to tell it.
const WALL_CLOCK: &[(&str, &str)] = &[
    ("boot/facts.rs", "%(now) and the like in configurations"),
    ("hooks.rs", "the time of a touched file"),
    ("logging/encode.rs", "the time of a log line, as an encoder writes it"),
    ("logging/file.rs", "the name of a log file that is put aside"),
    ("logging/mod.rs", "the time of a log line"),
    ("logging/target.rs", "the time of a log line for syslog"),
    ("master/survey.rs", "since when a request runs, for stats"),
    ("sys/clock.rs", "the functions themselves"),
    ("worker/access.rs", "the time of a request line"),
    ("worker/clock.rs", "the functions themselves, and the Date field"),
    ("worker/mod.rs", "since when a worker lives"),
];

/// Where `unsafe` may stand.
const UNSAFE: &[&str] = &["sys/", "interpreter.rs", "wsgi/raw.rs"];

fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

fn rust_files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("a folder").flatten() {
        let path = entry.path();
        if path.is_dir() {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// Every source file: its path below `src`, its module, and its text without comments and tests.
fn files() -> Vec<(String, String, String)> {
    let mut found = Vec::new();
    rust_files(&source(), &mut found);
    found.sort();
    found
        .into_iter()
        .map(|path| {
            let name = path.strip_prefix(source()).expect("below src").display().to_string();
            let module = name.split(['/', '.']).next().expect("a module").to_owned();
            let text = std::fs::read_to_string(&path).expect("a source file");
            // Tests at the end of a file, and files of tests, may use what they like.
            let text = if name.ends_with("tests.rs") || name.contains("/tests/") {
                ""
            } else {
                text.split("#[cfg(test)]\nmod tests {").next().unwrap_or("")
            };
            let code: Vec<&str> = text.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
            (name, module, code.join("\n"))
        })
        .collect()
}

/// The paths behind `crate::` in a text, `{...}` taken apart at the first level.
fn uses(code: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        let end = rest.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':')).unwrap_or(rest.len());
        let path = rest[..end].trim_end_matches(':');
        if rest[end..].starts_with('{') {
            let mut depth = 0;
            let mut item = String::new();
            for c in rest[end..].chars() {
                match c {
                    '{' => depth += 1,
                    '}' => depth -= 1,
                    _ => {}
                }
                if depth == 0 || (depth == 1 && c == ',') {
                    let first: String =
                        item.trim().chars().take_while(|c| c.is_alphanumeric() || *c == '_' || *c == ':').collect();
                    if !first.is_empty() {
                        found.push(if path.is_empty() { first } else { format!("{path}::{first}") });
                    }
                    item.clear();
                    if depth == 0 {
                        break;
                    }
                } else if !(depth == 1 && c == '{') {
                    item.push(c);
                }
            }
        } else if !path.is_empty() {
            found.push(path.to_owned());
        }
    }
    found
}

#[test]
fn modules_import_only_what_they_may() {
    let mut wrong = Vec::new();
    for (name, module, code) in files() {
        let Some((_, allowed)) = MAY_USE.iter().find(|(known, _)| *known == module) else { continue };
        for used in uses(&code) {
            let fits = |path: &str| used == path || used.starts_with(&format!("{path}::"));
            if !fits(&module) && !allowed.iter().any(|path| fits(path)) {
                wrong.push(format!("src/{name} uses crate::{used}"));
            }
        }
    }
    assert!(wrong.is_empty(), "see \"Who may import whom\" in src/README.md:\n{}", wrong.join("\n"));
}

#[test]
fn modules_stay_away_from_what_is_not_theirs() {
    let mut wrong = Vec::new();
    for (name, module, code) in files() {
        let Some((_, never)) = NEVER.iter().find(|(known, _)| *known == module) else { continue };
        for line in code.lines() {
            for word in *never {
                let hit = line.match_indices(word).any(|(at, _)| {
                    // A word of its own: not the end of another name.
                    !line[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_')
                        && (word.ends_with(':')
                            || line[at + word.len()..].starts_with("::")
                            || line.trim_start().starts_with("use "))
                        && !line[at + word.len()..].starts_with(|c: char| c.is_alphanumeric() || c == '_')
                });
                if hit {
                    wrong.push(format!("src/{name} names {word}: {}", line.trim()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "see \"Who may import whom\" in src/README.md:\n{}", wrong.join("\n"));
}

#[test]
fn no_decision_reads_the_wall_clock() {
    let words = ["SystemTime", "CLOCK_REALTIME", "Zoned::now", "Timestamp::now", "wall_ms(", "wall()", "gettimeofday"];
    let mut wrong = Vec::new();
    for (name, _, code) in files() {
        let shown = WALL_CLOCK.iter().any(|(file, _)| *file == name);
        let reads = |line: &&str| words.iter().any(|word| line.contains(word));
        if !shown {
            wrong.extend(code.lines().filter(reads).map(|line| format!("src/{name}: {}", line.trim())));
        } else if !code.lines().any(|line| reads(&line)) {
            wrong.push(format!("src/{name} does not read it any more"));
        }
    }
    assert!(
        wrong.is_empty(),
        "a jump of the wall clock must change no decision (see WALL_CLOCK):\n{}",
        wrong.join("\n")
    );
}

#[test]
fn unsafe_stands_in_few_places() {
    let mut wrong = Vec::new();
    for (name, _, code) in files() {
        if code.contains("allow(unsafe_code)") && !UNSAFE.iter().any(|place| name.starts_with(place)) {
            wrong.push(name);
        }
    }
    assert!(wrong.is_empty(), "unsafe code is allowed in {wrong:?}");
}

#[test]
fn every_file_says_what_it_is_for() {
    let mut found = Vec::new();
    rust_files(&source(), &mut found);
    rust_files(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests"), &mut found);
    let without: Vec<_> =
        found.into_iter().filter(|path| !std::fs::read_to_string(path).expect("a file").starts_with("//!")).collect();
    assert!(without.is_empty(), "no //! at the head of {without:?}");
}

#[test]
fn the_code_map_names_files_that_exist() {
    let map = std::fs::read_to_string(source().join("README.md")).expect("the code map");
    let named: Vec<&str> = map.split('`').skip(1).step_by(2).filter(|word| word.ends_with(".rs")).collect();
    assert!(named.len() > 50, "the names were not found");
    let exists = |name: &&str| source().join(name).exists() || source().join("..").join(name).exists();
    let missing: Vec<&str> = named.into_iter().filter(|name| !exists(name)).collect();
    assert!(missing.is_empty(), "src/README.md names {missing:?}");
}

#[test]
fn the_code_map_names_all_files() {
    let map = std::fs::read_to_string(source().join("README.md")).expect("the code map");
    let named: Vec<&str> = map.split('`').skip(1).step_by(2).collect();
    // By its path, by its folder, or as a module.
    let is_named = |file: &str| {
        let module = file.strip_suffix("/mod.rs").or(file.strip_suffix(".rs")).unwrap_or(file);
        named.iter().any(|name| *name == file || *name == module || name.ends_with('/') && file.starts_with(name))
    };
    let missing: Vec<String> = files()
        .into_iter()
        .map(|(name, ..)| name)
        .filter(|name| name != "lib.rs" && !name.ends_with("tests.rs") && !name.contains("/tests/") && !is_named(name))
        .collect();
    assert!(missing.is_empty(), "src/README.md does not say what is in {missing:?}");
}

#[test]
fn the_version_of_the_scoreboard_is_made_of_all_its_sources() {
    let handoff = std::fs::read_to_string(source().join("master/handoff.rs")).expect("a source file");
    let missing: Vec<String> = files()
        .into_iter()
        .filter(|(name, module, _)| {
            module == "scoreboard" && !handoff.contains(&format!("include_bytes!(\"../{name}\")"))
        })
        .map(|(name, ..)| name)
        .collect();
    assert!(missing.is_empty(), "LAYOUT in src/master/handoff.rs lacks {missing:?}");
}

#[test]
fn nothing_is_half_done() {
    let words = ["TODO", "FIXME", "XXX", "unimplemented!", "todo!", "dbg!"];
    let mut wrong = Vec::new();
    let mut found = Vec::new();
    rust_files(&source(), &mut found);
    for path in found {
        let text = std::fs::read_to_string(&path).expect("a file");
        for (number, line) in text.lines().enumerate() {
            if words.iter().any(|word| line.contains(word)) {
                wrong.push(format!("{}:{}: {}", path.display(), number + 1, line.trim()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn imports_are_read_in_every_spelling() {
    let code = "use crate::sys::fd;\nuse crate::net::{address::Address, listener::{Listener, bind}};\ncrate::exit::OK;\nuse crate::{config, wsgi::load};";
    assert_eq!(uses(code), ["sys::fd", "net::address::Address", "net::listener::", "exit::OK", "config", "wsgi::load"]);
}
