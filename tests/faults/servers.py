"""Servers for tests/faults/run: how each is started, who its workers are, and nginx before it."""

import json
import os
import resource
import signal
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
WORKERS = 4
PATIENCE = 30


class Trouble(Exception):
    """Something that the row needs did not happen."""


def wait_until(what, done, patience=PATIENCE):
    end = time.monotonic() + patience
    while True:
        result = done()
        if result:
            return result
        if time.monotonic() > end:
            raise Trouble(f"waited {patience} s until {what}")
        time.sleep(0.005)  # the pace of asking


def listen_tcp():
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    sock.bind(("127.0.0.1", 0))
    sock.listen(1024)
    return sock


def listen_unix(path):
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.bind(str(path))
    sock.listen(1024)
    os.chmod(path, 0o777)
    return sock


def read(path):
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return ""


def children(pid):
    return [int(word) for word in read(f"/proc/{pid}/task/{pid}/children").split()]


def lives(pid):
    text = read(f"/proc/{pid}/stat")
    return bool(text) and text.rpartition(")")[2].split()[0] not in "ZX"


def group_of(pid):
    """The processes of a process group that live."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            words = read(f"/proc/{name}/stat").rpartition(")")[2].split()
            if words and words[2] == str(pid) and words[0] not in "ZX":
                found.append(int(name))
    return found


def descriptors(pid):
    return len(os.listdir(f"/proc/{pid}/fd"))


def sockets(pid):
    """How many sockets a process holds."""
    count = 0
    for name in os.listdir(f"/proc/{pid}/fd"):
        try:
            count += stat.S_ISSOCK(os.stat(f"/proc/{pid}/fd/{name}").st_mode)
        except OSError:
            pass
    return count


def memory_kib(pid):
    for line in read(f"/proc/{pid}/status").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    return 0


class Server:
    """One of the servers, with sockets that live longer than it."""

    name = ""
    # What an event may ask for.
    has = frozenset()
    inherits_http = True

    def __init__(self, options, folder, settings):
        self.options, self.folder, self.settings = options, Path(folder), settings
        self.own_sockets = settings.pop("own-sockets", False)
        self.path = self.folder / "back.sock"
        self.http = None if self.own_sockets else listen_tcp()
        self.back = None if self.own_sockets else listen_unix(self.path)
        if self.own_sockets:
            with listen_tcp() as free:
                self.port = free.getsockname()[1]
        else:
            self.port = self.http.getsockname()[1]
        self.log = self.folder / "log"
        self.process = None
        self.sink = None
        self.wrapper = []
        self.environment = {}
        self.limits = []

    def address(self, load):
        return f"127.0.0.1:{self.port}"

    def start(self):
        environment = {k: v for k, v in os.environ.items() if not k.startswith("UWSGI_")}
        environment.update(TEST_FOLDER=str(self.folder), PYTHONDONTWRITEBYTECODE="1", **self.environment)
        passed = [sock.fileno() for sock in (self.http, self.back) if sock]
        with open(self.sink or self.log, "ab") as out:
            self.process = subprocess.Popen(
                self.wrapper + self.command(),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                cwd=self.folder,
                env=environment,
                pass_fds=passed,
                start_new_session=True,
                preexec_fn=self.limit if self.limits else None,
            )
        self.group = self.process.pid

    def limit(self):
        for which, number in self.limits:
            resource.setrlimit(which, (number, number))

    def wait_ready(self):
        def ready():
            if self.process.poll() is not None:
                raise Trouble(f"the server ended with {self.process.returncode}: {read(self.log)[-2000:]}")
            return self.asks("/echo/0") and len(self.workers()) >= self.settings.get("first", WORKERS)

        wait_until("the server serves", ready)

    def asks(self, target):
        """Whether a request of its own is answered."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=5) as client:
                client.sendall(f"GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
                return client.recv(100).startswith(b"HTTP/1.1 200")
        except OSError:
            return False

    @property
    def pid(self):
        return self.process.pid

    def workers(self):
        raise NotImplementedError

    def reload(self):
        os.kill(self.pid, signal.SIGHUP)

    def stop(self, number=signal.SIGTERM, group=False):
        (os.killpg if group else os.kill)(self.pid, number)
        self.wait_end()

    def wait_end(self):
        try:
            self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            raise Trouble(f"the server does not end; its log: {read(self.log)[-2000:]}") from None

    def clear(self):
        """Ends whatever is left of it."""
        if self.process:
            try:
                os.killpg(self.group, signal.SIGKILL)
            except ProcessLookupError:
                pass
            if self.process.poll() is None:
                self.process.kill()
            self.process.wait()

    def close(self):
        self.clear()
        for sock in (self.http, self.back):
            if sock:
                sock.close()


class Ini(Server):
    """A server that reads uWSGI's ini files."""

    def ini(self):
        lines = {
            "master": "true",
            "die-on-term": "true",
            "need-app": "true",
            "processes": str(WORKERS),
            "threads": str(self.options.threads),
            "pythonpath": str(HERE),
            "module": "fault_app",
            "stats": str(self.folder / "stats.sock"),
            "master-fifo": str(self.folder / "fifo"),
            "listen": "1024",
        }
        lines.update((k, v) for k, v in self.settings.items() if k not in ("first", "gunicorn", "uwsgi"))
        return "".join(f"{key} = {value}\n" for key, value in lines.items())

    def write_ini(self):
        path = self.folder / "server.ini"
        path.write_text("[uwsgi]\n" + self.sockets_ini() + self.ini())
        return str(path)

    def stats(self):
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
                client.settimeout(2)
                client.connect(str(self.folder / "stats.sock"))
                text = b""
                while piece := client.recv(65536):
                    text += piece
            return json.loads(text)
        except (OSError, ValueError):
            return {"workers": []}

    def workers(self):
        return [w["pid"] for w in self.stats()["workers"] if w["pid"] and w["accepting"] and lives(w["pid"])]

    def fifo(self, letter):
        with open(self.folder / "fifo", "w") as fifo:
            fifo.write(letter)


class Rsgi(Ini):
    name = "rsgi"
    has = frozenset({"fifo", "zygote", "upgrade", "nginx", "keep", "close"})

    def command(self):
        return [self.options.server, "--ini", self.write_ini()]

    def sockets_ini(self):
        if self.own_sockets:
            return f"http-socket = 127.0.0.1:{self.port}\nsocket = {self.path}\nchmod-socket = 777\n"
        return f"http-socket = fd://{self.http.fileno()}\nsocket = fd://{self.back.fileno()}\ndisable-logging = false\n"

    def zygote(self):
        """The only child of the master that is no worker, outside of reloads."""
        workers = {w["pid"] for w in self.stats()["workers"]}
        others = [pid for pid in children(self.pid) if pid not in workers and lives(pid)]
        return others[0] if len(others) == 1 else None


class Uwsgi(Ini):
    name = "uwsgi"
    has = frozenset({"fifo", "nginx", "keep", "close"})
    # Its router for kept connections cannot take a socket over.
    inherits_http = False

    def __init__(self, *arguments):
        super().__init__(*arguments)
        with listen_tcp() as free:
            self.router = free.getsockname()[1]

    def address(self, load):
        return f"127.0.0.1:{self.router if load == 'keep' else self.port}"

    def command(self):
        return [str(Path(self.options.peers) / "bin/uwsgi"), "--ini", self.write_ini()]

    def sockets_ini(self):
        router = f"http = 127.0.0.1:{self.router}\nhttp-keepalive = 1\nhttp-to = {self.path}\n"
        home = f"virtualenv = {self.options.peers}\nbuffer-size = 32768\n"
        extra = "".join(f"{k} = {v}\n" for k, v in self.settings.get("uwsgi", {}).items())
        if self.own_sockets:
            return f"{router}{home}{extra}http-socket = 127.0.0.1:{self.port}\nsocket = {self.path}\nchmod-socket = 777\nvacuum = true\n"
        return f"{router}{home}{extra}http-socket = fd://{self.http.fileno()}\nsocket = fd://{self.back.fileno()}\n"


class Gunicorn(Server):
    """With threads, as it keeps connections alive only then. nginx speaks HTTP to it."""

    name = "gunicorn"
    has = frozenset({"nginx", "keep", "close"})

    def command(self):
        binds = [f"fd://{sock.fileno()}" for sock in (self.http, self.back) if sock]
        if self.own_sockets:
            binds = [f"127.0.0.1:{self.port}", f"unix:{self.path}"]
        words = [str(Path(self.options.peers) / "bin/gunicorn"), "--chdir", str(HERE), "-w", str(WORKERS)]
        words += ["-k", "gthread", "--threads", "4", "--keep-alive", "75", "--backlog", "1024", "--no-control-socket"]
        words += ["--umask", "0", "--access-logfile", "-", *self.settings.get("gunicorn", [])]
        for bind in binds:
            words += ["-b", bind]
        return words + ["fault_app:application"]

    def workers(self):
        return [pid for pid in children(self.pid) if lives(pid)]


SERVERS = {server.name: server for server in (Rsgi, Uwsgi, Gunicorn)}


class Nginx:
    """nginx before the server's unix socket; it gets its listening socket the way it hands it to its own successor."""

    def __init__(self, folder, back, http):
        self.folder, self.sock = Path(folder) / "nginx", listen_tcp()
        self.folder.mkdir()
        port = self.sock.getsockname()[1]
        if http:
            upstream = f"proxy_pass http://unix:{back}:; proxy_set_header Host localhost;"
        else:
            names = {
                "QUERY_STRING": "$query_string",
                "REQUEST_METHOD": "$request_method",
                "CONTENT_TYPE": "$content_type",
                "CONTENT_LENGTH": "$content_length",
                "REQUEST_URI": "$request_uri",
                "PATH_INFO": "$document_uri",
                "SERVER_PROTOCOL": "$server_protocol",
                "REMOTE_ADDR": "$remote_addr",
                "REMOTE_PORT": "$remote_port",
                "SERVER_PORT": "$server_port",
                "SERVER_NAME": "$server_name",
            }
            upstream = "".join(f"uwsgi_param {name} {value}; " for name, value in names.items())
            upstream += f"uwsgi_pass unix:{back};"
        user = "user root;" if os.geteuid() == 0 else ""
        temporary = "".join(
            f"{kind}_temp_path {self.folder}/{kind}; " for kind in ("client_body", "proxy", "uwsgi", "fastcgi", "scgi")
        )
        (self.folder / "nginx.conf").write_text(
            f"{user} worker_processes 1; daemon off; pid {self.folder}/pid; error_log {self.folder}/errors info;\n"
            f"events {{ worker_connections 1024; }}\n"
            f"http {{ access_log off; keepalive_requests 1000000; {temporary}\n"
            f"server {{ listen 127.0.0.1:{port}; client_max_body_size 8m; location / {{ {upstream} }} }} }}\n"
        )
        self.address = f"127.0.0.1:{port}"
        program = next(path for path in ("/usr/sbin/nginx", "/usr/bin/nginx", "nginx") if "/" not in path or os.path.exists(path))
        number = self.sock.fileno()
        self.process = subprocess.Popen(
            [program, "-p", str(self.folder), "-e", str(self.folder / "errors"), "-c", str(self.folder / "nginx.conf")],
            env={**os.environ, "NGINX": f"{number};"},
            pass_fds=[number],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def refused(self):
        """Requests that it could not give to the server because nobody listened."""
        lines = read(self.folder / "errors").splitlines()
        return sum("connect() to" in line and "failed" in line for line in lines)

    def lost(self):
        words = ("prematurely closed", "reset by peer", "recv() failed", "timed out", "Broken pipe")
        return [line for line in read(self.folder / "errors").splitlines() if any(word in line for word in words)]

    def close(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(PATIENCE)
        self.sock.close()


class Load:
    """One running client."""

    def __init__(self, program, name, address, requests):
        words = [program, address, "--requests", str(requests), *(["--close"] if name == "close" else [])]
        self.name = name
        self.process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def say(self, word):
        self.process.stdin.write(word + "\n")
        self.process.stdin.flush()

    def how(self):
        self.say("how")
        return json.loads(self.process.stdout.readline())

    def result(self):
        line = self.process.stdout.readline()
        self.process.stdin.close()
        self.process.wait()
        if not line:
            print("the client failed", file=sys.stderr)
            raise SystemExit(2)
        return json.loads(line)
