"""Files from addresses that clients name: only from the public internet, whatever the name resolves to.

The connection goes to the very address that was checked, so that a name which changes meanwhile leads nowhere else.
Each redirect is checked as the first address was.
"""

import contextlib
import socket
from collections.abc import AsyncIterator, Callable
from ipaddress import IPv6Address, ip_address, ip_network
from typing import Any
from urllib.parse import urljoin, urlsplit

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver

MAX_REDIRECTS = 3
FETCH_S = 20.0
REDIRECTS = (301, 302, 303, 307, 308)
PIECE_BYTES = 65_536
TRANSLATED = (ip_network("64:ff9b::/96"), ip_network("64:ff9b:1::/48"))  # to IPv4 addresses of any kind, by NAT64


class RefusedUrlError(ValueError):
    """The file cannot be had from there; the message is for whoever named it."""


def is_public(address: str) -> bool:
    """Whether an address is somebody else's on the internet: not this machine, its network, or a cloud's metadata."""
    found = ip_address(address)
    if isinstance(found, IPv6Address):
        inner = found.ipv4_mapped or found.sixtofour
        if any(found in network for network in TRANSLATED) or (inner is not None and not is_public(str(inner))):
            return False
    return found.is_global and not found.is_multicast


class GuardedResolver(AbstractResolver):
    """Names as the system resolves them, without addresses that are not allowed."""

    def __init__(self, allows: Callable[[str], bool]) -> None:
        self.allows, self.inner = allows, ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        found = await self.inner.resolve(host, port, family)
        if not found or not all(self.allows(one["host"]) for one in found):
            raise RefusedUrlError(f"{host} is not on the public internet.")
        return found

    async def close(self) -> None:
        await self.inner.close()


async def fetch(url: str, *, max_bytes: int, **more: Any) -> bytes:
    """All of `fetched`."""
    return b"".join([piece async for piece in fetched(url, max_bytes=max_bytes, **more)])


async def fetched(
    url: str,
    *,
    max_bytes: int,
    allows: Callable[[str], bool] = is_public,
    schemes: tuple[str, ...] = ("https",),
    within_s: float | None = None,
) -> AsyncIterator[bytes]:
    """The file in pieces, as they arrive.

    allows: which addresses may be connected to. within_s: for all of it; None: FETCH_S.

    Raises:
        RefusedUrlError: the address, or one that it leads to, is not allowed, or the file is too large or not there.
    """
    connector = aiohttp.TCPConnector(resolver=GuardedResolver(allows), use_dns_cache=False)
    limits = aiohttp.ClientTimeout(total=within_s or FETCH_S)
    try:
        async with aiohttp.ClientSession(connector=connector, timeout=limits, trust_env=False) as client:
            for _ in range(MAX_REDIRECTS + 1):
                _check(url, allows, schemes)
                async with client.get(url, allow_redirects=False) as response:
                    if not (response.status in REDIRECTS and "Location" in response.headers):
                        async for piece in _pieces(response, url, max_bytes):
                            yield piece
                        return
                    url = urljoin(url, response.headers["Location"])
    except (aiohttp.ClientError, TimeoutError, OSError, UnicodeError) as error:
        refused = _refusal_in(error)
        raise refused or RefusedUrlError(f"{_host(url)} cannot be reached.") from error
    raise RefusedUrlError(f"{_host(url)} redirects more than {MAX_REDIRECTS} times.")


def _check(url: str, allows: Callable[[str], bool], schemes: tuple[str, ...]) -> None:
    """What needs no connection: the scheme, and hosts that are written as addresses, which nobody resolves."""
    try:
        parts = urlsplit(url)
        host = parts.hostname
        parts.port  # noqa: B018  raises where it is no number
    except ValueError as error:
        raise RefusedUrlError("This is no URL.") from error
    if parts.scheme not in schemes or not host or parts.username is not None:
        raise RefusedUrlError(f"Addresses must begin with {schemes[0]}:// and a host, without a user's name.")
    address = _written_address(host)
    if address is None:
        return  # a name: the resolver looks at it
    if not allows(address):
        raise RefusedUrlError(f"{host} is not on the public internet.")


def _written_address(host: str) -> str | None:
    """The address that a host's text stands for, also in notations such as 2130706433, 127.1 or 0x7f.1; None: a name.

    No resolver is asked of those, and only some versions of the client refuse them.
    """
    for read in (ip_address, lambda text: socket.inet_ntoa(socket.inet_aton(text))):
        with contextlib.suppress(ValueError, OSError):
            return str(read(host))
    return None


async def _pieces(response: aiohttp.ClientResponse, url: str, max_bytes: int) -> AsyncIterator[bytes]:
    if response.status != 200:
        raise RefusedUrlError(f"{_host(url)} answers with status {response.status}.")
    count = 0
    async for piece in response.content.iter_chunked(PIECE_BYTES):  # unpacked: a small answer may be a large file
        count += len(piece)
        if count > max_bytes:
            raise RefusedUrlError(f"The file has more than {max_bytes / 1e6:g} MB.")
        yield piece


def _refusal_in(error: BaseException | None) -> RefusedUrlError | None:
    """The resolver's refusal, which the client wraps."""
    seen: Any = error
    while seen is not None and not isinstance(seen, RefusedUrlError):
        seen = seen.__cause__ or seen.__context__
    return seen


def _host(url: str) -> str:
    return urlsplit(url).hostname or "this address"
