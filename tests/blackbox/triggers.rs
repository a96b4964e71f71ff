//! Reloads that are wished for by touching files, by changing them, and by letters in the master fifo.

use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

use nix::sys::signal::Signal;

use crate::harness::held::Held;
use crate::harness::http::get;
use crate::harness::server::{Server, Setup, says};
use crate::harness::{Subject, differs, rsgis, subject, touch_until, wait_until};

/// Puts a file in the place of one, whose time is another one than before. Nobody imports half of it, however late it is written.
fn write(path: &Path, text: &str) {
    let before = fs::metadata(path).and_then(|found| found.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
    let new = path.with_extension("new");
    fs::write(&new, text).expect("the file");
    let file = fs::OpenOptions::new().append(true).open(&new).expect("the file");
    file.set_modified(before + Duration::from_secs(5)).expect("its time");
    fs::rename(&new, path).expect("in its place");
}

#[track_caller]
fn wait_for_answer(server: &Server, text: &str) {
    wait_until(&format!("{text} is answered"), || answers(server, text));
}

fn answers(server: &Server, text: &str) -> bool {
    server.poll("/").is_some_and(|answer| answer.text() == text)
}

fn command(server: &Server, letters: &str) {
    let path = server.path("fifo");
    wait_until("the fifo is there", || path.exists());
    fs::write(path, letters).expect("the fifo");
}

fn pid(server: &Server) -> i32 {
    server.get("/pid").expect(200).text().parse().expect("a number")
}

#[test]
fn a_touched_file_reloads() {
    for option in ["touch-reload", "touch-chain-reload"] {
        if subject() == Subject::Uwsgi && option == "touch-chain-reload" {
            // Its workers overlook the stop that comes while they start.
            return;
        }
        let setup = Setup::with_file().file("flag", "").set("lazy-apps", "true");
        let flag = setup.path("flag");
        let server = setup.set(option, flag.display().to_string()).set("processes", "2").start();
        assert_eq!(server.get("/").text(), "old");
        write(&server.path("served.py"), &says("new"));
        touch_until(&flag, "new is answered", || answers(&server, "new"));
        if subject() == Subject::Rsgi {
            server.wait_for_log(&["reload done"]);
            // The old workers finish what they accepted.
            wait_until("only the new application answers", || (0..10).all(|_| server.get("/").text() == "new"));
        }
    }
}

#[test]
fn a_file_that_is_created_counts_as_touched() {
    let setup = Setup::with_file();
    let server = setup.set("touch-reload", "flag").start();
    write(&server.path("served.py"), &says("new"));
    touch_until(&server.path("flag"), "new is answered", || answers(&server, "new"));
}

#[test]
fn a_link_to_the_new_release_is_a_touch() {
    differs("`touch-reload` through a symbolic link sees the link turned to a file that is older too.", || {
        let setup = Setup::with_file().file("releases/1/flag", "").file("releases/2/flag", "");
        let current = setup.path("current");
        std::os::unix::fs::symlink("releases/1", &current).expect("a link");
        let old = fs::OpenOptions::new().append(true).open(setup.path("releases/2/flag")).expect("the file");
        old.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(1000)).expect("its time");
        let server = setup.set("touch-reload", "current/flag").start();
        write(&server.path("served.py"), &says("new"));
        std::os::unix::fs::symlink("releases/2", server.path("next")).expect("a link");
        fs::rename(server.path("next"), &current).expect("turned");
        wait_for_answer(&server, "new");
    });
}

#[test]
fn the_workers_are_replaced_by_a_touch() {
    let setup = Setup::http("basic").file("flag", "");
    let flag = setup.path("flag");
    let server = setup.set("touch-workers-reload", flag.display().to_string()).set("processes", "2").start();
    let old = pid(&server);
    touch_until(&flag, "others serve", || {
        let now: Vec<_> = (0..4).filter_map(|_| Some(server.poll("/pid")?.text())).collect();
        now.len() == 4 && !now.contains(&old.to_string())
    });
}

#[test]
fn a_change_in_a_folder_reloads() {
    let setup = Setup::with_file().file("kept/x", "");
    let server = setup.set("fs-reload", "kept").start();
    write(&server.path("served.py"), &says("new"));
    touch_until(&server.path("kept/y"), "new is answered", || answers(&server, "new"));
}

