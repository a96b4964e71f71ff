"""Lines of requests are byte for byte those of real uWSGI, which runs beside rsgi: the same requests go to both."""

import re
import shutil
import socket
import sys
from pathlib import Path

from support import PATIENCE, Process, Rsgi, need, open_folder, processes_of, wait_until

APPLICATION = """\
def application(environ, start_response):
    path = environ["PATH_INFO"]
    if path == "/file":
        body = open("ten", "rb")
        start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "10")])
        return environ["wsgi.file_wrapper"](body)
    if path == "/missing":
        start_response("404 Not Found", [("Content-Length", "4")])
        return [b"gone"]
    if path == "/empty":
        start_response("204 No Content", [])
        return []
    if path == "/pieces":
        start_response("200 OK", [("Content-Length", "6")])
        return iter([b"one", b"two"])
    body = environ["wsgi.input"].read() or b"hello"
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]
"""

NAMES = """uri method user addr host proto uagent referer status rsize hsize size cl micros msecs secs time tmsecs tmicros
    ltime ftime ctime epoch pid wid core switches vars pktsize modifier1 modifier2 headers vsz rss vszM rssM werr rerr ioerr
    var.HTTP_X_TAG var.REQUEST_METHOD var.MISSING nosuchvar metric.none""".split()

# What two runs never have in common; it is compared with the digits taken out.
MASKED = {"micros", "msecs", "secs", "time", "tmsecs", "tmicros", "ltime", "ftime", "ctime", "epoch", "pid"}

WHERE = {
    "SERVER_PROTOCOL": "HTTP/1.1",
    "REMOTE_ADDR": "192.0.2.7",
    "REMOTE_PORT": "4711",
    "SERVER_NAME": "shop",
    "SERVER_PORT": "80",
    "HTTP_HOST": "shop.example",
    "QUERY_STRING": "",
}


def request(target, method="GET", body=b"", **more):
    """A packet of the uwsgi protocol, and the body behind it."""
    path, _, query = target.partition("?")
    variables = {**WHERE, "REQUEST_METHOD": method, "REQUEST_URI": target, "PATH_INFO": path, "QUERY_STRING": query}
    if body:
        variables["CONTENT_LENGTH"] = str(len(body))
    variables.update(more)
    block = b""
    for name, value in variables.items():
        for text in (name.encode(), value.encode()):
            block += len(text).to_bytes(2, "little") + text
    return b"\0" + len(block).to_bytes(2, "little") + b"\0" + block + body


REQUESTS = [
    request("/"),
    request("/page?a=b&c=%20d"),
    request("/form", "POST", b"x=1&y=2", CONTENT_TYPE="application/x-www-form-urlencoded"),
    request("/missing", HTTP_REFERER="http://elsewhere/page", HTTP_USER_AGENT="agent/1.0 (any; thing)"),
    request("/empty", "DELETE", REMOTE_USER="ann"),
    request("/file", HTTP_X_FORWARDED_FOR="198.51.100.1, 203.0.113.9"),
    request("/tagged", HTTP_X_TAG="of mine", SERVER_PROTOCOL="HTTP/1.0"),
    request("/pieces", HTTP_HOST=""),
]

# Each server is started once for these lines of its configuration.
FORMATS = {
    "default": [],
    "micros": ["log-micros = true"],
    "forwarded": ["log-x-forwarded-for = true"],
    "memory": ["memory-report = true"],
    "variables": ["log-format = " + " ".join(f"{name}=<%({name})>" for name in NAMES)],
    "combined": [
        'log-format = %(addr) - %(user) [%(ltime)] "%(method) %(uri) %(proto)" %(status) %(size) "%(referer)" "%(uagent)"',
        "log-x-forwarded-for = true",
    ],
    "dates": ["log-format = LINE %(ftime) %(uri)", "logformat-strftime = true", "log-date = %%Y/%%m/%%d %%H"],
    "errors": ["log-format = LINE %(uri) %(status)", "disable-logging = true", "log-4xx = true"],
    "big": ["log-format = LINE %(uri) %(rsize)", "disable-logging = true", "log-big = 7"],
    "zero": ["log-format = LINE %(uri) %(rsize)", "disable-logging = true", "log-zero = true"],
    "files": ["log-format = LINE %(uri) %(rsize)", "disable-logging = true", "log-sendfile = true"],
    "common": ['log-format = %(addr) - %(user) [%(ltime)] "%(method) %(uri) %(proto)" %(status) %(rsize)'],
    "vhost": ["log-format = LINE %(host):%(var.SERVER_PORT) %(addr) %(var.REMOTE_PORT) %(method) %(uri)"],
    "sizes": ["log-format = LINE %(status) %(rsize)+%(hsize)=%(size) of %(cl) in %(headers) to %(vars) %(pktsize)"],
    "object": ['log-format = LINE {"uri":"%(uri)","status":%(status),"bytes":%(rsize),"user":"%(user)"}'],
    "request": ["log-format = LINE %(var.HTTP_USER_AGENT)|%(var.HTTP_REFERER)|%(var.CONTENT_TYPE)|%(var.PATH_INFO)"],
    "text": ["log-format = LINE without a variable"],
    "neighbours": ["log-format = LINE %(method)%(uri)%(status)%(proto)%%%(host)"],
    "failures": ["log-format = LINE %(uri) %(status)", "log-5xx = true"],
    "odd": ["log-format = LINE %(method)x%%(status) %) )%("],
}


