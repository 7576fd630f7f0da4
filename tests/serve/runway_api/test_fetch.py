"""Files are fetched from the public internet, and from no other place by no trick."""

import asyncio
import gzip
from collections.abc import Awaitable, Callable

import pytest
from aiohttp import web

from serve.runway_api import fetch as module
from serve.runway_api.fetch import RefusedUrlError, fetch, is_public
from tests.serve.runway_api.api_kit import site


def got(answer: Callable[[web.Request], Awaitable[web.StreamResponse]], path: str = "/", **allowed) -> bytes:
    async def run() -> bytes:
        async with site(answer) as url:
            return await fetch(url + path, max_bytes=1000, schemes=("http",), allows=lambda address: True, **allowed)

    return asyncio.run(run())


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "10.0.0.1", "172.16.0.1", "192.168.0.1", "169.254.169.254", "0.0.0.0", "100.64.0.1"),
        *("224.0.0.1", "255.255.255.255", "::1", "::", "fe80::1", "fc00::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1"),
        *("2002:7f00:1::", "ff02::1", "fd00:ec2::254", "64:ff9b:1::1", "64:ff9b::7f00:1"),
    ],
)
def test_inner_addresses_are_not_public(address: str):
    assert not is_public(address)


@pytest.mark.parametrize("address", ["8.8.8.8", "93.184.216.34", "2606:4700::1111"])
def test_others_are(address: str):
    assert is_public(address)


@pytest.mark.parametrize(
    "url",
    [
        *("http://example.com/", "file:///etc/passwd", "ftp://example.com/", "https:///x", "https://a:b@example.com/"),
        *("https://127.0.0.1/", "https://[::1]/", "https://0/", "https://2130706433/", "https://0x7f.1/"),
        *(
            "https://127.1/",
            "https://0177.0.0.1/",
            "https://localhost/",
            "https://169.254.169.254/latest/meta-data",
            "https://x:y/",
            "https://[::ffff:7f00:1]/",
        ),
    ],
)
def test_an_address_that_is_not_the_public_internet_is_refused_before_it_is_asked(url: str):
    with pytest.raises(RefusedUrlError, match=r"not on the public internet|must begin with https|is no URL"):
        asyncio.run(fetch(url, max_bytes=1000))


@pytest.mark.parametrize("host", ["2130706433", "127.1", "0"])
def test_an_inner_address_in_another_notation_is_not_asked(host: str):
    """No resolver is asked of them; the refusal is ours, whatever the client's version does."""
    asked = []

    async def answer(request: web.Request) -> web.Response:
        asked.append(request.path)
        return web.Response(body=b"secret")

    async def run() -> None:
        async with site(answer) as url:
            port = url.rpartition(":")[2]
            await fetch(f"http://{host}:{port}/", max_bytes=9, schemes=("http",))

    with pytest.raises(RefusedUrlError, match="not on the public internet"):
        asyncio.run(run())
    assert asked == []


def test_a_file_is_fetched():
    async def answer(request: web.Request) -> web.Response:
        return web.Response(body=b"picture")

    assert got(answer) == b"picture"


def test_a_redirect_to_an_inner_address_is_refused():
    async def answer(request: web.Request) -> web.Response:
        raise web.HTTPFound("http://127.0.0.2:9/")

    async def run() -> bytes:
        async with site(answer) as url:
            return await fetch(url, max_bytes=9, schemes=("http",), allows=lambda address: address == "127.0.0.1")

    with pytest.raises(RefusedUrlError, match=r"127\.0\.0\.2 is not on the public internet"):
        asyncio.run(run())


@pytest.mark.parametrize("target", ["file:///etc/passwd", "/"])
def test_a_redirect_to_another_scheme_or_without_end_is_refused(target: str):
    async def answer(request: web.Request) -> web.Response:
        raise web.HTTPFound(target)

    with pytest.raises(RefusedUrlError):
        got(answer)


def test_a_name_that_resolves_to_an_inner_address_is_refused_though_it_was_public_before(monkeypatch):
    """The answer of the resolver that the connection uses is the one that is checked."""
    asked: list[str] = []

    async def resolve(self, host, port=0, family=0):
        asked.append(host)
        return [{"hostname": host, "host": "10.0.0.7", "port": port, "family": 2, "proto": 0, "flags": 0}]

    monkeypatch.setattr(module.ThreadedResolver, "resolve", resolve)
    with pytest.raises(RefusedUrlError, match=r"rebound\.example is not on the public"):
        asyncio.run(fetch("https://rebound.example/", max_bytes=9))
    assert asked == ["rebound.example"]


@pytest.mark.parametrize("packed", [False, True])
def test_a_large_file_is_not_read_to_its_end(packed: bool):
    async def answer(request: web.Request) -> web.Response:
        body = bytes(10_000_000)
        headers = {"Content-Encoding": "gzip"} if packed else {}
        return web.Response(body=gzip.compress(body) if packed else body, headers=headers)

    with pytest.raises(RefusedUrlError, match=r"more than 0\.001 MB"):
        got(answer)


def test_a_site_that_does_not_answer_is_given_up(monkeypatch):
    monkeypatch.setattr(module, "FETCH_S", 0.2)

    async def answer(request: web.Request) -> web.Response:
        await asyncio.sleep(9)
        return web.Response()

    with pytest.raises(RefusedUrlError, match="cannot be reached"):
        got(answer)
