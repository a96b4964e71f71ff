"""rsgi behind every front end and protocol of the table in configs/README.md, which is checked here.

One front end and one rsgi serve all cases of a row. At the end of a row both are stopped and their logs judged."""

import json
import os
import shutil
import socket
import threading

import httpcore
import pytest

from frontends import HOST, KINDS, ROWS, rsgi_for
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
        timeout = dict.fromkeys(("connect", "read", "write", "pool"), 30)
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
        self.rsgi, upstream = rsgi_for(row, folder=self.folder, lines=LINES, allowed=())
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
        if not os.environ.get("KEEP"):
            shutil.rmtree(self.folder)


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


def test_too_large(client):
    """rsgi's 413 for a body above `limit-post`, and the application's."""
    answer = client.ask("echo", method="POST", body=bytes(LIMIT + 1))
    assert answer.status == 413
    answer = client.ask("too-large", method="POST", body=bytes(100_000))
    assert (answer.status, answer.body, answer.fields["x-by"]) == (413, b"too much", "application")
    assert client.ask("not-modified").body == b"page"


def test_error(client):
    answer = client.ask("broken")
    assert answer.status == 500
    answer = client.ask("own-error")
    assert (answer.status, answer.body, answer.fields["x-by"]) == (500, b"my page", "application")
    assert client.ask("not-modified").body == b"page"


def test_chunked_upload(client):
    pieces = [b"one", b"two" * 1000, b"three" * 100_000]
    answer = client.ask("echo", method="POST", body=iter(pieces))
    assert answer.status == 200
    assert answer.body == b"".join(pieces)


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
def test_paths(client, target, script_name, path_info, query):
    environ = client.ask(target=target).json()
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
    assert environ["HTTP_HOST"] == client.host
    assert environ["REMOTE_ADDR"] == "127.0.0.1"


@pytest.mark.parametrize("name, value, target", [("accelerated", "x-accel-redirect", "/internal/small"), ("sent-file", "x-sendfile", None)])
def test_send_file(stack, client, name, value, target):
    answer = client.ask(name)
    assert answer.status == 200
    assert answer.body == b"a small file" or answer.fields[value] == (target or str(stack.files / "small"))


def test_load(client):
    """2,000 requests on 32 connections."""
    failures = []

    def run(worker):
        pool = client.new_pool()
        for index in range(worker, 2000, 32):
            try:
                if index % 2:
                    environ = client.ask(target=f"/{index}", pool=pool).json()
                    assert environ["PATH_INFO"] == f"/{index}"
                else:
                    body = f"{index}.".encode() * 200
                    answer = client.ask("echo", method="POST", body=body, pool=pool)
                    assert (answer.status, answer.body) == (200, body)
            except Exception as error:
                failures.append((index, repr(error)))
        pool.close()

    threads = [threading.Thread(target=run, args=(worker,)) for worker in range(32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
