//! What the application finds in environ.

use std::collections::BTreeMap;

use super::fake::{Fake, apps, options, serve_all};
use crate::gateway::{Body, Local, Peer};
use crate::protocol::Protocol;
use crate::wsgi::Options;

/// Answers one line `key=repr` for each key.
const DUMP: &str = "
def application(environ, start_response):
    assert type(environ) is dict
    start_response('200 OK', [])
    return [''.join(f'{key}={value!r}\\n' for key, value in environ.items()).encode()]
";

fn environs_with(options: &Options, fakes: Vec<Fake>) -> Vec<BTreeMap<String, String>> {
    let done = serve_all(&apps(&[("", DUMP)]), options, fakes);
    done.iter()
        .map(|done| {
            done.text().lines().filter_map(|line| line.split_once('=')).map(|(k, v)| (k.into(), v.into())).collect()
        })
        .collect()
}

fn environ(fake: Fake) -> BTreeMap<String, String> {
    environs_with(&options(), vec![fake]).remove(0)
}

fn http(fields: &str) -> BTreeMap<String, String> {
    environ(Fake::http(&format!("GET / HTTP/1.1\nHost: h\n{fields}"), Body::Empty))
}

#[test]
fn http_gives_every_required_key() {
    let environ =
        environ(Fake::http("PUT /caf%C3%A9/x?a=%20b&c HTTP/1.1\nHost: example.org:81\nX-Own: 1", Body::Empty));
    for (key, value) in [
        ("REQUEST_METHOD", "'PUT'"),
        ("SCRIPT_NAME", "''"),
        ("PATH_INFO", "'/cafÃ©/x'"),
        ("QUERY_STRING", "'a=%20b&c'"),
        ("REQUEST_URI", "'/caf%C3%A9/x?a=%20b&c'"),
        ("SERVER_PROTOCOL", "'HTTP/1.1'"),
        ("SERVER_NAME", "'box'"),
        ("SERVER_PORT", "'8000'"),
        ("REMOTE_ADDR", "'192.0.2.1'"),
        ("REMOTE_PORT", "'4711'"),
        ("HTTP_HOST", "'example.org:81'"),
        ("HTTP_X_OWN", "'1'"),
        ("wsgi.version", "(1, 0)"),
        ("wsgi.url_scheme", "'http'"),
        ("wsgi.multithread", "False"),
        ("wsgi.multiprocess", "False"),
        ("wsgi.run_once", "False"),
        ("wsgi.input_terminated", "True"),
        ("wsgi.file_wrapper", "<class 'rsgi.FileWrapper'>"),
    ] {
        assert_eq!(environ.get(key).map(String::as_str), Some(value), "{key}");
    }
    for key in ["wsgi.input", "wsgi.errors", "uwsgi.version", "uwsgi.node", "rsgi.version"] {
        assert!(environ.contains_key(key), "{key}");
    }
    assert!(environ["uwsgi.node"].starts_with("b'"), "bytes, as in uWSGI");
    for key in ["CONTENT_TYPE", "CONTENT_LENGTH", "uwsgi.core", "HTTP_CONTENT_LENGTH"] {
        assert!(!environ.contains_key(key), "{key}");
    }
}

#[test]
fn the_protocol_and_an_absent_query_are_told() {
    let environ = environ(Fake::http("GET / HTTP/1.0", Body::Empty));
    assert_eq!(environ["SERVER_PROTOCOL"], "'HTTP/1.0'");
    assert_eq!(environ["QUERY_STRING"], "''");
    assert!(!environ.contains_key("HTTP_HOST"));
}

#[test]
fn the_host_of_an_absolute_target_counts() {
    let environ = environ(Fake::http("GET http://real.example/x HTTP/1.1\nHost: real.example", Body::Empty));
    assert_eq!((&*environ["HTTP_HOST"], &*environ["PATH_INFO"]), ("'real.example'", "'/x'"));
}

#[test]
fn repeated_headers_are_joined() {
    let environ = http("X-A: 1\nCookie: a=1\nx-a: 2\nX-B: 9\nCOOKIE: b=2\nX-A: \nX-A: 4");
    assert_eq!(environ["HTTP_X_A"], "'1,2,,4'");
    assert_eq!(environ["HTTP_COOKIE"], "'a=1; b=2'");
    assert_eq!(environ["HTTP_X_B"], "'9'");
}

