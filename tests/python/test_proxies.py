"""HAProxy in front: its PROXY protocol headers (v1 and v2, with health checks), and its X-Forwarded-For over HTTP."""

import json
import shutil
import socket

import pytest

from support import Process, Rsgi, listening_socket, need, open_folder, wait_until

APPLICATION = """\
import json

def application(environ, start_response):
    names = ["REMOTE_ADDR", "REMOTE_PORT", "wsgi.url_scheme", "HTTP_HOST"]
    body = json.dumps({name: environ.get(name) for name in names}).encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
"""

HAPROXY = """
global
    maxconn 100
defaults
    mode http
    timeout connect 10s
    timeout client 30s
    timeout server 30s
frontend v1
    bind fd@{v1}
    default_backend v1
frontend v2
    bind fd@{v2}
    default_backend v2
frontend stream
    mode tcp
    bind fd@{stream}
    default_backend stream
frontend fields
    bind fd@{fields}
    option forwardfor
    http-request set-header X-Forwarded-Proto https
    http-request set-header X-Forwarded-Host %[req.hdr(host)]
    http-request del-header Forwarded
    default_backend fields
backend v1
    server rsgi unix@{folder}/proxied.sock send-proxy check inter 50ms
backend v2
    server rsgi unix@{folder}/proxied.sock send-proxy-v2 check inter 50ms
backend stream
    mode tcp
    server rsgi unix@{folder}/proxied.sock send-proxy-v2
backend fields
    server rsgi unix@{folder}/plain.sock
"""

WAYS = ("v1", "v2", "stream", "fields")


@pytest.fixture(scope="module")
def ports():
    haproxy = shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin")
    need(haproxy, "haproxy is missing")
    folder = open_folder()
    (folder / "who.py").write_text(APPLICATION)
    lines = [
        "http-socket = proxied.sock",
        "http = plain.sock",
        "enable-proxy-protocol = true",
        "trusted-proxies = unix",
        "chmod-socket = 666",
        f"chdir = {folder}",
        "wsgi-file = who.py",
        "processes = 2",
        "log-format = %(addr) asked for %(uri)",
        "vacuum = true",
    ]
    rsgi = Rsgi(lines, folder=folder)
    rsgi.wait_until_serving(str(folder / "plain.sock"))
    sockets = {way: listening_socket() for way in WAYS}
    config = folder / "haproxy.cfg"
    config.write_text(HAPROXY.format(folder=folder, **{way: sock.fileno() for way, sock in sockets.items()}))
    front = Process([haproxy, "-db", "-f", config], folder=folder, fds=[sock.fileno() for sock in sockets.values()])
    found = {way: sock.getsockname() for way, sock in sockets.items()}
    for sock in sockets.values():
        sock.close()
    for address in found.values():
        front.wait_until_serving(address)
    yield found
    front.kill()
    log = rsgi.log()
    rsgi.judge()
    # Its checks are connections like others: they say where they come from, and ask for nothing.
    assert "PROXY protocol" not in log and "answered with 4" not in log, log
    assert "127.0.0.77 asked for /" in log, log
    shutil.rmtree(folder)


def ask(address, fields=""):
    """Asks from an address of its own; the page, and the port asked from."""
    with socket.create_connection(address, 30, source_address=("127.0.0.77", 0)) as client:
        port = client.getsockname()[1]
        client.sendall(f"GET / HTTP/1.1\r\nHost: shop.example\r\nConnection: close\r\n{fields}\r\n".encode())
        answer = b""
        while piece := client.recv(65536):
            answer += piece
    head, _, body = answer.partition(b"\r\n\r\n")
    return head.startswith(b"HTTP/1.1 200"), body, str(port)


@pytest.mark.parametrize("way", ("v1", "v2", "stream"))
def test_the_proxy_protocol_tells_the_client(ports, way):
    def served():
        ok, body, port = ask(ports[way])
        return ok and (json.loads(body), port)

    # Until HAProxy's first check it takes the server for reachable, then it knows.
    page, port = wait_until("HAProxy sends requests on", served)
    assert page == {
        "REMOTE_ADDR": "127.0.0.77",
        "REMOTE_PORT": port,
        "wsgi.url_scheme": "http",
        "HTTP_HOST": "shop.example",
    }


def test_fields_of_a_trusted_haproxy_are_believed_and_those_of_its_client_are_not(ports):
    lies = "X-Forwarded-For: 203.0.113.9\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Host: evil.example\r\nForwarded: for=203.0.113.9\r\n"
    for fields in ("", lies):
        ok, body, _ = ask(ports["fields"], fields)
        assert ok
        assert json.loads(body) == {
            "REMOTE_ADDR": "127.0.0.77",
            "REMOTE_PORT": None,
            "wsgi.url_scheme": "https",
            "HTTP_HOST": "shop.example",
        }
