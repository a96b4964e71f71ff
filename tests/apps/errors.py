"""Applications that write to wsgi.errors."""

import threading

PLAIN = [("Content-Type", "text/plain")]


def write(errors):
    errors.write("one line\ntwo ")
    errors.write("lines\n")
    print("printed \u20ac", file=errors)
    errors.writelines(["lines\n", "of writelines\n"])
    errors.flush()
    errors.write("the end\n")


def late(errors):
    def wait():
        SERVED.wait()
        errors.write("written too late\n")

    threading.Thread(target=wait).start()


def fail(errors):
    raise ValueError("on purpose")


SERVED = threading.Event()
PAGES = {"/write": write, "/late": late, "/raise": fail}


def application(environ, start_response):
    path = environ.get("PATH_INFO")
    if path == "/release":
        SERVED.set()
    PAGES.get(path, lambda errors: None)(environ["wsgi.errors"])
    start_response("200 OK", PLAIN)
    return [b"written"]
