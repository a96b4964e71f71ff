//! The log: where lines go, how they look, and that none is lost without being counted.

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::Path;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, geteuid};
use serde_json::Value;

use crate::harness::http::get;
use crate::harness::server::{Server, Setup, Speaks, processes_of};
use crate::harness::{Subject, differs, patience, subject, wait_until};
use crate::listeners::for_everybody;

fn text(path: &Path) -> String {
    String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
}

/// Waits until a line of a file has all these texts.
#[track_caller]
fn wait_for(path: &Path, texts: &[&str]) {
    wait_until(&format!("{} has {texts:?}", path.display()), || {
        text(path).lines().any(|line| texts.iter().all(|text| line.contains(text)))
    });
}

/// A setting that names a file in the folder of the setup.
fn with_path(setup: Setup, key: &str, before: &str, name: &str) -> Setup {
    let path = setup.path(name).display().to_string();
    setup.set(key, format!("{before}{path}"))
}

/// The process that writes the log.
fn relay_of(server: &Server) -> i32 {
    let is_relay = |pid: &i32| {
        let title = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&title).starts_with("rsgi logger")
    };
    let mut found = None;
    wait_until("the logger runs", || {
        found = processes_of(server.pid()).into_iter().find(is_relay);
        found.is_some()
    });
    found.expect("the logger")
}

#[test]
fn loggers_take_the_log_and_req_loggers_the_requests() {
    let setup = with_path(Setup::http("basic"), "logger", "file:", "main.log");
    let setup = with_path(setup, "req-logger", "file:", "requests.log");
    let server = setup.start();
    server.get("/log?hello").expect(200);
    let (main, requests) = (server.path("main.log"), server.path("requests.log"));
    wait_for(&main, &["from print: hello"]);
    wait_for(&main, &["from stderr: hello"]);
    wait_for(&requests, &["GET /log?hello => generated"]);
    assert!(!text(&main).contains("GET /log"), "{}", text(&main));
    assert!(!text(&requests).contains("from print"), "{}", text(&requests));
}

#[test]
fn encoders_change_lines() {
    let setup = with_path(Setup::http("basic"), "logger", "file:", "main.log");
    let setup = with_path(setup, "logger-req", "file:", "requests.log");
    let server = setup
        .set("log-encoder", "json {\"said\":\"${msg}\",\"at\":${unix}}")
        .set("log-encoder", "nl")
        .set("log-req-encoder", "format <${msg}>")
        .set("log-req-encoder", "prefix web ")
        .set("log-req-encoder", "suffix  end")
        .set("log-req-encoder", "nl")
        .start();
    server.get("/log?a%22b").expect(200);
    let main = server.path("main.log");
    let said = |text: &str| {
        let objects = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        objects
            .filter_map(|object| Some((object["said"].as_str()?.to_owned(), object["at"].as_u64()?)))
            .collect::<Vec<_>>()
    };
    wait_until("the print is there", || said(&text(&main)).iter().any(|(said, _)| said == "from print: a%22b"));
    let at = said(&text(&main))[0].1;
    assert!(at > 1_600_000_000, "{at}");
    wait_for(&server.path("requests.log"), &["web", "<[pid: ", "GET /log?a%22b", ")>", "end"]);
}

/// Receives datagrams from now on, beside everything else: a local socket has room for ten.
fn receive(path: &Path) -> std::sync::mpsc::Receiver<String> {
    let socket = UnixDatagram::bind(path).expect("a socket");
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut buffer = [0; 65536];
        while let Ok(count) = socket.recv(&mut buffer) {
            if sender.send(String::from_utf8_lossy(&buffer[..count]).into_owned()).is_err() {
                return;
            }
        }
    });
    receiver
}

