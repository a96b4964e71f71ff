//! Streamed responses: what the application has yielded is on its way before the application goes on, even if
//! it never gives the interpreter away.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use crate::harness::http::{Client, get};
use crate::harness::server::{Server, Setup, Speaks};
use crate::harness::{differs, fastcgi, uwsgi, wait_until};

const TALKS: &str =
    "A worker whose threads are all inside the application goes on reading, answering what is wrong, and writing.";

/// A server that speaks these protocols.
fn all() -> Setup {
    let setup = Setup::http("fairness").set("enable-threads", "true").listen("socket", Speaks::Uwsgi);
    setup.listen("fastcgi-socket", Speaks::FastCgi)
}

/// The ways in which a response can be made and delimited.
const KINDS: [&str; 6] = ["chunked", "length", "write", "until-close", "uwsgi", "fastcgi"];

/// Asks for a stream of this kind that blocks in the way `how`; returns its name too.
#[track_caller]
fn ask_for_stream(server: &Server, how: &str, kind: &str) -> (Client, String) {
    let name = format!("{how}-{kind}");
    let target = format!("/stream/{how}/{name}?{kind}");
    let socket = ["uwsgi", "fastcgi"].iter().position(|own| *own == kind).map_or(0, |at| at + 1);
    let mut client = server.endpoint_at(socket).connect();
    match kind {
        // Its last chunk completes a response with a length, and has to come like any other.
        "fastcgi" => {
            let path = format!("/stream/{how}/{name}");
            let more = [("PATH_INFO", path.as_str()), ("QUERY_STRING", "length")];
            client.send(fastcgi::request_with(1, "GET", &path, b"", false, &more))
        }
        "uwsgi" => client.send(uwsgi::request("GET", &target, &[])),
        "until-close" => client.send(format!("GET {target} HTTP/1.0\r\n\r\n")),
        _ => client.send(get(&target)),
    };
    (client, name)
}

/// Reads until this text has come.
#[track_caller]
fn read_until(client: &mut Client, seen: &mut Vec<u8>, text: &str) {
    while !seen.windows(text.len()).any(|window| window == text.as_bytes()) {
        seen.extend(client.some());
    }
}

/// Reads chunk after chunk, and lets the application go on after each.
#[track_caller]
fn chunk_by_chunk(client: &mut Client, mut go_on: impl FnMut(u32)) {
    let mut seen = Vec::new();
    for number in 0..3 {
        read_until(client, &mut seen, &format!("chunk {number}\n"));
        let next = format!("chunk {}\n", number + 1);
        assert!(!seen.windows(next.len()).any(|window| window == next.as_bytes()), "before it was let go on");
        go_on(number);
    }
}

#[test]
fn a_chunk_arrives_while_the_application_waits_for_an_event() {
    let server = all().set("threads", "8").start();
    for kind in KINDS {
        let (mut client, name) = ask_for_stream(&server, "event", kind);
        chunk_by_chunk(&mut client, |number| {
            server.get(&format!("/set/{name}.{number}")).expect(200);
        });
    }
}

#[test]
fn a_chunk_arrives_while_the_only_thread_waits() {
    let server = all().start();
    for kind in KINDS {
        let (mut client, name) = ask_for_stream(&server, "file", kind);
        chunk_by_chunk(&mut client, |number| {
            std::fs::write(server.path(&format!("{name}.{number}")), "").expect("the file");
        });
    }
}

#[test]
fn a_head_arrives_while_the_application_makes_the_body_that_nobody_gets() {
    let server = all().start();
    let go_on = |kind: &str| {
        for number in 0..3 {
            std::fs::write(server.path(&format!("head-{kind}.{number}")), "").expect("the file");
        }
    };
    for kind in ["length", "chunked"] {
        let mut client = server.connect();
        client
            .send(format!("HEAD /stream/file/head-{kind}?{kind} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n"));
        client.response_to("HEAD").expect(200);
        go_on(kind);
        // uWSGI sends the body.
        client.try_rest().expect("the end");
    }
    let mut records = fastcgi::Records::new(server.endpoint_at(2).connect());
    let path = "/stream/file/head-fastcgi";
    let more = [("PATH_INFO", path), ("QUERY_STRING", "length")];
    records.client.send(fastcgi::request_with(1, "HEAD", path, b"", true, &more));
    let mut head = Vec::new();
    while !head.starts_with(b"Status: 200") {
        let record = records.next();
        assert_eq!(record.kind, fastcgi::STDOUT, "{record:?}");
        head.extend(record.content);
    }
    go_on("fastcgi");
    while records.next().kind != fastcgi::END {}
}