#[test]
fn a_changed_module_reloads() {
    differs("`py-auto-reload` and the `touch-*` options are told of changes by the kernel, at once.", || {
        let names = ["py-auto-reload", "py-autoreload", "python-auto-reload", "python-autoreload"];
        for (option, lazy) in names.into_iter().zip(["false", "true", "false", "true"]) {
            let setup = Setup::with_file().file("part.py", "TEXT = b'old'\n").file(
            "served.py",
            "import part\n\ndef application(environ, start_response):\n    start_response('200 OK', [('Content-Length', '3')])\n    return [part.TEXT]\n",
        );
            let folder = setup.path("").display().to_string();
            let server = setup.set(option, "1").set("lazy-apps", lazy).set("pythonpath", folder).start();
            assert_eq!(server.get("/").text(), "old");
            write(&server.path("part.py"), "TEXT = b'new'\n");
            wait_for_answer(&server, "new");
            write(&server.path("served.py"), &says("one"));
            wait_for_answer(&server, "one");
        }
    });
}

#[test]
fn a_change_is_seen_that_comes_before_the_master_knows_the_module() {
    rsgis(|| {
        let setup = Setup::with_file().file("part.py", "TEXT = b'old'\n").file(
            "served.py",
            "import os, time, part\nopen('inside', 'w').close()\nwhile not os.path.exists('go'): time.sleep(0.005)\n\
             def application(environ, start_response):\n    start_response('200 OK', [('Content-Length', '3')])\n    return [part.TEXT]\n",
        );
        let folder = setup.path("").display().to_string();
        let setup = setup.set("py-autoreload", "1").set("lazy-apps", "true").set("pythonpath", folder);
        let server = setup.unasked().start();
        wait_until("the import has begun", || server.path("inside").exists());
        // The worker tells what it has imported and serves; the master reads that when the file is another one.
        server.signal(Signal::SIGSTOP);
        fs::write(server.path("go"), "").expect("the file");
        assert_eq!(server.get("/").text(), "old");
        write(&server.path("part.py"), "TEXT = b'new'\n");
        server.signal(Signal::SIGCONT);
        wait_for_answer(&server, "new");
    });
}

#[test]
fn a_module_that_is_to_be_ignored_is() {
    differs("`py-auto-reload` and the `touch-*` options are told of changes by the kernel, at once.", || {
        let setup = Setup::with_file().file("part.py", "").file("served.py", format!("import part\n{}", says("old")));
        let folder = setup.path("").display().to_string();
        let server =
            setup.set("py-auto-reload", "1").set("py-auto-reload-ignore", "part").set("pythonpath", folder).start();
        write(&server.path("part.py"), "x = 1\n");
        write(&server.path("served.py"), &says("new"));
        wait_for_answer(&server, "new");
        server.wait_for_log(&["served.py has changed: reloading"]);
        assert!(!server.log().contains("part.py has changed"), "{}", server.log());
    });
}

#[test]
fn a_module_that_is_imported_by_a_request_is_watched_too() {
    let setup = Setup::with_file().file("part.py", "TEXT = b'old'\n").file(
        "served.py",
        "def application(environ, start_response):\n    import part\n    start_response('200 OK', [('Content-Length', '3')])\n    return [part.TEXT]\n",
    );
    let folder = setup.path("").display().to_string();
    let server = setup.set("py-autoreload", "1").set("pythonpath", folder).start();
    assert_eq!(server.get("/").text(), "old");
    let mut times = 0;
    wait_until("the new module is seen", || {
        times += 1;
        write(&server.path("part.py"), &format!("# {times}\nTEXT = b'new'\n"));
        server.poll("/").is_some_and(|answer| answer.text() == "new")
    });
}

