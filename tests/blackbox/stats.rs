//! What the master tells whoever asks: `stats` as JSON, `metrics-socket` for Prometheus.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use serde_json::{Map, Value};

use nix::sys::signal::Signal;

use crate::harness::held::Held;
use crate::harness::http::{Endpoint, get};
use crate::harness::server::{Server, Setup};
use crate::harness::{Subject, differs, subject, wait_until};

/// A server that tells its statistics on the unix socket `stats.sock` in its folder.
fn telling(app: &str) -> Setup {
    let setup = Setup::http(app);
    let path = setup.path("stats.sock").display().to_string();
    setup.set("stats", path)
}

fn read(path: &Path) -> Option<String> {
    let mut text = String::new();
    UnixStream::connect(path).ok()?.read_to_string(&mut text).ok()?;
    Some(text)
}

/// The whole answer.
#[track_caller]
fn text(server: &Server) -> String {
    let mut found = None;
    wait_until("statistics are told", || {
        found = read(&server.path("stats.sock")).filter(|text| !text.is_empty());
        found.is_some()
    });
    found.unwrap_or_default()
}

#[track_caller]
fn stats(server: &Server) -> Value {
    serde_json::from_str(&text(server)).expect("JSON")
}

/// `n` a number, `s` text, `l` a list, `o` an object.
fn kind(value: &Value) -> char {
    match value {
        Value::Number(number) if number.is_u64() => 'n',
        Value::String(_) => 's',
        Value::Array(_) => 'l',
        Value::Object(_) => 'o',
        _ => '?',
    }
}

/// The order of keys as they stand in the text, which a parsed map does not keep.
#[track_caller]
fn expect_keys(object: &Map<String, Value>, text: &str, expected: &str) {
    let mut at = 0;
    for word in expected.split_whitespace() {
        let (name, of) = word.split_once(':').expect("name:kind");
        let value = object.get(name).unwrap_or_else(|| panic!("no {name} in {object:?}"));
        assert_eq!(kind(value), of.chars().next().expect("a kind"), "{name} is {value}");
        let key = format!("\"{name}\":");
        at += text[at..].find(&key).unwrap_or_else(|| panic!("{name} is not in its place in {text}")) + key.len();
    }
}

const SERVER: &str = "version:s listen_queue:n listen_queue_errors:n signal_queue:n load:n pid:n uid:n gid:n cwd:s \
    locks:l sockets:l workers:l";
const SOCKET: &str = "name:s proto:s queue:n max_queue:n shared:n can_offload:n";
const WORKER: &str = "id:n pid:n accepting:n requests:n delta_requests:n exceptions:n harakiri_count:n signals:n \
    signal_queue:n status:s rss:n vsz:n running_time:n last_spawn:n respawn_count:n tx:n avg_rt:n apps:l cores:l";
const APP: &str = "id:n modifier1:n mountpoint:s startup_time:n requests:n exceptions:n chdir:s";
const CORE: &str = "id:n requests:n static_requests:n routed_requests:n offloaded_requests:n write_errors:n \
    read_errors:n in_request:n vars:l req_info:o";

#[test]
fn every_key_is_there_in_its_place() {
    let server = telling("basic").set("processes", "2").set("threads", "2").start();
    let text = text(&server);
    let stats: Value = serde_json::from_str(&text).expect("JSON");
    expect_keys(stats.as_object().expect("an object"), &text, SERVER);
    let within = |key: &str| text.split_once(&format!("\"{key}\":")).expect("the key").1.to_owned();
    expect_keys(stats["sockets"][0].as_object().expect("an object"), &within("sockets"), SOCKET);
    let worker = stats["workers"][0].as_object().expect("an object");
    expect_keys(worker, &within("workers"), WORKER);
    expect_keys(worker["apps"][0].as_object().expect("an object"), &within("apps"), APP);
    expect_keys(worker["cores"][0].as_object().expect("an object"), &within("cores"), CORE);
    assert_eq!(stats["workers"].as_array().map(Vec::len), Some(2));
    assert_eq!(worker["cores"].as_array().map(Vec::len), Some(2));
    assert_eq!(stats["pid"], server.pid().as_raw());
    assert!(text.starts_with("{\n\t\"version\":\""), "{text}");
}