#[test]
fn content_headers_have_no_prefix() {
    let head = "POST / HTTP/1.1\nHost: h\nContent-Type: text/plain\nContent-Length: 2";
    let environ = environ(Fake::http(head, Body::Memory(b"ab".to_vec())));
    assert_eq!((&*environ["CONTENT_TYPE"], &*environ["CONTENT_LENGTH"]), ("'text/plain'", "'2'"));
    assert!(!environ.contains_key("HTTP_CONTENT_TYPE") && !environ.contains_key("HTTP_CONTENT_LENGTH"));
}

#[test]
fn a_chunked_body_that_was_read_has_its_length() {
    let head = "POST / HTTP/1.1\nHost: h\nTransfer-Encoding: chunked";
    let environ = environ(Fake::http(head, Body::Memory(b"four".to_vec())));
    assert_eq!(environ["CONTENT_LENGTH"], "'4'");
    assert_eq!(environ["HTTP_TRANSFER_ENCODING"], "'chunked'");
    assert_eq!(environ["wsgi.input_terminated"], "True");
    let streamed = self::environ(Fake::http(head, super::fake::Trickle::body([])));
    assert!(!streamed.contains_key("CONTENT_LENGTH"));
    assert_eq!(self::environ(Fake::http(head, Body::Empty))["CONTENT_LENGTH"], "'0'");
}

#[test]
fn bytes_are_latin_1() {
    let mut fake = Fake::get("/%E9");
    fake.head = fake.head.clone();
    let environ = environ(fake);
    assert_eq!(environ["PATH_INFO"], "'/é'");
    let mut fake = Fake::http("GET / HTTP/1.1\nHost: h\nX-A: AB", Body::Empty);
    let at = fake.head.windows(2).position(|pair| pair == b"AB").unwrap();
    fake.head[at] = 0xff;
    assert_eq!(self::environ(fake)["HTTP_X_A"], "'ÿB'");
}

#[test]
fn forwarded_headers_have_no_effect() {
    let environ = http("X-Forwarded-Proto: https\nX-Forwarded-For: 9.9.9.9\nX-Forwarded-Host: evil\nHTTPS: on");
    assert_eq!(environ["wsgi.url_scheme"], "'http'");
    assert_eq!(environ["REMOTE_ADDR"], "'192.0.2.1'");
    assert_eq!(environ["HTTP_X_FORWARDED_PROTO"], "'https'");
}

#[test]
fn a_unix_socket_has_an_empty_address_and_no_port() {
    let environ = environ(Fake { peer: Peer::default(), ..Fake::get("/") });
    assert_eq!(environ["REMOTE_ADDR"], "''");
    assert!(!environ.contains_key("REMOTE_PORT"));
}

#[test]
fn threads_and_processes_are_told_truthfully() {
    let many = Options { threads: 4, processes: 2, ..options() };
    let environ = environs_with(&many, vec![Fake::get("/")]).remove(0);
    assert_eq!((&*environ["wsgi.multithread"], &*environ["wsgi.multiprocess"]), ("True", "True"));
    assert_eq!(environ["uwsgi.core"], "0");
}

#[test]
fn requests_do_not_see_each_other() {
    let source = "
import json
seen = []
def application(environ, start_response):
    seen.append(environ)
    environ['leaked'] = environ['HTTP_X_A'] = 'leaked'
    start_response('200 OK', [])
    return [json.dumps([len(seen), 'leaked' in environ, [e is environ for e in seen], seen[0]['PATH_INFO']]).encode()]
";
    let first = Fake::http("POST /1 HTTP/1.1\nHost: h\nX-A: 1\nContent-Length: 1", Body::Memory(b"x".to_vec()));
    let done = serve_all(&apps(&[("", source)]), &options(), vec![first, Fake::get("/2")]);
    assert_eq!(done[1].text(), "[2, true, [false, true], \"/1\"]");

    let first = Fake::http(
        "POST /1?q HTTP/1.1\nHost: a\nX-A: 1\nX-A: 2\nContent-Type: a/b\nContent-Length: 1",
        Body::Memory(b"x".to_vec()),
    );
    let [one, two] = &environs_with(&options(), vec![first, Fake::get("/2")])[..] else { panic!() };
    assert_eq!((&*one["HTTP_X_A"], &*one["QUERY_STRING"]), ("'1,2'", "'q'"));
    assert_eq!((&*two["PATH_INFO"], &*two["QUERY_STRING"], &*two["HTTP_HOST"]), ("'/2'", "''", "'h'"));
    for key in ["HTTP_X_A", "CONTENT_TYPE", "CONTENT_LENGTH"] {
        assert!(!two.contains_key(key), "{key}");
    }
}

