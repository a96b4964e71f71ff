//! Listening sockets, requests and responses, HTTP, TLS, static files.

use super::{ADDRESS, FLAG, NUMBER, OPTIONAL, OPTIONAL_BOOL, OPTIONAL_NUMBER, OPTIONAL_OCTAL, OWNER, Row, TEXT};
use crate::protocol::Protocol;

const NO_NPH: &str = "web servers read the `Status:` line of CGI programs; use fastcgi-socket or scgi-socket";

pub(super) const SOCKETS: &[Row] = &[
    Row::new("socket", ADDRESS, "listen; speaks what `protocol` says, uwsgi otherwise")
        .short('s')
        .listed()
        .set(|d, s| d.socket(s, None)),
    Row::new("uwsgi-socket", ADDRESS, "listen for the uwsgi protocol")
        .listed()
        .set(|d, s| d.socket(s, Some(Protocol::Uwsgi))),
    Row::new("suwsgi-socket", TEXT, "uwsgi protocol over TLS (addr,cert,key[,ciphers[,clientca]])")
        .also(&["ssl-socket"]),
    Row::new("http-socket", ADDRESS, "listen for HTTP/1.1 with keep-alive")
        .listed()
        .set(|d, s| d.socket(s, Some(Protocol::Http))),
    Row::new("http-socket-modifier1", NUMBER, "modifier1 given to http-socket requests"),
    Row::new("http-socket-modifier2", NUMBER, "modifier2 given to http-socket requests"),
    Row::new("http11-socket", ADDRESS, "the same as http-socket")
        .listed()
        .set(|d, s| d.socket(s, Some(Protocol::Http))),
    Row::new("https-socket", TEXT, "worker-side HTTPS listener (addr,cert,key[,ciphers[,clientca]])"),
    Row::new("https-socket-modifier1", NUMBER, "modifier1 for https-socket requests"),
    Row::new("https-socket-modifier2", NUMBER, "modifier2 for https-socket requests"),
    Row::new("fastcgi-socket", ADDRESS, "listen for FastCGI").listed().set(|d, s| d.socket(s, Some(Protocol::FastCgi))),
    Row::new("fastcgi-nph-socket", TEXT, "FastCGI listener, response starts with an HTTP status line").refused(NO_NPH),
    Row::new("fastcgi-modifier1", NUMBER, "modifier1 for FastCGI requests"),
    Row::new("fastcgi-modifier2", NUMBER, "modifier2 for FastCGI requests"),
    Row::new("scgi-socket", ADDRESS, "listen for SCGI").listed().set(|d, s| d.socket(s, Some(Protocol::Scgi))),
    Row::new("scgi-nph-socket", TEXT, "SCGI listener, HTTP status-line response head").refused(NO_NPH),
    Row::new("scgi-modifier1", NUMBER, "modifier1 for SCGI requests"),
    Row::new("scgi-modifier2", NUMBER, "modifier2 for SCGI requests"),
    Row::new("raw-socket", TEXT, "hand the accepted fd to a raw handler"),
    Row::new("raw-modifier1", NUMBER, "modifier1 for raw sockets"),
    Row::new("raw-modifier2", NUMBER, "modifier2 for raw sockets"),
    Row::new("puwsgi-socket", TEXT, "uwsgi protocol with persistent connections"),
    Row::new("protocol", TEXT, "what `socket` and inherited sockets speak: uwsgi, http, fastcgi or scgi")
        .also(&["socket-protocol"])
        .set(|d, s| d.protocol(s)),
    Row::new("shared-socket", TEXT, "bind early (before dropping root); later referenced as \"=N\""),
    Row::new("undeferred-shared-socket", TEXT, "shared socket without deferred accept"),
    Row::new("skip-zero", FLAG, "do not probe fd 0 for an inherited socket")
        .always("descriptor 0 is never taken for a socket"),
    Row::new("listen", NUMBER, "connections that may wait to be accepted (100)")
        .short('l')
        .set(|d, s| d.fill_number(s, 1..=i32::MAX as u64, |x| &mut x.listen)),
    Row::new("abstract-socket", FLAG, "force unix sockets into the abstract namespace").short('a'),
    Row::new("chmod-socket", OPTIONAL_OCTAL, "mode of unix sockets; 666 without a value")
        .also(&["chmod"])
        .short('C')
        .set(|d, s| d.chmod_socket(s)),
    Row::new("chown-socket", OWNER, "owner of unix sockets: user or user:group").set(|d, s| d.chown_socket(s)),
    Row::new("freebind", FLAG, "IP_FREEBIND on TCP sockets"),
    Row::new("map-socket", TEXT, "socketN:w1,w2 - restrict a socket to some workers"),
    Row::new("no-fd-passing", FLAG, "disable fd passing on unix sockets")
        .always("descriptors are never passed to front ends"),
    Row::new("no-defer-accept", FLAG, "accept TCP connections before their first bytes are there")
        .set(|d, s| d.settings.defer_accept = !d.flag(s)),
    Row::new("tcp-nodelay", FLAG, "TCP_NODELAY on accepted connections").always("it is always on"),
    Row::new("so-keepalive", FLAG, "SO_KEEPALIVE on listeners"),
    Row::new("so-send-timeout", FLAG, "SO_SNDTIMEO on listeners (declared without argument: unusable as \"--x N\")")
        .also(&["socket-send-timeout", "so-write-timeout", "socket-write-timeout"]),
    Row::new("socket-sndbuf", NUMBER, "SO_SNDBUF"),
    Row::new("socket-rcvbuf", NUMBER, "SO_RCVBUF"),
    Row::new("enable-proxy-protocol", FLAG, "connections of http-socket begin with a PROXY protocol header (v1, v2)")
        .set(|d, s| d.proxy_protocol.own = d.flag(s)),
    Row::new("trusted-proxies", TEXT, "networks and `unix`: whose Forwarded and X-Forwarded-* are believed")
        .listed()
        .set(|d, s| d.trusted_proxies(s)),
    Row::new("fastcgi-stderr", FLAG, "what is written to wsgi.errors goes to the FastCGI web server too")
        .set(|d, s| d.settings.fastcgi_stderr = d.flag(s)),
    Row::new("reuse-port", FLAG, "SO_REUSEPORT on listeners"),
    Row::new("tcp-fast-open", NUMBER, "TCP_FASTOPEN queue").also(&["tcp-fastopen"]),
    Row::new("tcp-fast-open-client", FLAG, "client TFO").also(&["tcp-fastopen-client"]),
];