#[test]
fn requests_are_counted() {
    let server = telling("basic").start();
    let number = |stats: &Value, key: &str| stats["workers"][0][key].as_u64().expect("a number");
    // A request is counted when its client has had the answer already: so is the one that found the server ready.
    wait_until("the first one is counted", || number(&stats(&server), "requests") == 1);
    let before = stats(&server);
    for _ in 0..3 {
        server.get("/").expect(200);
    }
    wait_until("three more are counted", || number(&stats(&server), "requests") == number(&before, "requests") + 3);
    let after = stats(&server);
    let worker = &after["workers"][0];
    assert_eq!(worker["delta_requests"], worker["requests"]);
    assert_eq!(worker["cores"][0]["requests"], worker["requests"]);
    assert_eq!(worker["apps"][0]["requests"], worker["requests"]);
    assert!(number(&after, "tx") > number(&before, "tx"));
    assert!(number(&after, "running_time") > 0 && number(&after, "avg_rt") > 0);
    assert!(number(&after, "last_spawn") > 1_600_000_000);
    assert_eq!(
        (&worker["status"], &worker["accepting"], &worker["respawn_count"]),
        (&"idle".into(), &1.into(), &1.into())
    );
}

#[test]
fn time_is_kept_without_a_log_too() {
    let began = std::time::Instant::now();
    let server = telling("basic").set("disable-logging", "true").start();
    server.get("/").expect(200);
    let time = || stats(&server)["workers"][0]["running_time"].as_u64().unwrap_or(0);
    wait_until("its time is told", || time() > 0);
    assert!(u128::from(time()) < began.elapsed().as_micros(), "{}", time());
}

#[test]
fn requests_that_wait_for_a_thread_are_counted() {
    differs("`stats` tells how long requests waited for a thread; `metrics-socket` has it as a histogram.", || {
        let setup = telling("basic");
        let path = setup.path("metrics.sock");
        let server = setup.set("metrics-socket", path.display().to_string()).start();
        let number = |key: &str| stats(&server)["workers"][0][key].as_u64().expect("a number");
        assert_eq!((number("waited"), number("waited_time")), (0, 0));
        let held = Held::begin(&server, "one");
        let mut waiting = server.connect();
        waiting.send(get("/"));
        wait_until("it waits", || number("waiting") == 1);
        held.release().expect(200);
        waiting.response().expect(200);
        wait_until("it is counted", || number("waited") == 1 && number("waited_time") > 0);
        let metrics = || Endpoint::Unix(path.clone()).connect().send(get("/metrics")).response().expect(200).text();
        for line in ["rsgi_request_queue_seconds_count 3", "rsgi_request_queue_seconds_bucket{le=\"+Inf\"} 3"] {
            wait_until("all three are in the histogram", || metrics().lines().any(|known| known == line));
        }
    });
}

#[test]
fn a_running_request_is_shown() {
    let server = telling("basic").start();
    let held = Held::begin(&server, "one");
    let worker = stats(&server)["workers"][0].clone();
    assert_eq!(worker["status"], "busy");
    let core = &worker["cores"][0];
    assert_eq!(core["in_request"], 1);
    assert!(core["req_info"]["request_start"].as_u64() > Some(1_600_000_000));
    let vars: Vec<&str> = core["vars"].as_array().expect("a list").iter().filter_map(Value::as_str).collect();
    for expected in ["REQUEST_METHOD=GET", "REQUEST_URI=/wait/one", "REMOTE_ADDR=127.0.0.1"] {
        assert!(vars.contains(&expected), "{expected} is not in {vars:?}");
    }
    held.release().expect(200);
    wait_until("it is over", || stats(&server)["workers"][0]["status"] == "idle");
    assert_eq!(stats(&server)["workers"][0]["cores"][0]["vars"], Value::Array(Vec::new()));
}

#[test]
fn secrets_of_requests_are_not_told() {
    differs("`stats` shows method, target and client of a running request, and none of its header fields.", || {
        let server = telling("basic").start();
        let mut client = server.connect();
        client
            .send("GET /wait/one HTTP/1.1\r\nHost: test\r\nCookie: id=secret\r\nAuthorization: Basic c2VjcmV0\r\n\r\n");
        wait_until("the request is inside", || server.path("one.in").exists());
        let told = text(&server);
        std::fs::write(server.path("one.go"), "").expect("the file");
        client.response().expect(200);
        assert!(told.contains("/wait/one"), "{told}");
        assert!(!told.contains("secret") && !told.contains("c2VjcmV0"), "{told}");
    });
}

