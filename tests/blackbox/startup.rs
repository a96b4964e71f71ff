//! What goes wrong at the start, and what a reload changes of what the start made.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use nix::sys::signal::Signal;
use nix::unistd::geteuid;

use crate::harness::http::{Endpoint, get};
use crate::harness::server::{Server, Setup, Speaks, processes_of};
use crate::harness::{differs, wait_until};
use crate::listeners::for_everybody;

/// Ends a start that must fail: one line with all of `texts`, exit code 1, no files.
#[track_caller]
fn expect_failure(setup: Setup, texts: &[&str]) {
    let ended = setup.run();
    ended.expect(1, texts);
    assert!(ended.left.is_empty(), "left behind: {:?}", ended.left);
}

#[test]
fn files_and_folders_that_cannot_be_used_are_told_with_their_line() {
    differs("Errors at the start name the socket, file or option they are about.", || {
        for (key, value) in [
            ("pidfile", "no/such/folder/app.pid"),
            ("logto", "no/such/folder/log"),
            ("chdir", "no/such/folder"),
            ("pidfile", "/"),
            ("max-fd", "99999999999"),
        ] {
            let setup = Setup::http("basic").listen_unix("socket", "app.sock", Speaks::Uwsgi).set(key, value);
            expect_failure(setup, &["app.ini:", key, value]);
        }
        expect_failure(Setup::http("basic").and_arguments(&["--pidfile", "/no/such/a.pid"]), &["--pidfile: /no/such"]);
    });
}

#[test]
fn a_log_format_is_checked_with_everything_else() {
    differs(
        "`--check` reports what is wrong with a configuration, without importing the application or serving.",
        || {
            for arguments in [&[][..], &["--check"]] {
                let setup =
                    Setup::http("basic").set("threads", "many").set("log-format", "%()").and_arguments(arguments);
                setup.run().expect(1, &["app.ini:", "log-format", "%()"]).expect(1, &["app.ini:", "threads", "many"]);
            }
        },
    );
}

#[test]
fn ignored_sockets_of_systemd_are_told_when_there_is_nothing_else_to_serve() {
    differs("A LISTEN_PID of another process is mentioned in the log.", || {
        Setup::of("basic").env("LISTEN_FDS", "1").env("LISTEN_PID", "1").run().expect(1, &["LISTEN_PID is 1"]);
    });
}

/// The titles of all its processes.
fn titles(server: &Server) -> Vec<String> {
    let title = |pid: i32| std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    processes_of(server.pid()).into_iter().map(|pid| title(pid).trim_end_matches('\0').to_owned()).collect()
}

#[test]
fn a_part_of_a_title_asks_for_titles() {
    let server = Setup::http("basic").set("procname-prefix", "shop ").set("procname-append", " one").start();
    wait_until("all have their titles", || {
        titles(&server).iter().all(|title| title.starts_with("shop") && title.ends_with("one"))
    });
}

#[track_caller]
fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).expect("the socket").permissions().mode() & 0o777
}

/// Reloads and waits until another process answers.
#[track_caller]
fn reload(server: &Server) {
    let before = server.get("/pid").text();
    server.signal(Signal::SIGHUP);
    wait_until("the reload is done", || server.poll("/pid").is_some_and(|page| page.text() != before));
}

#[test]
fn a_reload_binds_new_sockets_with_the_new_umask() {
    // uWSGI does not remove sockets that a reload brought.
    let mut server = Setup::http("basic").set("umask", "077").file("kept/x", "").start();
    let (one, two) = (server.path("kept/one.sock"), server.path("kept/two.sock"));
    server.rewrite("umask", "027");
    server.rewrite("http11-socket", &one.display().to_string());
    reload(&server);
    assert_eq!(mode(&one), 0o750);
    server.wait_for_log(&["one.sock"]);
    // An old worker may answer as long as it has not heard of its end.
    wait_until("new workers answer", || server.poll("/process").is_some_and(|page| page.json()["umask"] == "0027"));
    // Sockets that stay are as they were.
    server.rewrite("socket", &two.display().to_string());
    server.rewrite("umask", "022");
    reload(&server);
    assert_eq!((mode(&one), mode(&two)), (0o750, 0o755));
    Endpoint::Unix(one).connect().send(get("/")).response().expect(200);
}