#[test]
fn datagrams_look_as_those_of_uwsgi() {
    let setup = Setup::http("basic");
    // They lie in a folder whose files are the test's.
    fs::create_dir(setup.path("kept")).expect("a folder");
    let sockets = ["kept/plain", "kept/marked", "kept/syslog"].map(|name| receive(&setup.path(name)));
    let path = |name: &str| setup.path(name).display().to_string();
    let (plain, marked, syslog) = (path("kept/plain"), path("kept/marked"), path("kept/syslog"));
    let server = setup
        .set("log-socket", plain)
        .set("logger", format!("socket:{marked},shop:"))
        .set("logger", format!("rsyslog:{syslog},web,30"))
        .start();
    server.get("/log?hello").expect(200);
    let line = |socket: &std::sync::mpsc::Receiver<String>| loop {
        let text = socket.recv_timeout(patience()).expect("a datagram");
        if text.contains("from print: hello") {
            return text;
        }
    };
    assert_eq!(line(&sockets[0]), "from print: hello\n");
    assert_eq!(line(&sockets[1]), "shop:from print: hello\n");
    let text = line(&sockets[2]);
    let (head, said) = text.split_once(" web: ").expect("a tag");
    assert!(head.starts_with("<30>") && head.len() == "<30>Nov 22 18:29:03".len(), "{text}");
    assert_eq!(said, "from print: hello");
}

#[test]
fn long_lines_for_a_remote_syslog_are_cut_or_split() {
    let line = |split: bool| {
        let setup = Setup::http("basic");
        fs::create_dir(setup.path("kept")).expect("a folder");
        let socket = receive(&setup.path("kept/syslog"));
        let setup = with_path(setup, "logger", "rsyslog:", "kept/syslog").set("rsyslog-packet-size", "200");
        let setup = if split { setup.set("rsyslog-split-messages", "true") } else { setup };
        let server = setup.start();
        server.get(&format!("/log?{}", "x".repeat(400))).expect(200);
        server.get("/log?last").expect(200);
        let mut found = 0;
        loop {
            let text = socket.recv_timeout(patience()).expect("a datagram");
            if text.contains("from print: last") {
                return found;
            }
            assert!(text.len() <= 200, "{text}");
            if text.contains("print") || !text.contains("from") && !text.contains("GET") {
                found += text.matches('x').count();
            }
        }
    };
    assert!(line(false) < 200);
    if subject() == Subject::Rsgi {
        assert!(line(true) >= 400);
    }
}

#[test]
fn routes_choose_loggers_by_regular_expressions() {
    // The uWSGI of PyPI is built without them.
    if subject() == Subject::Uwsgi {
        return;
    }
    let setup = with_path(Setup::http("basic"), "logger", "file:", "main.log");
    let setup = with_path(setup, "logger", "orders file:", "orders.log");
    let setup = with_path(setup, "req-logger", "file:", "requests.log");
    let setup = with_path(setup, "req-logger", "big file:", "big.log");
    let server = setup
        .set("log-route", "orders print: order-[0-9]+")
        .set("log-req-route", "big GET /big")
        .set("log-drain", "print: secret")
        .set("log-filter", "from ")
        .start();
    for query in ["order-17", "secret", "plain"] {
        server.get(&format!("/log?{query}")).expect(200);
    }
    server.get("/big?10").expect(200);
    wait_for(&server.path("main.log"), &["from print: plain"]);
    wait_for(&server.path("big.log"), &["GET /big?10"]);
    wait_for(&server.path("requests.log"), &["GET /log?plain"]);
    assert_eq!(text(&server.path("orders.log")), "from print: order-17\n");
    let main = text(&server.path("main.log"));
    assert!(!main.contains("print: order-17") && !main.contains("print: secret") && !main.contains("rsgi["), "{main}");
    assert!(!text(&server.path("requests.log")).contains("/big?10"));
}

#[test]
fn what_prints_say_reaches_the_usual_place_through_the_logger_too() {
    for (key, value) in [("log-master", "true"), ("threaded-logger", "true")] {
        let server = Setup::http("basic").set("log-master-bufsize", "65536").set(key, value).start();
        server.get("/log?hello").expect(200);
        server.wait_for_log(&["from print: hello"]);
        server.wait_for_log(&["GET /log?hello"]);
        if subject() == Subject::Rsgi {
            server.get(&format!("/log?{}", "y".repeat(6_000))).expect(200);
            server.wait_for_log(&["from print: y", &"y".repeat(6_000)]);
        }
    }
}

