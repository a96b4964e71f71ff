//! Workers that are replaced because they reached a limit: requests, lifetime, memory.

use std::collections::HashSet;

use crate::harness::http::{Client, get};
use crate::harness::server::{Server, Setup};
use crate::harness::{Subject, differs, subject, wait_until};

fn growing() -> Setup {
    Setup::http("growing").set("min-worker-lifetime", "0")
}

fn pid(server: &Server) -> Option<i32> {
    Some(server.poll("/")?.text().parse().expect("a number"))
}

#[track_caller]
fn wait_for_another(server: &Server, old: i32) {
    wait_until("another worker serves", || pid(server).is_some_and(|new| new != old));
}

/// Lets the worker grow beyond a limit that kills, which asks nobody whether a request is in flight.
#[track_caller]
fn grow_and_die(server: &Server) {
    let old = pid(server).expect("an answer");
    let _ = server.connect().send(get("/grow/200")).try_response_to("GET");
    wait_until("another worker serves", || {
        let answer = server.connect().send(get("/")).try_response_to("GET");
        answer.is_ok_and(|page| page.text() != old.to_string())
    });
}

#[test]
fn a_worker_is_replaced_after_max_requests() {
    let server = growing().set("max-requests", "5").start();
    let old = pid(&server).expect("an answer");
    wait_for_another(&server, old);
}

#[test]
fn max_requests_has_no_effect_on_a_young_worker() {
    let server = Setup::http("growing").set("max-requests", "2").start();
    let pids: HashSet<i32> = (0..20).filter_map(|_| pid(&server)).collect();
    assert_eq!(pids.len(), 1);
}

#[test]
fn recycling_loses_no_request() {
    differs(
        "Recycled workers (`max-requests`, `max-worker-lifetime`, `reload-on-*`) are replaced one at a time (or `recycle-at-once`), and the replacement serves before the old one goes.",
        || {
            let server =
                growing().set("max-requests", "20").set("max-requests-delta", "10").set("processes", "2").start();
            let mut pids = HashSet::new();
            for _ in 0..20 {
                // Kept alive over the death of the worker that accepted it.
                let mut kept: Client = server.connect();
                for _ in 0..20 {
                    pids.insert(kept.send(get("/")).response().expect(200).text());
                    pids.insert(server.get("/").expect(200).text());
                }
            }
            assert!(pids.len() > 4, "{pids:?}");
        },
    );
}

#[test]
fn lives_differ_in_length() {
    differs(
        "`max-requests-delta` and `max-worker-lifetime-delta` add a random part of their value, the same worker not always the same.",
        || {
            let server = growing().set("max-requests", "10").set("max-requests-delta", "60").start();
            let mut lives: Vec<(i32, u32)> = Vec::new();
            wait_until("eight workers have served", || {
                if let Some(pid) = pid(&server) {
                    match lives.iter_mut().find(|(known, _)| *known == pid) {
                        Some((_, requests)) => *requests += 1,
                        None => lives.push((pid, 1)),
                    }
                }
                lives.len() > 8
            });
            let lengths: HashSet<u32> = lives[1..8].iter().map(|(_, requests)| *requests).collect();
            assert!(lengths.len() > 3, "{lives:?}");
        },
    );
}

#[test]
fn a_worker_is_replaced_after_its_lifetime() {
    let server = growing().set("max-worker-lifetime", "1").start();
    let old = pid(&server).expect("an answer");
    wait_for_another(&server, old);
}

#[test]
fn a_lifetime_may_have_a_random_part() {
    let server = growing().set("max-worker-lifetime", "1").set("max-worker-lifetime-delta", "1").start();
    let old = pid(&server).expect("an answer");
    wait_for_another(&server, old);
}

/// The address space of a worker that has answered once, in MiB.
fn address_space() -> u64 {
    let server = growing().start();
    let pid = pid(&server).expect("an answer");
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("status");
    let line = status.lines().find(|line| line.starts_with("VmSize:")).expect("VmSize");
    line.split_whitespace().nth(1).expect("a number").parse::<u64>().expect("a number") / 1024
}

#[test]
fn address_space_has_limits_too() {
    let limit = (address_space() + 100).to_string();
    let server = growing().set("reload-on-as", limit.as_str()).start();
    let old = pid(&server).expect("an answer");
    assert_eq!(server.get("/grow/200").expect(200).text(), old.to_string());
    wait_for_another(&server, old);
    let server = growing().set("evil-reload-on-as", limit).set("mem-collector-freq", "1");
    let server = server.allow("is killed").allow("killed by SIGKILL").start();
    grow_and_die(&server);
}

#[test]
fn a_worker_that_grew_is_replaced() {
    let server = growing().set("reload-on-rss", "150").start();
    let old = pid(&server).expect("an answer");
    assert_eq!(pid(&server), Some(old));
    assert_eq!(server.get("/grow/200").expect(200).text(), old.to_string());
    wait_for_another(&server, old);
}

#[test]
fn the_evil_limit_kills() {
    let server = growing()
        .set("evil-reload-on-rss", "150")
        .set("mem-collector-freq", "1")
        .allow("is killed")
        .allow("killed by SIGKILL")
        .start();
    grow_and_die(&server);
    if subject() == Subject::Rsgi {
        server.wait_for_log(&["is killed", "evil-reload-on-rss"]);
    }
}

/// A control group with so many bytes of memory; none where this user may not make one.
fn small_group(bytes: u64) -> Option<std::path::PathBuf> {
    let own = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    let find = |mark: &str, root: &str, file: &str| {
        let path = own.lines().find_map(|line| line.split_once(mark))?.1;
        let group =
            std::path::Path::new(root).join(path.trim_start_matches('/')).join(format!("rsgi-{}", std::process::id()));
        std::fs::create_dir(&group).ok()?;
        if std::fs::write(group.join(file), bytes.to_string()).is_err() {
            let _ = std::fs::remove_dir(&group);
            return None;
        }
        Some(group)
    };
    find(":memory:", "/sys/fs/cgroup/memory", "memory.limit_in_bytes")
        .or_else(|| find("0::", "/sys/fs/cgroup", "memory.max"))
}

#[test]
fn a_worker_that_the_system_killed_for_want_of_memory_is_recognised() {
    let Some(group) = small_group(150 << 20) else { return };
    differs("A worker that crashes is named in the log with its signal.", || {
        let procs = group.join("cgroup.procs").display().to_string();
        let setup = growing().shell(&format!("echo $$ > {procs}; exec \"$@\"")).allow("killed by SIGKILL");
        let server = setup.start();
        let old = pid(&server);
        let _ = server.connect().send(get("/grow/400")).try_response_to("GET");
        server.wait_for_log(&["was killed by SIGKILL while serving GET /grow/400", "for want of memory"]);
        assert_ne!(pid(&server), old);
    });
    wait_until("the group is empty", || std::fs::remove_dir(&group).is_ok());
}
