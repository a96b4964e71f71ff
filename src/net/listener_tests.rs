//! Sockets bound, inherited, in use and stale, on loopback and in temporary folders.

use super::*;
use std::net::TcpStream;
use std::os::fd::IntoRawFd;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};

fn socket(address: &str) -> Socket {
    Socket {
        address: Address::parse(address).unwrap(),
        protocol: Protocol::Http,
        proxy_protocol: false,
        origin: "app.ini:3".into(),
    }
}

fn options() -> BindOptions {
    BindOptions { backlog: 16, ..BindOptions::default() }
}

fn port_of(listener: &Listener) -> u16 {
    match listener.address {
        Address::Tcp { port, .. } => port,
        _ => panic!("not TCP"),
    }
}

#[test]
fn a_tcp_listener_tells_its_real_port_and_takes_connections() {
    let listener = bind(&socket("127.0.0.1:0"), &options()).unwrap();
    assert_ne!(port_of(&listener), 0);
    TcpStream::connect(("127.0.0.1", port_of(&listener))).unwrap();
    assert!(SockRef::from(&listener.fd).tcp_nodelay().unwrap());
    assert_eq!(listener.asked, Address::parse("127.0.0.1:0").unwrap());
}

#[test]
fn a_port_in_use_is_one_clear_line() {
    let first = bind(&socket("127.0.0.1:0"), &options()).unwrap();
    let again = socket(&format!("127.0.0.1:{}", port_of(&first)));
    let error = bind(&again, &options()).unwrap_err();
    assert!(error.starts_with("app.ini:3: cannot listen on 127.0.0.1:"), "{error}");
    assert!(error.contains("in use") && error.contains("another port") && !error.contains('\n'), "{error}");
}

#[test]
fn a_stale_socket_file_is_replaced_and_one_in_use_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.sock");
    drop(UnixListener::bind(&path).unwrap());
    let wanted = socket(path.to_str().unwrap());
    let listener = bind(&wanted, &options()).unwrap();
    UnixStream::connect(&path).unwrap();
    assert!(bind(&wanted, &options()).unwrap_err().contains("another server listens"));
    UnixStream::connect(&path).unwrap();
    listener.remove_file();
    assert!(!path.exists());
}

#[test]
fn a_socket_file_made_by_somebody_else_since_is_not_removed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.sock");
    let listener = bind(&socket(path.to_str().unwrap()), &options()).unwrap();
    fs::rename(&path, dir.path().join("old.sock")).unwrap();
    let _other = UnixListener::bind(&path).unwrap();
    listener.remove_file();
    assert!(path.exists());
}

#[test]
fn other_files_are_never_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "precious").unwrap();
    assert!(bind(&socket(file.to_str().unwrap()), &options()).unwrap_err().contains("not a socket"));
    assert_eq!(fs::read_to_string(&file).unwrap(), "precious");
    let datagram = dir.path().join("datagram");
    let _other = UnixDatagram::bind(&datagram).unwrap();
    assert!(bind(&socket(datagram.to_str().unwrap()), &options()).is_err());
    assert!(datagram.exists());
}

#[test]
fn a_missing_directory_says_what_to_create() {
    let error = bind(&socket("/nonexistent/dir/a.sock"), &options()).unwrap_err();
    assert!(error.contains("directory does not exist") && error.contains("create /nonexistent/dir"), "{error}");
}

#[test]
fn chmod_socket_is_obeyed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.sock");
    let options = BindOptions { mode: Some(0o660), ..options() };
    bind(&socket(path.to_str().unwrap()), &options).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o660);
}

#[test]
fn abstract_names_work_and_leave_no_file() {
    let name = format!("@rsgi-test-{}", std::process::id());
    let listener = bind(&socket(&name), &options()).unwrap();
    assert!(bind(&socket(&name), &options()).unwrap_err().contains("in use"));
    assert_eq!((listener.unlink, listener.address.to_string()), (None, name));
}

#[test]
fn an_inherited_listener_is_taken_over() {
    let original = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = original.local_addr().unwrap().port();
    let number = original.into_raw_fd();
    let listener = bind(&socket(&format!("fd://{number}")), &options()).unwrap();
    assert!(listener.inherited && port_of(&listener) == port);
    assert_eq!(listener.asked, Address::Fd(number));
    TcpStream::connect(("127.0.0.1", port)).unwrap();
}