#[test]
fn descriptors_and_the_usual_place_are_loggers() {
    let (mut reader, writer) = UnixStream::pair().expect("sockets");
    reader.set_read_timeout(Some(patience())).expect("a time-out");
    let mut setup = Setup::http("basic");
    let number = setup.inherit(OwnedFd::from(writer));
    let server = setup.set("logger", format!("fd:{number}")).set("logger", "stdio").start();
    server.get("/log?hello").expect(200);
    server.wait_for_log(&["from print: hello"]);
    let mut said = String::new();
    while !said.contains("from print: hello\n") {
        let mut buffer = [0; 4096];
        let count = reader.read(&mut buffer).expect("what was said");
        assert!(count > 0, "{said}");
        said.push_str(&String::from_utf8_lossy(&buffer[..count]));
    }
}

#[test]
fn a_logger_that_dies_is_started_again_and_nothing_is_lost() {
    if subject() == Subject::Uwsgi {
        return;
    }
    let setup = with_path(Setup::http("basic"), "logger", "file:", "main.log").set("auto-procname", "true");
    let server = setup.allow("the process that writes the log").start();
    let first = relay_of(&server);
    for number in 0..30 {
        if number == 10 {
            kill(Pid::from_raw(first), Signal::SIGKILL).expect("the logger");
        }
        server.get(&format!("/log?number-{number}")).expect(200);
    }
    let main = server.path("main.log");
    for number in 0..30 {
        wait_for(&main, &[&format!("from print: number-{number}")]);
    }
    wait_until("another one runs", || relay_of(&server) != first);
    wait_for(&main, &["the process that writes the log", "killed by SIGKILL", "started again"]);
}

#[test]
fn loggers_follow_a_reload() {
    if subject() == Subject::Uwsgi {
        return;
    }
    let setup = with_path(Setup::http("basic"), "logger", "file:", "one.log");
    let (two, nowhere) = (setup.path("two.log"), setup.path("no/folder/x.log"));
    let mut server = setup.allow("reload failed").allow("no/folder").start();
    server.rewrite("logger", &format!("file:{}", nowhere.display()));
    server.signal(Signal::SIGHUP);
    wait_for(&server.path("one.log"), &["app.ini:", "logger", "no/folder/x.log: the directory does not exist"]);
    wait_for(&server.path("one.log"), &["reload failed"]);
    server.rewrite("logger", &format!("file:{}", two.display()));
    server.signal(Signal::SIGHUP);
    // The new logger may be the one that writes it.
    wait_until("it is done", || [text(&server.path("one.log")), text(&two)].concat().contains("reload done"));
    // The old one may still read what is said just now.
    wait_until("the new one writes", || {
        server.get("/log?afterwards").expect(200);
        text(&two).contains("from print: afterwards")
    });
}

#[test]
fn a_log_that_cannot_be_written_is_told_at_the_start() {
    differs("Errors at the start name the socket, file or option they are about.", || {
        for (key, value, what) in [
            ("logger", "file:no/such/folder/x", "create"),
            ("req-logger", "file:/", "directory"),
            ("logto2", "no/such/folder/x", "create"),
            ("logger", "fd:97", "is not open"),
            ("logger", "socket:no.such.host.invalid:514", "no.such.host.invalid"),
            ("logger", "redislog:127.0.0.1:6379", "refused"),
            ("log-maxsize", "0", "at least 1"),
            ("log-route", "nobody x", "the name of a logger, found \"nobody\""),
            ("log-encoder", "gzip", "refused"),
            ("log-date", "%!", "strftime"),
        ] {
            let setup = Setup::http("basic").listen_unix("socket", "app.sock", Speaks::Uwsgi).set(key, value);
            setup.run().expect(1, &["app.ini:", key, what]);
        }
    });
}

