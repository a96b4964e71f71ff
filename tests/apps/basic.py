"""The application of most tests: the first segment of the path chooses what it does.

It reaches the test through files in TEST_FOLDER: a request to /wait/NAME writes NAME.in and goes on
when NAME.go is there.
"""

import hashlib
import json
import os
import signal
import sys
import threading
import time

FOLDER = os.environ.get("TEST_FOLDER", ".")


def path_of(name):
    return os.path.join(FOLDER, name)


def environ_page(environ):
    shown = {}
    for key, value in environ.items():
        if isinstance(value, (str, bool, int)):
            shown[key] = value
        elif isinstance(value, tuple):
            shown[key] = list(value)
        else:
            shown[key] = type(value).__name__
    return json.dumps(shown, sort_keys=True).encode()


def echo(environ):
    return environ["wsgi.input"].read()


def digest(environ):
    stream = environ["wsgi.input"]
    total, sha = 0, hashlib.sha256()
    while piece := stream.read(65536):
        total += len(piece)
        sha.update(piece)
    return f"{total} {sha.hexdigest()}".encode()


def wait(environ):
    name = environ["PATH_INFO"].split("/")[2]
    with open(path_of(name + ".in"), "w") as file:
        file.write(str(os.getpid()))
    while not os.path.exists(path_of(name + ".go")):
        time.sleep(0.005)
    return str(os.getpid()).encode()


def die(environ):
    os.kill(os.getpid(), getattr(signal, environ["QUERY_STRING"] or "SIGKILL"))
    time.sleep(60)


def process(environ):
    return json.dumps(
        {
            "pid": os.getpid(),
            "ppid": os.getppid(),
            "uid": os.getuid(),
            "euid": os.geteuid(),
            "gid": os.getgid(),
            "groups": os.getgroups(),
            "cwd": os.getcwd(),
            "umask": os.popen("umask").read().strip(),
            "thread": threading.get_ident(),
            "main": threading.current_thread() is threading.main_thread(),
            "argv": sys.argv,
            "path": sys.path,
            "prefix": sys.prefix,
            "encoding": sys.getfilesystemencoding(),
            "environment": dict(os.environ),
        }
    ).encode()


def log(environ):
    environ["wsgi.errors"].write("from wsgi.errors: " + environ["QUERY_STRING"] + "\n")
    print("from print: " + environ["QUERY_STRING"])
    sys.stderr.write("from stderr: " + environ["QUERY_STRING"] + "\n")
    return b"logged"


COUNTER = {"requests": 0}


def count(environ):
    COUNTER["requests"] += 1
    return f"{os.getpid()} {COUNTER['requests']}".encode()


PAGES = {
    "": lambda environ: b"ready",
    "environ": environ_page,
    "echo": echo,
    "digest": digest,
    "wait": wait,
    "die": die,
    "process": process,
    "log": log,
    "count": count,
    "pid": lambda environ: str(os.getpid()).encode(),
    "big": lambda environ: b"x" * int(environ["QUERY_STRING"]),
}


def application(environ, start_response):
    page = PAGES.get(environ.get("PATH_INFO", "").split("/", 2)[1] if "/" in environ.get("PATH_INFO", "") else "")
    if page is None:
        start_response("404 Not Found", [("Content-Type", "text/plain")])
        return [b"no such page"]
    body = page(environ)
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]
