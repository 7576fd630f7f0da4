"""The port, before anything else is loaded, and under connections that never ask for anything."""

import asyncio
import contextlib
import datetime as dt
import socket
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from aiohttp import ClientConnectorCertificateError, ClientSession, web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from serve.live.http.port import bound_sockets, encryption, listening


def test_a_port_that_is_taken_is_told_at_once():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ValueError, match=rf"port={port} is taken by another program. .* port={port + 1}\."):
            bound_sockets("127.0.0.1", port)


@pytest.mark.parametrize(
    ("host", "port", "rule"),
    [
        ("no.such.host.invalid", 0, "host=no.such.host.invalid must be a name or an address of this machine"),
        ("192.0.2.77", 0, "host=192.0.2.77 port=0 cannot be used"),
        ("127.0.0.1", 70_000, r"port=70000 must be in 0\.\.65535"),
    ],
)
def test_an_address_that_cannot_be_used_is_told_at_once(host: str, port: int, rule: str):
    with pytest.raises(ValueError, match=rule):
        bound_sockets(host, port)


def served(script: Callable[[int], Awaitable[None]]) -> None:
    async def hello(request: web.Request) -> web.Response:
        return web.Response(text="hello")

    async def run() -> None:
        app = web.Application()
        app.router.add_get("/", hello)
        sockets = bound_sockets("127.0.0.1", 0)
        async with listening(app, sockets):
            await script(sockets[0].getsockname()[1])

    asyncio.run(run())


async def ask(port: int, request: bytes = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n") -> bytes:
    """What is answered, until the server closes or says nothing for half a second."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    answer = b""
    with contextlib.suppress(TimeoutError, ConnectionError):
        while part := await asyncio.wait_for(reader.read(1_000), 0.5):
            answer += part
    writer.close()
    return answer


def certified(folder: Path, name: str) -> list[str]:
    """Files of a certificate of `name` that signs itself, and of its key."""
    key, now = ec.generate_private_key(ec.SECP256R1()), dt.datetime.now(dt.UTC)
    named, until = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)]), now + dt.timedelta(1)
    made = x509.CertificateBuilder(named, named, key.public_key(), x509.random_serial_number(), now, until)
    made = made.add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
    signed = made.sign(key, hashes.SHA256())
    form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    files = {"chain.pem": signed.public_bytes(form[0]), "key.pem": key.private_bytes(*form)}
    for file, data in files.items():
        (folder / file).write_bytes(data)
    return [str(folder / file) for file in files]


def test_with_a_certificate_what_is_sent_is_encrypted(tmp_path: Path):
    files = certified(tmp_path, "localhost")
    app = web.Application()
    app.router.add_get("/", lambda request: _answer(request.scheme))

    async def _answer(scheme: str) -> web.Response:
        return web.Response(text=scheme)

    async def run() -> None:
        sockets = bound_sockets("127.0.0.1", 0)
        port = sockets[0].getsockname()[1]
        async with listening(app, sockets, encryption(files)), ClientSession() as client:
            trusting = ssl.create_default_context(cafile=files[0])
            async with client.get(f"https://localhost:{port}/", ssl=trusting) as answer:
                assert await answer.text() == "https"
            with pytest.raises(ClientConnectorCertificateError):
                await client.get(f"https://localhost:{port}/")
            assert await ask(port) == b""

    asyncio.run(run())


def test_a_certificate_that_cannot_be_used_is_told_at_once(tmp_path: Path):
    chain, key = certified(tmp_path, "localhost")
    other = tmp_path / "other"
    other.mkdir()
    assert encryption(None) is None
    for files in ([chain, str(tmp_path / "none.pem")], [chain, chain], [chain, certified(other, "localhost")[1]]):
        with pytest.raises(ValueError, match="must be files in PEM, the chain and its key"):
            encryption(files)
    encryption([chain, key])


def test_a_request_that_never_ends_is_cut_off(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("serve.live.http.port.HEADERS_S", 0.2)

    async def script(port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n")  # and no more
        assert await asyncio.wait_for(reader.read(), 5) == b""
        writer.close()

    served(script)


def test_connections_beyond_the_limit_are_closed_and_the_others_are_served(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("serve.live.http.port.MAX_CONNECTIONS", 2)

    async def script(port: int) -> None:
        idle = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
        await asyncio.sleep(0.05)
        assert await ask(port) == b""
        for _, writer in idle:
            writer.close()
        await asyncio.sleep(0.05)
        assert b"hello" in await ask(port)

    served(script)


def test_a_stranger_does_not_decide_how_long_the_end_takes(monkeypatch: pytest.MonkeyPatch):
    """One who has begun to send a body and never goes on."""
    monkeypatch.setattr("serve.live.http.port.SHUTDOWN_S", 0.1)
    ended = []

    async def run() -> None:
        async def body(request: web.Request) -> web.Response:
            await request.read()
            ended.append("answered")
            return web.Response()

        app = web.Application()
        app.router.add_post("/", body)
        sockets = bound_sockets("127.0.0.1", 0)
        async with listening(app, sockets):
            _, writer = await asyncio.open_connection("127.0.0.1", sockets[0].getsockname()[1])
            writer.write(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99\r\n\r\nx")
            await asyncio.sleep(0.1)
        ended.append("closed")
        writer.close()

    asyncio.run(asyncio.wait_for(run(), 30))
    assert ended == ["closed"]