#[test]
fn the_log_can_be_objects() {
    differs("`log-format = json` writes requests and the server's own messages as JSON, an object a line.", || {
        let setup = Setup::http("basic").set("log-format", "json").allow("exception in").allow("Traceback").file(
            "bad.py",
            "def application(environ, start_response):\n    raise ValueError(environ['QUERY_STRING'] + '\\n\\x1b[31mforged')\n",
        );
        let folder = setup.path("").display().to_string();
        let server = setup
            .set("pythonpath", folder)
            .set("mount", "/bad=bad:application")
            .set("manage-script-name", "true")
            .start();
        let odd = "GET /pid/x\"y?%0a HTTP/1.1\r\nHost: a\r\nUser-Agent: \"\\ \u{9b}31m\r\nReferer: \u{fc}\r\n\r\n";
        server.ask(odd).expect(200);
        server.get("/bad/?q").expect(500);
        let objects = || -> Vec<Value> {
            let log = server.log();
            let lines: Vec<&str> = log.lines().filter(|line| line.contains("\"kind\"")).collect();
            lines
                .iter()
                .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}")))
                .collect()
        };
        wait_until("both are there", || objects().iter().filter(|one| one["kind"] == "request").count() >= 3);
        let objects = objects();
        let odd = objects.iter().find(|one| one["uri"] == "/pid/x\"y?%0a").expect("the odd request");
        assert_eq!(
            (&odd["method"], &odd["status"], &odd["user_agent"]),
            (&"GET".into(), &200.into(), &"\"\\ \u{9b}31m".into())
        );
        assert!(odd["micros"].is_u64() && odd["time"].is_string() && odd["addr"] == "127.0.0.1", "{odd}");
        let failure = objects
            .iter()
            .find(|one| one["kind"] == "message" && one["message"].as_str().is_some_and(|m| m.contains("ValueError")));
        let failure = failure.expect("the traceback");
        assert_eq!(failure["level"], "error");
        assert!(failure["message"].as_str().is_some_and(|text| text.contains("Traceback") && text.contains("forged")));
        assert!(!server.log().contains('\u{1b}') && !server.log().contains('\u{9b}'), "{}", server.log());
        assert!(server.log().lines().all(|line| line.starts_with('{')), "{}", server.log());
    });
}

#[test]
fn exceptions_cannot_forge_log_lines() {
    differs(
        "What an exception says is set in and escaped in the log, so that it cannot look like another line.",
        || {
            let setup = Setup::bare().file(
            "bad.py",
            "def application(environ, start_response):\n    if environ['PATH_INFO'] == '/':\n        start_response('200 OK', [])\n        return [b'x']\n    raise ValueError('a\\nFORGED \\x1b[31m')\n",
        );
            let folder = setup.path("").display().to_string();
            let setup = setup.listen("http-socket", Speaks::Http).set("pythonpath", folder).set("module", "bad");
            let server = setup.allow("exception in").allow("Traceback").start();
            let _ = server.connect().send("GET /raise HTTP/1.0\r\nHost: h\r\n\r\n").try_rest();
            server.wait_for_log(&["FORGED"]);
            let log = server.log();
            assert!(log.lines().all(|line| !line.starts_with("FORGED")), "{log}");
            assert!(!log.contains('\u{1b}'), "{log}");
        },
    );
}

/// Requests that a server says it did not find a place for in the log, and other lines.
fn dropped(server: &Server) -> (u64, u64) {
    let mut text = String::new();
    let mut stream = UnixStream::connect(server.path("stats.sock")).expect("stats");
    stream.read_to_string(&mut text).expect("stats");
    let stats: Value = serde_json::from_str(&text).expect("JSON");
    let number = |key: &str| stats["log"][key].as_u64().expect("a number");
    (number("dropped_requests"), number("dropped_messages"))
}

/// Sends so many requests on a few connections, each with a number in it.
fn load(server: &Server, first: usize, count: usize) {
    std::thread::scope(|scope| {
        for part in 0..4 {
            scope.spawn(move || {
                let mut client = server.connect();
                for number in (first..first + count).filter(|number| number % 4 == part) {
                    client.send(get(&format!("/pid?number-{number}-end"))).response().expect(200);
                }
            });
        }
    });
}

