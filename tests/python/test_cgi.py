"""`rsgi --cgi` under web servers that run CGI programs, with the files of configs/cgi: other paths and a port, nothing else
changed."""

import hashlib
import os
import shutil
import socket

import pytest
import requests

from support import PACKAGE, Process, need, open_folder, program

CONFIGS = PACKAGE / "configs/cgi"

APPLICATION = """\
import hashlib, json

def application(environ, start_response):
    path = environ["PATH_INFO"]
    if path == "/raise":
        raise ValueError("on purpose")
    if path == "/missing":
        start_response("404 Not Here", [("Content-Type", "text/plain")])
        return [b"not here"]
    if path == "/redirect":
        start_response("302 Found", [("Location", "/elsewhere")])
        return []
    if path == "/unchanged":
        start_response("304 Not Modified", [("ETag", '"x"')])
        return []
    if path == "/file":
        start_response("200 OK", [("Content-Type", "text/plain")])
        return environ["wsgi.file_wrapper"](open(__file__.replace("cgi_app.py", "large"), "rb"))
    if path == "/generator":
        start_response("200 OK", [("Content-Type", "text/plain"), ("Set-Cookie", "a=1"), ("Set-Cookie", "b=2")])
        return (b"piece %d\\n" % n for n in range(1000))
    body = environ["wsgi.input"].read()
    shown = {key: value for key, value in environ.items() if isinstance(value, (str, bool))}
    shown["body"] = hashlib.sha256(body).hexdigest()
    print("something printed")
    page = json.dumps(shown).encode()
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(page)))])
    return [page]
"""


def installed(name):
    path = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin")
    need(path, f"{name} is missing; install the package {name}")
    return path


class WebServer(Process):
    """A web server on a port of its own, with its file for the site."""

    def __init__(self, name, folder):
        # Bound and not listened on: ours until it is closed, and the server may bind it too.
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.sock.bind(("127.0.0.1", 0))
        port = self.sock.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}/site"
        text = (CONFIGS / f"{name}.conf").read_text()
        assert "/srv/site" in text
        text = text.replace("/srv/site", str(folder))
        conf = folder / f"{name}.conf"
        if name == "apache":
            assert "<VirtualHost *:80>" in text
            modules = "".join(
                f"Include /etc/apache2/mods-available/{module}.load\n"
                for module in ("mpm_event", "authz_core", "alias", "cgid", "env")
            )
            users = "User www-data\nGroup www-data\n" if os.geteuid() == 0 else ""
            conf.write_text(
                f'ServerRoot "{folder}"\nPidFile "{folder}/apache.pid"\nDefaultRuntimeDir "{folder}"\n'
                f'ErrorLog /dev/stderr\n{modules}ScriptSock "{folder}/cgid.sock"\n{users}ServerName localhost\n'
                f"Listen 127.0.0.1:{port}\n" + text.replace("*:80", f"*:{port}")
            )
            words = [installed("apache2"), "-DFOREGROUND", "-d", folder, "-f", conf]
        else:
            users = 'server.username = "www-data"\nserver.groupname = "www-data"\n' if os.geteuid() == 0 else ""
            (folder / "uploads").mkdir()
            (folder / "uploads").chmod(0o777)
            conf.write_text(
                f'server.document-root = "{folder}"\nserver.upload-dirs = ( "{folder}/uploads" )\n'
                f'server.bind = "127.0.0.1"\nserver.port = {port}\n{users}{text}'
            )
            words = [installed("lighttpd"), "-D", "-f", conf]
        super().__init__(words, folder=folder)
        self.wait_until_serving(("127.0.0.1", port))

    def judge(self):
        code = self.stop()
        self.sock.close()
        assert code in (0, 1), f"exit code {code}:\n{self.log()}"
        # Nothing of a request is told there but what is wrong, and what the application says.
        assert "info:" not in self.log(), self.log()


@pytest.fixture(scope="module", params=["apache", "lighttpd"])
def server(request):
    folder = open_folder()
    # A program that the web server's user may run, whoever built it.
    shutil.copy(program(), folder / "rsgi")
    (folder / "rsgi").chmod(0o755)
    script = (CONFIGS / "site.cgi").read_text()
    assert "exec rsgi " in script and "/srv/site" in script
    script = script.replace("exec rsgi ", f"exec {folder}/rsgi ").replace("/srv/site", str(folder))
    (folder / "site.cgi").write_text(script)
    (folder / "site.cgi").chmod(0o755)
    (folder / "cgi_app.py").write_text(APPLICATION)
    (folder / "large").write_bytes(os.urandom(3_000_000))
    (folder / "site.ini").write_text(
        f"[uwsgi]\nhttp-socket = 127.0.0.1:1\nprocesses = 4\npythonpath = {folder}\nmodule = cgi_app\n"
    )
    web = WebServer(request.param, folder)
    yield web
    web.judge()
    shutil.rmtree(folder)


def test_a_request(server):
    page = requests.get(server.url + "/a%20b?c=d", headers={"X-Mine": "1", "Authorization": "Basic YTpi"}, timeout=60).json()
    assert (page["SCRIPT_NAME"], page["PATH_INFO"], page["QUERY_STRING"]) == ("/site", "/a b", "c=d")
    assert (page["REQUEST_METHOD"], page["HTTP_X_MINE"], page["wsgi.run_once"]) == ("GET", "1", True)
    assert (page["REMOTE_ADDR"], page["GATEWAY_INTERFACE"]) == ("127.0.0.1", "CGI/1.1")
    assert page["HTTP_AUTHORIZATION"] == "Basic YTpi"


def test_the_root_of_the_site(server):
    page = requests.get(server.url, timeout=60).json()
    assert (page["SCRIPT_NAME"], page["PATH_INFO"]) == ("/site", "")


def test_bodies(server):
    for body in (b"", b"x", os.urandom(3_000_000)):
        page = requests.post(server.url + "/up", data=body, timeout=60).json()
        assert page["body"] == hashlib.sha256(body).hexdigest()


def test_answers(server):
    folder = server.folder
    assert requests.get(server.url + "/file", timeout=60).content == (folder / "large").read_bytes()
    answer = requests.get(server.url + "/generator", timeout=60)
    assert answer.text == "".join(f"piece {n}\n" for n in range(1000))
    assert answer.cookies.get_dict() == {"a": "1", "b": "2"}
    answer = requests.get(server.url + "/missing", timeout=60)
    assert (answer.status_code, answer.text) == (404, "not here")
    answer = requests.get(server.url + "/redirect", timeout=60, allow_redirects=False)
    assert (answer.status_code, answer.headers["Location"].removeprefix(server.url[: -len("/site")])) == (302, "/elsewhere")
    assert requests.get(server.url + "/unchanged", timeout=60).status_code == 304
    answer = requests.head(server.url + "/missing", timeout=60)
    assert (answer.status_code, answer.content) == (404, b"")


def test_an_exception(server):
    assert requests.get(server.url + "/raise", timeout=60).status_code == 500
    assert "ValueError: on purpose" in server.log()


def test_words_of_the_query(server):
    # Web servers give them to the program as arguments.
    page = requests.get(server.url + "/a?--module+os", timeout=60).json()
    assert page["QUERY_STRING"] == "--module+os"
