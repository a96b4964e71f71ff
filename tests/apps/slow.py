"""The pages of `basic`, and a megabyte piece by piece."""

import basic


def application(environ, start_response):
    if environ["PATH_INFO"] != "/pieces":
        return basic.application(environ, start_response)
    size = int(environ["QUERY_STRING"])
    start_response("200 OK", [("Content-Type", "text/plain")])
    return (b"x" * min(10_000, size - at) for at in range(0, size, 10_000))
