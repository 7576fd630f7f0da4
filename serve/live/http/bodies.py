"""Bodies of requests, read whole, within bounds of size and time."""

import asyncio
import json
from typing import Any

from aiohttp import web

BODY_S = 20.0  # for the largest upload on a slow line


class TooLargeError(ValueError):
    """A body with more bytes than may be sent."""


async def read_body(request: web.Request, limit: int) -> bytes:
    """All of it, in however many pieces it arrives.

    Raises:
        TooLargeError: there is more than `limit` bytes of it.
        TimeoutError: it does not end in time.
    """
    body = bytearray()
    async with asyncio.timeout(BODY_S):
        async for part in request.content.iter_any():
            body += part
            if len(body) > limit:
                raise TooLargeError(f"At most {limit / 1e6:g} MB can be sent here.")
    return bytes(body)


async def read_json(request: web.Request, limit: int) -> dict[str, Any]:
    """Read the body as a JSON object.

    Raises:
        TooLargeError, TimeoutError: as `read_body`.
        ValueError: it is no JSON object.
    """
    body = await read_body(request, limit)
    try:
        values = json.loads(body or b"{}")
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the body must be JSON ({error}).") from error
    if not isinstance(values, dict):
        raise ValueError("the body must be a JSON object.")
    return values
