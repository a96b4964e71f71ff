//! `rsgi --cgi`: one request from the environment and standard input, one answer on standard output. Under web servers it is
//! tested in tests/python/test_cgi.py.

use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use crate::harness::{Subject, apps, differs, program, subject};

const ONCE: &str = "`--cgi` answers one request as a CGI program, without a master or any socket.";

/// What a web server sets for a request.
fn variables<'a>(method: &'a str, path: &'a str) -> Vec<(&'a str, &'a str)> {
    vec![
        ("GATEWAY_INTERFACE", "CGI/1.1"),
        ("REQUEST_METHOD", method),
        ("SCRIPT_NAME", "/cgi-bin/app"),
        ("PATH_INFO", path),
        ("QUERY_STRING", ""),
        ("SERVER_NAME", "front.example"),
        ("SERVER_PORT", "80"),
        ("SERVER_PROTOCOL", "HTTP/1.1"),
        ("REMOTE_ADDR", "192.0.2.7"),
    ]
}

struct Program {
    folder: tempfile::TempDir,
    lines: String,
}

impl Program {
    fn new(app: &str) -> Program {
        let folder = tempfile::tempdir().expect("a folder");
        let lines = format!("[uwsgi]\nhttp-socket = 127.0.0.1:1\npythonpath = {}\nmodule = {app}\n", apps().display());
        Program { folder, lines }
    }

    fn set(mut self, line: &str) -> Program {
        self.lines.push_str(line);
        self.lines.push('\n');
        self
    }

    fn command(&self, arguments: &[&str]) -> Command {
        std::fs::write(self.folder.path().join("app.ini"), &self.lines).expect("the file");
        let mut command = Command::new(program());
        command
            .args(arguments)
            .current_dir(self.folder.path())
            .env_clear()
            .env("TEST_FOLDER", self.folder.path())
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        for name in ["PATH", "HOME", "LD_LIBRARY_PATH"] {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        command
    }

    fn run(&self, variables: &[(&str, &str)], body: &[u8]) -> Answer {
        Answer::of(self.command(&["--cgi", "--ini", "app.ini"]).envs(variables.iter().copied()), body)
    }

    fn get(&self, path: &str) -> Answer {
        self.run(&variables("GET", path), b"")
    }
}

#[derive(Debug)]
struct Answer {
    code: Option<i32>,
    head: String,
    body: Vec<u8>,
    log: String,
}

impl Answer {
    fn of(command: &mut Command, body: &[u8]) -> Answer {
        if subject() == Subject::Uwsgi {
            // It would serve until somebody stops it.
            command.arg("--version");
        }
        let mut child = command.spawn().expect("the program");
        // One that refuses does not read.
        let _ = child.stdin.take().expect("its input").write_all(body);
        let Output { status, stdout, stderr } = child.wait_with_output().expect("its end");
        let end = stdout.windows(4).position(|bytes| bytes == b"\r\n\r\n").map_or(stdout.len(), |at| at + 4);
        Answer {
            code: status.code(),
            head: String::from_utf8_lossy(&stdout[..end]).into_owned(),
            body: stdout[end..].to_vec(),
            log: String::from_utf8_lossy(&stderr).into_owned(),
        }
    }

    #[track_caller]
    fn expect(self, status: &str, code: i32) -> Answer {
        assert!(self.head.starts_with(&format!("Status: {status}\r\n")), "{self:?}");
        assert_eq!(self.code, Some(code), "{self:?}");
        self
    }

    fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

#[test]
fn trusted_proxies_are_believed_behind_a_remote_addr_that_is_trusted() {
    differs(ONCE, || {
        let asked = |trusted: &str, remote_addr: &str| {
            let mut all = variables("GET", "/environ");
            all.retain(|(name, _)| *name != "REMOTE_ADDR");
            all.extend([("REMOTE_ADDR", remote_addr), ("REMOTE_PORT", "4711"), ("HTTP_HOST", "inner.example")]);
            all.extend([("HTTP_X_FORWARDED_FOR", "1.1.1.1, 203.0.113.9"), ("HTTP_X_FORWARDED_PROTO", "https")]);
            all.push(("HTTP_X_FORWARDED_HOST", "shop.example"));
            let program = Program::new("basic").set(trusted);
            let page = program.run(&all, b"").expect("200 OK", 0).json();
            ["REMOTE_ADDR", "REMOTE_PORT", "wsgi.url_scheme", "HTTP_HOST"]
                .map(|name| page.get(name).map_or("none".to_owned(), |value| value.as_str().expect("text").to_owned()))
        };
        let believed = ["203.0.113.9", "none", "https", "shop.example"];
        assert_eq!(asked("trusted-proxies = 192.0.2.0/24", "192.0.2.7"), believed);
        // A web server that listens on a unix socket knows no address of who asks.
        assert_eq!(asked("trusted-proxies = unix", ""), believed);
        assert_eq!(asked("trusted-proxies = 192.0.2.0/24", ""), ["", "4711", "http", "inner.example"]);
        for trusted in ["", "trusted-proxies = unix, 10.0.0.0/8"] {
            assert_eq!(asked(trusted, "192.0.2.7"), ["192.0.2.7", "4711", "http", "inner.example"], "{trusted}");
        }
    });
}

#[test]
fn the_environment_is_the_environ() {
    differs(ONCE, || {
        let mut all = variables("GET", "/environ");
        all.extend([("HTTPS", "on"), ("HTTP_HOST", "front.example"), ("HTTP_PROXY", "http://evil/"), ("SITE", "one")]);
        let answer = Program::new("basic").run(&all, b"").expect("200 OK", 0);
        let page = answer.json();
        for (name, value) in [
            ("REQUEST_METHOD", "GET"),
            ("SCRIPT_NAME", "/cgi-bin/app"),
            ("PATH_INFO", "/environ"),
            ("SERVER_NAME", "front.example"),
            ("REMOTE_ADDR", "192.0.2.7"),
            ("HTTP_HOST", "front.example"),
            ("wsgi.url_scheme", "https"),
            // SetEnv of the web server.
            ("SITE", "one"),
        ] {
            assert_eq!(page[name], value, "{name}");
        }
        assert_eq!((&page["wsgi.run_once"], &page["wsgi.multiprocess"]), (&true.into(), &true.into()));
        assert_eq!(page["wsgi.multithread"], false);
        assert!(page.get("HTTP_PROXY").is_none());
        assert_eq!(answer.log, "", "nothing is wrong");
        let process = Program::new("basic").run(&variables("GET", "/process"), b"").json();
        assert!(process["environment"].get("HTTP_PROXY").is_none());
    });
}

#[test]
fn what_a_client_names_proxy_is_nobody_s_proxy() {
    differs(ONCE, || {
        let mut all = variables("GET", "/process");
        all.push(("HTTP_PROXY", "http://evil/"));
        let page = Program::new("basic").run(&all, b"").expect("200 OK", 0).json();
        assert!(page["environment"].get("HTTP_PROXY").is_none());
    });
}

#[test]
fn paths_as_they_come() {
    differs(ONCE, || {
        let paths = |variables: &[(&str, &str)], line: &str| {
            let page = Program::new("basic").set(line).run(variables, b"").expect("200 OK", 0).json();
            (page["SCRIPT_NAME"].to_string(), page["PATH_INFO"].to_string())
        };
        // At the program itself there is no PATH_INFO, or an empty one.
        let mut bare = variables("GET", "");
        let at_root = Program::new("basic").run(&bare, b"").expect("200 OK", 0);
        assert_eq!(at_root.body, b"ready");
        bare.retain(|(name, _)| *name != "PATH_INFO");
        bare.push(("REQUEST_URI", "/cgi-bin/app"));
        assert_eq!(Program::new("basic").run(&bare, b"").expect("200 OK", 0).body, b"ready");
        // Mount points lie below the program.
        let found = paths(&variables("GET", "/shop/environ"), "mount = /shop=basic\nmanage-script-name = true");
        assert_eq!(found, ("\"/cgi-bin/app/shop\"".to_owned(), "\"/environ\"".to_owned()));
    });
}

#[test]
fn bodies_in_memory_in_a_file_and_streamed() {
    differs(ONCE, || {
        for line in ["", "post-buffering = 8192", "post-buffering = 0"] {
            for size in [0, 1, 8192, 300_000] {
                let body: Vec<u8> = (0..size).map(|n| (n % 251) as u8).collect();
                let length = size.to_string();
                let mut all = variables("POST", "/echo");
                all.push(("CONTENT_LENGTH", &length));
                // What stands behind the body is not the request's.
                let sent = [&body[..], b"more"].concat();
                let answer = Program::new("basic").set(line).run(&all, &sent).expect("200 OK", 0);
                assert!(answer.body == body, "{line}: {size}");
                assert!(answer.head.contains(&format!("Content-Length: {size}\r\n")), "{}", answer.head);
            }
        }
    });
}

#[test]
fn a_body_is_not_waited_for_beyond_its_length() {
    differs(ONCE, || {
        let program = Program::new("basic");
        let mut command = program.command(&["--cgi", "--ini", "app.ini"]);
        command.envs(variables("POST", "/echo")).env("CONTENT_LENGTH", "5");
        if subject() == Subject::Uwsgi {
            command.arg("--version");
        }
        let mut child = command.spawn().expect("the program");
        let mut input = child.stdin.take().expect("its input");
        let _ = input.write_all(b"hello");
        // The input stays open all the while.
        let mut answer = String::new();
        child.stdout.take().expect("its output").read_to_string(&mut answer).expect("text");
        assert!(answer.ends_with("\r\n\r\nhello"), "{answer}");
        drop(input);
        assert!(child.wait().expect("its end").success());
    });
}

#[test]
fn chunked_bodies_end_with_the_input() {
    differs(ONCE, || {
        let mut all = variables("POST", "/echo");
        all.push(("HTTP_TRANSFER_ENCODING", "chunked"));
        assert_eq!(Program::new("basic").run(&all, b"decoded").expect("200 OK", 0).body, b"decoded");
    });
}

#[test]
fn requests_that_are_refused() {
    differs(ONCE, || {
        let run = |more: (&str, &str), line: &str, body: &[u8]| {
            let mut all = variables("POST", "/echo");
            all.push(more);
            Program::new("basic").set(line).run(&all, body)
        };
        run(("CONTENT_LENGTH", "10"), "", b"short").expect("400 Bad Request", 1);
        run(("CONTENT_LENGTH", "ten"), "", b"").expect("400 Bad Request", 1);
        let answer = run(("CONTENT_LENGTH", "10"), "limit-post = 9", b"0123456789").expect("413 Content Too Large", 1);
        assert!(answer.log.contains("413"), "{}", answer.log);
    });
}

#[test]
fn the_answer_is_nobody_else_s() {
    differs(ONCE, || {
        let mut all = variables("GET", "/log");
        all.push(("QUERY_STRING", "one"));
        let answer = Program::new("basic").run(&all, b"").expect("200 OK", 0);
        assert_eq!(answer.body, b"logged");
        for line in ["from wsgi.errors: one", "from print: one", "from stderr: one"] {
            assert!(answer.log.contains(line), "{}", answer.log);
        }
        // Also what a hook prints.
        let answer = Program::new("basic").set("hook-pre-app = exec:echo from a hook").get("/").expect("200 OK", 0);
        assert!(answer.body == b"ready" && answer.log.contains("from a hook"), "{answer:?}");
        let program = Program::new("basic").set("logto = app.log");
        assert_eq!(program.get("/log").expect("200 OK", 0).log, "");
        let log = std::fs::read_to_string(program.folder.path().join("app.log")).expect("the log");
        assert!(log.contains("from print:"), "{log}");
    });
}

#[test]
fn applications_of_all_kinds() {
    differs(ONCE, || {
        let program = Program::new("responses");
        for (path, status, body) in [
            ("/generator", "200 OK", "first second third"),
            ("/write", "200 OK", "written, written again, returned"),
            ("/wrapper-bytesio", "200 OK", "not a real file"),
            ("/empty-list", "200 OK", ""),
            ("/204", "204 No Content", ""),
            ("/exc-info", "503 Replaced", "replaced"),
        ] {
            let answer = program.get(path).expect(status, 0);
            assert_eq!(String::from_utf8_lossy(&answer.body), body, "{path}");
        }
        let head = program.run(&variables("HEAD", "/one"), b"").expect("200 OK", 0);
        assert!(head.body.is_empty() && head.head.contains("Content-Length: 8\r\n"), "{head:?}");
        let file: String = (0..20000).map(|n| format!("{n:06}\n")).collect();
        assert!(program.get("/wrapper").expect("200 OK", 0).body == file.as_bytes());
        assert_eq!(program.get("/wrapper-length").expect("200 OK", 0).body, &file.as_bytes()[..70]);
    });
}

#[test]
fn exit_codes() {
    differs(ONCE, || {
        let program = Program::new("responses");
        let answer = program.get("/raise").expect("500 Internal Server Error", 1);
        assert!(answer.log.contains("on purpose, before start_response"), "{}", answer.log);
        assert_eq!(program.get("/raise-second").expect("200 OK", 1).body, b"first, then ");
        assert!(program.get("/short").expect("200 OK", 1).log.contains("45 bytes less"));
        assert_eq!(program.get("/long").expect("200 OK", 0).body, b"12345");
        let answer = Program::new("not_there").get("/").expect("500 Internal Server Error", 22);
        assert!(answer.log.contains("not_there"), "{}", answer.log);
        let answer = Program::new("basic").set("threads = many").get("/").expect("500 Internal Server Error", 1);
        assert!(answer.log.contains("app.ini:5"), "{}", answer.log);
        // Somebody at a terminal: nothing is asked, so nothing is answered.
        let answer = Answer::of(&mut program.command(&["--cgi", "app.ini"]), b"");
        assert_eq!((answer.code, answer.head.as_str()), (Some(1), ""));
        assert!(answer.log.contains("REQUEST_METHOD"), "{}", answer.log);
    });
}

#[test]
fn words_of_the_query_are_no_options() {
    differs(ONCE, || {
        let program = Program::new("basic");
        let mut command = program.command(&["--cgi", "app.ini", "--module", "responses", "other.ini", "-x"]);
        let answer = Answer::of(command.envs(variables("GET", "/")), b"");
        assert_eq!(answer.expect("200 OK", 0).body, b"ready");
    });
}

#[test]
fn the_configuration_is_the_server_s() {
    differs(ONCE, || {
        let program = Program::new("basic").set("env = COLOUR=green").set("chdir = sub").set("umask = 027");
        std::fs::create_dir(program.folder.path().join("sub")).expect("a folder");
        let page = program.get("/process").expect("200 OK", 0).json();
        assert_eq!((&page["environment"]["COLOUR"], &page["umask"]), (&"green".into(), &"0027".into()));
        assert_eq!(page["cwd"].as_str().map(Path::new), Some(program.folder.path().join("sub").as_path()));
        let answer = Program::new("basic").set("hook-asap = exec:true").get("/").expect("200 OK", 0);
        assert!(answer.log.contains("not carried out with --cgi"), "{}", answer.log);
    });
}
