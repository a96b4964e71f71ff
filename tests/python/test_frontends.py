"""rsgi behind every front end and protocol of the table in configs/README.md, which is checked here.

One front end and one rsgi serve all cases of a row. At the end of a row both are stopped and their logs judged."""

import http.client
import itertools
import json
import os
import select
import shutil
import signal
import socket
import threading

import h2.connection
import h2.events
import httpcore
import pytest

from frontends import CASES, CONFIGS, HOST, KINDS, ROWS, rsgi_for, table
from support import open_folder, wait_until

LARGE = 20 * 1024 * 1024
LIMIT = LARGE + 1024 * 1024
LARGE_BODY = os.urandom(LARGE)

#: rsgi's own lines. Two applications, so that a mount point is looked for.
LINES = [
    "processes = 2",
    "threads = 4",
    "mount = /sub=gateways:mounted",
    "manage-script-name = true",
    f"limit-post = {LIMIT}",
]


class Client:
    """A client of one front end. HTTP/1.1, or HTTP/2 with prior knowledge."""

    def __init__(self, port, http2):
        self.port = port
        self.http2 = http2
        self.host = f"{HOST}:{port}"
        self.pool = self.new_pool()

    def new_pool(self):
        return httpcore.ConnectionPool(http1=not self.http2, http2=self.http2)

    def request(self, case=None, *, method="GET", target="/", body=None, fields=(), pool=None):
        """Streams are for `with`; everything else reads the answer whole."""
        headers = [("Host", self.host), *fields]
        if case:
            headers.append(("X-Case", case))
        if isinstance(body, bytes):
            headers.append(("Content-Length", str(len(body))))
        elif body is not None:
            headers.append(("Transfer-Encoding", "chunked"))
        if self.http2:
            headers = [(name.lower(), value) for name, value in headers if name != "Transfer-Encoding"]
        url = httpcore.URL(scheme="http", host="127.0.0.1", port=self.port, target=target)
        timeout = dict.fromkeys(("connect", "read", "write", "pool"), 60)
        pool = pool or self.pool
        return pool.stream(method, url, headers=headers, content=body, extensions={"timeout": timeout})

    def ask(self, case=None, **words):
        with self.request(case, **words) as response:
            response.read()
        return Answer(response)

    def close(self):
        self.pool.close()


class Answer:
    def __init__(self, response):
        self.status = response.status
        self.body = response.content
        self.fields = {name.decode().lower(): value.decode() for name, value in response.headers}

    def json(self):
        assert self.status == 200, (self.status, self.body)
        return json.loads(self.body)


class Stack:
    """rsgi and a front end before it."""

    def __init__(self, row):
        self.row = row
        self.folder = open_folder()
        self.files = self.folder / "files"
        self.files.mkdir()
        self.files.chmod(0o777)
        (self.files / "large").write_bytes(LARGE_BODY)
        (self.files / "small").write_bytes(b"a small file")
        self.rsgi, upstream = rsgi_for(row, folder=self.folder, lines=LINES, allowed=("Traceback",))
        self.front = None
        try:
            self.front = KINDS[row.front](row, folder=self.folder, upstream=upstream)
        except BaseException:
            self.rsgi.kill()
            raise
        self.client = Client(self.front.port.number, http2=row.front == "nghttpx")
        self.tokens = 0

    def token(self):
        """A name for a file by which the application and the test speak with each other."""
        self.tokens += 1
        name = f"token-{self.tokens}"
        return self.files / name, [("X-Token", name)]

    def judge(self):
        self.client.close()
        try:
            self.front.judge()
        finally:
            self.rsgi.judge()
        log = self.rsgi.log()
        # One for each time that it was asked for.
        assert log.count("Traceback") == log.count("RuntimeError: asked for"), log
        if not os.environ.get("KEEP"):
            shutil.rmtree(self.folder)


def test_the_table_is_what_is_tested():
    readme = (CONFIGS / "README.md").read_text()
    assert table() in readme, "tests/python/frontends.py prints the table for configs/README.md"
    # All rows go through each of them: `stack` has them as parameters.
    assert {f"test_{case}" for case in CASES.values()} <= set(globals())
    files = {str(path.relative_to(CONFIGS)) for path in CONFIGS.glob("*/*") if path.parent.name not in ("cgi", "systemd")}
    assert files == {row.file for row in ROWS}


@pytest.fixture(scope="module", params=ROWS, ids=lambda row: f"{row.front}-{row.protocol}-{row.name}".replace(" ", "_"))
def stack(request):
    stack = Stack(request.param)
    yield stack
    stack.judge()


