"""Starts rsgi and nginx for the tests of whole sites, and judges how they end.

The tests bind the TCP sockets and hand them over, so that no port is chosen twice: rsgi gets them as
fd://N, nginx by its NGINX variable (the way in which it hands sockets to its own successor).
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[2]
SITES = Path(__file__).resolve().parent / "sites"
PATIENCE = 60


def need(condition, what):
    """Stops the whole run: what is missing is never skipped in silence."""
    if not condition:
        import pytest

        pytest.exit(f"cannot run: {what}", returncode=3)


def program():
    path = Path(os.environ.get("RSGI_BIN", PACKAGE / "target/release/rsgi"))
    need(path.exists(), f"{path} is missing; build it with `cargo build --release` or set RSGI_BIN")
    return path


def wait_until(what, done, patience=PATIENCE):
    end = time.monotonic() + patience
    while True:
        result = done()
        if result:
            return result
        assert time.monotonic() < end, f"waited too long until {what}"
        time.sleep(0.01)  # the pace of asking, not a guess of how long it takes


def listening_socket():
    """A TCP socket on a port that the system chose."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    sock.bind(("127.0.0.1", 0))
    sock.listen(128)
    return sock


def open_folder():
    """A temporary folder that other users (nginx's workers) may enter."""
    folder = Path(tempfile.mkdtemp(prefix="rsgi-site-"))
    folder.chmod(0o755)
    return folder


