"""STUN and TURN servers, the same for both ends of a session."""

import base64
import hmac
import os
import time
from dataclasses import dataclass
from typing import Any

from aiortc import RTCIceServer

SECRET_VARIABLE = "GWM_TURN_SECRET"


@dataclass(frozen=True, slots=True)
class IceServers:
    """Their URLs, and the secret that TURN servers share with this one (`static-auth-secret` of coturn).

    Raises:
        ValueError: a TURN server, and no secret: it would let nobody in.
    """

    urls: list[str]
    secret: str = ""

    def __post_init__(self) -> None:
        if not self.secret and (relays := self._relays()):
            message = f"ice_servers has {relays[0]!r}, which needs {SECRET_VARIABLE} in the environment"
            raise ValueError(f"{message}: the secret that the server shares with it, static-auth-secret of coturn.")

    @classmethod
    def of(cls, urls: list[str]) -> "IceServers":
        """The secret is in the environment.

        Raises:
            ValueError: it is not.
        """
        return cls(urls, os.environ.get(SECRET_VARIABLE, ""))

    def servers(self, name: str, *, seconds: float) -> list[RTCIceServer]:
        """With credentials that hold for so many seconds; `name` is in the log of the TURN server.

        Source: Uberti 2013, draft-uberti-behave-turn-rest-00, Section 2.2.
        """
        relays = self._relays()
        others = [url for url in self.urls if url not in relays]
        found = [RTCIceServer(others)] if others else []
        if relays:
            user = f"{int(time.time() + seconds)}:{name}"
            password = base64.b64encode(hmac.digest(self.secret.encode(), user.encode(), "sha1")).decode()
            found.append(RTCIceServer(relays, user, password))
        return found

    def _relays(self) -> list[str]:
        return [url for url in self.urls if url.startswith(("turn:", "turns:"))]


def to_json(server: RTCIceServer) -> dict[str, Any]:
    """As a browser's RTCPeerConnection takes it."""
    credentials = {"username": server.username, "credential": server.credential} if server.username else {}
    return {"urls": server.urls, **credentials}
