"""Pages that take and give bodies of any size, and files of every kind.

Content is that of `pattern`: 251 bytes short of a MiB, over and over, so that no block is like the one before.
"""

import gzip
import io
import os
import tempfile

FOLDER = os.environ.get("TEST_FOLDER", ".")
PLAIN = [("Content-Type", "application/octet-stream")]
BLOCK = 65536


def pattern():
    """One period."""
    return bytes((n * 7 + (n >> 8) * 13) & 255 for n in range((1 << 20) - 251))


PATTERN = pattern()
TWICE = memoryview(PATTERN + PATTERN)


def pieces(size, block=BLOCK):
    at = 0
    while at < size:
        start = at % len(PATTERN)
        piece = bytes(TWICE[start:start + min(block, size - at)])
        yield piece
        at += len(piece)


def path_of(name):
    return os.path.join(FOLDER, name)


def make_file(name, size):
    path = path_of(name)
    with open(path + ".new", "wb") as file:
        for piece in pieces(size):
            file.write(piece)
    os.replace(path + ".new", path)
    return path


def size_of(environ):
    return int(environ["QUERY_STRING"] or 0)


def page_up(environ, start_response):
    """Reads the body block by block; tells its length, and whether it is the pattern."""
    stream = environ["wsgi.input"]
    total, same = 0, True
    while piece := stream.read(BLOCK):
        start = total % len(PATTERN)
        same = same and TWICE[start:start + len(piece)] == piece
        total += len(piece)
    start_response("200 OK", PLAIN)
    return [f"{total} {'same' if same else 'different'}".encode()]


def page_prepare(environ, start_response):
    """Makes what the pages below only hand over."""
    size = size_of(environ)
    make_file("large-%d" % size, size)
    LIST[size] = list(pieces(size, len(PATTERN)))
    start_response("200 OK", PLAIN)
    return [b"made"]


def page_unread(environ, start_response):
    start_response("200 OK", PLAIN)
    return [b"not read"]


def page_generator(environ, start_response):
    start_response("200 OK", PLAIN)
    return pieces(size_of(environ))


def page_small_pieces(environ, start_response):
    start_response("200 OK", PLAIN)
    return pieces(size_of(environ), 1000)


def page_wrapper(environ, start_response):
    start_response("200 OK", PLAIN)
    return environ["wsgi.file_wrapper"](open(path_of("large-%d" % size_of(environ)), "rb"))


LIST = {}


def page_list(environ, start_response):
    """One large list, whose objects are there already."""
    start_response("200 OK", PLAIN)
    return LIST[size_of(environ)]


def page_one(environ, start_response):
    """One object."""
    start_response("200 OK", PLAIN)
    return [b"".join(pieces(size_of(environ)))]


# Files. Each has 200,000 bytes of pattern unless its page says otherwise.

SIZE = 200_000


def the_file(size=SIZE):
    path = path_of("file-%d" % size)
    if not os.path.exists(path):
        make_file(os.path.basename(path), size)
    return path


def at(file, position):
    file.seek(position)
    return file


class Upper(io.FileIO):
    """A file that gives something else than its bytes."""

    def read(self, size=-1):
        return b"overridden" if super().read(size) else b""


class Raw(io.RawIOBase):
    """A raw stream of our own below a buffer of Python's."""

    def __init__(self):
        self.left = [b"one ", b"two"]

    def readable(self):
        return True

    def fileno(self):
        return 0

    def readinto(self, buffer):
        piece = self.left.pop(0) if self.left else b""
        buffer[: len(piece)] = piece
        return len(piece)


def patched():
    file = open(the_file(), "rb")
    left = [b"patched ", b"read", b""]
    file.read = lambda size=-1: left.pop(0)
    return file


def written():
    """A file whose last bytes are still in Python's buffer."""
    file = open(path_of("written"), "w+b")
    file.write(b"".join(pieces(SIZE)))
    return at(file, SIZE - 70_000)


def a_pipe():
    reader, writer = os.pipe()
    os.write(writer, b"through a pipe")
    os.close(writer)
    return open(reader, "rb")


def spooled(size):
    file = tempfile.SpooledTemporaryFile(1000)
    for piece in pieces(size):
        file.write(piece)
    return at(file, 0)


def gzipped():
    path = path_of("packed")
    with gzip.open(path, "wb", 1) as file:
        for piece in pieces(SIZE):
            file.write(piece)
    return gzip.open(path, "rb")


def half_read():
    file = open(the_file(), "rb")
    file.read(10)
    file.peek(1)
    return file


FILES = {
    "plain": lambda: open(the_file(), "rb"),
    "raw": lambda: open(the_file(), "rb", 0),
    "random": lambda: open(the_file(), "r+b"),
    "offset": lambda: at(open(the_file(), "rb"), 100_000),
    "offset-raw": lambda: at(open(the_file(), "rb", 0), 100_000),
    "half-read": half_read,
    "behind": lambda: at(open(the_file(), "rb"), SIZE + 5),
    "append": lambda: open(the_file(), "a+b"),
    "append-begin": lambda: at(open(the_file(), "a+b"), 0),
    "written": written,
    "small": lambda: open(the_file(10), "rb"),
    "empty": lambda: open(the_file(0), "rb"),
    "proc": lambda: open("/proc/self/status", "rb"),
    "bytesio": lambda: io.BytesIO(b"".join(pieces(SIZE))),
    "spooled-small": lambda: spooled(10),
    "spooled": lambda: spooled(SIZE),
    "temporary": lambda: at(tempfile.NamedTemporaryFile(), 0),
    "gzip": gzipped,
    "subclass": lambda: Upper(the_file(), "rb"),
    "raw-of-ours": lambda: io.BufferedReader(Raw()),
    "patched": patched,
    "pipe": a_pipe,
    "text": lambda: open(the_file(10), encoding="latin-1"),
    "write-only": lambda: open(path_of("write-only"), "wb"),
    "closed": lambda: (lambda file: (file.close(), file)[1])(open(the_file(), "rb")),
}


def page_file(environ, start_response):
    """/file/KIND?CONTENT-LENGTH"""
    file = FILES[environ["PATH_INFO"].split("/")[2]]()
    length = environ["QUERY_STRING"]
    start_response("200 OK", PLAIN + ([("Content-Length", length)] if length else []))
    return environ["wsgi.file_wrapper"](file)


def page_after_write(environ, start_response):
    write = start_response("200 OK", PLAIN)
    write(b"written, then ")
    return environ["wsgi.file_wrapper"](open(the_file(), "rb"))


def page_shrinking(environ, start_response):
    """A file that is cut off once the first bytes are on their way."""
    path = make_file("shrinking", size_of(environ))
    file = open(path, "rb")
    start_response("200 OK", PLAIN)
    return environ["wsgi.file_wrapper"](file)


def page_shrink(environ, start_response):
    os.truncate(path_of("shrinking"), 1000)
    start_response("200 OK", PLAIN)
    return [b"cut off"]


def application(environ, start_response):
    name = environ.get("PATH_INFO", "/").strip("/").split("/")[0].replace("-", "_")
    page = globals().get("page_" + name)
    if page is None:
        start_response("200 OK", PLAIN)
        return [b"ready"]
    return page(environ, start_response)
