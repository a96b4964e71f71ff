"""Programs that people watch servers with read what rsgi tells: uwsgitop on a terminal, and Prometheus' own parser."""

import fcntl
import os
import pty
import select
import shutil
import struct
import sys
import termios
import threading
import time
from pathlib import Path

import pytest
import requests
from prometheus_client.parser import text_string_to_metric_families

from support import PATIENCE, Rsgi, listening_socket, need, open_folder, wait_until

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


def test_uwsgitop(server):
    program = Path(sys.executable).parent / "uwsgitop"
    need(program.exists(), f"{program} is missing; tests/run installs it")
    with pytest.MonkeyPatch.context() as patch:
        # Its window is as large as it is told, whatever the terminal of the tests is like.
        patch.setenv("LINES", "40")
        patch.setenv("COLUMNS", "200")
        top = Terminal([program, server.folder / "stats.sock"])
    top.wait_for(f"masterpid: {server.process.pid}")
    top.wait_for("LastSpwn")
    top.wait_for("idle")
    # Cores among workers, cores below workers, and out.
    top.press("aafq")
    assert top.end() == 0, top.seen
    assert b"Traceback" not in top.seen, top.seen


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
