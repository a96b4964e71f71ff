"""One page for each way in which an application can answer, and for each in which it can fail."""

import io
import os
import sys

FOLDER = os.environ.get("TEST_FOLDER", ".")
PLAIN = [("Content-Type", "text/plain")]


def note(text):
    """Leaves a line for the test."""
    with open(os.path.join(FOLDER, "notes"), "a") as file:
        file.write(text + "\n")


class Result:
    """An iterable that tells when it is closed, and fails where it is told to."""

    def __init__(self, items, name, fail_at=None, fail_in_close=False):
        self.items, self.name = list(items), name
        self.fail_at, self.fail_in_close = fail_at, fail_in_close

    def __iter__(self):
        for number, item in enumerate(self.items):
            if number == self.fail_at:
                raise ValueError("on purpose, while iterating")
            yield item
        if self.fail_at == len(self.items):
            raise ValueError("on purpose, at the end")

    def close(self):
        note("closed " + self.name)
        if self.fail_in_close:
            raise ValueError("on purpose, in close")


def page_one(environ, start_response):
    start_response("200 OK", PLAIN)
    return [b"one item"]


def page_list(environ, start_response):
    start_response("200 OK", PLAIN)
    return [b"one, ", b"two, ", b"", b"three"]


def page_empty_list(environ, start_response):
    start_response("200 OK", PLAIN)
    return []


def page_empty_strings(environ, start_response):
    start_response("200 OK", PLAIN)
    return [b"", b""]


def page_bytes(environ, start_response):
    start_response("200 OK", PLAIN)
    return b"bytes, returned as they are"


def page_tuple(environ, start_response):
    start_response("200 OK", PLAIN)
    return (b"a ", b"tuple")


def page_generator(environ, start_response):
    start_response("200 OK", PLAIN)
    yield b"first "
    yield b""
    yield b"second "
    yield b"third"


def page_late_start(environ, start_response):
    yield b""
    start_response("200 OK", PLAIN)
    yield b"late"


def page_generator_length(environ, start_response):
    start_response("200 OK", PLAIN + [("Content-Length", "10")])
    yield b"01234"
    yield b"56789"


def page_write(environ, start_response):
    write = start_response("200 OK", PLAIN)
    write(b"written, ")
    write(b"")
    write(b"written again, ")
    return [b"returned"]


def page_write_only(environ, start_response):
    write = start_response("200 OK", PLAIN)
    write(b"only written")
    return []


def page_bytesio(environ, start_response):
    start_response("200 OK", PLAIN)
    return io.BytesIO(b"line one\nline two\n")


def a_file():
    path = os.path.join(FOLDER, "served")
    with open(path, "wb") as file:
        file.write(b"".join(b"%06d\n" % n for n in range(20000)))
    return open(path, "rb")


def page_open_file(environ, start_response):
    start_response("200 OK", PLAIN)
    return a_file()


def page_wrapper(environ, start_response):
    start_response("200 OK", PLAIN)
    return environ["wsgi.file_wrapper"](a_file(), 1000)


def page_wrapper_offset(environ, start_response):
    file = a_file()
    file.read(7 * 19990)
    start_response("200 OK", PLAIN)
    return environ["wsgi.file_wrapper"](file)


def page_wrapper_seek(environ, start_response):
    file = a_file()
    file.seek(7 * 19990)
    start_response("200 OK", PLAIN)
    return environ["wsgi.file_wrapper"](file)


def page_wrapper_length(environ, start_response):
    start_response("200 OK", PLAIN + [("Content-Length", "70")])
    return environ["wsgi.file_wrapper"](a_file())


def page_wrapper_bytesio(environ, start_response):
    start_response("200 OK", PLAIN)
    return environ["wsgi.file_wrapper"](io.BytesIO(b"not a real file"), 4)


class Readable:
    """Only `read`, no `close`, no `fileno`."""

    def __init__(self):
        self.pieces = [b"read ", b"only"]

    def read(self, size=-1):
        return self.pieces.pop(0) if self.pieces else b""


def page_wrapper_readable(environ, start_response):
    start_response("200 OK", PLAIN)
    return environ["wsgi.file_wrapper"](Readable())


class Closing(io.BytesIO):
    def close(self):
        note("closed the wrapped file")
        super().close()


def page_wrapper_close(environ, start_response):
    start_response("200 OK", PLAIN)
    return environ["wsgi.file_wrapper"](Closing(b"closed afterwards"))


def page_closing(environ, start_response):
    start_response("200 OK", PLAIN)
    return Result([b"closed ", b"afterwards"], "closing")


def page_closing_head(environ, start_response):
    start_response("200 OK", PLAIN)
    return Result([b"nobody ", b"sees this"], "closing-head")


def page_204(environ, start_response):
    start_response("204 No Content", [])
    return [b"never sent"]


def page_205(environ, start_response):
    start_response("205 Reset Content", [("Content-Length", "10")])
    return [b"never sent"]


def page_status_field(environ, start_response):
    start_response("200 OK", PLAIN + [("Status", "404 Not Found"), ("X-Mine", "1")])
    return [b"one status"]


def page_304(environ, start_response):
    start_response("304 Not Modified", [("ETag", '"x"')])
    return [b"never sent"]


def page_long(environ, start_response):
    start_response("200 OK", PLAIN + [("Content-Length", "5")])
    return [b"12345", b"too long"]


