"""A Django project with its admin site: log in, create, upload, download, fail."""

import hashlib
import os
import re
import subprocess
import sys

import pytest
import requests

from support import SITES, Site, open_folder


@pytest.fixture(scope="module")
def site():
    folder = open_folder()
    env = {"SITE_FOLDER": str(folder), "PYTHONPATH": str(SITES), "PYTHONDONTWRITEBYTECODE": "1"}
    subprocess.run([sys.executable, SITES / "library/prepare.py"], check=True, env={**os.environ, **env})
    lines = [
        f"pythonpath = {SITES}",
        f"env = SITE_FOLDER={folder}",
        "module = library.wsgi",
        "processes = 2",
        "threads = 2",
    ]
    site = Site(lines, folder=folder, allowed=("Traceback", "boom on purpose"))
    yield site
    site.judge()


@pytest.fixture
def browser(site, way):
    """Somebody who has logged in to the admin site."""
    url = site.urls[way]
    session = requests.Session()
    session.base = url
    page = session.get(url + "/admin/login/?next=/admin/")
    assert page.status_code == 200
    token = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', page.text).group(1)
    form = {"username": "librarian", "password": "a long password", "csrfmiddlewaretoken": token, "next": "/admin/"}
    page = session.post(url + "/admin/login/", data=form, headers={"Referer": url + "/admin/login/"})
    assert page.status_code == 200 and page.url == url + "/admin/", page.url
    assert "Site administration" in page.text
    assert page.text.rstrip().endswith("</html>")
    return session


def test_without_a_token_the_login_is_refused(site, way):
    page = requests.post(site.urls[way] + "/admin/login/", data={"username": "librarian", "password": "a long password"})
    assert page.status_code == 403
    assert "CSRF" in page.text


def test_without_a_login_nothing_is_shown(site, way):
    page = requests.get(site.urls[way] + "/admin/", allow_redirects=False)
    assert page.status_code == 302
    assert page.headers["Location"] == "/admin/login/?next=/admin/"


@pytest.mark.parametrize("size", [0, 1000, 20 * 1024 * 1024])
def test_a_file_is_uploaded_and_comes_back(site, browser, way, size):
    content = os.urandom(size) if size else b"x"
    url = browser.base + "/admin/shelf/document/add/"
    page = browser.get(url)
    token = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', page.text).group(1)
    title = f"through {way}, {size} bytes"
    page = browser.post(
        url,
        data={"csrfmiddlewaretoken": token, "title": title, "_continue": "Save and continue editing"},
        files={"file": ("content.bin", content, "application/octet-stream")},
        headers={"Referer": url},
    )
    assert page.status_code == 200, page.text[:1000]
    assert "was added successfully" in page.text
    number = re.search(r"/admin/shelf/document/(\d+)/change/", page.url).group(1)
    assert title in browser.get(browser.base + "/admin/shelf/document/").text
    back = browser.get(f"{browser.base}/documents/{number}")
    assert back.status_code == 200
    assert int(back.headers["Content-Length"]) == len(content)
    assert hashlib.sha256(back.content).digest() == hashlib.sha256(content).digest()


def test_a_chunked_post_arrives_whole(site, way):
    pieces = [os.urandom(n) for n in (1, 1000, 70_000, 500_000, 3)]
    answer = requests.post(site.urls[way] + "/digest", data=iter(pieces))
    assert answer.status_code == 200
    whole = b"".join(pieces)
    assert answer.json() == {"bytes": len(whole), "sha256": hashlib.sha256(whole).hexdigest()}


def test_the_page_of_an_exception_arrives_whole(site, way):
    page = requests.get(site.urls[way] + "/boom")
    assert page.status_code == 500
    assert "boom on purpose: seen in the page of the exception" in page.text
    assert "RuntimeError" in page.text
    assert len(page.text) > 50_000
    assert page.text.rstrip().endswith("</html>")


def test_cookies_stay_apart(site, way):
    url = site.urls[way]
    first, second = requests.Session(), requests.Session()
    for session in (first, second):
        session.get(url + "/admin/login/")
    assert first.cookies["csrftoken"] != second.cookies["csrftoken"]


def test_many_requests_on_one_connection(site, browser):
    for _ in range(50):
        assert browser.get(browser.base + "/admin/").status_code == 200


def test_head_and_options(site, way):
    url = site.urls[way]
    session = requests.Session()
    head = session.head(url + "/admin/login/")
    assert head.status_code == 200 and head.content == b""
    assert session.get(url + "/admin/login/").status_code == 200
    assert session.options(url + "/digest").status_code == 200
