"""Requests that take too long, each in its own way. `deeper` is the innermost function that a stack shows."""

import ctypes
import os
import socket
import threading
import time

FOLDER = os.environ.get("TEST_FOLDER", ".")
PLAIN = [("Content-Type", "text/plain")]
LOCK = threading.Lock()
LOCK.acquire()
KEEPS = ctypes.PyDLL(None)  # its functions keep the interpreter


def note(name, text):
    with open(os.path.join(FOLDER, name), "a") as file:
        file.write(text + "\n")


def entered():
    note("entered", str(os.getpid()))


def deeper():
    while True:
        pass


def loop(environ, start_response):
    entered()
    deeper()


def stubborn(environ, start_response):
    """Goes on after ordinary exceptions."""
    while True:
        try:
            deeper()
        except Exception:
            pass


def cleanup(environ, start_response):
    try:
        deeper()
    finally:
        note("cleaned", "up")


def sleep(environ, start_response):
    entered()
    time.sleep(600)


def lock(environ, start_response):
    entered()
    LOCK.acquire()


def receive(environ, start_response):
    here, there = socket.socketpair()
    entered()
    here.recv(1)


def keep(environ, start_response):
    entered()
    KEEPS.sleep(600)


def doze(environ, start_response):
    """Python code between short calls that wait."""
    while True:
        time.sleep(0.01)


def stream(environ, start_response):
    start_response("200 OK", PLAIN)
    yield b"begun"
    deeper()


def closed_by(close, body, start_response):
    class Result:
        def __iter__(self):
            return iter([body])

    Result.close = staticmethod(close)
    start_response("200 OK", PLAIN + [("Content-Length", str(len(body)))])
    return Result()


def closing(environ, start_response):
    """/closing/HOW?bytes: the whole body, and then a close() that takes too long: by Python code, or in a call that waits."""
    how = {"sleep": lambda: time.sleep(600)}.get(environ["PATH_INFO"].split("/")[-1], deeper)
    return closed_by(how, b"x" * int(environ["QUERY_STRING"] or 5), start_response)


def closing_with_own_limit(environ, start_response):
    import rsgi

    def close():
        rsgi.set_user_harakiri(0.3)
        deeper()

    return closed_by(close, b"whole", start_response)


def flood(environ, start_response):
    """More than a client takes that does not read."""
    start_response("200 OK", PLAIN)
    while True:
        yield b"x" * 65536


def body(environ, start_response):
    text = str(len(environ["wsgi.input"].read())).encode()
    start_response("200 OK", PLAIN)
    return [text]


def edge(environ, start_response):
    """/edge?seconds: ends about when its time is over."""
    end = time.monotonic() + float(environ["QUERY_STRING"])
    while time.monotonic() < end:
        pass
    start_response("200 OK", PLAIN)
    return [b"in time"]


def own_limit(environ, start_response):
    """/own_limit?seconds"""
    import rsgi

    rsgi.set_user_harakiri(float(environ["QUERY_STRING"]))
    deeper()


def own_limit_taken_back(environ, start_response):
    import rsgi

    rsgi.set_user_harakiri(0.9)
    rsgi.set_user_harakiri(0)
    environ["QUERY_STRING"] = "1.1"
    return edge(environ, start_response)


def own_limit_kept(environ, start_response):
    import rsgi

    rsgi.set_user_harakiri(0.9)
    environ["QUERY_STRING"] = "0"
    return edge(environ, start_response)


def own_limit_late(environ, start_response):
    import rsgi

    start_response("200 OK", PLAIN)
    yield b"begun"
    rsgi.set_user_harakiri(0.3)
    deeper()


def own_limit_sleep(environ, start_response):
    import rsgi

    rsgi.set_user_harakiri(0.3)
    time.sleep(600)


def next_one(environ, start_response):
    """Python code enough for an exception that was left over to hit it."""
    text = str(sum(len(str(n)) for n in range(300))).encode()
    start_response("200 OK", PLAIN)
    return [text]


def wait(environ, start_response):
    """/wait/NAME: inside the application until the file NAME.go is there."""
    name = environ["PATH_INFO"].split("/")[2]
    with open(os.path.join(FOLDER, name + ".in"), "w") as file:
        file.write(str(os.getpid()))
    while not os.path.exists(os.path.join(FOLDER, name + ".go")):
        time.sleep(0.005)
    return pid(environ, start_response)


def pid(environ, start_response):
    start_response("200 OK", PLAIN)
    return [str(os.getpid()).encode()]


def application(environ, start_response):
    page = environ["PATH_INFO"].split("/")[1]
    return globals()[page or "pid"](environ, start_response)
