"""Every test of a site runs four times: straight at rsgi's HTTP socket, through nginx's `uwsgi_pass` to its
unix socket, through `proxy_pass` on connections that are kept, and through `scgi_pass`."""

import pytest


@pytest.fixture(params=["direct", "nginx", "proxy", "scgi"])
def way(request):
    return request.param


def pytest_addoption(parser):
    parser.addoption("--name-failed", metavar="FILE", help="write the names of tests that fail into this file, a line each")


def pytest_configure(config):
    if config.getoption("--name-failed"):
        config.pluginmanager.register(NamesOfFailed(config.getoption("--name-failed")))


class NamesOfFailed:
    """For tests/run, which tries them again: names have blanks in them, so the summary does not tell where they end."""

    def __init__(self, path):
        self.path = path
        open(path, "w").close()

    def pytest_runtest_logreport(self, report):
        if report.failed:
            with open(self.path, "a") as file:
                file.write(report.nodeid + "\n")