@pytest.fixture
def client(stack):
    return stack.client


def test_get(client):
    environ = client.ask(target="/page?a=b").json()
    assert (environ["REQUEST_METHOD"], environ["PATH_INFO"], environ["QUERY_STRING"]) == ("GET", "/page", "a=b")
    assert environ.get("CONTENT_LENGTH", "") in ("", "0")


def test_post(client):
    answer = client.ask("echo", method="POST", body=b"name=value", fields=[("Content-Type", "text/x-form")])
    assert (answer.status, answer.body, answer.fields["x-length"]) == (200, b"name=value", "10")
    answer = client.ask("echo", method="POST", body=b"")
    assert (answer.status, answer.body) == (200, b"")


def test_upload(client):
    answer = client.ask("echo", method="POST", body=LARGE_BODY)
    assert answer.status == 200
    assert answer.body == LARGE_BODY


@pytest.mark.parametrize("how", ["file", "generator"])
def test_download(client, how):
    answer = client.ask(how)
    assert answer.status == 200
    assert answer.body == LARGE_BODY


def test_fields(client):
    sizes = [4000] * 7 + [2000]
    values = [chr(ord("a") + index) * size for index, size in enumerate(sizes)]
    fields = [(f"X-Big-{index}", value) for index, value in enumerate(values)]
    answer = client.ask("fields", fields=fields)
    assert answer.status == 200
    assert answer.body == "".join(values).encode()
    assert [answer.fields.get(f"x-back-{index}") for index in range(len(values))] == values
    # The same in one field.
    value = "z" * 30_000
    assert client.ask("echo", fields=[("X-Big", value)]).status == 200


def test_streaming(stack, client):
    heard, fields = stack.token()
    with client.request("stream", fields=fields) as response:
        pieces = response.iter_stream()
        got = b""
        while got != b"first\n":
            got += next(pieces)
        heard.touch()
        assert b"".join(pieces) == b"second\n"


def test_empty(client):
    answer = client.ask("empty")
    assert (answer.status, answer.body, answer.fields["x-empty"]) == (200, b"", "yes")
    answer = client.ask("no-content")
    assert (answer.status, answer.body, answer.fields["x-empty"]) == (204, b"", "yes")


def test_not_modified(client):
    assert client.ask("not-modified").body == b"page"
    answer = client.ask("not-modified", fields=[("If-None-Match", '"tag"')])
    assert (answer.status, answer.body, answer.fields["etag"]) == (304, b"", '"tag"')
    assert client.ask("not-modified").body == b"page"


def test_head(client):
    answer = client.ask("file", method="HEAD")
    assert (answer.status, answer.body, answer.fields["content-length"]) == (200, b"", str(LARGE))
    answer = client.ask("generator", method="HEAD")
    assert (answer.status, answer.body) == (200, b"")
    assert client.ask("not-modified").body == b"page"


def test_abort(stack, client):
    closed, fields = stack.token()
    pool = client.new_pool()
    with client.request("endless", fields=fields, pool=pool) as response:
        assert response.status == 200
        next(response.iter_stream())
        pool.close()
    wait_until("the application is told", closed.exists)
    # A client that leaves within its body.
    with socket.create_connection(stack.front.address) as leaver:
        head = f"POST / HTTP/1.1\r\nHost: {client.host}\r\nX-Case: echo\r\nContent-Length: 1000\r\n\r\n"
        leaver.sendall(head.encode() + b"half")
    assert client.ask("not-modified").body == b"page"


def status_while_sending(client, length):
    """The status that comes while a body is sent."""
    head = f"POST / HTTP/1.1\r\nHost: {client.host}\r\nX-Case: echo\r\nContent-Length: {length}\r\n\r\n"
    rest = memoryview(head.encode() + bytes(length))
    answer = b""
    with socket.create_connection(("127.0.0.1", client.port)) as sock:
        sock.setblocking(False)
        while b"\r\n" not in answer:
            readable, writable, _ = select.select([sock], [sock] if rest else [], [], 30)
            assert readable or writable, "neither an answer nor an appetite"
            if readable:
                piece = sock.recv(65536)
                assert piece, "closed without an answer"
                answer += piece
            elif writable:
                rest = rest[sock.send(rest[:65536]) :]
    return int(answer.split()[1])


