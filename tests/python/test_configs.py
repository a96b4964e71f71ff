"""Every file in configs/ and examples/ is started, with other paths and ports and nothing else changed."""

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import requests

from support import PACKAGE, Nginx, Rsgi, listening_socket, need, open_folder, program, wait_until

CONFIGS = PACKAGE / "configs"
EXAMPLES = PACKAGE / "examples"
PORT = "127.0.0.1:8000"

APPLICATION = """\
import os

def application(environ, start_response):
    if environ["PATH_INFO"] == "/process":
        body = f"{os.getuid()} {os.environ.get('DJANGO_SETTINGS_MODULE')}".encode()
    else:
        body = environ["wsgi.input"].read() or b"the site"
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
"""


def started(ini, folder, sockets, words=()):
    """rsgi with this file; its own lines are what is tested."""
    process = Rsgi([], folder=folder, words=[program(), "--ini", ini, *words], sockets=sockets)
    return process


def everybody_may_read(path):
    return all(parent.stat().st_mode & 0o005 == 0o005 for parent in [path, *path.parents])


@pytest.fixture
def folder():
    folder = open_folder()
    (folder / "site/site_app").mkdir(parents=True)
    (folder / "site/site_app/__init__.py").touch()
    (folder / "site/site_app/wsgi.py").write_text(APPLICATION)
    (folder / "run").mkdir()
    yield folder
    shutil.rmtree(folder)


def test_all_files_are_tested():
    here = {"README.md", "minimal.ini", "production.ini", "nginx.conf", "systemd"}
    # test_frontends.py and test_cgi.py
    there = {"nginx", "apache", "haproxy", "lighttpd", "caddy", "nghttpx", "cgi"}
    assert {path.name for path in CONFIGS.iterdir()} == here | there
    assert {path.name for path in EXAMPLES.iterdir()} == {"hello", "flask", "django"}


def test_minimal(folder):
    with listening_socket() as sock:
        text = (CONFIGS / "minimal.ini").read_text()
        assert PORT in text and "/srv/site" in text
        text = text.replace(PORT, f"fd://{sock.fileno()}").replace("/srv/site", str(folder / "site"))
        (folder / "minimal.ini").write_text(text)
        rsgi = started(folder / "minimal.ini", folder, [sock])
        try:
            url = f"http://127.0.0.1:{sock.getsockname()[1]}/"
            assert requests.get(url, timeout=60).text == "the site"
        finally:
            rsgi.judge()


