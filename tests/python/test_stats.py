"""Programs that people watch servers with read what rsgi tells: uwsgitop on a terminal, and Prometheus' own parser."""

import fcntl
import json
import os
import pty
import re
import select
import shutil
import socket
import struct
import sys
import termios
import threading
import time
from pathlib import Path

import pytest
import requests
from prometheus_client.parser import text_string_to_metric_families

from support import PACKAGE, PATIENCE, Process, Rsgi, listening_socket, need, open_folder, wait_until

APPLICATION = """\
import os, time

def application(environ, start_response):
    if environ["PATH_INFO"] == "/wait":
        while not os.path.exists("go"):
            time.sleep(0.005)
    start_response("200 OK", [("Content-Length", "4")])
    return [b"here"]
"""


@pytest.fixture
def server():
    folder = open_folder()
    (folder / "watched.py").write_text(APPLICATION)
    with listening_socket() as sock, listening_socket() as metrics:
        lines = [
            f"http-socket = fd://{sock.fileno()}",
            f"metrics-socket = fd://{metrics.fileno()}",
            "stats = stats.sock",
            f"chdir = {folder}",
            "wsgi-file = watched.py",
            "processes = 2",
            "threads = 2",
            "die-on-term = true",
        ]
        rsgi = Rsgi(lines, folder=folder, sockets=(sock, metrics))
        rsgi.url = "http://%s:%d" % sock.getsockname()
        rsgi.metrics = "http://%s:%d" % metrics.getsockname()
        rsgi.wait_until_serving(str(folder / "stats.sock"))
    assert requests.get(rsgi.url).text == "here"
    yield rsgi
    rsgi.judge()
    assert not (folder / "stats.sock").exists()
    shutil.rmtree(folder)


class Terminal:
    """A program on a terminal of 40 lines."""

    def __init__(self, words):
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.environ["TERM"] = "xterm"
            os.execv(words[0], [str(word) for word in words])
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 200, 0, 0))
        self.seen = b""

    def read(self):
        if select.select([self.fd], [], [], 0)[0]:
            try:
                self.seen += os.read(self.fd, 65536)
            except OSError:  # it has ended
                return False
        return True

    def wait_for(self, text):
        def shown():
            self.read()
            return text.encode() in self.seen

        try:
            wait_until(f"{text} is shown", shown)
        except AssertionError:
            raise AssertionError(f"{text} is not in {self.seen!r}") from None

    def press(self, keys):
        os.write(self.fd, keys.encode())

    def end(self):
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            self.read()
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                while self.read() and select.select([self.fd], [], [], 0)[0]:
                    pass
                os.close(self.fd)
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.01)  # the pace of asking
        raise AssertionError(f"it does not end: {self.seen!r}")


def uwsgitop(socket):
    program = Path(sys.executable).parent / "uwsgitop"
    need(program.exists(), f"{program} is missing; tests/run installs it")
    with pytest.MonkeyPatch.context() as patch:
        # Its window is as large as it is told, whatever the terminal of the tests is like.
        patch.setenv("LINES", "40")
        patch.setenv("COLUMNS", "200")
        return Terminal([program, socket])


def test_uwsgitop(server):
    top = uwsgitop(server.folder / "stats.sock")
    top.wait_for(f"masterpid: {server.process.pid}")
    top.wait_for("LastSpwn")
    top.wait_for("idle")
    # Cores among workers, cores below workers, and out.
    top.press("aafq")
    assert top.end() == 0, top.seen
    assert b"Traceback" not in top.seen, top.seen


@pytest.fixture
def busy(server):
    """The server, with all threads of all its workers inside requests."""
    sessions = [threading.Thread(target=requests.get, args=(server.url + "/wait",)) for _ in range(4)]
    try:
        for session in sessions:
            session.start()

        def are_busy():
            samples = families(server)["rsgi_threads"].samples
            return sum(sample.value for sample in samples if sample.labels["state"] == "busy") == 4

        wait_until("all threads are busy", are_busy)
        yield server
    finally:
        (server.folder / "go").touch()
        for session in sessions:
            session.join()


def prometheus():
    """Prometheus' executable: that of the system, or the one that tests/run has unpacked."""
    found = shutil.which("prometheus") or shutil.which("prometheus", path=PACKAGE / "target/prometheus/usr/bin")
    need(found, "prometheus is missing; tests/run unpacks Debian's package into target/prometheus")
    return found


PROMETHEUS = """\
global:
  scrape_interval: 200ms
scrape_configs:
  - job_name: rsgi
    static_configs:
      - targets: ['{target}']
"""