/// The same for servers with a logger, whose pipe holds so many lines as a [`BURST`] at least: it gets its turn in between, however
/// busy the machine is. The lines are in files of this name.
#[track_caller]
fn load_in_bursts(server: &Server, name: &str, first: usize, count: usize) {
    for begin in (first..first + count).step_by(BURST) {
        let end = (begin + BURST).min(first + count);
        load(server, begin, end - begin);
        expect_all(server, name, end);
    }
}

/// A pipe of 1 MiB, which everybody may have, holds 256 lines.
const BURST: usize = 200;

/// The numbers of whole lines in these texts, each once.
fn numbers(texts: &[String]) -> Vec<usize> {
    let lines =
        texts.iter().flat_map(|text| text.lines()).filter(|line| line.starts_with("LINE ") && line.ends_with(" 200"));
    lines.filter_map(|line| line.split("?number-").nth(1)?.split("-end").next()?.parse().ok()).collect()
}

/// All files whose names begin so.
fn texts(folder: &Path, name: &str) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("a folder").flatten();
    let named = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(name));
    named.map(|entry| text(&entry.path())).collect()
}

fn counting(setup: Setup) -> Setup {
    let setup = with_path(setup, "stats", "", "stats.sock").set("processes", "2").set("threads", "2");
    setup.set("log-format", "LINE %(uri) %(status)")
}

/// Waits until every request has its line or was counted as dropped; how many were.
#[track_caller]
fn expect_all(server: &Server, name: &str, count: usize) -> u64 {
    let folder = server.path("");
    let (mut found, mut lost) = (Vec::new(), 0);
    wait_until("every request is accounted for, and no line is there twice", || {
        // A file that is put aside meanwhile may be read under both names, or under none.
        found = numbers(&texts(&folder, name));
        lost = dropped(server).0;
        let once: HashSet<usize> = found.iter().copied().collect();
        once.len() == found.len() && found.len() as u64 + lost >= count as u64
    });
    // What was asked to see whether it serves has no number, but may have been dropped.
    assert!(
        found.len() as u64 <= count as u64 && found.len() as u64 + lost <= count as u64 + 20,
        "{} {lost}",
        found.len()
    );
    lost
}

#[test]
fn no_line_is_lost_when_log_files_are_put_aside() {
    if subject() == Subject::Uwsgi {
        return;
    }
    for with_relay in [false, true] {
        let setup = counting(Setup::http("basic")).set("log-maxsize", "20000");
        let setup = with_path(setup, "logto", "", "to.log");
        let setup = with_path(setup, "touch-logrotate", "", "rotate");
        let setup = with_path(setup, "touch-logreopen", "", "reopen");
        let setup = with_path(setup, "master-fifo", "", "fifo");
        let setup = if with_relay { setup.set("log-master", "true") } else { setup };
        let server = setup.start();
        let (log, fifo) = (server.path("to.log"), server.path("fifo"));
        let inode = || fs::metadata(&log).map(|found| found.ino()).ok();
        let mut first = 0;
        let mut turn = |change: &dyn Fn()| {
            let before = inode();
            std::thread::scope(|scope| {
                let requests = scope.spawn(|| load_in_bursts(&server, "to.log", first, 400));
                change();
                requests.join().expect("requests");
            });
            first += 400;
            wait_until("there is another file", || inode().is_some_and(|now| Some(now) != before));
        };
        turn(&|| File::create(server.path("rotate")).map(drop).expect("a file"));
        turn(&|| {
            fs::rename(&log, server.path("to.log.moved")).expect("the log");
            File::create(server.path("reopen")).expect("a file");
        });
        turn(&|| {
            OpenOptions::new().write(true).open(&fifo).and_then(|mut fifo| fifo.write_all(b"L")).expect("the fifo")
        });
        turn(&|| {});
        assert_eq!(expect_all(&server, "to.log", 1600), 0);
        server.get("/log?at-the-end").expect(200);
        wait_for(&log, &["from print: at-the-end"]);
    }
}

