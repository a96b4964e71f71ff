"""The application under load: every answer names its request, the process that made it, and the body that it got."""

import ctypes
import os
import signal
import stat
import time
import zlib

FOLDER = os.environ.get("TEST_FOLDER", ".")

if os.path.exists(os.path.join(FOLDER, "broken")):
    raise ImportError("broken on purpose")

PLAIN = [("Content-Type", "text/plain")]


def note(name, text):
    with open(os.path.join(FOLDER, name + ".new"), "w") as file:
        file.write(text)
    os.rename(file.name, os.path.join(FOLDER, name))


def open_sockets():
    """How many connections this process holds: all its sockets; the caller knows how many it has without any."""
    count = 0
    for name in os.listdir("/proc/self/fd"):
        try:
            count += stat.S_ISSOCK(os.stat(int(name)).st_mode)
        except OSError:
            pass
    return count


def application(environ, start_response):
    _, page, number = (environ["PATH_INFO"].split("/") + ["", ""])[:3]
    if page == "sockets":
        start_response("200 OK", PLAIN)
        return [b"%d %d\n" % (os.getpid(), open_sockets())]
    if page == "segv":
        note("inside", str(os.getpid()))
        # Its sockets are counted while it stands still; then it goes on, to its death.
        os.kill(os.getpid(), signal.SIGSTOP)
        ctypes.string_at(0)
    if page == "stuck":
        # In C, with the interpreter free: no exception gets there.
        note("inside", str(os.getpid()))
        ctypes.CDLL(None).sleep(60)
    body = environ["wsgi.input"].read()
    first = b"%s %d %d %d\n" % (number.encode(), os.getpid(), zlib.adler32(body), len(body))
    more = int(environ["QUERY_STRING"].partition("=")[2] or 0)
    line = b"%015d\n" % int(number or 0)
    if page == "slow":
        start_response("200 OK", PLAIN)
        return slowly(first, line, more // 16)
    if page == "nap":
        time.sleep(0.01)
    rest = line * (more // 16)
    start_response("200 OK", PLAIN + [("Content-Length", str(len(first) + len(rest)))])
    return [first, rest] if rest else [first]


def slowly(first, line, count):
    yield first
    for _ in range(count):
        time.sleep(0.002)
        yield line