def status_while_sending_http2(client, length):
    connection = h2.connection.H2Connection()
    connection.initiate_connection()
    fields = {":method": "POST", ":path": "/", ":scheme": "http", ":authority": client.host, "x-case": "echo"}
    connection.send_headers(1, [*fields.items(), ("content-length", str(length))])
    status = None
    with socket.create_connection(("127.0.0.1", client.port), timeout=60) as sock:
        while status is None:
            room = min(length, connection.local_flow_control_window(1), connection.max_outbound_frame_size)
            if room > 0:
                connection.send_data(1, bytes(room))
                length -= room
            sock.sendall(connection.data_to_send())
            if room > 0 and not select.select([sock], [], [], 0)[0]:
                continue
            piece = sock.recv(65536)
            assert piece, "closed without an answer"
            for event in connection.receive_data(piece):
                assert not isinstance(event, h2.events.StreamReset) or status, event
                if isinstance(event, h2.events.ResponseReceived):
                    status = int(dict(event.headers)[b":status"])
    return status


def test_too_large(stack, client):
    """rsgi's 413 for a body above `limit-post`, and the application's."""
    if client.http2:
        assert status_while_sending_http2(client, LIMIT + 1) == 413
    elif stack.row.note("too_large") == "e":
        assert status_while_sending(client, LIMIT + 1) == 413
    else:
        # The whole body first, then the answer, as most clients do it.
        assert client.ask("echo", method="POST", body=bytes(LIMIT + 1)).status == 413
    answer = client.ask("too-large", method="POST", body=bytes(100_000))
    assert (answer.status, answer.body, answer.fields["x-by"]) == (413, b"too much", "application")
    assert client.ask("not-modified").body == b"page"


def test_error(client):
    answer = client.ask("broken")
    assert answer.status == 500
    answer = client.ask("own-error")
    assert (answer.status, answer.body, answer.fields["x-by"]) == (500, b"my page", "application")
    assert client.ask("not-modified").body == b"page"


def test_chunked_upload(stack, client):
    for pieces in ([b"one", b"two" * 1000], [b"one", b"two" * 1000, b"three" * 100_000]):
        answer = client.ask("echo", method="POST", body=iter(pieces))
        note = stack.row.note("chunked_upload")
        if note == "c":
            assert answer.status == 411
        elif note == "d" and len(pieces) == 3:
            assert answer.status == 400
        else:
            assert (answer.status, answer.body) == (200, b"".join(pieces))
            assert answer.fields["x-length"] == str(len(answer.body))


PATHS = [
    # target, SCRIPT_NAME, PATH_INFO, QUERY_STRING
    ("/", "", "/", ""),
    ("/a%20b/100%25/c+d?x=%20+z&y", "", "/a b/100%/c+d", "x=%20+z&y"),
    ("/caf%C3%A9", "", "/caf\u00c3\u00a9", ""),
    ("/a%2Fb", "", "/a/b", ""),
    ("/x;p=1?", "", "/x;p=1", ""),
    ("/a//b/", "", "/a//b/", ""),
    ("//a", "", "//a", ""),
    ("/sub/x%20y?q", "/sub", "/x y", "q"),
    ("/sub", "/sub", "", ""),
    ("/sub/", "/sub", "/", ""),
    ("/submarine", "", "/submarine", ""),
]


@pytest.mark.parametrize("target, script_name, path_info, query", PATHS)
def test_paths(stack, client, target, script_name, path_info, query):
    environ = client.ask(target=target).json()
    note = stack.row.note("paths")
    if note == "f":
        path_info = path_info.replace("//", "/")
    elif note == "b":
        path_info = "/" + path_info.lstrip("/") if path_info else ""
    assert (environ["SCRIPT_NAME"], environ["PATH_INFO"], environ["QUERY_STRING"]) == (script_name, path_info, query)


def test_variables(stack, client):
    fields = [("X-Some-Field", "1"), ("Content-Type", "text/x-type"), ("Cookie", "a=b; c=d")]
    environ = client.ask(method="POST", body=b"12345", fields=fields, target="/v?w").json()
    assert environ["CONTENT_LENGTH"] == "5"
    assert environ["CONTENT_TYPE"] == "text/x-type"
    assert environ["HTTP_X_SOME_FIELD"] == "1"
    assert environ["HTTP_COOKIE"] == "a=b; c=d"
    assert environ["REQUEST_URI"] == "/v?w"
    assert environ["wsgi.url_scheme"] == "http"
    assert environ["HTTP_HOST"] == (HOST if stack.row.note("variables") == "a" else client.host)
    assert environ["REMOTE_ADDR"] == "127.0.0.1"