#[test]
fn values_change_from_request_to_request() {
    // More often than it takes to give up remembering them, and back.
    let values: Vec<String> = (0..40).map(|n| format!("v{}", n / 2 % 30)).collect();
    let fakes =
        values.iter().map(|v| Fake::http(&format!("GET /{v} HTTP/1.1\nHost: h\nX-A: {v}"), Body::Empty)).collect();
    for (environ, value) in environs_with(&options(), fakes).iter().zip(&values) {
        assert_eq!(environ["HTTP_X_A"], format!("'{value}'"));
        assert_eq!(environ["PATH_INFO"], format!("'/{value}'"));
    }
}

#[test]
fn any_number_of_names_is_taken() {
    let head = |from: u32| {
        let fields: Vec<String> = (from..from + 900).map(|n| format!("X-N{n}: {n}")).collect();
        format!("GET / HTTP/1.1\nHost: h\n{}", fields.join("\n"))
    };
    let fakes = [0, 900, 1800, 0].map(|from| Fake::http(&head(from), Body::Empty)).into();
    for (environ, from) in environs_with(&options(), fakes).iter().zip([0, 900, 1800, 0]) {
        for n in [from, from + 899] {
            assert_eq!(environ[&format!("HTTP_X_N{n}")], format!("'{n}'"));
        }
        assert_eq!(environ.keys().filter(|key| key.starts_with("HTTP_X_N")).count(), 900);
    }
}

#[test]
fn listeners_have_environs_of_their_own() {
    let other = Local { index: 1, protocol: Protocol::Http, server_name: "other".into(), server_port: "9".into() };
    let fakes = vec![Fake::get("/"), Fake { local: other, ..Fake::get("/") }, Fake::get("/")];
    let names: Vec<String> = environs_with(&options(), fakes).iter().map(|e| e["SERVER_NAME"].clone()).collect();
    assert_eq!(names, ["'box'", "'other'", "'box'"]);
}

#[test]
fn over_uwsgi_the_variables_are_the_peers() {
    let environ = environ(Fake::uwsgi(&[
        ("REQUEST_METHOD", "GET"),
        ("PATH_INFO", "/p"),
        ("REQUEST_URI", "/p?x"),
        ("QUERY_STRING", "x"),
        ("CONTENT_LENGTH", ""),
        ("SERVER_NAME", "nginx"),
        ("SERVER_PORT", "443"),
        ("SERVER_PROTOCOL", "HTTP/2.0"),
        ("REMOTE_ADDR", "203.0.113.9"),
        ("HTTP_HOST", "h"),
        ("HTTP_X_A", "1"),
        ("HTTP_X_A", "2"),
        ("HTTP_COOKIE", "a"),
        ("HTTP_COOKIE", "b"),
        ("HTTP_CONTENT_LENGTH", "99"),
        ("HTTP_CONTENT_TYPE", "evil/x"),
        ("OWN", "first"),
        ("OWN", "last"),
        ("wsgi.input", "evil"),
        ("HTTP_X_FORWARDED_PROTO", "https"),
    ]));
    for (key, value) in [
        ("PATH_INFO", "'/p'"),
        ("SCRIPT_NAME", "''"),
        ("SERVER_NAME", "'nginx'"),
        ("SERVER_PROTOCOL", "'HTTP/2.0'"),
        ("REMOTE_ADDR", "'203.0.113.9'"),
        ("CONTENT_LENGTH", "''"),
        ("HTTP_X_A", "'1,2'"),
        ("HTTP_COOKIE", "'a; b'"),
        ("OWN", "'last'"),
        ("wsgi.url_scheme", "'http'"),
    ] {
        assert_eq!(environ[key], value, "{key}");
    }
    assert!(environ["wsgi.input"].contains("Input"));
    for key in ["HTTP_CONTENT_LENGTH", "HTTP_CONTENT_TYPE", "REMOTE_PORT"] {
        assert!(!environ.contains_key(key), "{key}");
    }
}

#[test]
fn over_uwsgi_what_is_missing_is_added() {
    let environ = environ(Fake::uwsgi(&[("REQUEST_METHOD", "GET")]));
    assert_eq!((&*environ["SCRIPT_NAME"], &*environ["PATH_INFO"], &*environ["QUERY_STRING"]), ("''", "''", "''"));
    assert!(!environ.contains_key("REMOTE_ADDR") && !environ.contains_key("REQUEST_URI"));
}

