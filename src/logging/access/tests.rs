//! Lines as uWSGI writes them, and what rsgi escapes.

use super::*;
use crate::protocol::Protocol;
use crate::protocol::http::head::{self, Limits};
use crate::protocol::request::Parsed;
use crate::protocol::uwsgi::{self, Packet};

/// Renders a request, with values like those of a line that uWSGI wrote.
fn render(format: &Format, protocol: Protocol, bytes: &[u8], zone: &str, change: fn(&mut Record<'_>)) -> String {
    let mut request = Request::default();
    match protocol {
        Protocol::Http => {
            assert_eq!(head::parse(bytes, 0, &Limits::default(), &mut request), Parsed::Complete);
        }
        Protocol::Uwsgi | Protocol::FastCgi | Protocol::Scgi => {
            assert_eq!(uwsgi::parse(bytes, &Limits::default(), &mut request), Packet::Request);
        }
    }
    let local = Local { index: 0, protocol, server_name: "machine".to_owned(), server_port: "8080".to_owned() };
    let peer = Peer { addr: "127.0.0.1".to_owned(), port: "50000".to_owned() };
    let zone = if zone.is_empty() { TimeZone::UTC } else { TimeZone::posix(zone).unwrap() };
    let mut record = Record {
        request: &request,
        head: bytes,
        peer: &peer,
        told: None,
        local: &local,
        status: 200,
        body_bytes: 567,
        head_bytes: 66,
        headers: 2,
        started: 1_795_349_613_937_743,
        micros: 21_250,
        zone: &zone,
        pid: 15372,
        worker: 1,
        core: 0,
        app: 0,
        app_requests: 1,
        total_requests: 1,
        switches: 1,
        via: None,
        vsz: 0,
        rss: 0,
        write_errors: 0,
        read_errors: 0,
    };
    change(&mut record);
    let mut out = Vec::new();
    format.render(&record, &mut out);
    String::from_utf8(out).unwrap()
}

const REQUEST: &[u8] = b"GET /env?a=b&c HTTP/1.1\r\nHost: h:1\r\nUser-Agent: ua/1\r\nX-Y: q z\r\n\r\n";

fn template(format: &str, bytes: &[u8]) -> String {
    render(&Format::parse(format).unwrap(), Protocol::Http, bytes, "", |_| ())
}

#[test]
fn default_line_is_uwsgis() {
    // 13 variables: the ten of the server and three fields.
    let line = render(&Format::default(), Protocol::Http, REQUEST, "", |_| ());
    assert_eq!(
        line,
        "[pid: 15372|app: 0|req: 1/1] 127.0.0.1 () {26 vars in 265 bytes} [Sun Nov 22 12:13:33 2026] \
         GET /env?a=b&c => generated 567 bytes in 21 msecs (HTTP/1.1 200) 2 headers in 66 bytes \
         (1 switches on core 0)\n"
    );
}

#[test]
fn default_line_with_everything() {
    let format = Format::Line { micros: true, memory: true };
    let line = render(&format, Protocol::Http, REQUEST, "", |record| {
        record.app = -1;
        record.via = Some("sendfile");
        record.vsz = 3 * 1024 * 1024 + 5;
        record.rss = 1024 * 1024 - 1;
    });
    assert!(line.starts_with(
        "{address space usage: 3145733 bytes/3MB} {rss usage: 1048575 bytes/0MB} [pid: 15372|app: -1|req: -1/1] "
    ));
    assert!(line.contains(" bytes in 21250 micros via sendfile() (HTTP/1.1 200) "));
}

#[test]
fn variables_of_log_format() {
    let all: Vec<String> = Known::ALL.iter().map(|known| format!("{0}=%({0})", known.name())).collect();
    assert_eq!(
        template(&all.join(" "), REQUEST),
        "uri=/env?a=b&c method=GET user=- addr=127.0.0.1 host=h:1 proto=HTTP/1.1 uagent=ua/1 referer=- status=200 \
         rsize=567 hsize=66 size=633 cl=0 micros=21250 msecs=21 secs=0.021250 time=1795349613 tmsecs=1795349613937 \
         tmicros=1795349613937743 ltime=22/Nov/2026:12:13:33 +0000 ftime=22/Nov/2026:12:13:33 +0000 \
         ctime=Sun Nov 22 12:13:33 2026 epoch=1795349613 pid=15372 wid=1 core=0 switches=1 vars=26 pktsize=265 \
         modifier1=0 modifier2=0 headers=2 vsz=0 rss=0 vszM=0 rssM=0 werr=0 rerr=0 ioerr=0\n"
    );
}

#[test]
fn request_variables_and_unknown_names() {
    let format = "%(var.HTTP_X_Y)|%(var.REQUEST_METHOD)|%(var.SERVER_PORT)|%(var.REMOTE_PORT)|%(var.NOPE)|\
                  %(var.HTTP_NOPE)|%(var.HTTP_X-Y)|%(unknown)|%(metric.x)|100%|%(open";
    assert_eq!(template(format, REQUEST), "q z|GET|8080|50000|-|-|-|-|-|100%|%(open\n");
    assert_eq!(Format::parse("%()").unwrap_err(), "the name of a variable in \"%()\"");
    assert!(Format::parse("%(var.)").is_err());
}

#[test]
fn a_request_over_uwsgi_is_described_by_its_variables() {
    let mut packet = vec![0; 4];
    for (name, value) in [
        ("REQUEST_METHOD", "POST"),
        ("REQUEST_URI", "/x"),
        ("REMOTE_ADDR", "192.0.2.1"),
        ("REMOTE_USER", "me"),
        ("SERVER_PROTOCOL", "HTTP/2.0"),
        ("CONTENT_LENGTH", "5"),
    ] {
        for text in [name, value] {
            packet.extend_from_slice(&(text.len() as u16).to_le_bytes());
            packet.extend_from_slice(text.as_bytes());
        }
    }
    let size = packet.len() - 4;
    packet[1] = size as u8;
    let line = render(&Format::default(), Protocol::Uwsgi, &packet, "", |_| ());
    assert!(line.contains(&format!("] 192.0.2.1 (me) {{12 vars in {size} bytes}} [")), "{line}");
    assert!(line.contains("] POST /x => generated 567 bytes in 21 msecs (HTTP/2.0 200) "), "{line}");
    let format = Format::parse("%(user) %(addr) %(cl) %(host) %(var.REMOTE_USER) %(proto)").unwrap();
    assert_eq!(render(&format, Protocol::Uwsgi, &packet, "", |_| ()), "me 192.0.2.1 5 - me HTTP/2.0\n");
}

#[test]
fn local_time_zones() {
    let format = Format::parse("%(ltime)|%(ctime)").unwrap();
    let at = |zone, change: fn(&mut Record<'_>)| render(&format, Protocol::Http, REQUEST, zone, change);
    assert_eq!(at("NST3:30", |_| ()), "22/Nov/2026:08:43:33 -0330|Sun Nov 22 08:43:33 2026\n");
    assert_eq!(at("IST-5:30", |_| ()), "22/Nov/2026:17:43:33 +0530|Sun Nov 22 17:43:33 2026\n");
    let first = at("", |record| record.started = 1_793_494_984_000_000);
    assert_eq!(first, "01/Nov/2026:01:03:04 +0000|Sun Nov  1 01:03:04 2026\n");
}

#[test]
fn nobody_forges_a_line() {
    let bytes = b"GET /\"x\\ HTTP/1.1\r\nHost: h\r\nUser-Agent: a\tb\"c\xe9\r\n\r\n";
    assert_eq!(template("\"%(uri)\" \"%(uagent)\"", bytes), "\"/\\x22x\\x5C\" \"a\\x09b\\x22c\\xE9\"\n");
}