def test_lies(stack, client):
    """What a client says about itself is not believed, though the front end is."""
    lie = "192.0.2.66"
    lies = [("Forwarded", f"for={lie};proto=https;host=lie.example"), ("X-Real-IP", lie), ("X-Forwarded-For", lie)]
    lies += [("X-Forwarded-Proto", "https"), ("X-Forwarded-Host", "lie.example"), ("Proxy", "http://lie.example/")]
    lies += [("Remote-User", "root"), ("Remote_User", "root"), ("Https", "on")]
    environ = client.ask(fields=lies).json()
    assert environ["REMOTE_ADDR"] == "127.0.0.1"
    assert environ["wsgi.url_scheme"] == "http"
    assert environ.get("REMOTE_USER", "") == ""
    assert "HTTP_PROXY" not in environ
    if stack.row.note("lies") == "h":
        assert environ["HTTP_HOST"] == "lie.example"
    else:
        assert environ["HTTP_HOST"].startswith(HOST)


def test_send_file(stack, client):
    """The front end's ways to send a file that the application names: done by it, or left to who is before it."""
    small = b"a small file"
    answer = client.ask("accelerated")
    if stack.row.front == "nginx":
        assert (answer.status, answer.body, answer.fields["content-type"]) == (200, small, "text/x-small")
        assert "x-accel-redirect" not in answer.fields
    else:
        assert (answer.status, answer.fields["x-accel-redirect"]) == (200, "/internal/small")
    answer = client.ask("sent-file")
    if stack.row.note("send_file") == "g":
        assert (answer.status, answer.body, "x-sendfile" in answer.fields) == (200, b"", False)
    elif stack.row.front == "lighttpd":
        assert (answer.status, answer.body, answer.fields["content-type"]) == (200, small, "text/x-small")
    else:
        assert (answer.status, answer.fields["x-sendfile"]) == (200, str(stack.files / "small"))


class Kept:
    """One HTTP/1.1 connection, kept as long as the front end keeps it. Nothing is tried twice."""

    def __init__(self, client):
        self.client = client
        self.sock = None

    def ask(self, case, target, body):
        if self.sock is None:
            self.sock = socket.create_connection(("127.0.0.1", self.client.port), timeout=60)
            self.file = self.sock.makefile("rb")
        method = "GET" if body is None else "POST"
        length = "" if body is None else f"Content-Length: {len(body)}\r\n"
        head = f"{method} {target} HTTP/1.1\r\nHost: {self.client.host}\r\nX-Case: {case}\r\n{length}\r\n"
        self.sock.sendall(head.encode() + (body or b""))
        status = int(self.file.readline().split()[1])
        fields = http.client.parse_headers(self.file)
        answer = self.file.read(int(fields["Content-Length"]))
        if fields.get("Connection", "").lower() == "close":
            self.close()
        return status, answer

    def close(self):
        if self.sock is not None:
            self.sock.close()
            self.sock = None


class Multiplexed:
    """One HTTP/2 connection."""

    def __init__(self, client):
        self.client = client
        self.pool = client.new_pool()

    def ask(self, case, target, body):
        method = "GET" if body is None else "POST"
        answer = self.client.ask(case, method=method, target=target, body=body, pool=self.pool)
        return answer.status, answer.body

    def close(self):
        self.pool.close()


def load(client, numbers, meanwhile=lambda: None):
    """Requests on 32 connections, each answer compared with what was asked. `numbers`: of the requests of one connection."""
    failures = []

    def run(first):
        connection = Multiplexed(client) if client.http2 else Kept(client)
        try:
            for number in numbers(first):
                if number % 2:
                    status, answer = connection.ask("environ-as-json", f"/{number}", None)
                    assert status == 200 and json.loads(answer)["PATH_INFO"] == f"/{number}", answer
                else:
                    body = f"{number}.".encode() * 200
                    assert connection.ask("echo", "/", body) == (200, body)
            connection.close()
        except Exception as error:
            failures.append((first, repr(error)))

    threads = [threading.Thread(target=run, args=(first,)) for first in range(32)]
    for thread in threads:
        thread.start()
    try:
        meanwhile()
    finally:
        for thread in threads:
            thread.join()
    assert not failures


def test_load(client):
    load(client, lambda first: range(first, 2000, 32))


def test_reload(stack, client):
    """The same while all workers are replaced."""
    over = threading.Event()

    def numbers(first):
        for number in itertools.count(first):
            if over.is_set():
                return
            yield number

    def meanwhile():
        before = stack.rsgi.log().count(" retired")
        stack.rsgi.process.send_signal(signal.SIGHUP)
        try:
            wait_until("both workers are replaced", lambda: stack.rsgi.log().count(" retired") == before + 2)
        finally:
            over.set()

    load(client, numbers, meanwhile)