def page_short(environ, start_response):
    start_response("200 OK", PLAIN + [("Content-Length", "50")])
    return [b"12345"]


def page_status(environ, start_response):
    start_response(environ["QUERY_STRING"].replace("+", " "), PLAIN)
    return [b"status"]


def page_headers(environ, start_response):
    start_response("200 OK", [("X-One", "1"), ("x-two", "zwei \xe4"), ("Set-Cookie", "a=1"), ("Set-Cookie", "b=2")])
    return [b"headers"]


def page_date(environ, start_response):
    start_response("200 OK", [("Date", "Thu, 01 Jan 1970 00:00:00 GMT"), ("Server", "mine")])
    return [b"date"]


def page_hop(environ, start_response):
    start_response("200 OK", PLAIN + [("Connection", "keep-alive"), ("Keep-Alive", "timeout=5"), ("Transfer-Encoding", "chunked")])
    return [b"hop by hop"]


def page_connection_close(environ, start_response):
    start_response("200 OK", PLAIN + [("Connection", "close")])
    return [b"close it"]


def page_crlf_value(environ, start_response):
    start_response("200 OK", [("X-Bad", "a\r\nX-Injected: yes")])
    return [b"crlf"]


def page_crlf_name(environ, start_response):
    start_response("200 OK", [("X-Bad\r\nX-Injected", "yes")])
    return [b"crlf"]


def page_crlf_status(environ, start_response):
    start_response("200 OK\r\nX-Injected: yes", PLAIN)
    return [b"crlf"]


def page_twice(environ, start_response):
    start_response("200 OK", PLAIN)
    start_response("500 Oops", PLAIN)
    return [b"twice"]


def page_exc_info(environ, start_response):
    start_response("200 OK", PLAIN)
    try:
        raise KeyError("replaced")
    except KeyError:
        start_response("503 Replaced", [("X-Replaced", "yes")], sys.exc_info())
    return [b"replaced"]


def page_exc_info_late(environ, start_response):
    write = start_response("200 OK", PLAIN)
    write(b"already out")
    try:
        raise KeyError("on purpose, too late")
    except KeyError:
        start_response("503 Too Late", [], sys.exc_info())
    return [b"never sent"]


def page_no_start(environ, start_response):
    return [b"start_response was not called"]


def page_none(environ, start_response):
    start_response("200 OK", PLAIN)
    return None


def page_not_iterable(environ, start_response):
    start_response("200 OK", PLAIN)
    return 42


def page_text(environ, start_response):
    start_response("200 OK", PLAIN)
    return ["text, not bytes"]


def page_raise(environ, start_response):
    raise ValueError("on purpose, before start_response")


def page_raise_started(environ, start_response):
    start_response("200 OK", PLAIN)
    raise ValueError("on purpose, after start_response")


def page_raise_written(environ, start_response):
    write = start_response("200 OK", PLAIN)
    write(b"written, then ")
    raise ValueError("on purpose, after write")


def page_raise_first(environ, start_response):
    start_response("200 OK", PLAIN)
    return Result([b"never"], "raise-first", fail_at=0)


def page_raise_second(environ, start_response):
    start_response("200 OK", PLAIN)
    return Result([b"first, then ", b"never"], "raise-second", fail_at=1)


def page_raise_second_length(environ, start_response):
    start_response("200 OK", PLAIN + [("Content-Length", "100")])
    return Result([b"first, then ", b"never"], "raise-second-length", fail_at=1)


def page_raise_end(environ, start_response):
    start_response("200 OK", PLAIN)
    return Result([b"all ", b"but the end"], "raise-end", fail_at=2)


def page_raise_close(environ, start_response):
    start_response("200 OK", PLAIN)
    return Result([b"whole"], "raise-close", fail_in_close=True)


def page_raise_in_generator(environ, start_response):
    start_response("200 OK", PLAIN)
    raise ValueError("on purpose, in a generator")
    yield b"never"


def page_exit(environ, start_response):
    sys.exit(3)


def page_exit_started(environ, start_response):
    start_response("200 OK", PLAIN)
    raise SystemExit("on purpose")


def page_keyboard_interrupt(environ, start_response):
    raise KeyboardInterrupt("on purpose")


def page_many(environ, start_response):
    start_response("200 OK", PLAIN)
    for number in range(5000):
        yield b"%d\n" % number


def page_endless(environ, start_response):
    start_response("200 OK", PLAIN)
    return Result(iter_blocks(), "endless")


def iter_blocks():
    return [b"x" * 65536] * 4096


def page_ahead(environ, start_response):
    """Tells how many blocks of 64 KiB it has made."""
    start_response("200 OK", PLAIN)
    path = os.path.join(FOLDER, "ahead")
    for number in range(1, 2000):
        with open(path + ".new", "w") as file:
            file.write(str(number))
        os.rename(path + ".new", path)
        yield b"x" * 65536


def page_context(environ, start_response):
    start_response("200 OK", PLAIN)
    try:
        yield b"one "
        yield b"two"
    finally:
        note("left the generator")


def page_list_headers_object(environ, start_response):
    start_response("200 OK", (("Content-Type", "text/plain"),))
    return [b"a tuple of headers"]


def page_bad_header_type(environ, start_response):
    start_response("200 OK", [("X-Number", 5)])
    return [b"a number as a header"]


def application(environ, start_response):
    name = environ["PATH_INFO"].strip("/").replace("-", "_")
    page = globals().get("page_" + name, page_one)
    return page(environ, start_response)
