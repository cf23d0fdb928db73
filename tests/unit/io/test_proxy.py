"""Proxy bypass: connections on one machine avoid a site's proxy, with any variables that administrators set."""

import http.server
import threading
import urllib.request

import httpx
import pytest

from memamba_core.io.proxy import bypass_proxy

NOBODY = "http://127.0.0.1:9"


@pytest.fixture
def address():
    """Serve HTTP on this machine."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


@pytest.fixture
def environment(monkeypatch):
    """Set a proxy that does not answer."""
    for name in ("http_proxy", "HTTP_PROXY", "no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setenv("http_proxy", NOBODY)
    return monkeypatch


@pytest.mark.parametrize("names", [(), ("no_proxy",), ("NO_PROXY",), ("no_proxy", "NO_PROXY")])
def test_the_proxy_is_not_asked(names, address, environment):
    for name in names:
        environment.setenv(name, f"{name.lower()}.example.org")
    with pytest.raises(httpx.ConnectError):
        httpx.get(address)
    bypass_proxy("127.0.0.1")
    assert httpx.head(address).is_success
    for name in names:
        assert urllib.request.proxy_bypass(f"{name.lower()}.example.org"), "spared before"
    assert not urllib.request.proxy_bypass("example.com")


def test_everywhere_stays_everywhere(environment):
    environment.setenv("no_proxy", "*")
    bypass_proxy("127.0.0.1")
    assert urllib.request.proxy_bypass("example.com")
