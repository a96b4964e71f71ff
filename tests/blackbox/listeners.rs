//! Listening sockets of every kind, and how they come and go.

use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;

use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::signal::Signal;
use nix::unistd::geteuid;

use crate::harness::held::Held;
use crate::harness::http::{Client, Endpoint, get};
use crate::harness::server::{Server, Setup, Speaks, listen_tcp};
use crate::harness::uwsgi::exchange;
use crate::harness::{Subject, apps, differs, subject, trouble, wait_until};

fn unix_http() -> Setup {
    Setup::of("basic").listen_unix("http-socket", "app.sock", Speaks::Http)
}

/// Serves `basic.py` so that every user can: a copy of the application and, where Python's own
/// library stands in a folder of somebody's (root's home, say), a copy of that.
pub fn for_everybody(setup: Setup) -> Setup {
    let setup = with_copy(setup, "basic");
    let folder = setup.path("").display().to_string();
    let setup = setup.set("pythonpath", folder).set("module", "basic");
    let library = library();
    let open = |folder: &Path| std::fs::metadata(folder).expect("a folder").permissions().mode() & 0o005 == 0o005;
    if library.ancestors().all(open) {
        return setup;
    }
    let home = with_library(&setup);
    setup.set("home", home.display().to_string())
}

/// With a copy of `tests/apps/APP.py` in the server's folder.
pub fn with_copy(setup: Setup, app: &str) -> Setup {
    let name = format!("{app}.py");
    let code = std::fs::read(apps().join(&name)).expect("the application");
    setup.file(&name, code)
}

/// Where Python's own library is.
fn library() -> PathBuf {
    let script = "import sysconfig; print(sysconfig.get_path('stdlib'))";
    let output = Command::new("python3").args(["-c", script]).output().expect("python3");
    PathBuf::from(String::from_utf8(output.stdout).expect("a path").trim())
}

/// Copies Python's library into the server's folder; what is `home` then.
pub fn with_library(setup: &Setup) -> PathBuf {
    let library = library();
    let home = setup.path("python");
    copy_library(&library, &home.join("lib").join(library.file_name().expect("a name")));
    home
}

/// Copies Python's library without what no test needs.
fn copy_library(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a folder");
    for entry in std::fs::read_dir(from).expect("a folder").flatten() {
        let (name, kind) = (entry.file_name(), entry.file_type().expect("a type"));
        let unneeded = [
            "site-packages",
            "test",
            "tests",
            "idlelib",
            "tkinter",
            "ensurepip",
            "lib2to3",
            "__pycache__",
            "turtledemo",
        ];
        if kind.is_dir() && !unneeded.iter().any(|word| *word == name) && !name.to_string_lossy().starts_with("config-")
        {
            copy_library(&entry.path(), &to.join(name));
        } else if kind.is_file() {
            std::fs::copy(entry.path(), to.join(name)).expect("a copy");
        }
    }
}

/// The ports that a server bound itself, read from the system's list of sockets.
fn bound_ports(server: &Server) -> Vec<u16> {
    let mut inodes = Vec::new();
    for pid in crate::harness::server::processes_of(server.pid()) {
        for entry in std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten() {
            if let Ok(target) = std::fs::read_link(entry.path())
                && let Some(inode) = target
                    .to_str()
                    .and_then(|text| text.strip_prefix("socket:["))
                    .and_then(|text| text.strip_suffix(']'))
            {
                inodes.push(inode.to_owned());
            }
        }
    }
    let mut ports = Vec::new();
    for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
        for line in std::fs::read_to_string(table).unwrap_or_default().lines().skip(1) {
            let words: Vec<&str> = line.split_whitespace().collect();
            // State 0A listens.
            if words[3] == "0A" && inodes.iter().any(|inode| inode == words[9]) {
                let port = words[1].rsplit(':').next().expect("a port");
                ports.push(u16::from_str_radix(port, 16).expect("hexadecimal"));
            }
        }
    }
    ports.sort_unstable();
    ports.dedup();
    ports
}

/// The one port of a server that chose it, once it listens.
#[track_caller]
fn bound_port(server: &Server) -> u16 {
    let mut ports = Vec::new();
    wait_until("it listens", || {
        ports = bound_ports(server);
        ports.len() == 1
    });
    ports[0]
}

