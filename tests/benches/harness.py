"""What tests/benches/compare measures with: servers and how they are started, the load generator, the clock of a process tree."""

import json
import os
import resource
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
TARGET = HERE.parents[1] / "target/release"
TICK = 1e6 / os.sysconf("SC_CLK_TCK")

# The same order everywhere: what is compared first, what has no Python last.
NAMES = ["rsgi", "uwsgi", "bjoern", "fastpysgi", "granian", "gunicorn", "waitress", "floor"]


# Kinds of servers that listen there: "uwsgi" speaks that protocol, "unix" HTTP.
ON_UNIX_SOCKETS = ("uwsgi", "unix")


class Failed(Exception):
    """A server or a client that does not do what the row needs."""


class Bench:
    """The machine, the programs, the options of this run."""

    def __init__(self, options):
        self.options = options
        self.peers = Path(options.peers).resolve() if options.peers else None
        cores = sorted(os.sched_getaffinity(0))
        if len(cores) < 2:
            raise SystemExit("compare: two cores are needed, one for the server and one for the client")
        self.client_core, self.server_core = cores[0], cores[1]
        self.folder = Path(options.folder)
        self.servers = [name for name in NAMES if self.has(name)]
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

    def has(self, name):
        if name in ("rsgi", "floor"):
            return True
        if self.options.only and name not in self.options.only:
            return False
        if self.peers is None:
            return False
        if name in ("uwsgi", "gunicorn", "granian"):
            return (self.peers / "bin" / name).exists()
        return self.can_import(name)

    def can_import(self, module):
        if self.peers is None:
            return False
        command = [self.peers / "bin/python", "-c", f"import {module}"]
        return subprocess.run(command, capture_output=True).returncode == 0

    def version(self, name):
        if name == "rsgi":
            text = subprocess.run([self.options.server, "--version"], capture_output=True, text=True).stdout
            return text.strip().split("\n")[0].removeprefix("rsgi ")
        code = f"import importlib.metadata as m; print(m.version({name!r}))"
        found = subprocess.run([self.peers / "bin/python", "-c", code], capture_output=True, text=True).stdout.strip()
        return found or "?"

    def command(self, name, app, kind, port, path, workers, threads, log=False):
        """The command that serves, or None when the server cannot do this."""
        module, _, attribute = app.partition(":")
        bin = self.peers / "bin" if self.peers else None
        address = f"127.0.0.1:{port}"
        where = path if kind in ON_UNIX_SOCKETS else address
        if name == "floor":
            return [str(TARGET / "examples/floor"), where]
        if name == "rsgi":
            words = [self.options.server, "--socket" if kind == "uwsgi" else "--http-socket", where]
            words += ["--processes", str(workers), "--threads", str(threads), "--listen", "2048"]
            words += [] if log else ["--disable-logging"]
            words += ["--pythonpath", str(HERE), "--module", app]
            return words + (["--home", str(self.peers)] if self.peers else [])
        if name == "uwsgi":
            words = [str(bin / "uwsgi"), "--master", "--processes", str(workers), "--listen", "2048"]
            words += [] if log else ["--disable-logging"]
            words += ["--need-app", "--single-interpreter", "--die-on-term", "--pythonpath", str(HERE)]
            words += ["--virtualenv", str(self.peers), "--module", app]
            words += ["--threads", str(threads)] if threads > 1 else []
            # It closes after each response but does not say so.
            http = ["--http-socket", where, "--add-header", "Connection: close"]
            return words + (["--socket", where] if kind == "uwsgi" else http)
        if kind == "uwsgi" or kind == "unix" and name not in ("gunicorn", "bjoern"):
            return None
        if name == "gunicorn":
            bind = f"unix:{path}" if kind == "unix" else address
            words = [str(bin / "gunicorn"), "--chdir", str(HERE), "-w", str(workers), "--backlog", "2048", "-b", bind]
            sync = kind == "close" and threads == 1
            words += ["-k", "sync"] if sync else ["-k", "gthread", "--threads", str(threads), "--keep-alive", "75"]
            return words + ["--log-level", "critical", app]
        if name == "granian":
            words = [str(bin / "granian"), "--interface", "wsgi", "--workers", str(workers), "--host", "127.0.0.1"]
            words += ["--blocking-threads", str(threads), "--port", str(port), "--no-ws", "--http", "1", "--no-log"]
            return words + ["--backlog", "2048", "--working-dir", str(HERE), app]
        if threads > 1 and name != "waitress":
            return None
        if workers > 1 and name == "waitress":
            return None
        place = f"unix:{path}" if kind == "unix" else str(port)
        return [str(bin / "python"), str(HERE / "serve.py"), name, app, place, str(workers), str(threads)]


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def on_core(*cores):
    return lambda: os.sched_setaffinity(0, cores)


