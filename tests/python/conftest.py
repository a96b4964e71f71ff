"""Every test of a site runs four times: straight at rsgi's HTTP socket, through nginx's `uwsgi_pass` to its
unix socket, through `proxy_pass` on connections that are kept, and through `scgi_pass`."""

import pytest


@pytest.fixture(params=["direct", "nginx", "proxy", "scgi"])
def way(request):
    return request.param