#[test]
fn a_broken_change_is_mended_by_the_next_one() {
    differs("A reload whose application or configuration is broken leaves the running generation serving.", || {
        let server = Setup::with_file()
            .set("py-autoreload", "1")
            .allow("reload failed")
            .allow("cannot be loaded")
            .allow("Traceback")
            .allow("SyntaxError")
            .allow("Error")
            .start();
        write(&server.path("served.py"), "import added\nfrom added import application\n");
        server.wait_for_log(&["reload failed"]);
        assert_eq!(server.get("/").text(), "old");
        // In a file that no generation has imported.
        write(&server.path("added.py"), &says("new"));
        let mut server = server;
        server.rewrite("pythonpath", &server.path("").display().to_string());
        write(&server.path("added.py"), &says("new"));
        wait_for_answer(&server, "new");
    });
}

#[test]
fn an_import_that_hangs_is_given_up() {
    differs("A reload whose import takes longer than `reload-import-timeout` (60 s) is given up.", || {
        let setup = Setup::with_file().set("reload-import-timeout", "1").allow("reload failed");
        let server = setup.start();
        write(&server.path("served.py"), "import threading\nthreading.Event().wait()\n");
        server.signal(Signal::SIGHUP);
        // Where it hangs.
        server.wait_for_log(&["served.py", "line 2"]);
        server.wait_for_log(&["reload failed", "reload-import-timeout"]);
        assert_eq!(server.get("/").text(), "old");
        write(&server.path("served.py"), &says("new"));
        server.signal(Signal::SIGHUP);
        wait_for_answer(&server, "new");
    });
}

#[test]
fn an_import_that_hangs_ends_with_the_master() {
    let server = Setup::with_file().allow("the master is gone").start();
    write(&server.path("served.py"), "open('inside', 'w').close()\nimport threading\nthreading.Event().wait()\n");
    server.signal(Signal::SIGHUP);
    wait_until("the import hangs", || server.path("inside").exists());
    server.signal(Signal::SIGKILL);
    server.expect_killed();
}

#[test]
fn letters_in_the_fifo_are_commands() {
    let mut server = Setup::with_file().set("master-fifo", "fifo").start();
    write(&server.path("served.py"), &says("new"));
    command(&server, "r");
    wait_for_answer(&server, "new");
    if subject() == Subject::Rsgi {
        server.wait_for_log(&["reload done"]);
        command(&server, "c");
        server.wait_for_log(&["chain reload"]);
        command(&server, "s\n");
        server.wait_for_log(&["status:"]);
    }
    command(&server, "q");
    server.wait();
    server.expect_end();
}

#[test]
fn the_fifo_goes_with_the_server_and_spares_other_files() {
    let line =
        "The master fifo is removed at the end, and a file that is no fifo is never removed to make place for it.";
    differs(line, || {
        let mut server = Setup::with_file().set("master-fifo", "fifo").start();
        command(&server, "q");
        server.wait();
        assert!(!server.path("fifo").exists());
        server.expect_end();
        let ended = Setup::with_file().file("fifo", "precious").set("master-fifo", "fifo").run();
        ended.expect(1, &["master-fifo", "no fifo"]);
        assert_eq!(fs::read(ended.path("fifo")).expect("the file"), b"precious");
    });
}

#[test]
fn brutal_reloads_lose_no_request_either() {
    let line = "`R` and `W` in the master fifo reload as gently as `r` and `w`; a letter without a command is named in the log.";
    differs(line, || {
        let server = Setup::http("basic").set("master-fifo", "fifo").start();
        for letter in ["R", "W"] {
            let held = Held::begin(&server, letter);
            let old = held.pid.to_string();
            command(&server, letter);
            wait_until("another worker serves", || server.get("/pid").text() != old);
            assert_eq!(held.release().expect(200).text(), old);
        }
        command(&server, "z");
        server.wait_for_log(&["z in the master fifo", "no command"]);
    });
}

#[test]
fn the_fifo_replaces_the_workers() {
    let server = Setup::http("basic").set("master-fifo", "fifo").start();
    let old = pid(&server);
    command(&server, "w");
    wait_until("another worker serves", || server.poll("/pid").is_some_and(|answer| answer.text() != old.to_string()));
}

