"""pypiserver as the application and pip as its client."""

import hashlib
import os
import subprocess
import sys

import pytest
import requests

from support import SITES, Site, open_folder

PROJECT = """\
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"

[project]
name = "{name}"
version = "1.2.3"

[tool.setuptools]
packages = ["{module}"]

[tool.setuptools.package-data]
"*" = ["*.bin"]
"""


@pytest.fixture(scope="module")
def site():
    folder = open_folder()
    (folder / "packages").mkdir()
    lines = [f"pythonpath = {SITES}", f"env = SITE_FOLDER={folder}", "module = packages", "processes = 2"]
    site = Site(lines, folder=folder)
    yield site
    site.judge()


def pip(*words):
    env = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
    env |= {"PIP_CONFIG_FILE": os.devnull, "PIP_DISABLE_PIP_VERSION_CHECK": "1", "NO_PROXY": "127.0.0.1"}
    done = subprocess.run([sys.executable, "-m", "pip", *map(str, words)], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def package(way, tmp_path):
    """A wheel with two megabytes of data that nobody can have cached."""
    name = f"rsgi-test-{way}"
    module = name.replace("-", "_")
    source = tmp_path / "source"
    (source / module).mkdir(parents=True)
    (source / "pyproject.toml").write_text(PROJECT.format(name=name, module=module))
    (source / module / "__init__.py").write_text(f"WAY = {way!r}\n")
    (source / module / "data.bin").write_bytes(os.urandom(2_000_000))
    pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", tmp_path, source)
    (wheel,) = tmp_path.glob("*.whl")
    return name, wheel, source / module / "data.bin"


def test_a_package_is_uploaded_and_installed(site, way, package, tmp_path):
    url = site.urls[way]
    name, wheel, data = package
    with open(wheel, "rb") as file:
        form = {":action": "file_upload", "protocol_version": "1", "name": name, "version": "1.2.3"}
        answer = requests.post(url + "/", data=form, files={"content": (wheel.name, file)})
    assert answer.status_code == 200, answer.text
    assert name in requests.get(url + "/simple/").text
    page = requests.get(f"{url}/simple/{name}/").text
    assert hashlib.sha256(wheel.read_bytes()).hexdigest() in page or wheel.name in page

    target = tmp_path / "installed"
    pip("install", "--no-cache-dir", "--no-deps", "--index-url", url + "/simple/", "--target", target, name)
    module = name.replace("-", "_")
    assert (target / module / "data.bin").read_bytes() == data.read_bytes()
    done = subprocess.run(
        [sys.executable, "-c", f"import {module}; print({module}.WAY)"],
        env={"PYTHONPATH": str(target)},
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == way, done.stderr


def test_what_is_not_there_is_404(site, way):
    assert requests.get(site.urls[way] + "/simple/no-such-package/").status_code == 404