class Server:
    """A server that runs, with everything it started."""

    def __init__(self, bench, name, app, kind="http", workers=1, threads=1, cores=None, check=True, log=False, more=()):
        self.bench, self.name, self.kind = bench, name, kind
        self.port = free_port()
        self.path = str(bench.folder / f"{name}-{self.port}.sock")
        command = bench.command(name, app, kind, self.port, self.path, workers, threads, log)
        if command is None:
            raise Failed("has no such mode")
        command += more
        self.log = bench.folder / f"{name}-{self.port}.log"
        environment = {key: value for key, value in os.environ.items() if not key.startswith(("UWSGI_", "PYTHON"))}
        environment["PYTHONDONTWRITEBYTECODE"] = "1"
        self.began = time.monotonic()
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(
                [str(word) for word in command], cwd=HERE, env=environment, start_new_session=True,
                stdin=subprocess.DEVNULL, stdout=output, stderr=output, preexec_fn=on_core(*(cores or [bench.server_core])),
            )
        if check:
            self.wait_until_serving()
        if name == "rsgi" and check:
            self.wait_for_workers(workers)

    @property
    def address(self):
        return self.path if self.kind in ON_UNIX_SOCKETS else f"127.0.0.1:{self.port}"

    def trouble(self, what):
        self.stop()
        lines = self.log.read_text(errors="replace").strip().split("\n")
        return Failed(f"{what}; its log ends with: {lines[-1][:300]}")

    def wait_until_serving(self, patience=20):
        """Until a request is answered; gives the seconds since the start."""
        while time.monotonic() < self.began + patience:
            if self.process.poll() is not None:
                raise self.trouble(f"ended with {self.process.returncode}")
            try:
                if self.kind in ON_UNIX_SOCKETS:
                    client = socket.socket(socket.AF_UNIX)
                    client.settimeout(2)
                    client.connect(self.path)
                else:
                    client = socket.create_connection(("127.0.0.1", self.port), 2)
                if self.kind == "uwsgi":
                    variables = [b"REQUEST_METHOD", b"GET", b"PATH_INFO", b"/", b"SERVER_PROTOCOL", b"HTTP/1.1"]
                    block = b"".join(len(text).to_bytes(2, "little") + text for text in variables)
                    client.sendall(b"\0" + len(block).to_bytes(2, "little") + b"\0" + block)
                else:
                    # With a body for the application that wants one.
                    client.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi"
                                   if self.kind == "post" else b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                with client:
                    if b" 200" in client.recv(64):
                        return time.monotonic() - self.began
            except OSError:
                pass
            time.sleep(0.002)
        raise self.trouble("does not answer")

    def wait_for_workers(self, workers, patience=20):
        end = time.monotonic() + patience
        while f"{workers} worker{'s' if workers > 1 else ''} ready" not in self.log.read_text(errors="replace"):
            if time.monotonic() > end:
                raise self.trouble("has not all of its workers")
            time.sleep(0.01)

    def processes(self):
        """Every living process of the server's session."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    words = (entry / "stat").read_text().rsplit(") ", 1)[1].split()
                except OSError:
                    continue
                if int(words[3]) == self.process.pid and words[0] not in "ZX":
                    found.append((int(entry.name), words))
        return found

    def cpu(self):
        """Microseconds that its threads have used. (The nanoseconds of schedstat: /proc/PID/stat counts in steps of 10 ms.)"""
        total = 0
        for pid, _ in self.processes():
            for task in Path(f"/proc/{pid}/task").glob("*/schedstat"):
                try:
                    total += int(task.read_text().split()[0])
                except OSError:
                    continue
        return total / 1000

    def pss(self):
        """KiB: what it has for itself, and its share of what is shared."""
        total = 0
        for pid, _ in self.processes():
            try:
                text = Path(f"/proc/{pid}/smaps_rollup").read_text()
            except OSError:
                continue
            total += next(int(line.split()[1]) for line in text.split("\n") if line.startswith("Pss:"))
        return total

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(5)
            except subprocess.TimeoutExpired:
                pass
        for pid, _ in self.processes():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        self.process.wait()
        Path(self.path).unlink(missing_ok=True)


def start_load(bench, mode, server, *words, cores=None, stdin=subprocess.DEVNULL):
    command = [str(TARGET / "examples/load"), mode, server.address, *map(str, words)]
    if mode == "closed" and server.kind == "uwsgi":
        command.append("--uwsgi")
    if mode == "closed" and server.kind == "close":
        command.append("--close")
    return subprocess.Popen(command, stdin=stdin, stdout=subprocess.PIPE, text=True,
                            preexec_fn=on_core(*(cores or [bench.client_core])))


def finish_load(process):
    output, _ = process.communicate(timeout=120)
    if process.returncode != 0:
        raise Failed(f"the load generator ended with {process.returncode}")
    result = json.loads(output.strip().split("\n")[-1])
    if "requests" in result and not result["requests"]:
        raise Failed(f"no request was answered ({result['first_error']})")
    return result


def load(bench, server, *words, cores=None):
    """A closed loop; the result with the server's CPU for each request."""
    before, foreign = server.cpu(), core_time(bench.server_core)
    result = finish_load(start_load(bench, "closed", server, *words, cores=cores))
    used = server.cpu() - before
    busy, whole = (now - then for now, then in zip(core_time(bench.server_core), foreign))
    result["cpu"] = used / result["requests"]
    result["foreign"] = max(0.0, busy - used) / whole if whole else 0.0
    return result


def core_time(core):
    """Microseconds that a core has been busy, and in all."""
    for line in Path("/proc/stat").read_text().split("\n"):
        if line.startswith(f"cpu{core} "):
            words = [int(word) * TICK for word in line.split()[1:9]]
            return sum(words) - words[3] - words[4], sum(words)
    raise SystemExit(f"compare: /proc/stat does not know core {core}")


def median(values):
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def nginx():
    return shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