#[test]
fn a_file_of_a_logger_is_put_aside_when_it_is_full() {
    if subject() == Subject::Uwsgi {
        return;
    }
    let setup = counting(Setup::http("basic"));
    let folder = setup.path("").display().to_string();
    let server = setup.set("req-logger", format!("file:logfile={folder}/web.log,maxsize=5000")).start();
    load_in_bursts(&server, "web.log", 0, 800);
    assert_eq!(expect_all(&server, "web.log", 800), 0);
    assert!(texts(&server.path(""), "web.log").len() > 3);
}

#[test]
fn a_name_for_the_file_put_aside() {
    let setup = Setup::http("basic").set("log-maxsize", "3000");
    let setup = with_path(setup, "logto", "", "to.log");
    let server = with_path(setup, "log-backupname", "", "backup").start();
    let backup = server.path("backup");
    wait_until("it is put aside", || {
        server.get("/log?hello").expect(200);
        backup.exists()
    });
}

#[test]
fn a_full_disk_is_survived_and_what_it_costs_is_counted() {
    differs(
        "A log that takes nothing never stops the service; lines that are dropped are counted and told of.",
        || {
            for key in ["logto", "req-logger"] {
                let setup = counting(Setup::http("basic"));
                let link = setup.path("link");
                // It answers every write as a full disk does.
                symlink("/dev/full", &link).expect("a link");
                let value = if key == "logto" { String::new() } else { "file:".into() } + &link.display().to_string();
                let server = with_path(setup.set(key, value), "touch-logreopen", "", "reopen").start();
                load(&server, 0, 200);
                wait_until("they are counted", || dropped(&server).0 >= 200);
                let before = dropped(&server).0;
                fs::remove_file(&link).expect("the link");
                File::create(server.path("reopen")).expect("a file");
                let real = fs::canonicalize(server.path("")).expect("the folder").join("link");
                wait_until("it is opened again", || real.is_file());
                load(&server, 200, 200);
                wait_until("they are written", || {
                    numbers(&[text(&real)]).len() as u64 + dropped(&server).0 - before >= 200
                });
                // By whoever finds that something is taken again.
                let told = || {
                    server.get("/pid").expect(200);
                    (text(&real) + &server.log()).contains("of the log were dropped")
                };
                wait_until("it is told of", told);
            }
        },
    );
}

/// A pipe that nobody reads yet, and what the server is to be started with so that it is its standard error.
fn into_pipe(mut setup: Setup) -> (Setup, File) {
    let (reader, writer) = nix::unistd::pipe().expect("a pipe");
    let number = setup.inherit(writer);
    (setup.shell(&format!("exec \"$@\" 2>&{number} >&2")), File::from(reader))
}

/// Reads a pipe to its end, beside everything else.
fn reader_of(mut pipe: File) -> std::sync::mpsc::Receiver<String> {
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut buffer = vec![0; 65536];
        while let Ok(count) = pipe.read(&mut buffer) {
            if count == 0 || sender.send(String::from_utf8_lossy(&buffer[..count]).into_owned()).is_err() {
                return;
            }
        }
    });
    receiver
}

#[test]
fn a_pipe_that_nobody_reads_stops_nobody() {
    differs(
        "A log that takes nothing never stops the service; lines that are dropped are counted and told of.",
        || {
            for with_relay in [false, true] {
                let (setup, pipe) = into_pipe(counting(Setup::http("basic")));
                let setup = if with_relay { setup.set("log-master", "true") } else { setup };
                let server = setup.start();
                // Far more than a pipe holds.
                load(&server, 0, 8000);
                if with_relay {
                    // A print waits for nothing either.
                    for _ in 0..50 {
                        server.get(&format!("/log?{}", "z".repeat(3000))).expect(200);
                    }
                }
                wait_until("some are dropped", || dropped(&server).0 + dropped(&server).1 > 0);
                let said = reader_of(pipe);
                let mut all = String::new();
                let mut first = 8000;
                let end = std::time::Instant::now() + patience();
                while !all.contains("of the log were dropped") {
                    assert!(std::time::Instant::now() < end, "it is not told of");
                    load(&server, first, 40);
                    first += 40;
                    while let Ok(more) = said.recv_timeout(Duration::from_millis(50)) {
                        all.push_str(&more);
                    }
                }
                wait_until("every request is accounted for", || {
                    all.extend(said.try_iter());
                    let (requests, messages) = dropped(&server);
                    numbers(std::slice::from_ref(&all)).len() as u64 + requests + if with_relay { messages } else { 0 }
                        >= first as u64
                });
                let found = numbers(std::slice::from_ref(&all));
                assert_eq!(found.iter().collect::<HashSet<_>>().len(), found.len(), "a line is there twice");
            }
        },
    );
}