#[test]
fn over_uwsgi_the_scheme_is_the_front_ends() {
    for (vars, scheme) in [
        (&[("HTTPS", "on")][..], "'https'"),
        (&[("HTTPS", "ON")], "'https'"),
        (&[("HTTPS", "1")], "'https'"),
        (&[("HTTPS", "off")], "'http'"),
        (&[("HTTPS", "")], "'http'"),
        (&[("UWSGI_SCHEME", "https")], "'https'"),
        (&[("UWSGI_SCHEME", "http"), ("HTTPS", "on")], "'http'"),
        (&[("UWSGI_SCHEME", "evil")], "'http'"),
        (&[("HTTP_X_FORWARDED_PROTO", "https"), ("HTTP_X_FORWARDED_SSL", "on")], "'http'"),
    ] {
        let fakes = vec![Fake::uwsgi(vars), Fake::uwsgi(&[])];
        let environs = environs_with(&options(), fakes);
        assert_eq!(environs[0]["wsgi.url_scheme"], scheme, "{vars:?}");
        assert_eq!(environs[1]["wsgi.url_scheme"], "'http'", "and only for this request");
    }
}

#[test]
fn modifier_30_takes_script_name_off() {
    for (script_name, path, wanted) in [
        ("/app", "/app/x", "'/x'"),
        ("/app", "/app", "''"),
        ("/app", "/apple", "'/apple'"),
        ("/app", "/x", "'/x'"),
        ("", "/x", "'/x'"),
    ] {
        let mut fake = Fake::uwsgi(&[("SCRIPT_NAME", script_name), ("PATH_INFO", path)]);
        fake.request.modifier1 = 30;
        let environ = environ(fake);
        assert_eq!(environ["PATH_INFO"], wanted, "{script_name} {path}");
        assert_eq!(environ["SCRIPT_NAME"], format!("'{script_name}'"));
    }
}

/// Which application a request reaches, with SCRIPT_NAME and PATH_INFO as that one sees them.
fn route(manage_script_name: bool, mounts: &[&str], fake: Fake) -> String {
    let source = |mount: &str| {
        format!(
            "
def application(environ, start_response):
    start_response('200 OK', [])
    return [f\"{mount}: {{environ['SCRIPT_NAME']}}|{{environ['PATH_INFO']}}\".encode()]
"
        )
    };
    let sources: Vec<(&str, String)> = mounts.iter().map(|mount| (*mount, source(mount))).collect();
    let sources: Vec<(&str, &str)> = sources.iter().map(|(mount, source)| (*mount, source.as_str())).collect();
    let options = Options { manage_script_name, ..options() };
    serve_all(&apps(&sources), &options, vec![fake]).remove(0).text()
}

#[test]
fn mounts_match_whole_segments_and_the_longest_wins() {
    let mounts = ["", "/app", "/app/deep"];
    for (path, wanted) in [
        ("/app", "/app: /app|"),
        ("/app/", "/app: /app|/"),
        ("/app/x", "/app: /app|/x"),
        ("/apple", ": |/apple"),
        ("/ap", ": |/ap"),
        ("/", ": |/"),
        ("/app/deep/x", "/app/deep: /app/deep|/x"),
        ("/app/deeper", "/app: /app|/deeper"),
        ("/x/app", ": |/x/app"),
    ] {
        assert_eq!(route(true, &mounts, Fake::get(path)), wanted, "{path}");
        let vars = [("PATH_INFO", path)];
        assert_eq!(route(true, &mounts, Fake::uwsgi(&vars)), wanted, "uwsgi {path}");
    }
}

#[test]
fn without_manage_script_name_the_front_end_chooses() {
    let mounts = ["", "/app"];
    assert_eq!(route(false, &mounts, Fake::get("/app/x")), ": |/app/x");
    let front_end = [("SCRIPT_NAME", "/app"), ("PATH_INFO", "/x")];
    assert_eq!(route(false, &mounts, Fake::uwsgi(&front_end)), "/app: /app|/x");
    let unknown = [("SCRIPT_NAME", "/other"), ("PATH_INFO", "/x")];
    assert_eq!(route(false, &mounts, Fake::uwsgi(&unknown)), ": /other|/x");
}

#[test]
fn without_a_root_the_first_application_gets_the_rest() {
    assert_eq!(route(true, &["/a", "/b"], Fake::get("/c")), "/a: |/c");
    assert_eq!(route(true, &["/a", ""], Fake::get("/c")), ": |/c");
}