#[test]
fn a_reload_that_fails_leaves_mask_and_folder_as_they_were() {
    differs("A reload whose application or configuration is broken leaves the running generation serving.", || {
        let mut server = Setup::http("basic").file("below/x", "").set("umask", "027").allow("reload failed").start();
        let (good, below) = (server.path("good.sock"), server.path("below"));
        server.rewrite("umask", "077");
        server.rewrite("chdir", &below.display().to_string());
        server.rewrite("module", "no_such_module");
        server.signal(Signal::SIGHUP);
        server.wait_for_log(&["reload failed", "no_such_module"]);
        server.rewrite("module", "basic");
        server.rewrite("chdir", &server.path("").display().to_string());
        server.rewrite("umask", "027");
        server.rewrite("socket", "good.sock");
        reload(&server);
        assert_eq!(mode(&good), 0o750);
    });
}

/// Whoever is not root is told so, with the line.
fn only_root_becomes_somebody_else() {
    expect_failure(Setup::http("basic").set("uid", "0"), &["app.ini:", "uid: ", "only root"]);
}

#[test]
fn a_user_alone_brings_its_group() {
    if !geteuid().is_root() {
        return only_root_becomes_somebody_else();
    }
    differs("`uid` without `gid` takes that user's primary group; root's is given up.", || {
        let server = for_everybody(Setup::bare().listen("http-socket", Speaks::Http)).set("uid", "nobody").start();
        let page = server.get("/process").expect(200).json();
        assert_eq!((page["uid"].clone(), page["gid"].clone()), (65534.into(), 65534.into()));
        assert!(!page["groups"].as_array().expect("groups").contains(&0.into()), "{}", page["groups"]);
    });
}

#[test]
fn what_the_user_of_the_server_cannot_remove_is_told_and_replaced() {
    if !geteuid().is_root() {
        return only_root_becomes_somebody_else();
    }
    differs(
        "A socket or pid file in a directory that `uid` may not write to outlives the server, with a warning; the next start replaces it.",
        || {
            // The folder can be written by root only.
            let folder = tempfile::tempdir().expect("a folder");
            std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).expect("permissions");
            let (socket, pidfile) = (folder.path().join("app.sock"), folder.path().join("app.pid"));
            for _ in 0..2 {
                let server = for_everybody(Setup::bare())
                    .set("http-socket", socket.display().to_string())
                    .endpoint(Endpoint::Unix(socket.clone()), Speaks::Http)
                    .set("pidfile", pidfile.display().to_string())
                    .set("uid", "nobody")
                    .start();
                let pid = std::fs::read_to_string(&pidfile).expect("the pid file");
                assert_eq!(pid.trim(), server.pid().to_string());
                server.signal(Signal::SIGTERM);
                server.wait_for_log(&["app.sock stays", "uid"]);
                server.wait_for_log(&["app.pid stays", "uid"]);
            }
        },
    );
}

/// During an import it is told to look through what there is less often.
#[test]
fn what_an_application_says_to_the_garbage_collector_stands_and_else_it_is_as_ever() {
    let page = "def application(environ, start_response):\n    \
                    start_response('200 OK', [('Content-Type', 'text/plain')])\n    \
                    return [repr((gc.isenabled(), gc.get_threshold())).encode()]\n";
    for (told, expected) in [
        ("gc.set_threshold(5000, 20, 30)", "(True, (5000, 20, 30))"),
        ("gc.disable()", "(False, "),
        // 700 to CPython 3.11, 2000 since.
        ("pass", "(True, ("),
    ] {
        let source = format!("import gc\n{told}\n{page}");
        let setup = Setup::of("collected").file("collected.py", source).listen("http-socket", Speaks::Http);
        let folder = setup.path("").display().to_string();
        let server = setup.set("chdir", folder).start();
        let said = server.get("/").expect(200).text();
        assert!(said.starts_with(expected), "{told}: {said}");
        let first: u32 = said.split(['(', ',']).nth(3).unwrap_or_default().trim().parse().unwrap();
        assert!(first <= 5000, "{told}: {said}");
    }
}

#[test]
fn threads_started_at_import_are_named_where_they_get_lost() {
    differs(
        "Threads that the application starts at import are named in a warning: they do not survive the fork.",
        || {
            let source = "import threading\n\
                      threading.Thread(target=threading.Event().wait, name='poller', daemon=True).start()\n\
                      from basic import application\n";
            for lazy in ["false", "true"] {
                let setup = Setup::of("polling").file("polling.py", source).listen("http-socket", Speaks::Http);
                let folder = setup.path("").display().to_string();
                let server = setup.set("chdir", folder).set("lazy-apps", lazy).start();
                server.get("/").expect(200);
                assert_eq!(server.log().contains("poller"), lazy == "false", "{}", server.log());
            }
        },
    );
}