#[test]
fn log_files_have_the_owner_and_the_mode_that_are_asked_for() {
    let setup = Setup::http("basic").set("logfile-chmod", "604");
    let setup = with_path(setup, "logto", "", "to.log");
    let root = geteuid().is_root();
    let setup = if root {
        fs::set_permissions(setup.path(""), PermissionsExt::from_mode(0o777)).expect("permissions");
        for_everybody(setup).set("uid", "65534").set("gid", "65534").set("logfile-chown", "true")
    } else {
        setup.set("logfile-chown", "true")
    };
    let server = setup.start();
    let found = fs::metadata(server.path("to.log")).expect("the log");
    assert_eq!(found.mode() & 0o777, 0o604);
    if root {
        assert_eq!((found.uid(), found.gid()), (65534, 65534));
    }
}

#[test]
fn a_late_log_file_belongs_to_the_user() {
    let setup = Setup::http("basic").set("logto2", "late.log");
    if geteuid().is_root() {
        fs::set_permissions(setup.path(""), PermissionsExt::from_mode(0o777)).expect("permissions");
    }
    let setup = match geteuid().is_root() {
        true => for_everybody(setup).set("uid", "65534").set("gid", "65534"),
        false => setup,
    };
    let server = setup.start();
    server.get("/log?hello").expect(200);
    wait_for(&server.path("late.log"), &["from print: hello"]);
    if geteuid().is_root() {
        assert_eq!(fs::metadata(server.path("late.log")).expect("the log").uid(), 65534);
    }
}

#[test]
fn a_log_file_is_emptied_at_the_start_if_that_is_asked_for() {
    let setup = with_path(Setup::http("basic").set("log-truncate", "true"), "logto", "", "to.log");
    let setup = setup.file("to.log", "old line\n");
    let server = setup.start();
    server.get("/log?hello").expect(200);
    wait_for(&server.path("to.log"), &["from print: hello"]);
    assert!(!text(&server.path("to.log")).contains("old line"));
}

#[test]
fn a_log_file_is_opened_again_at_a_reload_if_that_is_asked_for() {
    let setup = with_path(Setup::http("basic").set("log-reopen", "true"), "logto", "", "to.log");
    let server = setup.start();
    let (log, moved) = (server.path("to.log"), server.path("to.log.moved"));
    fs::rename(&log, &moved).expect("the log");
    server.signal(Signal::SIGHUP);
    wait_until("it is there again", || log.exists());
    wait_until("requests are logged there", || {
        server.poll("/log?hello");
        text(&log).contains("from print: hello")
    });
}

#[test]
fn dates_are_written_as_asked() {
    for key in ["logdate", "log-date", "log-prefix"] {
        let server = Setup::http("basic").set(key, "AT %Y HOURS").start();
        server.get("/").expect(200);
        wait_until("a line has it", || {
            server.log().lines().any(|line| line.starts_with("AT 20") && line.contains(" HOURS - "))
        });
    }
    let formatted = Setup::http("basic").set("log-date", "AT %Y").set("log-format-strftime", "true");
    let server = formatted.set("log-format", "LINE %(ftime) %(uri)").start();
    server.get("/pid").expect(200);
    server.wait_for_log(&["LINE AT 20", " /pid"]);
    drop(server);
    let server = Setup::http("basic").set("logdate", "true").set("logformat-strftime", "true").start();
    server.get("/").expect(200);
    wait_until("a line has the date of ctime", || {
        server.log().lines().any(|line| line.split(" - ").next().is_some_and(|date| date.len() == 24))
    });
}

