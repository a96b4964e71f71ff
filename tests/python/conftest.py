"""Every test of a site runs twice: straight at rsgi's HTTP socket, and through nginx."""

import pytest


@pytest.fixture(params=["direct", "nginx"])
def way(request):
    return request.param