def uwsgi():
    path = Path(sys.executable).parent / "uwsgi"
    need(path.exists(), f"{path} is missing; install tests/requirements.txt")
    return path


def lines_of(log):
    """The lines of requests."""
    return [line for line in log.splitlines() if re.match(r"\[pid: |\{address space|uri=<|LINE |\S+( \S+)? - \S+ \[", line)]


def masked(line):
    line = re.sub(r"pid: \d+", "pid: N", line)
    line = re.sub(r"in \d+ (msecs|micros)", r"in N \1", line)
    line = re.sub(r"\[\w{3} \w{3} [ \d]\d [\d:]{8} \d{4}\]", "[DATE]", line)
    line = re.sub(r"usage: \d+ bytes/\d+MB", "usage: N bytes/NMB", line)
    line = re.sub(r"\[\d\d/\w{3}/\d{4}:[\d:]{8} ([+-]\d{4})\]", r"[DATE \1]", line)

    def variable(found):
        name, value = found.groups()
        if name in MASKED:
            value = re.sub(r"\d", "9", re.sub(r"\d+(?=$|\.)|[A-Z][a-z]{2}", "9", value))
        return f"{name}=<{value}>"

    return re.sub(r"([\w.]+)=<([^>]*)>", variable, line)


def ask(path, packet):
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(60)
        client.connect(path)
        client.sendall(packet)
        client.shutdown(socket.SHUT_WR)
        answer = b""
        while piece := client.recv(65536):
            answer += piece
    assert answer.startswith(b"HTTP/1."), answer


def answered(server, path, expected):
    """What a server logs of all requests."""
    wait_until(f"it listens:\n{server.log()}", lambda: Path(path).exists())
    server.wait_until_serving(path)
    for packet in REQUESTS:
        ask(path, packet)
    wait_until(f"{expected} lines are there", lambda: len(lines_of(server.log())) >= expected)
    return [masked(line) for line in lines_of(server.log())]


def waited(line):
    """The line of a uWSGI that did not wait for the packet: it counts the wait as a switch, and only its luck decides."""
    less = lambda found: f"{found[1]}{int(found[2]) - 1}{found[3]}"  # noqa: E731
    return re.sub(r"(switches=<)([1-9]\d*)(>)", less, re.sub(r"(\()([1-9]\d*)( switches)", less, line))


def test_lines_are_those_of_uwsgi():
    folder = open_folder()
    (folder / "app.py").write_text(APPLICATION)
    (folder / "ten").write_text("ten bytes\n")
    theirs, ours = {}, {}
    # All at once: each takes a second to start or to stop.
    for name, more in FORMATS.items():
        lines = [f"chdir = {folder}", "wsgi-file = app.py", "need-app = true", "master = true", "die-on-term = true", *more]
        home = folder / name
        home.mkdir()
        (home / "uwsgi.ini").write_text("\n".join(["[uwsgi]", f"socket = {home}/uwsgi.sock", *lines]) + "\n")
        theirs[name] = Process([uwsgi(), "--ini", home / "uwsgi.ini"], folder=home)
        (home / "rsgi").mkdir()
        ours[name] = Rsgi([f"socket = {home}/rsgi.sock", "vacuum = true", *lines], folder=home / "rsgi")
    try:
        differences = []
        for name in FORMATS:
            expected = {"errors": 1, "zero": 1, "files": 1, "big": 2}.get(name, len(REQUESTS))
            original = answered(theirs[name], f"{folder}/{name}/uwsgi.sock", expected)
            found = answered(ours[name], f"{folder}/{name}/rsgi.sock", expected)
            assert len(original) == expected, original
            differences += [(name, one, other) for one, other in zip(original, found) if other not in (one, waited(one))]
            differences += [(name, found)] if len(found) != expected else []
    finally:
        for server in theirs.values():
            server.process.terminate()
        for server in theirs.values():
            server.process.wait(PATIENCE)
            wait_until("no process is left", lambda: not processes_of(server.process.pid))
    for server in ours.values():
        server.judge()
    assert not differences, "\n".join(map(str, differences))
    shutil.rmtree(folder)
