"""The smallest application: one function, one answer."""


def application(environ, start_response):
    body = b"Hello from rsgi\n"
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]