#[test]
fn a_chain_reload_loses_no_request_and_replaces_one_worker_after_the_other() {
    differs(
        "A chain reload reads the configuration and imports the application again, with or without `lazy-apps`.",
        || {
            let server = Setup::with_file().set("master-fifo", "fifo").set("processes", "3").start();
            write(&server.path("served.py"), &says("new"));
            command(&server, "c");
            wait_until("the chain is at its end", || {
                server.get("/").expect(200);
                server.log().contains("reload done")
            });
            assert_eq!(server.log().matches("chain reload: worker").count(), 3);
            wait_until("only the new application answers", || (0..10).all(|_| server.get("/").text() == "new"));
        },
    );
}

#[test]
fn a_pause_keeps_everybody_waiting_and_loses_nobody() {
    let line =
        "A pause (SIGTSTP, `p` in the master fifo) keeps kept-alive connections too, and ends with a reload or a stop.";
    differs(line, || {
        for signal in [true, false] {
            let server = Setup::http("basic").set("master-fifo", "fifo").allow("killed by SIGKILL").start();
            let toggle = || match signal {
                true => server.signal(Signal::SIGTSTP),
                false => command(&server, "p"),
            };
            let mut kept = server.connect();
            kept.send(get("/pid")).response().expect(200);
            let held = crate::harness::held::Held::begin(&server, "inside");
            toggle();
            server.wait_for_log(&["paused"]);
            let count = || server.log().matches("GET /count").count();
            kept.send(get("/count"));
            // What is in flight is finished; the next request would come now.
            let worker = held.pid;
            held.release().expect(200);
            assert_eq!(count(), 0);
            toggle();
            kept.response().expect(200);
            toggle();
            wait_until("it is paused again", || server.log().matches("paused").count() == 2);
            // A worker that comes meanwhile pauses as well.
            let mut new = server.connect();
            new.send(get("/count"));
            nix::sys::signal::kill(nix::unistd::Pid::from_raw(worker), Signal::SIGKILL).expect("it lives");
            wait_until("another one has come", || server.log().matches("is ready").count() == 2);
            assert_eq!(count(), 1);
            toggle();
            server.wait_for_log(&["the pause is over"]);
            new.response().expect(200);
        }
    });
}

#[test]
fn a_pause_ends_with_a_reload_and_with_a_stop() {
    let line =
        "A pause (SIGTSTP, `p` in the master fifo) keeps kept-alive connections too, and ends with a reload or a stop.";
    differs(line, || {
        let mut server = Setup::http("basic").start();
        server.signal(Signal::SIGTSTP);
        server.wait_for_log(&["paused"]);
        let mut client = server.connect();
        client.send(get("/pid"));
        server.signal(Signal::SIGHUP);
        client.response().expect(200);
        server.wait_for_log(&["reload done"]);
        let mut client = server.connect();
        client.send(get("/pid")).response().expect(200);
        server.signal(Signal::SIGTSTP);
        wait_until("it is paused again", || server.log().matches("paused").count() == 2);
        client.send(get("/pid"));
        server.signal(Signal::SIGTERM);
        client.response().expect(200);
        server.wait();
        server.expect_end();
    });
}

#[test]
fn a_pause_holds_requests_back_until_it_is_over() {
    let server = Setup::http("basic").set("master-fifo", "fifo").start();
    command(&server, "p");
    match subject() {
        Subject::Rsgi => server.wait_for_log(&["paused"]),
        Subject::Uwsgi => server.wait_for_log(&["worker 1 suspended"]),
    }
    let mut client = server.connect();
    client.send(get("/pid"));
    command(&server, "p");
    client.response().expect(200);
}

#[test]
fn letters_that_mean_nothing_here_say_so() {
    let line = "`R` and `W` in the master fifo reload as gently as `r` and `w`; a letter without a command is named in the log.";
    differs(line, || {
        let server = Setup::http("basic").set("master-fifo", "fifo").start();
        for (letter, why) in [("B", "emperor"), ("E", "emperor"), ("S", "subscriptions"), ("f", "second master")] {
            command(&server, letter);
            server.wait_for_log(&[&format!("{letter} in the master fifo is ignored"), why]);
        }
        // What was never meant for it does not fill the log.
        command(&server, "zzzz");
        server.wait_for_log(&["z in the master fifo is ignored", "no command"]);
        server.wait_for_log(&["3 letters more", "ignored"]);
    });
}
