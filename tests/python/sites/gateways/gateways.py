"""What the tests of front ends ask for. The field X-Case chooses, since the path belongs to the tests of paths."""

import json
import os
import time
from pathlib import Path

FOLDER = Path(os.environ["GATEWAYS"])
PIECE = 16 * 1024


def environ_as_json(environ, respond):
    """The variables of the request, as the application sees them."""
    texts = {name: value for name, value in environ.items() if isinstance(value, str)}
    body = json.dumps(texts).encode()
    respond("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    return [body]


def echo(environ, respond):
    body = environ["wsgi.input"].read()
    headers = [("Content-Type", "application/octet-stream"), ("Content-Length", str(len(body)))]
    respond("200 OK", headers + [("X-Length", environ.get("CONTENT_LENGTH", "none"))])
    return [body]


def pieces_of(path):
    with open(path, "rb") as file:
        while piece := file.read(PIECE):
            yield piece


def file(environ, respond):
    """By sendfile, with a length."""
    path = FOLDER / "large"
    respond("200 OK", [("Content-Type", "application/octet-stream"), ("Content-Length", str(path.stat().st_size))])
    return environ["wsgi.file_wrapper"](open(path, "rb"))


def generator(environ, respond):
    """By a generator, without a length."""
    respond("200 OK", [("Content-Type", "application/octet-stream")])
    return pieces_of(FOLDER / "large")


def fields(environ, respond):
    """As many bytes of fields back as came."""
    names = sorted(name for name in environ if name.startswith("HTTP_X_BIG_"))
    body = "".join(environ[name] for name in names).encode()
    big = [(f"X-Back-{name[11:].title()}", environ[name]) for name in names]
    respond("200 OK", [("Content-Length", str(len(body))), *big])
    return [body]


def stream(environ, respond):
    """The second piece comes only when the client says that it has the first."""
    heard = FOLDER / environ["HTTP_X_TOKEN"]
    respond("200 OK", [("Content-Type", "text/plain"), ("X-Accel-Buffering", "no")])
    yield b"first\n"
    end = time.monotonic() + 20
    while not heard.exists():
        if time.monotonic() > end:
            yield b"nobody heard the first\n"
            return
        time.sleep(0.005)
    yield b"second\n"


def endless(environ, respond):
    """Until the client leaves; `close` then says so."""
    closed = FOLDER / environ["HTTP_X_TOKEN"]
    respond("200 OK", [("Content-Type", "text/plain"), ("X-Accel-Buffering", "no")])
    end = time.monotonic() + 60
    try:
        while time.monotonic() < end:
            yield bytes(PIECE)
    except GeneratorExit:
        closed.touch()
        raise


def empty(environ, respond):
    respond("200 OK", [("Content-Length", "0"), ("X-Empty", "yes")])
    return []


def no_content(environ, respond):
    respond("204 No Content", [("X-Empty", "yes")])
    return []


def not_modified(environ, respond):
    tag = '"tag"'
    if environ.get("HTTP_IF_NONE_MATCH") == tag:
        respond("304 Not Modified", [("ETag", tag)])
        return []
    respond("200 OK", [("ETag", tag), ("Content-Length", "4")])
    return [b"page"]


def too_large(environ, respond):
    """The application's own 413, the body not read."""
    respond("413 Content Too Large", [("Content-Length", "8"), ("X-By", "application")])
    return [b"too much"]


def broken(environ, respond):
    raise RuntimeError("asked for")


def own_error(environ, respond):
    respond("500 Internal Server Error", [("Content-Length", "7"), ("X-By", "application")])
    return [b"my page"]


def accelerated(environ, respond):
    """Asks nginx for a file."""
    respond("200 OK", [("X-Accel-Redirect", "/internal/small"), ("Content-Type", "text/x-small")])
    return [b""]


def sent_file(environ, respond):
    """Asks lighttpd for a file."""
    respond("200 OK", [("X-Sendfile", str(FOLDER / "small")), ("Content-Type", "text/x-small")])
    return [b""]


CASES = {
    name.replace("_", "-"): function
    for name, function in list(globals().items())
    if callable(function) and getattr(function, "__module__", None) == __name__
}


def application(environ, respond):
    case = environ.get("HTTP_X_CASE", "environ-as-json")
    return CASES[case](environ, respond)


def mounted(environ, respond):
    environ["gateways.mounted"] = "yes"
    return environ_as_json(environ, respond)
