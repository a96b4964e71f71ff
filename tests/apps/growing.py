"""Answers with the worker's pid; `/grow/N` keeps N MiB of memory for good."""

import os

KEPT = []


def application(environ, start_response):
    if environ["PATH_INFO"].startswith("/grow/"):
        # Every page is written to: only then is it resident.
        KEPT.append(bytearray(b"x") * (int(environ["PATH_INFO"][6:]) << 20))
    body = str(os.getpid()).encode()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]