#[test]
fn unix_sockets_in_the_file_system() {
    let server = unix_http().start();
    assert_eq!(server.get("/").expect(200).text(), "ready");
    assert!(std::fs::metadata(server.path("app.sock")).expect("the socket").file_type().is_socket());
    // Stopping the server checks that `vacuum` has removed it.
}

#[test]
fn the_socket_goes_at_the_stop() {
    differs(
        "A unix socket that the server made is removed when it stops, before its queue is answered, with or without `vacuum`.",
        || {
            let mut server = unix_http().unset("vacuum").start();
            let held = Held::begin(&server, "a");
            server.signal(nix::sys::signal::Signal::SIGTERM);
            wait_until("the socket is gone", || !server.path("app.sock").exists());
            assert!(server.try_wait().is_none());
            held.release().expect(200);
            server.wait();
        },
    );
}

#[test]
fn a_stale_socket_is_replaced() {
    let setup = unix_http();
    drop(UnixListener::bind(setup.path("app.sock")).expect("bind"));
    setup.start().get("/").expect(200);
}

#[test]
fn a_socket_in_use_is_an_error() {
    differs("A unix socket on which another server listens is an error and not taken over.", || {
        let setup = Setup::of("basic").set("http-socket", "kept/app.sock").file("kept/x", "");
        let _other = UnixListener::bind(setup.path("kept/app.sock")).expect("bind");
        let ended = setup.run();
        ended.expect(1, &["kept/app.sock"]);
        assert!(ended.path("kept/app.sock").exists(), "the other one's socket stays");
    });
}

#[test]
fn a_file_that_is_no_socket_is_never_removed() {
    differs("A file that is no socket is never removed to make place for one.", || {
        let ended = Setup::of("basic").set("http-socket", "data.txt").file("data.txt", "precious").run();
        ended.expect(1, &["data.txt"]);
        assert_eq!(std::fs::read_to_string(ended.path("data.txt")).expect("the file"), "precious");
    });
}

#[test]
fn a_missing_directory_is_an_error() {
    differs("Errors at the start name the socket, file or option they are about.", || {
        Setup::of("basic").set("http-socket", "no/such/folder/app.sock").run().expect(1, &["no/such/folder"]);
    });
}

#[test]
fn a_port_in_use_is_an_error() {
    let (_held, address) = listen_tcp("127.0.0.1:0");
    let ended = Setup::of("basic").set("http-socket", address.to_string()).run();
    ended.expect(1, &["in use"]);
    assert!(ended.log.contains(&address.to_string()), "{}", ended.log);
}

#[test]
fn a_failed_start_leaves_no_files() {
    let (_held, address) = listen_tcp("127.0.0.1:0");
    let setup = Setup::of("basic")
        .set("socket", "first.sock")
        .set("http-socket", address.to_string())
        .set("pidfile", "app.pid");
    setup.run().expect(1, &["in use"]);
    Setup::of("no_such_module")
        .set("socket", "first.sock")
        .set("pidfile", "app.pid")
        .run()
        .expect(22, &["no_such_module"]);
}

#[test]
fn modes_of_unix_sockets() {
    for (mode, expected) in [("660", 0o660), ("666", 0o666), ("600", 0o600)] {
        let server = unix_http().set("chmod-socket", mode).start();
        let found = std::fs::metadata(server.path("app.sock")).expect("the socket").permissions().mode() & 0o777;
        assert_eq!(found, expected, "{mode}");
    }
    let server = unix_http().set("umask", "027").start();
    let found = std::fs::metadata(server.path("app.sock")).expect("the socket").permissions().mode() & 0o777;
    assert_eq!(found, 0o750);
}

#[test]
fn chmod_socket_takes_four_digits_too() {
    differs("`chmod-socket` takes three or four octal digits (`660`, `0660`).", || {
        let server = unix_http().set("chmod-socket", "0660").start();
        let found = std::fs::metadata(server.path("app.sock")).expect("the socket").permissions().mode() & 0o777;
        assert_eq!(found, 0o660);
    });
}

#[test]
fn abstract_sockets() {
    differs("An abstract socket (`@name`) has exactly this name, without padding.", || {
        let setup = Setup::of("basic");
        let name = setup.path("abstract").display().to_string().replace('/', "-");
        let setup = setup.set("http-socket", format!("@{name}"));
        let server = setup.endpoint(Endpoint::Abstract(name), Speaks::Http).start();
        assert_eq!(server.get("/").expect(200).text(), "ready");
    });
}