def test_a_prometheus_server_while_all_workers_are_busy(busy):
    folder = busy.folder / "prometheus"
    folder.mkdir()
    (folder / "prometheus.yml").write_text(PROMETHEUS.format(target=busy.metrics.removeprefix("http://")))
    words = [prometheus(), "--config.file=prometheus.yml", "--storage.tsdb.path=data", "--web.listen-address=127.0.0.1:0"]
    server = Process(words, folder=folder)
    try:

        def address():
            assert server.process.poll() is None, server.log()
            found = re.search(r'msg="Listening on" address=(\S+)', server.log())
            return found and found[1]

        api = "http://" + wait_until("it listens", address) + "/api/v1/query"

        def samples(query):
            answer = requests.get(api, params={"query": query})
            # It may still be loading its own data.
            return answer.json()["data"]["result"] if answer.status_code == 200 else []

        def value(query):
            found = samples(query)
            return float(found[0]["value"][1]) if len(found) == 1 else None

        wait_until("it was scraped", lambda: value('up{job="rsgi"}') == 1)
        wait_until("all threads are busy", lambda: value('sum(rsgi_threads{state="busy"})') == 4)
        assert value("rsgi_ready") == 1
        assert value('sum(rsgi_threads{state="idle"})') == 0
        for name in (
            "rsgi_requests_total rsgi_exceptions_total rsgi_request_seconds_count rsgi_request_queue_seconds_count "
            "rsgi_harakiris_total rsgi_worker_starts_total rsgi_worker_resident_bytes rsgi_listen_queue "
            "rsgi_requests_waiting rsgi_reloads_total rsgi_connections"
        ).split():
            assert samples(name), name
        assert len(samples("rsgi_request_queue_seconds_bucket")) == 14
        assert value("histogram_quantile(0.5, rsgi_request_seconds_bucket)") is not None
    finally:
        server.stop()


def shape(value):
    """The keys and types of a JSON value, at every depth; lists by their first element."""
    if isinstance(value, dict):
        return {key: shape(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [shape(value[0])] if value else []
    return type(value).__name__


def missing(theirs, ours, path=""):
    """What of uWSGI's is not here, or is something else."""
    if isinstance(theirs, dict) and isinstance(ours, dict):
        found = []
        for key, inner in theirs.items():
            found += missing(inner, ours[key], f"{path}.{key}") if key in ours else [f"{path}.{key}"]
        return found
    if isinstance(theirs, list) and isinstance(ours, list):
        return missing(theirs[0], ours[0], path + "[]") if theirs and ours else []
    return [] if theirs == ours else [f"{path}: {theirs} there, {ours} here"]


def test_every_key_of_uwsgis_statistics_is_here_with_the_same_type(busy):
    def read(path):
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
            return json.loads(b"".join(iter(lambda: client.recv(65536), b"")))

    folder = open_folder()
    (folder / "watched.py").write_text(APPLICATION)
    uwsgi = Path(sys.executable).parent / "uwsgi"
    need(uwsgi.exists(), f"{uwsgi} is missing; tests/run installs it")
    with listening_socket() as sock:
        words = [uwsgi, "--master", "--die-on-term", "--http-socket", f"fd://{sock.fileno()}", "--stats", "stats.sock"]
        words += ["--wsgi-file", "watched.py", "--processes", "2", "--threads", "2", "--attach-daemon", "sleep 1000"]
        peer = Process(words, folder=folder, fds=(sock.fileno(),))
        url = "http://%s:%d" % sock.getsockname()
        held = []
        try:
            peer.wait_until_serving(str(folder / "stats.sock"))
            held = [threading.Thread(target=requests.get, args=(url + "/wait",)) for _ in range(4)]
            for session in held:
                session.start()

            def running(told):
                return all(worker["cores"][0]["in_request"] for worker in told["workers"]) and told

            theirs = wait_until("its workers are busy", lambda: running(read(folder / "stats.sock")))
            ours = read(busy.folder / "stats.sock")
            assert running(ours)
        finally:
            (folder / "go").touch()
            for session in held:
                session.join()
            peer.stop()
    # Programs beside the workers are compared in tests/blackbox/stats.rs.
    theirs.pop("daemons")
    assert missing(shape(theirs), shape(ours)) == []
    more = {"ready", "generation", "reloads", "retiring"}, {"generation", "state", "waited", "waited_time", "waiting"}
    assert more[0] <= ours.keys() and more[1] <= ours["workers"][0].keys()
    shutil.rmtree(folder)


def test_uwsgitop_while_all_workers_are_busy(busy):
    top = uwsgitop(busy.folder / "stats.sock")
    top.wait_for(f"masterpid: {busy.process.pid}")
    top.wait_for("busy")
    top.press("q")
    assert top.end() == 0, top.seen


def families(server):
    answer = requests.get(server.metrics + "/metrics")
    assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    return {family.name: family for family in text_string_to_metric_families(answer.text)}


def test_prometheus_reads_the_metrics_while_all_threads_are_busy(server):
    sessions = []
    try:
        for _ in range(4):
            sessions.append(threading.Thread(target=requests.get, args=(server.url + "/wait",)))
            sessions[-1].start()

        def busy():
            samples = families(server)["rsgi_threads"].samples
            return sum(sample.value for sample in samples if sample.labels["state"] == "busy") == 4

        wait_until("all threads are busy", busy)
        found = families(server)
        assert found["rsgi_ready"].samples[0].value == 1
        assert found["rsgi_requests"].type == "counter"
        assert found["rsgi_request_seconds"].type == "histogram"
        assert {sample.labels["worker"] for sample in found["rsgi_requests"].samples} == {"1", "2"}
        assert requests.get(server.metrics + "/-/ready").status_code == 200
    finally:
        (server.folder / "go").touch()
        for session in sessions:
            session.join()
    wait_until("they are counted", lambda: sum(s.value for s in families(server)["rsgi_requests"].samples) >= 5)