/// Lets a call in C that waits for a writer of the pipe return.
#[track_caller]
fn open_pipe(server: &Server, name: &str) {
    wait_until("the application waits for the pipe", || {
        let flags = nix::libc::O_NONBLOCK;
        // Fails until somebody has opened it for reading, which waits for this.
        OpenOptions::new().write(true).custom_flags(flags).open(server.path(name)).is_ok()
    });
}

fn make_pipes(server: &Server, name: &str) {
    for number in 0..3 {
        let path = server.path(&format!("{name}.{number}"));
        mkfifo(&path, Mode::S_IRUSR | Mode::S_IWUSR).expect("a named pipe");
    }
}

#[test]
fn a_chunk_arrives_while_c_code_holds_the_interpreter() {
    for threads in ["1", "4"] {
        let server = all().set("threads", threads).start();
        for kind in KINDS {
            make_pipes(&server, &format!("c-{kind}"));
            let (mut client, name) = ask_for_stream(&server, "c", kind);
            chunk_by_chunk(&mut client, |number| open_pipe(&server, &format!("{name}.{number}")));
        }
    }
}

#[test]
fn a_worker_whose_interpreter_is_held_goes_on_talking() {
    differs(TALKS, || {
        let server = all().start();
        make_pipes(&server, "held");
        let mut client = server.connect();
        client.send(get("/stream/c/held"));
        let mut waiting = server.connect();
        chunk_by_chunk(&mut client, |number| {
            // Nothing that the application is needed for.
            server.ask("GET / HTTP/1.1\r\nno colon\r\n\r\n").expect(400);
            if number == 0 {
                waiting.send(get("/pid"));
            }
            open_pipe(&server, &format!("held.{number}"));
        });
        waiting.response().expect(200);
    });
}

/// Keeps the only thread busy until a list of requests is read and waits behind it; returns the clients of these.
fn ready_together(server: &Server, name: &str, requests: &[String]) -> Vec<Client> {
    let mut busy = server.connect();
    busy.send(get(&format!("/wait/{name}")));
    let inside = server.path(&format!("{name}.in"));
    wait_until("the first request is inside", || inside.exists());
    let ask = |request: &String| {
        let mut client = server.connect();
        client.send(request);
        client
    };
    let clients = requests.iter().map(ask).collect();
    // It came after them, and is answered without the application.
    server.ask("GET / HTTP/1.1\r\nno colon\r\n\r\n").expect(400);
    std::fs::write(server.path(&format!("{name}.go")), "").expect("the file");
    busy.response().expect(200);
    clients
}

#[test]
fn a_response_does_not_wait_for_the_request_that_runs_next() {
    differs(TALKS, || {
        let server = Setup::http("fairness").start();
        for round in 0..3 {
            let next = format!("next{round}");
            let requests = [get("/pid"), get("/pid"), get(&format!("/wait/{next}")), get("/pid")];
            let mut clients = ready_together(&server, &format!("busy{round}"), &requests);
            clients[0].response().expect(200);
            clients[1].response().expect(200);
            std::fs::write(server.path(&format!("{next}.go")), "").expect("the file");
            clients[2].response().expect(200);
            clients[3].response().expect(200);
        }
    });
}

#[test]
fn the_end_of_a_response_comes_though_its_application_has_more_to_do_and_others_wait() {
    differs(TALKS, || {
        let server = Setup::http("fairness").start();
        for kind in ["length", "chunked", "write"] {
            let name = format!("file-{kind}");
            let requests = [get(&format!("/stream/file/{name}?{kind}")), get("/pid")];
            let mut clients = ready_together(&server, &format!("before-{kind}"), &requests);
            let path = |number: u32| server.path(&format!("{name}.{number}"));
            chunk_by_chunk(&mut clients[0], |number| std::fs::write(path(number), "").expect("the file"));
            clients[1].response().expect(200);
        }
    });
}

#[test]
fn the_limit_of_a_request_counts_from_its_own_begin() {
    differs(TALKS, || {
        let server = Setup::http("fairness").set("harakiri", "2").start();
        // More than the limit in all, without a pause between them.
        let slow = (0..12).map(|n| get(&format!("/served/{n}?0.25")));
        let requests: Vec<_> = [get("/pid"), get("/pid")].into_iter().chain(slow).collect();
        for mut client in ready_together(&server, "busy", &requests) {
            client.response().expect(200);
        }
    });
}