#[test]
fn descriptors_that_do_not_listen_are_refused_and_left_open() {
    let file = tempfile::tempfile().unwrap().into_raw_fd();
    assert!(bind(&socket(&format!("fd://{file}")), &options()).unwrap_err().contains("not a socket"));
    assert!(fd::is_open(file));
    let unbound = Raw::new(Domain::IPV4, Type::STREAM, None).unwrap().into_raw_fd();
    assert!(bind(&socket(&format!("fd://{unbound}")), &options()).unwrap_err().contains("does not listen"));
    assert!(bind(&socket("fd://1000000"), &options()).unwrap_err().contains("not open"));
}

#[test]
fn a_reload_keeps_what_is_bound_and_binds_the_rest() {
    let first = open(&[socket("127.0.0.1:0")], &[], &options()).unwrap();
    let wanted = [socket("127.0.0.1:0"), socket("127.0.0.1:0")];
    let second = open(&wanted, &first, &options()).unwrap();
    assert_eq!(port_of(&second[0]), port_of(&first[0]));
    assert_ne!(port_of(&second[1]), port_of(&first[0]));
}

#[test]
fn all_errors_are_told_and_nothing_is_left_behind() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.sock");
    let wanted = [socket(path.to_str().unwrap()), socket("/nonexistent/a"), socket("/nonexistent/b")];
    assert_eq!(open(&wanted, &[], &options()).unwrap_err().len(), 2);
    assert!(!path.exists());
}

#[test]
fn one_address_twice_names_both_places() {
    let name = format!("@rsgi-twice-{}", std::process::id());
    let twin = Socket { origin: "app.ini:9".into(), ..socket(&name) };
    let errors = open(&[socket(&name), twin], &[], &options());
    let errors = errors.unwrap_err();
    assert!(errors.iter().any(|error| error.starts_with("app.ini:9") && error.contains("app.ini:3")), "{errors:?}");
}

#[test]
fn v6_leaves_v4_alone_only_when_both_are_wanted() {
    let both = [socket(":80"), socket("[::]:80")];
    assert!(shares_port(&both[1], &both));
    assert!(!shares_port(&both[1], &both[1..]));
}

#[test]
fn the_queue_is_clamped_with_a_warning() {
    assert_eq!(clamp(100, Some(4096)), (100, None));
    let (length, warning) = clamp(5000, Some(4096));
    assert_eq!(length, 4096);
    assert!(warning.unwrap().contains("somaxconn"));
    assert_eq!(clamp(100, None).0, 100);
}

#[test]
fn systemd_passes_descriptors_to_the_process_it_names_only() {
    let vars = |pid: &'static str, count: &'static str| {
        move |name: &str| match name {
            "LISTEN_PID" => Some(pid.to_string()),
            "LISTEN_FDS" => Some(count.to_string()),
            _ => None,
        }
    };
    assert_eq!(systemd(7, vars("7", "2")), (vec![3, 4], None));
    let (fds, line) = systemd(7, vars("8", "2"));
    assert!(fds.is_empty() && line.unwrap().contains("LISTEN_PID is 8"));
    assert!(systemd(7, vars("7", "many")).1.is_some());
    assert_eq!(systemd(7, |_| None), (vec![], None));
}

#[test]
fn a_descriptor_of_systemd_named_by_fd_is_attached_once() {
    let all = with_systemd(&[socket("fd://4")], &[3, 4], Protocol::Uwsgi, false);
    assert_eq!(all.len(), 2);
    assert_eq!((&all[0].protocol, &all[1].address), (&Protocol::Http, &Address::Fd(3)));
}

#[test]
fn a_unix_listener_that_turns_newcomers_away_keeps_who_waits() {
    use std::io::{Read, Write};

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    let unix = bind(&socket(path.to_str().unwrap()), &options()).unwrap();
    let mut early = UnixStream::connect(&path).unwrap();
    unix.turn_newcomers_away();
    assert_eq!(UnixStream::connect(&path).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    let (mut accepted, _) = Raw::from(unix.fd.try_clone().unwrap()).accept().unwrap();
    early.write_all(b"hello").unwrap();
    let mut five = [0; 5];
    accepted.read_exact(&mut five).unwrap();
    let empty = Raw::from(unix.fd.try_clone().unwrap()).accept().unwrap_err();
    assert_eq!(empty.kind(), ErrorKind::WouldBlock);
}