pub(super) const REQUEST: &[Row] = &[
    Row::new("max-vars", TEXT, "max number of request variables pairs (iovec slots)")
        .short('v')
        .no_effect("buffers grow as they are needed"),
    Row::new("buffer-size", NUMBER, "longest request head in bytes (65536, which is also the least)")
        .short('b')
        .set(|d, s| d.buffer_size(s)),
    Row::new("socket-timeout", NUMBER, "seconds for every deadline of a connection not set otherwise")
        .short('z')
        .set(|d, s| d.timeouts.all = d.seconds(s)),
    Row::new(
        "body-min-rate",
        NUMBER,
        "bytes a second a body must bring on average, after its first 30 s (100; 0: any)",
    )
    .set(|d, s| d.fill_number(s, 0..=u32::MAX.into(), |x| &mut x.timeouts.body_rate)),
    Row::new("limit-post", NUMBER, "longest request body in bytes (0: any)")
        .set(|d, s| d.fill_number(s, 0..=u64::MAX, |x| &mut x.limit_post)),
    Row::new(
        "post-buffering",
        NUMBER,
        "request bodies above these bytes go to a file (65536); 0 streams them (FastCGI: one request at a time)",
    )
    .set(|d, s| d.post_buffering(s)),
    Row::new("post-buffering-bufsize", NUMBER, "internal buffer size (raised to post-buffering)")
        .no_effect("buffers grow as they are needed"),
    Row::new("body-read-warning", NUMBER, "MiB of in-memory body that triggers a warning"),
    Row::new("upload-progress", TEXT, "directory for JSON progress files keyed by X-Progress-ID"),
    Row::new("chunked-input-limit", NUMBER, "max bytes of one input chunk"),
    Row::new("chunked-input-timeout", NUMBER, "seconds"),
    Row::new("allowed-modifiers", TEXT, "comma list"),
    Row::new("remap-modifier", TEXT, "src:dst,..."),
];