#[test]
fn memory_is_told() {
    differs("`stats` tells rss and vsz without `memory-report`.", || {
        let server = telling("basic").start();
        server.get("/").expect(200);
        let worker = stats(&server)["workers"][0].clone();
        assert!(worker["rss"].as_u64() > Some(1 << 20) && worker["vsz"].as_u64() > worker["rss"].as_u64(), "{worker}");
    });
}

#[test]
fn requests_that_took_too_long_are_counted() {
    let server = telling("basic").set("harakiri", "1").allow("harakiri").allow("Traceback").start();
    let mut client = server.connect();
    client.send(get("/wait/one"));
    wait_until("it is counted", || stats(&server)["workers"][0]["harakiri_count"] == 1);
    std::fs::write(server.path("one.go"), "").expect("the file");
}

#[test]
fn daemons_are_told() {
    let setup = telling("basic").set("attach-daemon", "sleep 1000");
    let server = setup.start();
    wait_until("it runs", || stats(&server)["daemons"][0]["pid"].as_u64() > Some(0));
    let told = text(&server);
    let daemon = serde_json::from_str::<Value>(&told).expect("JSON")["daemons"][0].clone();
    expect_keys(daemon.as_object().expect("an object"), &told, "cmd:s pid:n respawns:n");
    assert_eq!(daemon["cmd"], "sleep 1000");
}

#[test]
fn all_workers_may_be_busy() {
    let server = telling("basic").set("processes", "2").start();
    let held = [Held::begin(&server, "one"), Held::begin(&server, "two")];
    let told = stats(&server);
    let busy = told["workers"].as_array().expect("a list").iter().filter(|worker| worker["status"] == "busy").count();
    assert_eq!(busy, 2, "{told}");
    for request in held {
        request.release().expect(200);
    }
}

#[test]
fn workers_that_are_not_needed_are_cheap() {
    let server = telling("basic").set("processes", "2").set("cheaper", "1").start();
    wait_until("one is cheap", || {
        let told = stats(&server);
        let status: Vec<_> = (0..2).map(|at| told["workers"][at]["status"].clone()).collect();
        status == ["idle", "cheap"]
    });
}

#[test]
fn minified_without_cores_and_over_http() {
    let server = telling("basic").set("stats-minified", "true").set("stats-no-cores", "true").start();
    let told = text(&server);
    assert!(told.starts_with("{\"version\":\"") && !told.contains(['\n', '\t']), "{told}");
    assert!(!told.contains("\"cores\""), "{told}");
    drop(server);
    let server = telling("basic").set("stats-http", "true").start();
    wait_until("statistics are told", || server.path("stats.sock").exists());
    let mut client = UnixStream::connect(server.path("stats.sock")).expect("connected");
    // uWSGI waits for a request then.
    client.write_all(b"GET / HTTP/1.0\r\n\r\n").expect("sent");
    let mut told = String::new();
    client.read_to_string(&mut told).expect("to its end");
    let (head, body) = told.split_once("\r\n\r\n").expect("a head");
    assert_eq!(
        head,
        "HTTP/1.0 200 OK\r\nConnection: close\r\nAccess-Control-Allow-Origin: *\r\nContent-Type: application/json"
    );
    assert_eq!(serde_json::from_str::<Value>(body).expect("JSON")["pid"], server.pid().as_raw());
}

#[test]
fn other_names_of_stats_options() {
    let setup = Setup::http("basic");
    let path = setup.path("stats.sock").display().to_string();
    let server = setup.set("stats-server", path).set("stats-min", "true").start();
    assert!(text(&server).starts_with("{\"version\":\""));
}

