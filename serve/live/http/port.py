"""The port: bound before anything is loaded, and open to a bounded number of connections; with encryption, if asked."""

import asyncio
import contextlib
import errno
import resource
import socket
import ssl
from collections.abc import AsyncIterator

from aiohttp import web

HEADERS_S = 20.0  # for a request to arrive, and between two of one connection
LINGER_S = 2.0  # for the rest of a body that was refused
SHUTDOWN_S = 2.0  # for requests that are being answered when the server stops
MAX_CONNECTIONS = 1_000
SHARE_OF_FILES = 0.5  # of the files that the process may open; the others are for media, models and logs


def bound_sockets(host: str, port: int, *, shared: bool = False) -> list[socket.socket]:
    """Sockets that hold the port and do not listen yet; shared: with others of this user that share it too.

    Raises:
        ValueError: the port is taken or not allowed, or the host is none of this machine's.
    """
    if not 0 <= port <= 65535:
        raise ValueError(f"port={port} must be in 0..65535.")
    found: list[socket.socket] = []
    try:
        kinds = {"family": socket.AF_UNSPEC, "type": socket.SOCK_STREAM, "flags": socket.AI_PASSIVE}
        for family, kind, protocol, _, address in dict.fromkeys(socket.getaddrinfo(host, port, **kinds)):
            found.append(socket.socket(family, kind, protocol))
            found[-1].setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT if shared else socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                found[-1].setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            found[-1].bind(address)
    except OSError as error:
        for each in found:
            each.close()
        raise ValueError(_why(host, port, error)) from error
    return found


def _why(host: str, port: int, error: OSError) -> str:
    if isinstance(error, socket.gaierror):
        return f"host={host} must be a name or an address of this machine ({error.strerror}). Use host=127.0.0.1."
    if error.errno == errno.EADDRINUSE:
        return f"port={port} is taken by another program. Stop it, or choose another port: port={port + 1}."
    if error.errno == errno.EACCES:
        return f"port={port} must be 1024 or more: smaller ones belong to the system's administrator."
    return f"host={host} port={port} cannot be used ({error.strerror}). Use an address of this machine."


def encryption(certificate: list[str] | None) -> ssl.SSLContext | None:
    """Of files in PEM: the chain of certificates, and the key; None: there is none, or a proxy has it.

    Raises:
        ValueError: they cannot be read, or do not belong to each other.
    """
    if certificate is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(*certificate)
    except OSError as error:  # an SSLError is one
        raise ValueError(f"certificate={certificate} must be files in PEM, the chain and its key ({error}).") from error
    return context


class Refused(asyncio.Protocol):
    """A connection beyond the limit."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()


@contextlib.asynccontextmanager
async def listening(
    app: web.Application, sockets: list[socket.socket], tls: ssl.SSLContext | None = None
) -> AsyncIterator[None]:
    """Serve the application on these sockets; closing waits only shortly for whoever is slow."""
    runner = web.AppRunner(
        app, shutdown_timeout=SHUTDOWN_S, keepalive_timeout=HEADERS_S, lingering_time=LINGER_S, access_log=None
    )
    await runner.setup()
    server = runner.server
    assert server is not None
    limit = min(MAX_CONNECTIONS, round(SHARE_OF_FILES * resource.getrlimit(resource.RLIMIT_NOFILE)[0]))

    def protocol() -> asyncio.BaseProtocol:
        return server() if len(server.connections) < limit else Refused()

    loop = asyncio.get_running_loop()
    secured = {} if tls is None else {"ssl": tls, "ssl_handshake_timeout": HEADERS_S}
    servers = [await loop.create_server(protocol, sock=each, backlog=128, **secured) for each in sockets]
    try:
        yield
    finally:
        for each in servers:
            each.close()
        await runner.cleanup()