pub(super) const RESPONSE: &[Row] = &[
    Row::new("ignore-sigpipe", FLAG, "do not log SIGPIPE").always("a client that goes away is no error"),
    Row::new("ignore-write-errors", FLAG, "do not log failed writes to clients")
        .always("a client that goes away is no error"),
    Row::new("write-errors-tolerance", NUMBER, "failed writes tolerated before raising"),
    Row::new("write-errors-exception-only", FLAG, "only raise OSError in the app (implies the two ignores)"),
    Row::new("disable-write-exception", FLAG, "never raise OSError into the app on write failure")
        .always("a client that goes away is no error"),
    Row::new("cgi-mode", FLAG, "force CGI style \"Status:\" response head").short('c'),
    Row::new("error-page-403", TEXT, "file used as 403 body"),
    Row::new("error-page-404", TEXT, "file used as 404 body"),
    Row::new("error-page-500", TEXT, "file used as 500 body"),
    Row::new("add-header", TEXT, "append a raw header line to every response"),
    Row::new("rem-header", TEXT, "drop a header from app responses").also(&["del-header"]),
    Row::new("collect-header", TEXT, "copy a response header into a request var").also(&["response-header-collect"]),
    Row::new("pull-header", TEXT, "move a response header into a request var"),
    Row::new("response-headers-limit", NUMBER, "max response head size"),
    Row::new("response-buffer", NUMBER, "bytes a response may run ahead of its client (1048576)")
        .set(|d, s| d.response_buffer(s)),
];

pub(super) const HTTP_ROUTER: &[Row] = &[
    Row::new("http", ADDRESS, "the same as http-socket; there is no router process")
        .also(&["httprouter"])
        .listed()
        .set(|d, s| d.routed_socket(s)),
    Row::new("https", TEXT, "addr,cert,key[,ciphers[,clientca]]"),
    Row::new("https2", TEXT, "key=value variant"),
    Row::new("https-export-cert", FLAG, "export client cert as HTTPS_CC"),
    Row::new("https-session-context", TEXT, "session id context"),
    Row::new("http-to-https", TEXT, "listener answering 301 to https"),
    Row::new("http-processes", NUMBER, "router processes")
        .also(&["http-workers"])
        .no_effect("workers serve HTTP themselves"),
    Row::new("http-var", TEXT, "key=value added to request vars"),
    Row::new("http-to", TEXT, "backend uwsgi address (repeatable)"),
    Row::new("http-zerg", TEXT, "zerg"),
    Row::new("http-fallback", TEXT, "backend used on error"),
    Row::new("http-modifier1", NUMBER, "modifier1 sent"),
    Row::new("http-modifier2", NUMBER, "modifier2 sent"),
    Row::new("http-use-cache", OPTIONAL, "map Host via cache"),
    Row::new("http-use-pattern", TEXT, "map Host via path pattern"),
    Row::new("http-use-base", TEXT, "map Host via base dir"),
    Row::new("http-events", NUMBER, "max events per cycle").no_effect("buffers grow as they are needed"),
    Row::new("http-subscription-server", TEXT, "accept backend subscriptions"),
    Row::new("http-subscription-fallback-key", TEXT, "fallback key"),
    Row::new("http-timeout", NUMBER, "seconds without a byte of a body, either way (30 in, 60 out)")
        .set(|d, s| d.timeouts.http = d.seconds(s)),
    Row::new("http-manage-expect", OPTIONAL, "answer 100-continue; value = max Content-Length else 413"),
    Row::new("http-keepalive", OPTIONAL_NUMBER, "seconds a connection may be idle (75); 0 closes after each response")
        .set(|d, s| d.keep_alive(s)),
    Row::new("http-auto-chunked", FLAG, "chunk responses without length (with keepalive)")
        .always("responses of unknown length are always chunked"),
    Row::new("http-auto-gzip", FLAG, "gzip when app sends uWSGI-Encoding: gzip"),
    Row::new("http-raw-body", FLAG, "pass body bytes unmodified"),
    Row::new("http-websockets", FLAG, "detect websocket upgrade, go raw"),
    Row::new("http-chunked-input", FLAG, "pass chunked request bodies raw")
        .always("chunked request bodies are always read"),
    Row::new("http-use-code-string", TEXT, "map Host by code"),
    Row::new("http-use-socket", OPTIONAL, "backend = own socket"),
    Row::new("http-gracetime", NUMBER, "retry of dead node"),
    Row::new("http-quiet", TEXT, "no connect errors"),
    Row::new("http-cheap", FLAG, "start when first node subscribes"),
    Row::new("http-stats", TEXT, "router stats server").also(&["http-stats-server", "http-ss"]),
    Row::new("http-harakiri", NUMBER, "router harakiri"),
    Row::new("http-stud-prefix", TEXT, "stud address prefix"),
    Row::new("http-uid", TEXT, "router uid"),
    Row::new("http-gid", TEXT, "router gid"),
    Row::new("http-resubscribe", TEXT, "forward subscriptions"),
    Row::new("http-buffer-size", NUMBER, "I/O buffer").no_effect("buffers grow as they are needed"),
    Row::new("http-server-name-as-http-host", TEXT, "SERVER_NAME = Host"),
    Row::new("http-headers-timeout", NUMBER, "seconds for a whole request head (10)")
        .set(|d, s| d.timeouts.head = d.seconds(s)),
    Row::new("http-connect-timeout", NUMBER, "backend connect timeout"),
    Row::new("http-manage-source", FLAG, "icecast SOURCE"),
    Row::new("http-manage-rtsp", FLAG, "RTSP"),
    Row::new(
        "http-enable-proxy-protocol",
        OPTIONAL_BOOL,
        "connections of http begin with a PROXY protocol header (v1, v2)",
    )
    .set(|d, s| d.proxy_protocol.routed = d.flag(s)),
];

