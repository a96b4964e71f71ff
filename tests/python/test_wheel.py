"""`pip install .` into a fresh virtual environment gives the same command."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import requests

from support import PACKAGE, Rsgi, listening_socket, need, open_folder, wait_until


@pytest.fixture(scope="module")
def venv():
    need(shutil.which("cargo"), "cargo is missing: pip builds the wheel with it")
    folder = open_folder()
    subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYO3_")}
    # A target folder of its own: the wheel is built with other flags than the binary.
    env["CARGO_TARGET_DIR"] = str(PACKAGE / "target/wheel")
    done = subprocess.run(
        [folder / "venv/bin/pip", "install", "--no-deps", PACKAGE],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    yield folder / "venv"
    shutil.rmtree(folder)


def test_the_command_serves(venv):
    folder = open_folder()
    with listening_socket() as sock:
        text = (PACKAGE / "examples/hello/rsgi.ini").read_text().replace("127.0.0.1:8000", f"fd://{sock.fileno()}")
        (folder / "site.ini").write_text(text.replace("%d", str(folder)))
        (folder / "hello.py").write_text(
            "import sys\nimport rsgi\ndef application(environ, start_response):\n"
            # The limit is set within `try`: however late the thread runs on, the exception finds it there. A step before the loop,
            # since CPython 3.11 raises at the jump back as if at the instruction before the loop's first, which must not be `try`.
            "    if environ['PATH_INFO'] == '/late':\n        try:\n            rsgi.set_user_harakiri(0.3)\n"
            "            while True: str(1)\n        except rsgi.HarakiriError: sys.exit('late')\n"
            "    start_response('200 OK', [])\n    return [sys.prefix.encode()]\n"
        )
        words = [venv / "bin/rsgi", "--ini", folder / "site.ini"]
        rsgi = Rsgi([], folder=folder, words=words, sockets=[sock], allowed=("error: harakiri", "Traceback"))
        try:
            url = f"http://127.0.0.1:{sock.getsockname()[1]}/"
            # The application runs in the virtual environment that the command was installed into.
            assert requests.get(url, timeout=60).text == str(venv)
            # What it can import of the server is that of the server it runs in.
            assert requests.get(url + "late", timeout=60).status_code == 504
            rsgi.process.send_signal(1)
            assert requests.get(url, timeout=60).text == str(venv)
            wait_until("what it raised is logged", lambda: "SystemExit: late" in rsgi.log())
        finally:
            rsgi.judge()
    shutil.rmtree(folder)


@pytest.mark.parametrize("command", [["bin/rsgi"], ["bin/python", "-m", "rsgi"]])
def test_an_upgrade_runs_the_same_python_anew(venv, command):
    folder = open_folder()
    (folder / "app.py").write_text(
        "import os, sys\ndef application(environ, start_response):\n"
        "    start_response('200 OK', [])\n    return [f'old {os.getppid()} {sys.prefix}'.encode()]\n"
    )
    with listening_socket() as sock:
        words = [venv / command[0], *command[1:], "--ini", folder / "rsgi.ini"]
        lines = [f"http-socket = fd://{sock.fileno()}", f"chdir = {folder}", "wsgi-file = app.py", "processes = 2"]
        rsgi = Rsgi(lines, folder=folder, words=words, sockets=[sock], allowed=["Traceback", "upgrade failed", "ValueError"])
        try:
            url = f"http://127.0.0.1:{sock.getsockname()[1]}/"
            pid = rsgi.process.pid
            assert requests.get(url, timeout=60).text == f"old {pid} {venv}"
            name = Path(f"/proc/{pid}/comm").read_text()
            good = (folder / "app.py").read_text().replace("old", "new")
            (folder / "app.py").write_text("raise ValueError('on purpose')\n")
            rsgi.process.send_signal(signal.SIGUSR2)
            wait_until("the failure is told", lambda: "nothing has changed" in rsgi.log())
            assert requests.get(url, timeout=60).text == f"old {pid} {venv}"
            (folder / "app.py").write_text(good)
            for count in (1, 2):
                rsgi.process.send_signal(signal.SIGUSR2)
                wait_until("it is upgraded", lambda: rsgi.log().count("reload done") == count)
                wait_until("new workers answer", lambda: requests.get(url, timeout=60).text == f"new {pid} {venv}")
            assert Path(f"/proc/{pid}/comm").read_text() == name
        finally:
            rsgi.judge()
    shutil.rmtree(folder)


def test_the_module_is_a_command_too(venv):
    for words in ([venv / "bin/rsgi"], [venv / "bin/python", "-m", "rsgi"]):
        done = subprocess.run([*words, "--version"], capture_output=True, text=True)
        assert done.returncode == 0
        assert done.stdout.startswith("rsgi "), done.stdout


def test_errors_end_with_their_codes(venv):
    done = subprocess.run([venv / "bin/rsgi", "--ini", "missing.ini"], capture_output=True, text=True)
    assert done.returncode == 1
    assert "missing.ini" in done.stderr
    done = subprocess.run(
        [venv / "bin/rsgi", "--http-socket", "127.0.0.1:0", "--module", "no_such_module"], capture_output=True, text=True
    )
    assert done.returncode == 22, done.stderr
    assert "no_such_module" in done.stderr