#[test]
fn ports_that_the_system_chooses() {
    let server = Setup::of("basic").set("http-socket", "127.0.0.1:0").unasked().start();
    let port = bound_port(&server);
    let endpoint = Endpoint::Tcp(([127, 0, 0, 1], port).into());
    assert_eq!(endpoint.connect().send(get("/")).response().expect(200).text(), "ready");
    server.wait_for_log(&[&port.to_string()]);
}

#[test]
fn who_has_connected_is_answered_at_the_stop() {
    // uWSGI promises nothing here, and keeps it mostly.
    if subject() == Subject::Uwsgi {
        return;
    }
    let setup = Setup::of("basic").set("http-socket", "127.0.0.1:0").set("processes", "2");
    let server = setup.unasked().start();
    let port = bound_port(&server);
    let endpoint = Endpoint::Tcp(([127, 0, 0, 1], port).into());
    endpoint.connect().send(get("/")).response().expect(200);
    let mut silent: Vec<Client> = (0..20).map(|_| endpoint.connect()).collect();
    server.signal(Signal::SIGTERM);
    // The kernel has shown none of them to the server yet: it waits for their first bytes.
    for client in &mut silent {
        client.send(get("/"));
    }
    for client in &mut silent {
        client.response().expect(200);
    }
    server.expect_end();
}

/// The states of the connections to a port of 127.0.0.1 (proc_pid_net(5)), but for the listener's.
fn connection_states(port: u16) -> Vec<String> {
    let local = format!("0100007F:{port:04X}");
    let table = std::fs::read_to_string("/proc/net/tcp").expect("the table");
    let mut rows = table.lines().map(|line| line.split_ascii_whitespace().collect::<Vec<_>>());
    rows.by_ref().filter(|row| row[1] == local && row[3] != "0A").map(|row| row[3].into()).collect()
}

#[test]
fn connections_are_shown_to_the_server_with_their_first_bytes() {
    shows_connections("false", "03");
}

#[test]
fn connections_are_shown_at_once_when_that_is_asked_for() {
    differs("`no-defer-accept` is for TCP sockets of every kind of `http-socket` and `socket`.", || {
        shows_connections("true", "01");
    });
}

#[track_caller]
fn shows_connections(value: &str, state: &str) {
    let setup = Setup::of("basic").set("http-socket", "127.0.0.1:0").set("no-defer-accept", value);
    let server = setup.unasked().start();
    let port = bound_port(&server);
    let endpoint = Endpoint::Tcp(([127, 0, 0, 1], port).into());
    let mut client = endpoint.connect();
    assert_eq!(connection_states(port), [state], "no-defer-accept = {value}");
    assert_eq!(client.send(get("/")).response().expect(200).text(), "ready");
}

#[test]
fn all_addresses() {
    let server = Setup::of("basic").set("http-socket", ":0").unasked().start();
    let port = bound_port(&server);
    let endpoint = Endpoint::Tcp(([127, 0, 0, 1], port).into());
    endpoint.connect().send(get("/")).response().expect(200);
}

#[test]
fn ipv6() {
    if std::net::TcpListener::bind("[::1]:0").is_err() {
        trouble("these tests need IPv6 on the loopback interface");
    }
    let server = Setup::of("basic").set("http-socket", "[::1]:0").unasked().start();
    let port = bound_port(&server);
    let endpoint = Endpoint::Tcp((std::net::Ipv6Addr::LOCALHOST, port).into());
    let page = endpoint.connect().send(get("/environ")).response().expect(200).json();
    assert_eq!(page["REMOTE_ADDR"], "::1");
    assert_eq!(page["SERVER_PORT"], port.to_string());
}

#[test]
fn several_sockets_of_several_protocols() {
    let server = Setup::of("basic")
        .listen("http-socket", Speaks::Http)
        .listen("http-socket", Speaks::Http)
        .listen("socket", Speaks::Uwsgi)
        .listen("uwsgi-socket", Speaks::Uwsgi)
        .listen_unix("socket", "app.sock", Speaks::Uwsgi)
        .listen_unix("http-socket", "http.sock", Speaks::Http)
        .set("processes", "2")
        .start();
    for n in [0, 1, 5] {
        assert_eq!(server.endpoint_at(n).connect().send(get("/")).response().expect(200).text(), "ready");
    }
    for n in [2, 3, 4] {
        assert_eq!(exchange(server.endpoint_at(n), "GET", "/", b"", &[]).expect(200).text(), "ready");
    }
}