pub(super) const SSL: &[Row] = &[
    Row::new("ssl-verbose", FLAG, "log TLS errors"),
    Row::new("ssl-verify-depth", OPTIONAL, "verify depth"),
    Row::new("ssl-sessions-use-cache", OPTIONAL, "session cache name").also(&["ssl-session-use-cache"]),
    Row::new("ssl-sessions-timeout", NUMBER, "seconds").also(&["ssl-session-timeout"]),
    Row::new("sni", TEXT, "\"servername cert,key\" context"),
    Row::new("sni-dir", TEXT, "dir with per-name certs"),
    Row::new("sni-dir-ciphers", TEXT, "ciphers for sni-dir"),
    Row::new("ssl-enable3", FLAG, "enable SSLv3").also(&["ssl-enable-sslv3"]),
    Row::new("ssl-enable-tlsv1", FLAG, "enable TLS 1.0"),
    Row::new("ssl-option", FLAG, "raw OpenSSL option bit"),
    Row::new("sni-regexp", TEXT, "regexp sni"),
    Row::new("ssl-tmp-dir", TEXT, "tmp dir for certs"),
];

pub(super) const OFFLOAD: &[Row] =
    &[Row::new("offload-threads", NUMBER, "offload threads per worker").also(&["offload-thread"])];

pub(super) const WEBSOCKETS: &[Row] = &[
    Row::new("websockets-ping-freq", NUMBER, "seconds").also(&["websocket-ping-freq"]),
    Row::new("websockets-pong-tolerance", NUMBER, "missed pongs tolerated").also(&["websocket-pong-tolerance"]),
    Row::new("websockets-max-size", NUMBER, "KiB max message").also(&["websocket-max-size"]),
];

pub(super) const STATIC: &[Row] = &[
    Row::new("check-static", TEXT, "serve dir+PATH_INFO when it exists").also(&["static-check"]),
    Row::new("check-static-docroot", FLAG, "serve DOCUMENT_ROOT+PATH_INFO"),
    Row::new("static-map", TEXT, "prefix=dir (prefix removed)"),
    Row::new("static-map2", TEXT, "prefix=dir (whole path appended)"),
    Row::new("static-skip-ext", TEXT, "never serve this extension"),
    Row::new("static-index", TEXT, "index file name for directories"),
    Row::new("static-safe", TEXT, "extra allowed real path"),
    Row::new("static-cache-paths", NUMBER, "seconds to cache path resolution"),
    Row::new("static-cache-paths-name", TEXT, "cache used for it"),
    Row::new("mimefile", TEXT, "mime types file").also(&["mime-file"]),
    Row::new("static-expires-type", TEXT, "type=secs"),
    Row::new("static-expires-type-mtime", TEXT, "type=secs after mtime"),
    Row::new("static-expires", TEXT, "\"regexp secs\" on file name"),
    Row::new("static-expires-mtime", TEXT, "same after mtime"),
    Row::new("static-expires-uri", TEXT, "\"regexp secs\" on REQUEST_URI"),
    Row::new("static-expires-uri-mtime", TEXT, "same after mtime"),
    Row::new("static-expires-path-info", TEXT, "\"regexp secs\" on PATH_INFO"),
    Row::new("static-expires-path-info-mtime", TEXT, "same after mtime"),
    Row::new("static-gzip", TEXT, "regexp: try .gz variant"),
    Row::new("static-gzip-all", FLAG, "try .gz variant always"),
    Row::new("static-gzip-dir", TEXT, "only below this dir").also(&["static-gzip-prefix"]),
    Row::new("static-gzip-ext", TEXT, "only this suffix").also(&["static-gzip-suffix"]),
    Row::new("honour-range", FLAG, "support Range on static/sendfile"),
    Row::new("file-serve-mode", TEXT, "nginx/x-accel-redirect or x-sendfile headers instead of sending")
        .also(&["fileserve-mode"]),
    Row::new("disable-sendfile", FLAG, "read/write instead of sendfile()"),
];