def test_production_behind_nginx(folder):
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "site/venv"], check=True)
    text = (CONFIGS / "production.ini").read_text()
    assert "/srv/site" in text and "/run/site" in text
    text = text.replace("/srv/site", str(folder / "site")).replace("/run/site", str(folder / "run"))
    drops = os.geteuid() == 0 and everybody_may_read(Path(os.__file__).parent)
    if not drops:
        # Nobody but root can become somebody else; and a Python in root's home is no use to others.
        text = "\n".join(line for line in text.splitlines() if not line.startswith(("uid", "gid")))
        text = text.replace("chmod-socket = 660", "chmod-socket = 666")
    else:
        shutil.chown(folder / "run", "www-data")
    (folder / "production.ini").write_text(text)
    (folder / "site/static").mkdir()
    (folder / "site/static/style.css").write_text("body {}")
    rsgi = started(folder / "production.ini", folder, [])
    try:
        rsgi.wait_until_serving(str(folder / "run/rsgi.sock"))
        config = (CONFIGS / "nginx.conf").read_text()
        assert "listen 80;" in config and "include mime.types;" in config
        # Where this nginx may write, who it is told to be, and its port.
        config = config.replace("{", "{{").replace("}", "}}").replace("listen 80;", "listen 127.0.0.1:{port};")
        config = config.replace("/run/site", str(folder / "run")).replace("/srv/site", str(folder / "site"))
        temporary = "".join(f"{name}_temp_path {{folder}}/{name};\n" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
        config = config.replace("include mime.types;", "include mime.types;\naccess_log off;\n" + temporary)
        config = "daemon off;\npid {folder}/nginx.pid;\n" + ("user www-data;\n" if drops else "") + config
        types = Path("/etc/nginx/mime.types")
        (folder / "mime.types").write_text(types.read_text() if types.exists() else "types { text/css css; }")
        nginx = Nginx(folder=folder, upstream=None, config=config)
        try:
            assert requests.get(nginx.url + "/").text == "the site"
            assert requests.get(nginx.url + "/static/style.css").text == "body {}"
            body = os.urandom(1_000_000)
            assert requests.post(nginx.url + "/", data=body).content == body
            uid, settings = requests.get(nginx.url + "/process").text.split()
            assert settings == "site_app.settings"
            assert not drops or int(uid) != 0
            assert (folder / "run/rsgi.pid").read_text().strip() == str(rsgi.process.pid)
            wait_until("the requests are logged", lambda: '127.0.0.1 "GET /process HTTP/1.1" 200' in rsgi.log())
        finally:
            nginx.judge()
    finally:
        rsgi.judge()
    assert not list((folder / "run").iterdir()), "left behind"


UNITS = CONFIGS / "systemd"


def verified(folder, names):
    """What systemd has to say of copies of these units, with programs and users of this machine."""
    verify = shutil.which("systemd-analyze")
    need(verify, "systemd-analyze is missing; install the package systemd")
    units = folder / "units"
    shutil.copytree(UNITS, units, ignore=lambda _, known: [name for name in known if name.endswith(".conf")])
    for path in units.glob("rsgi*.*"):
        if path.is_file():
            text = path.read_text()
            assert path.suffix != ".service" or "/usr/local/bin/rsgi --ini /etc/rsgi/" in text
            path.write_text(text.replace("/usr/local/bin/rsgi", str(program())))
    for name in names:
        if name.endswith(".conf"):
            shutil.copy(UNITS / name, units / name)
    words = [str(units / name) for name in names if not name.endswith(".conf")]
    done = subprocess.run([verify, "verify", "--man=no", *words], capture_output=True, text=True)
    return done.returncode, done.stderr


def test_systemd_units(folder):
    files = {str(path.relative_to(UNITS)) for path in UNITS.rglob("*") if path.is_file()}
    drop_in = "rsgi.service.d/notify-reload.conf"
    assert files == {"rsgi.service", "rsgi.socket", "rsgi@.service", "site.ini", drop_in}
    (folder / "a").mkdir()
    assert verified(folder / "a", ["rsgi.service", "rsgi.socket"]) == (0, "")
    (folder / "b").mkdir()
    # A template is verified as one of its instances.
    shutil.copytree(UNITS, folder / "b/site", dirs_exist_ok=True)
    instance = folder / "b/rsgi@blog.service"
    instance.write_text((UNITS / "rsgi@.service").read_text().replace("/usr/local/bin/rsgi", str(program())))
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", instance], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    (folder / "c").mkdir()
    version = int(subprocess.run(["systemd-analyze", "--version"], capture_output=True, text=True).stdout.split()[1])
    code, said = verified(folder / "c", ["rsgi.service", drop_in])
    assert code == 0
    # Before 253 there is no such type.
    assert said == "" if version >= 253 else "notify-reload" in said


def test_site_under_systemd(folder):
    """As systemd runs it: told of a socket to notify, on a socket that systemd holds; then reloaded as the unit says."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "site/venv"], check=True)
    text = (UNITS / "site.ini").read_text().replace("/srv/site", str(folder / "site"))
    text = text.replace("/run/site", str(folder / "run"))
    (folder / "site.ini").write_text(text)
    manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    manager.bind(str(folder / "notify"))
    manager.settimeout(60)
    words = [program(), "--ini", folder / "site.ini"]
    rsgi = Rsgi([], folder=folder, words=words, env={"NOTIFY_SOCKET": str(folder / "notify"), "WATCHDOG_USEC": "60000000"})

    def told(line):
        while line not in (text := manager.recv(4096).decode()).splitlines():
            pass
        return text

    try:
        assert "generation 1 serves" in told("READY=1")
        told("WATCHDOG=1")
        unit = (UNITS / "rsgi.service").read_text()
        line = next(line for line in unit.splitlines() if line.startswith("ExecReload="))
        command = line.removeprefix("ExecReload=/usr/local/bin/rsgi").replace("/run/site", str(folder / "run")).split()
        done = subprocess.run([program(), *command], capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, ""), done
        told("RELOADING=1")
        assert "generation 2 serves" in told("READY=1")
    finally:
        rsgi.judge()
    told("STOPPING=1")
    manager.close()
    (folder / "notify").unlink()


def example(name, folder, env=None):
    """A copy of an example, started on a socket of the test's."""
    shutil.copytree(EXAMPLES / name, folder / name)
    sock = listening_socket()
    ini = folder / name / "rsgi.ini"
    text = ini.read_text()
    assert PORT in text
    ini.write_text(text.replace(PORT, f"fd://{sock.fileno()}"))
    # Who runs an example has the virtual environment active.
    rsgi = Rsgi([], folder=folder, words=[program(), "--ini", ini, "--home", sys.prefix], sockets=[sock], env=env)
    return rsgi, f"http://127.0.0.1:{sock.getsockname()[1]}", sock


def test_hello(folder):
    rsgi, url, sock = example("hello", folder)
    try:
        assert requests.get(url, timeout=60).text == "Hello from rsgi\n"
    finally:
        rsgi.judge()
        sock.close()


def test_flask(folder):
    rsgi, url, sock = example("flask", folder)
    try:
        assert "<form" in requests.get(url, timeout=60).text
        assert len(requests.get(url + "/clock", timeout=60).text.splitlines()) == 5
        answer = requests.post(url + "/upload", files={"file": ("a.txt", b"12345")}, timeout=60)
        assert answer.json() == {"name": "a.txt", "bytes": 5}
        assert requests.get(url + "/admin/", timeout=60).text == "mounted at /admin"
    finally:
        rsgi.judge()
        sock.close()


def test_django(folder):
    env = {"DATABASE": str(folder / "notes.sqlite3")}
    manage = EXAMPLES / "django/manage.py"
    done = {**os.environ, **env, "PYTHONDONTWRITEBYTECODE": "1"}
    subprocess.run([sys.executable, manage, "migrate", "-v0"], check=True, env=done)
    rsgi, url, sock = example("django", folder, env)
    try:
        assert "Notes" in requests.get(url, timeout=60).text
        page = requests.get(url + "/admin/", timeout=60)
        assert "Log in" in page.text and page.url.endswith("/admin/login/?next=/admin/")
        assert requests.get(url + "/static/admin/css/base.css", timeout=60).headers["Content-Type"].startswith("text/css")
    finally:
        rsgi.judge()
        sock.close()


def test_the_active_virtual_environment_is_used(folder):
    """As in the examples' first lines: no `home`, but VIRTUAL_ENV."""
    (folder / "prefix.py").write_text(
        "import sys\ndef application(environ, start_response):\n"
        "    start_response('200 OK', [])\n    return [sys.prefix.encode()]\n"
    )
    with listening_socket() as sock:
        lines = [f"http-socket = fd://{sock.fileno()}", f"chdir = {folder}", "module = prefix"]
        rsgi = Rsgi(lines, folder=folder, sockets=[sock], env={"VIRTUAL_ENV": sys.prefix})
        try:
            assert requests.get(f"http://127.0.0.1:{sock.getsockname()[1]}/", timeout=60).text == sys.prefix
        finally:
            rsgi.judge()