#[test]
fn the_protocol_option_says_what_socket_speaks() {
    Setup::of("basic").set("protocol", "http").listen("socket", Speaks::Http).start().get("/").expect(200);
}

#[test]
fn http_is_a_listener_too() {
    let server = Setup::of("basic").listen("http11-socket", Speaks::Http).start();
    let mut client = server.connect();
    client.send(get("/")).response().expect(200);
    client.send(get("/")).response().expect(200);
}

#[test]
fn http_needs_no_router() {
    differs(
        "`http-socket` and `http` keep connections alive, as `http11-socket` does; there is no router process.",
        || {
            let server = Setup::of("basic").listen("http", Speaks::Http).start();
            let mut client = server.connect();
            client.send(get("/")).response().expect(200);
            client.send(get("/")).response().expect(200);
        },
    );
}

#[test]
fn sockets_from_systemd() {
    let (fd, address) = listen_tcp("127.0.0.1:0");
    let mut setup = Setup::of("basic")
        .set("protocol", "http")
        .env("LISTEN_FDS", "1")
        .endpoint(Endpoint::Tcp(address), Speaks::Http);
    let number = setup.inherit(fd);
    // systemd hands descriptors over from number 3 on, and tells the process its own id.
    let server = setup.shell(&format!("exec 3<&{number} {number}<&-; export LISTEN_PID=$$; exec \"$@\"")).start();
    assert_eq!(server.get("/").expect(200).text(), "ready");
}

#[test]
fn sockets_from_systemd_speak_uwsgi_unless_told() {
    let (fd, address) = listen_tcp("127.0.0.1:0");
    let mut setup = Setup::of("basic").env("LISTEN_FDS", "1").endpoint(Endpoint::Tcp(address), Speaks::Uwsgi);
    let number = setup.inherit(fd);
    let server = setup.shell(&format!("exec 3<&{number} {number}<&-; export LISTEN_PID=$$; exec \"$@\"")).start();
    assert_eq!(server.get_uwsgi("/").expect(200).text(), "ready");
}

#[test]
fn a_socket_from_systemd_that_fd_names_is_attached_once() {
    let (fd, address) = listen_tcp("127.0.0.1:0");
    let mut setup = Setup::of("basic")
        .set("http-socket", "fd://3")
        .env("LISTEN_FDS", "1")
        .endpoint(Endpoint::Tcp(address), Speaks::Http);
    let number = setup.inherit(fd);
    let server = setup
        .shell(&format!("exec 3<&{number} {number}<&-; export LISTEN_PID=$$; exec \"$@\""))
        .set("processes", "2")
        .start();
    for _ in 0..20 {
        assert_eq!(server.get("/").expect(200).text(), "ready");
    }
}

#[test]
fn sockets_of_another_process_are_ignored() {
    let server = unix_http().env("LISTEN_FDS", "1").env("LISTEN_PID", "1").start();
    server.get("/").expect(200);
}

#[test]
fn sockets_of_another_process_are_ignored_with_a_line() {
    differs("A LISTEN_PID of another process is mentioned in the log.", || {
        let server = unix_http().env("LISTEN_FDS", "1").env("LISTEN_PID", "1").start();
        server.wait_for_log(&["LISTEN_PID"]);
    });
}

#[test]
fn a_descriptor_that_is_no_listening_socket_is_an_error() {
    differs("`fd://N` must be a listening stream socket; anything else is an error.", || {
        Setup::of("basic").set("http-socket", "fd://200").run().expect(1, &["fd://200"]);
        let mut setup = Setup::of("basic");
        let number = setup.inherit(std::fs::File::open("/dev/null").expect("/dev/null").into());
        setup.set("http-socket", format!("fd://{number}")).run().expect(1, &[&format!("fd://{number}")]);
    });
}

#[test]
fn no_socket_at_all_is_an_error() {
    Setup::of("basic").run().expect(1, &["socket"]);
}