def processes_of(group):
    """The living processes of a process group."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                stat = Path(f"/proc/{entry}/stat").read_text()
            except OSError:
                continue
            state, _parent, its_group = stat.rpartition(") ")[2].split()[:3]
            if its_group == str(group) and state not in "ZX":
                found.append(int(entry))
    return found


class Process:
    """A program in a process group of its own, with its output in a file."""

    #: What it is asked to end with.
    stop_signal = signal.SIGTERM

    def __init__(self, words, *, folder, env=None, fds=()):
        self.folder = folder
        self.log_path = folder / f"{Path(words[0]).name}.log"
        # Every UWSGI_* is an option: only the test's own are given.
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("UWSGI_")}
        with open(self.log_path, "wb") as log:
            self.process = subprocess.Popen(
                [str(word) for word in words],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=folder,
                env={**inherited, "PYTHONDONTWRITEBYTECODE": "1", **(env or {})},
                pass_fds=fds,
                start_new_session=True,
            )

    def log(self):
        return self.log_path.read_text(errors="replace")

    def wait_until_serving(self, address):
        def serving():
            assert self.process.poll() is None, f"ended with {self.process.returncode}:\n{self.log()}"
            family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
            with socket.socket(family) as client:
                try:
                    client.connect(address)
                except OSError:
                    return False
            return True

        wait_until(f"{address} serves:\n{self.log()}", serving)

    def kill(self):
        for pid in processes_of(self.process.pid):
            os.kill(pid, signal.SIGKILL)
        self.process.wait()

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(self.stop_signal)
        try:
            code = self.process.wait(PATIENCE)
            wait_until("no process is left", lambda: not processes_of(self.process.pid))
        except (subprocess.TimeoutExpired, AssertionError):
            self.kill()
            raise
        return code


class Rsgi(Process):
    """rsgi with an ini file of these lines. `allowed`: texts of log lines that belong to the test."""

    def __init__(self, lines, *, folder, words=None, sockets=(), allowed=(), env=None):
        self.allowed = allowed
        ini = folder / "rsgi.ini"
        ini.write_text("[uwsgi]\n" + "\n".join(lines) + "\n")
        fds = tuple(sock.fileno() for sock in sockets)
        super().__init__(words or [program(), "--ini", ini], folder=folder, env=env, fds=fds)

    def judge(self):
        code = self.stop()
        log = self.log()
        assert code == 0, f"exit code {code}:\n{log}"
        bad = ("panicked at", "Traceback (most recent call last)", "error:")
        lines = log.splitlines()
        for at, line in enumerate(lines):
            # The head of what is said of an exception is judged by what follows, set in.
            heads = ("exception in", "can't be imported", "can't be loaded", "can't be looked up")
            if any(head in line for head in heads) and lines[at + 1 : at + 2] and lines[at + 1].startswith("    "):
                continue
            if any(word in line for word in bad) and not any(text in line for text in self.allowed):
                raise AssertionError(f"unexpected in the log: {line}\n{log}")


NGINX = """
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 256; }}
http {{
    access_log off;
    client_max_body_size 100m;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    upstream rsgi {{
        server 127.0.0.1:{http_port};
        keepalive 4;
    }}
    server {{
        listen 127.0.0.1:{port};
        location / {{
            include uwsgi_params;
            uwsgi_pass unix:{upstream};
        }}
    }}
    server {{
        listen 127.0.0.1:{proxy_port};
        location / {{
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header Host $http_host;
            proxy_pass http://rsgi;
        }}
    }}
    server {{
        listen 127.0.0.1:{scgi_port};
        location / {{
            include {params}/scgi_params;
            scgi_pass unix:{scgi_upstream};
        }}
    }}
}}
"""

# Where Debian keeps the parameter files, which are used as they come.
PARAMS = Path("/etc/nginx")

UWSGI_PARAMS = """
uwsgi_param QUERY_STRING $query_string;
uwsgi_param REQUEST_METHOD $request_method;
uwsgi_param CONTENT_TYPE $content_type;
uwsgi_param CONTENT_LENGTH $content_length;
uwsgi_param REQUEST_URI $request_uri;
uwsgi_param PATH_INFO $document_uri;
uwsgi_param DOCUMENT_ROOT $document_root;
uwsgi_param SERVER_PROTOCOL $server_protocol;
uwsgi_param REQUEST_SCHEME $scheme;
uwsgi_param HTTPS $https if_not_empty;
uwsgi_param REMOTE_ADDR $remote_addr;
uwsgi_param REMOTE_PORT $remote_port;
uwsgi_param SERVER_PORT $server_port;
uwsgi_param SERVER_NAME $server_name;
"""


class Nginx(Process):
    """nginx on sockets of the test's: `url` goes to a uwsgi socket, `proxy_url` to an HTTP one on kept connections,
    `scgi_url` to an SCGI one."""

    def __init__(self, *, folder, upstream, http_port=0, scgi_upstream=None, config=NGINX):
        path = shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin")
        need(path, "nginx is missing; install the package nginx")
        self.sockets = [listening_socket() for _ in range(config.count("listen 127.0.0.1:"))]
        port, proxy_port, scgi_port = [sock.getsockname()[1] for sock in (self.sockets * 3)[:3]]
        self.url, self.proxy_url = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{proxy_port}"
        self.scgi_url = f"http://127.0.0.1:{scgi_port}"
        conf = folder / "nginx.conf"
        ports = {"port": port, "proxy_port": proxy_port, "http_port": http_port, "scgi_port": scgi_port}
        conf.write_text(
            config.format(folder=folder, upstream=upstream, scgi_upstream=scgi_upstream, params=PARAMS, **ports)
        )
        if not (folder / "uwsgi_params").exists():
            (folder / "uwsgi_params").write_text(UWSGI_PARAMS)
        fds = tuple(sock.fileno() for sock in self.sockets)
        super().__init__(
            [path, "-p", folder, "-c", conf, "-e", "stderr"],
            folder=folder,
            env={"NGINX": "".join(f"{fd};" for fd in fds)},
            fds=fds,
        )
        self.wait_until_serving(("127.0.0.1", port))

    def judge(self):
        code = self.stop()
        assert code == 0, f"exit code {code}:\n{self.log()}"
        for sock in self.sockets:
            sock.close()
        # What rsgi had to do with it: answers cut, connections reset or closed without a word.
        assert "[error]" not in self.log(), self.log()


class Site:
    """An application behind rsgi, reached directly and through nginx."""

    def __init__(self, lines, *, folder, allowed=(), env=None):
        self.folder = folder
        self.socket = listening_socket()
        self.direct = f"http://127.0.0.1:{self.socket.getsockname()[1]}"
        upstream, scgi_upstream = folder / "rsgi.sock", folder / "rsgi-scgi.sock"
        common = [
            "master = true",
            "die-on-term = true",
            "need-app = true",
            "vacuum = true",
            f"home = {sys.prefix}",
            f"http-socket = fd://{self.socket.fileno()}",
            f"socket = {upstream}",
            f"scgi-socket = {scgi_upstream}",
            "chmod-socket = 666",
        ]
        self.rsgi = Rsgi(common + lines, folder=folder, sockets=[self.socket], allowed=allowed, env=env)
        self.nginx = None
        try:
            self.rsgi.wait_until_serving(str(upstream))
            http_port = self.socket.getsockname()[1]
            self.nginx = Nginx(folder=folder, upstream=upstream, http_port=http_port, scgi_upstream=scgi_upstream)
        except BaseException:
            self.rsgi.kill()
            raise
        self.urls = {"direct": self.direct, "nginx": self.nginx.url, "proxy": self.nginx.proxy_url}
        self.urls["scgi"] = self.nginx.scgi_url

    def judge(self):
        # Both are stopped, whatever is found.
        try:
            self.nginx.judge()
        finally:
            try:
                self.rsgi.judge()
            finally:
                self.socket.close()
        assert not (self.folder / "rsgi.sock").exists(), "the socket was left behind"
        shutil.rmtree(self.folder)