/// Asks a server with these settings for four pages, and waits for the lines of those that are to be logged.
#[track_caller]
fn expect_logged(settings: &[(&str, &str)], expected: &[&str]) {
    let setup = Setup::http("responses").set("disable-logging", "true").set("log-format", "LINE %(uri)");
    let setup = settings.iter().fold(setup, |setup, (key, value)| setup.set(key, *value));
    let server = setup.start();
    for target in ["/one", "/wrapper", "/nothing-here", "/empty-list"] {
        server.get(target);
    }
    let lines = |log: &str| -> Vec<String> {
        log.lines().filter_map(|line| line.strip_prefix("LINE ")).map(str::to_owned).collect()
    };
    wait_until("they are logged", || lines(&server.log()).len() >= expected.len());
    assert_eq!(lines(&server.log()), expected);
}

#[test]
fn chosen_requests_are_logged_in_spite_of_disable_logging() {
    expect_logged(&[("log-zero", "true")], &["/empty-list"]);
    expect_logged(&[("log-sendfile", "true"), ("log-ioerror", "true")], &["/wrapper"]);
    expect_logged(&[("log-big", "1000000"), ("log-5xx", "true"), ("log-slow", "60000")], &[]);
}

#[test]
fn parts_of_the_line_can_be_chosen() {
    let server = Setup::http("basic")
        .set("log-micros", "true")
        .set("log-x-forwarded-for", "true")
        .set("memory-report", "true")
        .start();
    server
        .ask("GET /pid HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 192.0.2.1, 192.0.2.2\r\nConnection: close\r\n\r\n")
        .expect(200);
    server.wait_for_log(&[
        "{address space usage: ",
        "MB} [pid: ",
        "] 192.0.2.1, 192.0.2.2 () {",
        "GET /pid",
        " micros (",
    ]);
}

#[test]
fn a_reload_can_end_the_server() {
    let mut server = Setup::http("basic").set("exit-on-reload", "true").start();
    server.signal(Signal::SIGHUP);
    assert_eq!(server.wait().code(), Some(0));
    server.expect_end();
}

#[test]
fn workers_can_end_without_atexit() {
    let ended = |skip: &str| {
        let setup = Setup::bare().file(
            "leaving.py",
            "import atexit\natexit.register(print, 'at the end')\ndef application(environ, start_response):\n    \
             start_response('200 OK', [])\n    return [b'x']\n",
        );
        let folder = setup.path("").display().to_string();
        let setup = setup.listen("http-socket", Speaks::Http).set("pythonpath", folder).set("module", "leaving");
        let mut server = setup.set("lazy-apps", "true").set("skip-atexit", skip).start();
        server.signal(if subject() == Subject::Rsgi { Signal::SIGTERM } else { Signal::SIGINT });
        server.wait();
        server.log().contains("at the end")
    };
    assert!(!ended("true"));
    // uWSGI may not get to it when it is interrupted.
    assert!(subject() == Subject::Uwsgi || ended("false"));
}

#[test]
fn the_local_syslog_is_a_logger() {
    // Nobody may be there to hear it: what is said is counted, and the server serves.
    let setup = Setup::http("basic").set("log-syslog", "shop,local3").set("logger", "stdio");
    let server = setup.start();
    server.get("/log?hello").expect(200);
    server.wait_for_log(&["from print: hello"]);
}

#[test]
fn the_start_is_told_in_a_few_lines() {
    differs(
        "The log of a start is a few lines: version, sockets and their modes, processes and threads, Python, application.",
        || {
            let setup = Setup::of("basic").listen_unix("socket", "app.sock", Speaks::Uwsgi).set("chmod-socket", "660");
            let server = setup.set("processes", "2").set("threads", "3").start();
            for texts in [
                &["rsgi ", " starts"][..],
                &["uwsgi on ", "app.sock (mode 660)"],
                &["processes: 2, threads in each: 3"],
                &["CPython 3."],
                &["application ready at", " s: module = basic"],
            ] {
                server.wait_for_log(texts);
            }
            server.wait_for_log(&["2 workers ready"]);
            assert!(server.log().lines().count() < 15, "{}", server.log());
        },
    );
}
