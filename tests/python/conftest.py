"""Every test of a site runs three times: straight at rsgi's HTTP socket, through nginx's `uwsgi_pass` to its
unix socket, and through nginx's `proxy_pass` on connections that are kept."""

import pytest


@pytest.fixture(params=["direct", "nginx", "proxy"])
def way(request):
    return request.param