#[test]
fn a_long_listen_queue_is_clamped() {
    differs("`listen` above the kernel's limit is clamped with a warning.", || {
        let server = unix_http().set("listen", "9999999").start();
        server.get("/").expect(200);
        server.wait_for_log(&["listen", "9999999"]);
    });
}

#[test]
fn relative_socket_paths_follow_chdir() {
    let setup = Setup::of("basic").file("below/x", "");
    let below = setup.path("below");
    let setup = setup.set("chdir", below.display().to_string()).set("http-socket", "app.sock");
    let server = setup.endpoint(Endpoint::Unix(below.join("app.sock")), Speaks::Http).start();
    server.get("/").expect(200);
}

#[test]
fn privileges_are_dropped() {
    if !geteuid().is_root() {
        // Whoever is not root cannot become somebody else, and is told so.
        unix_http().set("uid", "0").run().expect(1, &["uid"]);
        return;
    }
    let server = for_everybody(Setup::bare().listen("http-socket", Speaks::Http))
        .set("uid", "65534")
        .set("gid", "65534")
        .set("processes", "2")
        .start();
    let page = server.get("/process").expect(200).json();
    for name in ["uid", "euid", "gid"] {
        assert_eq!(page[name], 65534, "{name}");
    }
    assert!(!page["groups"].as_array().expect("groups").contains(&0.into()), "{}", page["groups"]);
    // No process of the server has kept its rights.
    for pid in crate::harness::server::processes_of(server.pid()) {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("status");
        let uid = status.lines().find(|line| line.starts_with("Uid:")).expect("Uid");
        assert_eq!(uid.split_whitespace().skip(1).collect::<Vec<_>>(), ["65534"; 4], "{pid}");
    }
}

#[test]
fn users_and_groups_by_name() {
    if !geteuid().is_root() {
        return privileges_are_dropped();
    }
    let server = for_everybody(Setup::bare().listen("http-socket", Speaks::Http))
        .set("uid", "nobody")
        .set("gid", "nogroup")
        .start();
    let page = server.get("/process").expect(200).json();
    assert_eq!((page["uid"].clone(), page["gid"].clone()), (65534.into(), 65534.into()));
}

#[test]
fn sockets_are_bound_before_privileges_drop() {
    if !geteuid().is_root() {
        return privileges_are_dropped();
    }
    differs(
        "Sockets are bound before privileges drop; a unix socket then belongs to `uid`:`gid` unless `chown-socket` says otherwise.",
        || {
            // The folder can be written by root only.
            let setup = Setup::bare().listen_unix("http-socket", "app.sock", Speaks::Http);
            let server = for_everybody(setup).set("uid", "65534").set("gid", "65534").start();
            let facts = std::fs::metadata(server.path("app.sock")).expect("the socket");
            assert_eq!((facts.uid(), facts.gid()), (65534, 65534));
            server.get("/").expect(200);
            // It was made by root in root's folder, and the master is nobody now: it stays.
            let path = server.path("app.sock");
            let mut server = server;
            server.signal(nix::sys::signal::Signal::SIGTERM);
            server.wait();
            let _ = std::fs::remove_file(path);
            server.expect_killed();
        },
    );
}

#[test]
fn chown_socket() {
    if !geteuid().is_root() {
        return privileges_are_dropped();
    }
    let server = unix_http().set("chown-socket", "nobody:nogroup").start();
    let facts = std::fs::metadata(server.path("app.sock")).expect("the socket");
    assert_eq!((facts.uid(), facts.gid()), (65534, 65534));
}

#[test]
fn unknown_users_are_errors() {
    for key in ["uid", "gid"] {
        Setup::http("basic").set(key, "no-such-name").run().expect(1, &["no-such-name"]);
    }
}

#[test]
fn the_inherited_socket_survives_a_reload() {
    let server = Setup::http("basic").start();
    let before = server.get("/pid").expect(200).text();
    server.signal(nix::sys::signal::Signal::SIGHUP);
    wait_until("a new worker serves", || server.poll("/pid").is_some_and(|page| page.text() != before));
}

#[test]
fn the_harness_holds_no_copy_of_the_servers_sockets() {
    let (fd, address) = listen_tcp("127.0.0.1:0");
    assert!(fd.as_raw_fd() > 2);
    drop(fd);
    assert!(Endpoint::Tcp(address).refuses());
}
