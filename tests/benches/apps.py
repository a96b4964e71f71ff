"""The applications that are measured. All of them do next to nothing: what remains is the server."""

import os
import time

PLAIN = ("Content-Type", "text/plain")
HELLO = b"Hello, world\n"
TEN = b"x" * 10240
HUNDRED = b"x" * 102400
CHUNK = b"x" * 1024
MANY = [(f"X-Header-{n}", f"value number {n}") for n in range(18)]


def hello(environ, start_response):
    start_response("200 OK", [PLAIN, ("Content-Length", "13")])
    return [HELLO]


def headers20(environ, start_response):
    start_response("200 OK", [PLAIN, ("Content-Length", "13")] + MANY)
    return [HELLO]


def ten(environ, start_response):
    start_response("200 OK", [PLAIN, ("Content-Length", "10240")])
    return [TEN]


def hundred(environ, start_response):
    start_response("200 OK", [PLAIN, ("Content-Length", "102400")])
    return [HUNDRED]


def stream(environ, start_response):
    start_response("200 OK", [PLAIN])
    return (CHUNK for _ in range(100))


def post(environ, start_response):
    body = environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))
    start_response("200 OK", [PLAIN, ("Content-Length", str(len(body)))])
    return [body]


def sleep10(environ, start_response):
    time.sleep(0.01)
    return hello(environ, start_response)


def pid(environ, start_response):
    body = str(os.getpid()).encode()
    start_response("200 OK", [PLAIN, ("Content-Length", str(len(body)))])
    return [body]


def large(environ, start_response):
    start_response("200 OK", [PLAIN, ("Content-Length", "1024000")])
    return [HUNDRED] * 10


def pieces(environ, start_response):
    start_response("200 OK", [PLAIN])
    return (HUNDRED for _ in range(10))


def slow(environ, start_response):
    time.sleep(0.05)
    return hello(environ, start_response)


PATHS = {"/pid": pid, "/slow": slow, "/large": large, "/pieces": pieces, "/post": post}


def paths(environ, start_response):
    """For what needs more than one kind of page at a time."""
    return PATHS.get(environ["PATH_INFO"], hello)(environ, start_response)
