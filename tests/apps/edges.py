"""Applications that answer before they read, pause in the middle, or keep what is the server's."""

import os
import time

FOLDER = os.environ.get("TEST_FOLDER", ".")
PLAIN = [("Content-Type", "text/plain")]
PIECE = b"p" * 65536
KEPT = []
MADE = [0]


def paused(environ, start_response):
    """A large piece, then nothing more until the test has it. QUERY_STRING: its size, and `length` to state one."""
    size, _, how = environ["QUERY_STRING"].partition(",")
    size = int(size)
    start_response("200 OK", PLAIN + ([("Content-Length", str(size + 3))] if how == "length" else []))

    def pieces():
        # Longer than a worker lets a request have its connections unattended.
        time.sleep(0.05)
        yield b"z" * size
        while not os.path.exists(os.path.join(FOLDER, "go")):
            time.sleep(0.005)
        yield b"end"

    return pieces()


def pieces(environ, start_response):
    """QUERY_STRING pieces with a Content-Length that tells."""
    count = int(environ["QUERY_STRING"])
    start_response("200 OK", PLAIN + [("Content-Length", str(count * len(PIECE)))])

    def each():
        for _ in range(count):
            MADE[0] += 1
            yield PIECE

    return each()


def late(environ, start_response):
    """Reads its body when its response has begun."""
    start_response("200 OK", PLAIN)

    def each():
        yield b"begin "
        yield environ["wsgi.input"].read()
        yield b" end"

    return each()


def breaks(environ, start_response):
    """Begins a response, and fails when the test says so."""
    start_response("200 OK", PLAIN)

    def each():
        yield b"begun"
        while not os.path.exists(os.path.join(FOLDER, "go")):
            time.sleep(0.005)
        raise RuntimeError("broken off")

    return each()


def keep(environ, start_response):
    KEPT.append(environ["wsgi.input"])
    body = environ["wsgi.input"].read()
    start_response("200 OK", PLAIN)
    return [body]


def text(words):
    def page(environ, start_response):
        start_response("200 OK", PLAIN)
        return [words().encode()]

    return page


PAGES = {
    "/": text(lambda: "ready"),
    "/pid": text(lambda: str(os.getpid())),
    "/made": text(lambda: str(MADE[0])),
    "/paused": paused,
    "/pieces": pieces,
    "/late": late,
    "/breaks": breaks,
    "/keep": keep,
}


def application(environ, start_response):
    return PAGES[environ["PATH_INFO"]](environ, start_response)