#[test]
fn a_request_is_not_waited_for_and_hurts_nobody() {
    let server = telling("basic").start();
    text(&server);
    let mut client = UnixStream::connect(server.path("stats.sock")).expect("connected");
    let _ = client.write_all(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n");
    let mut told = String::new();
    if subject() == Subject::Rsgi {
        client.read_to_string(&mut told).expect("to its end");
        assert!(told.ends_with("}\n"), "{told}");
    }
}

#[test]
fn who_never_reads_holds_nobody_up() {
    let server = telling("basic").set("processes", "2").start();
    text(&server);
    let idlers: Vec<_> = (0..100).map(|_| UnixStream::connect(server.path("stats.sock")).expect("connected")).collect();
    assert_eq!(stats(&server)["pid"], server.pid().as_raw());
    server.get("/").expect(200);
    if subject() == Subject::Rsgi {
        // Whoever stays is shown out in the end: what the master has open is what it had before.
        let open = || std::fs::read_dir(format!("/proc/{}/fd", server.pid())).map_or(0, Iterator::count);
        let with_idlers = open();
        wait_until("they are shown out", || open() + 50 < with_idlers);
    }
    drop(idlers);
}

/// Where an option says in the log that it listens.
fn address_of(server: &Server, option: &str) -> std::net::SocketAddr {
    let mut found = None;
    wait_until("its address is in the log", || {
        let log = server.log();
        let start = format!("{option} on ");
        found = log.lines().find_map(|line| line.split_once(&start)?.1.trim().parse().ok());
        found.is_some()
    });
    found.expect("an address")
}

#[test]
fn over_tcp_and_in_the_abstract_namespace() {
    if subject() == Subject::Uwsgi {
        // It does not say which port it got, and pads abstract names.
        return;
    }
    let server = Setup::http("basic").set("stats", "127.0.0.1:0").start();
    let mut told = String::new();
    let mut client = std::net::TcpStream::connect(address_of(&server, "stats")).expect("connected");
    client.read_to_string(&mut told).expect("text");
    assert_eq!(serde_json::from_str::<Value>(&told).expect("JSON")["ready"], true);
    drop(server);
    use std::os::linux::net::SocketAddrExt;
    let name = format!("rsgi-stats-{}", std::process::id());
    let server = Setup::http("basic").set("stats", format!("@{name}")).start();
    let address = std::os::unix::net::SocketAddr::from_abstract_name(&name).expect("a name");
    told.clear();
    UnixStream::connect_addr(&address).expect("connected").read_to_string(&mut told).expect("text");
    assert_eq!(serde_json::from_str::<Value>(&told).expect("JSON")["pid"], server.pid().as_raw());
}

#[test]
fn a_reload_moves_the_desk_and_is_told() {
    differs("`stats` tells the generation, whether requests are answered, and how the last reload went.", || {
        let mut server = telling("basic").allow("reload failed").allow("error").allow("ERROR").allow("stats").start();
        let told = stats(&server);
        assert_eq!(
            (&told["generation"], &told["ready"], &told["reloads"]["last"]),
            (&1.into(), &true.into(), &"none".into())
        );
        // A broken one, then one with another address.
        server.rewrite("processes", "many");
        server.signal(Signal::SIGHUP);
        wait_until("the failure is told", || stats(&server)["reloads"]["last"] == "failed");
        server.rewrite("processes", "3");
        let other = server.path("other.sock");
        server.rewrite("stats", &other.display().to_string());
        server.signal(Signal::SIGHUP);
        wait_until("it is told elsewhere", || {
            read(&other).and_then(|text| serde_json::from_str::<Value>(&text).ok()).is_some_and(|told| {
                told["generation"] == 2
                    && told["reloads"]["done"] == 1
                    && told["reloads"]["failed"] == 1
                    && told["workers"].as_array().map(Vec::len) == Some(3)
            })
        });
        assert!(!server.path("stats.sock").exists());
        // And back to none.
        server.rewrite("stats", "");
        server.rewrite("processes", "1");
        let text = std::fs::read_to_string(server.path("app.ini")).expect("the ini").replace("stats = \n", "");
        std::fs::write(server.path("app.ini"), text).expect("the ini");
        server.signal(Signal::SIGHUP);
        wait_until("it is told nowhere", || !other.exists());
    });
}

#[test]
fn an_address_in_use_is_an_error_with_its_place() {
    differs("Errors at the start name the socket, file or option they are about.", || {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = taken.local_addr().expect("its address").to_string();
        for option in ["stats", "metrics-socket"] {
            let ended = Setup::http("basic").set(option, address.clone()).unasked().run();
            ended.expect(1, &["app.ini:", option, &address, "in use"]);
            let ended = Setup::http("basic").set(option, "/no/such/folder/s").unasked().run();
            ended.expect(1, &["app.ini:", option, "create /no/such/folder"]);
            let ended = Setup::http("basic").set(option, "nonsense:port").unasked().run();
            ended.expect(1, &["app.ini:", option]);
        }
        // The same in a reload, which leaves everything as it was.
        let mut server = telling("basic").allow("reload failed").allow("in use").start();
        server.rewrite("stats", &address);
        server.signal(Signal::SIGHUP);
        server.wait_for_log(&["app.ini:", "stats", "in use"]);
        wait_until("it is told where it was", || stats(&server)["reloads"]["last"] == "failed");
    });
}

#[test]
fn an_application_inherits_nothing_of_the_desk() {
    let setup = telling("basic").set("processes", "1");
    let server = setup.start();
    text(&server);
    let _client = UnixStream::connect(server.path("stats.sock")).expect("connected");
    let worker = stats(&server)["workers"][0]["pid"].as_i64().expect("a pid");
    let listed = std::fs::read_to_string("/proc/net/unix").expect("unix sockets");
    let path = server.path("stats.sock").display().to_string();
    let inodes: Vec<String> = listed
        .lines()
        .filter(|line| line.ends_with(&path))
        .filter_map(|line| line.split_whitespace().nth(6))
        .map(|inode| format!("socket:[{inode}]"))
        .collect();
    assert!(!inodes.is_empty());
    if subject() == Subject::Uwsgi {
        return;
    }
    for entry in std::fs::read_dir(format!("/proc/{worker}/fd")).expect("its descriptors").flatten() {
        let target = std::fs::read_link(entry.path()).unwrap_or_default().display().to_string();
        assert!(!inodes.contains(&target), "worker {worker} has {target} open");
    }
}

#[test]
fn metrics_are_told_to_prometheus() {
    differs(
        "`metrics-socket` answers `/metrics` for Prometheus, `/-/live` and `/-/ready` over HTTP, from the master.",
        || {
            let setup = Setup::http("basic").set("processes", "2");
            let path = setup.path("metrics.sock");
            let server = setup.set("metrics-socket", path.display().to_string()).start();
            let desk = Endpoint::Unix(path);
            let ask = |target: &str| desk.connect().send(get(target)).response();
            let held = [Held::begin(&server, "one"), Held::begin(&server, "two")];
            let text = ask("/metrics").expect(200).text();
            for line in
                ["rsgi_ready 1", "rsgi_workers{state=\"ready\"} 2", "rsgi_threads{worker=\"1\",state=\"busy\"} 1"]
            {
                assert!(text.lines().any(|known| known == line), "{line} is not in {text}");
            }
            // Each sample is `name{labels} number`, below its TYPE.
            let mut name = "";
            for line in text.lines() {
                if let Some(rest) = line.strip_prefix("# TYPE ") {
                    name = rest.split(' ').next().expect("a name");
                } else if !line.starts_with('#') {
                    let (series, value) = line.rsplit_once(' ').expect("a value");
                    assert!(series.starts_with(name), "{line} below {name}");
                    value.parse::<f64>().expect("a number");
                }
            }
            ask("/-/live").expect(200);
            ask("/-/ready").expect(200);
            ask("/other").expect(404);
            for request in held {
                request.release().expect(200);
            }
            let total = || {
                let text = ask("/metrics").text();
                let of =
                    |line: &str| line.strip_prefix("rsgi_requests_total{")?.rsplit_once(' ')?.1.parse::<u64>().ok();
                text.lines().filter_map(of).sum::<u64>()
            };
            wait_until("they are counted", || total() >= 2);
        },
    );
}

#[test]
fn not_ready_before_the_application_is() {
    differs(
        "`metrics-socket` answers `/metrics` for Prometheus, `/-/live` and `/-/ready` over HTTP, from the master.",
        || {
            let setup = Setup::bare().file(
                "slow.py",
                "import os, time\nwhile not os.path.exists('go'):\n    time.sleep(0.005)\n\
                 def application(environ, start_response):\n    start_response('200 OK', [])\n    return [b'here']\n",
            );
            let folder = setup.path("").display().to_string();
            let path = setup.path("metrics.sock");
            let server = setup
                .listen("http-socket", crate::harness::server::Speaks::Http)
                .set("chdir", folder)
                .set("wsgi-file", "slow.py")
                .set("metrics-socket", path.display().to_string())
                .unasked()
                .start();
            let desk = Endpoint::Unix(path.clone());
            wait_until("the desk is open", || path.exists());
            wait_until("it is connected to", || desk.try_connect().is_ok());
            desk.connect().send(get("/-/ready")).response().expect(503);
            desk.connect().send(get("/-/live")).response().expect(200);
            std::fs::write(server.path("go"), "").expect("the file");
            wait_until("it is ready", || desk.connect().send(get("/-/ready")).response().status == 200);
            server.get("/").expect(200);
        },
    );
}
