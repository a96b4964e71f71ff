"""Pages that read the request body in every way that a file can be read."""

import json

PAGES = {
    "read": lambda stream: [stream.read()],
    "read-sizes": lambda stream: [stream.read(3), stream.read(0), stream.read(4), stream.read(-1), stream.read(), stream.read(5)],
    "read-huge": lambda stream: [stream.read(1 << 40), stream.read(1)],
    "read-none": lambda stream: [stream.read(None)],
    "readline": lambda stream: [stream.readline(), stream.readline(), stream.readline(), stream.readline(), stream.readline()],
    "readline-size": lambda stream: [stream.readline(2), stream.readline(100), stream.readline(0), stream.readline(-1), stream.readline()],
    "readlines": lambda stream: stream.readlines(),
    "readlines-hint": lambda stream: stream.readlines(4) + [b"|"] + stream.readlines(),
    "iterate": lambda stream: list(stream),
    "mixed": lambda stream: [stream.readline(), stream.read(2), next(iter(stream)), stream.read()],
    "again": lambda stream: [stream.read(), stream.read(), stream.readline(), *stream],
    "seek": lambda stream: [stream.read(4), str(stream.tell()).encode(), str(stream.seek(1)).encode(), stream.read(3), str(stream.seek(-2, 2)).encode(), stream.read()],
    "nothing": lambda stream: [],
}


def application(environ, start_response):
    page = PAGES.get(environ["PATH_INFO"].strip("/"))
    pieces = page(environ["wsgi.input"]) if page else []
    body = json.dumps([piece.decode("latin-1") for piece in pieces]).encode()
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    return [body]
