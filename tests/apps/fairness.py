"""Pages that show who runs what, where and when: for tests of sharing between workers and threads.

What a page does for long, it does until the test says so: through files in TEST_FOLDER, named pipes, or events that
another request sets.
"""

import contextvars
import ctypes
import json
import os
import threading
import time

FOLDER = os.environ.get("TEST_FOLDER", ".")
PLAIN = [("Content-Type", "text/plain")]


def path_of(name):
    return os.path.join(FOLDER, name)


def note(file, text):
    """Appends a line in one write: many processes do this at once."""
    handle = os.open(path_of(file), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(handle, (text + "\n").encode())
    finally:
        os.close(handle)


note("imported", str(os.getpid()))


def answer(start_response, text):
    body = text.encode()
    start_response("200 OK", PLAIN + [("Content-Length", str(len(body)))])
    return [body]


# --- who serves


def pid(environ, start_response, words):
    return answer(start_response, str(os.getpid()))


def served(environ, start_response, words):
    """/served/NAME?seconds: leaves NAME in the file `served`."""
    note("served", words[0])
    if environ["QUERY_STRING"]:
        time.sleep(float(environ["QUERY_STRING"]))
    return answer(start_response, words[0])


def wait(environ, start_response, words):
    """/wait/NAME: inside the application until the file NAME.go is there."""
    with open(path_of(words[0] + ".in"), "w") as file:
        file.write(str(os.getpid()))
    while not os.path.exists(path_of(words[0] + ".go")):
        time.sleep(0.005)
    return answer(start_response, str(os.getpid()))


def spin(environ, start_response, words):
    """As /wait, but it never lets the interpreter go by itself."""
    with open(path_of(words[0] + ".in"), "w") as file:
        file.write(str(os.getpid()))
    while not os.path.exists(path_of(words[0] + ".go")):
        for _ in range(10000):
            pass
    return answer(start_response, str(os.getpid()))


# --- one request at a time in a thread


class Turn(threading.local):
    owner = None


TURN = Turn()


class Pieces:
    """A large response that complains when another request runs in this thread between call and close."""

    def __init__(self, name, count, size):
        self.name, self.left, self.piece = name, count, name[:1].encode() * size
        if TURN.owner is not None:
            note("violations", f"{name} began while {TURN.owner} was not closed")
        TURN.owner = name

    def __iter__(self):
        return self

    def __next__(self):
        if TURN.owner != self.name:
            note("violations", f"{self.name} goes on while {TURN.owner} owns the thread")
        if self.left == 0:
            raise StopIteration
        self.left -= 1
        return self.piece

    def close(self):
        if TURN.owner != self.name:
            note("violations", f"{self.name} is closed while {TURN.owner} owns the thread")
        TURN.owner = None


def pieces(environ, start_response, words):
    """/pieces/NAME/COUNT/SIZE"""
    result = Pieces(words[0], int(words[1]), int(words[2]))
    start_response("200 OK", PLAIN)
    return result


# --- what belongs to a thread

LOCAL = threading.local()
IMPORTED = contextvars.ContextVar("imported", default="nowhere")
IMPORTED.set("at import")
COUNT = contextvars.ContextVar("count", default=0)
BARRIER = threading.Barrier(4)


def mine(environ, start_response, words):
    """/mine: counts the requests of this thread in both ways. ?together: with three others."""
    if environ["QUERY_STRING"] == "together":
        BARRIER.wait(15)
    LOCAL.count = getattr(LOCAL, "count", 0) + 1
    COUNT.set(COUNT.get() + 1)
    seen = {"thread": threading.get_ident(), "local": LOCAL.count, "context": COUNT.get(), "import": IMPORTED.get()}
    return answer(start_response, json.dumps(seen))


# --- streams

EVENTS = {}
SELF = ctypes.PyDLL(None)  # its functions keep the interpreter


def event(name):
    return EVENTS.setdefault(name, threading.Event())


def block_on_event(name):
    event(name).wait(15)


def block_on_file(name):
    while not os.path.exists(path_of(name)):
        time.sleep(0.005)


def block_in_c(name):
    """Opens a named pipe and so waits for its writer, the interpreter in its hands."""
    handle = SELF.open(path_of(name).encode(), os.O_RDONLY)
    if handle < 0:
        raise OSError("the pipe cannot be opened")
    os.close(handle)


BLOCKS = {"event": block_on_event, "file": block_on_file, "c": block_in_c}


def chunk(number):
    return b"chunk %d\n" % number


def stream(environ, start_response, words):
    """/stream/HOW/NAME?kind: three chunks; after each it blocks until the test knows the chunk."""
    how, name = BLOCKS[words[0]], words[1]
    kind = environ["QUERY_STRING"]
    headers = PLAIN + ([("Content-Length", str(3 * len(chunk(0))))] if kind == "length" else [])
    write = start_response("200 OK", headers)

    if kind == "write":
        for number in range(3):
            write(chunk(number))
            how(f"{name}.{number}")
        return []

    def chunks():
        for number in range(3):
            yield chunk(number)
            how(f"{name}.{number}")

    return chunks()


def set_event(environ, start_response, words):
    event(words[0]).set()
    return answer(start_response, "set")


# --- background threads


def ticking():
    while True:
        note("ticks", "tick")
        time.sleep(0.001)


def background(environ, start_response, words):
    threading.Thread(target=ticking, daemon=True).start()
    return answer(start_response, "started")


PAGES = {
    "": pid,
    "pid": pid,
    "served": served,
    "wait": wait,
    "spin": spin,
    "pieces": pieces,
    "mine": mine,
    "stream": stream,
    "set": set_event,
    "background": background,
}


def application(environ, start_response):
    # uWSGI has none over FastCGI, unless the web server names it.
    first, *words = environ.get("PATH_INFO", "")[1:].split("/")
    return PAGES[first](environ, start_response, words)
