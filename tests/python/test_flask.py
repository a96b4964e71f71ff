"""A Flask application and a second one that is mounted beside it."""

import hashlib
import os
import signal
import threading

import pytest
import requests

from support import PARAMS, SITES, Site, open_folder, wait_until


@pytest.fixture(scope="module")
def site():
    folder = open_folder()
    lines = [
        f"pythonpath = {SITES}",
        f"env = SITE_FOLDER={folder}",
        "module = shop",
        "mount = /second=second:application",
        f"mount = /as-file={SITES}/second.py",
        "manage-script-name = true",
        "processes = 2",
    ]
    site = Site(lines, folder=folder)
    yield site
    site.judge()


def test_a_page(site, way):
    assert requests.get(site.urls[way] + "/").text == "the shop"


def test_a_response_is_streamed(site, way):
    gate = site.folder / f"seen-{way}"
    with requests.get(f"{site.urls[way]}/stream/{gate.name}", stream=True, timeout=60) as answer:
        lines = answer.iter_lines()
        # The application waits until this part has been seen here.
        assert next(lines) == b"first part"
        gate.touch()
        assert list(lines) == [b"part %d" % number for number in range(1000)]


def test_json(site, way):
    order = {"items": [{"name": "ä" * 100, "price": 2}] * 500}
    answer = requests.post(site.urls[way] + "/json", json=order)
    assert answer.json() == {"items": 500, "total": 1000}


@pytest.mark.parametrize("size", [0, 10, 3_000_000])
def test_an_upload(site, way, size):
    content = os.urandom(size)
    answer = requests.post(site.urls[way] + "/upload", files={"file": ("ä.bin", content)}, data={"note": "größer"})
    expected = {"name": "ä.bin", "note": "größer", "bytes": size, "sha256": hashlib.sha256(content).hexdigest()}
    assert answer.json() == expected


def test_a_mounted_application(site, way):
    url = site.urls[way]
    for prefix in ("/second", "/as-file"):
        assert requests.get(url + prefix + "/").text == "the second application"
        where = requests.get(url + prefix + "/where").json()
        assert where == {"root": prefix, "path": "/where", "link": prefix + "/"}
    where = requests.get(url + "/where?x=1").json()
    assert (where["root"], where["path"]) == ("", "/where")
    # Debian's scgi_params passes the host without its port.
    seen = url.rpartition(":")[0] if way == "scgi" and "$host;" in (PARAMS / "scgi_params").read_text() else url
    assert where["url"] == seen + "/where?x=1"
    assert where["address"] == "127.0.0.1"
    # Whole segments only.
    missing = requests.get(url + "/secondary")
    assert (missing.status_code, missing.text) == (404, "nothing at /secondary")


def test_parallel_requests(site, way):
    wrong = []

    def client(number):
        session = requests.Session()
        for _ in range(20):
            answer = session.post(site.urls[way] + "/json", json={"items": [{"price": number}]})
            if answer.status_code != 200 or answer.json()["total"] != number:
                wrong.append((number, answer.status_code, answer.text))

    threads = [threading.Thread(target=client, args=(number,)) for number in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_reloads_under_load_lose_no_request(site, way):
    url = site.urls[way]
    wrong, done, answered = [], threading.Event(), [0] * 6

    def client(number):
        # Half of them keep their connections, half make new ones.
        session = requests.Session() if number % 2 else requests
        while not done.is_set():
            try:
                answer = session.post(url + "/json", json={"items": [{"price": number}]}, timeout=60)
                if answer.status_code != 200 or answer.json()["total"] != number:
                    wrong.append((number, answer.status_code, answer.text))
            except requests.RequestException as error:
                wrong.append((number, repr(error)))
            answered[number] += 1

    threads = [threading.Thread(target=client, args=(number,)) for number in range(len(answered))]
    for thread in threads:
        thread.start()
    try:
        for _ in range(3):
            before = {requests.get(url + "/pid").text for _ in range(10)}
            site.rsgi.process.send_signal(signal.SIGHUP)
            wait_until("only new workers answer", lambda: not before & {requests.get(url + "/pid").text for _ in range(10)})
    finally:
        done.set()
        for thread in threads:
            thread.join()
    assert not wrong, wrong[:5]
    assert min(answered) > 3
