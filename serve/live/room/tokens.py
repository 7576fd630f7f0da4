"""Who may join a room, as signed by this server."""

import secrets
import time
from dataclasses import dataclass

import jwt

from serve.live.http.refusals import WrongKeyError

ALGORITHM, ISSUER = "HS256", "gwm"
VISITOR, BACKEND = "user", "backend"  # begin the identities of those who talk, and of programs that answer calls


@dataclass(frozen=True, slots=True)
class Grant:
    """One may join `room` as `identity`; `hidden`: it answers calls of tools, and is seen by nobody."""

    room: str
    identity: str
    hidden: bool


class Tokens:
    """Signs and reads LiveKit's access tokens; without a secret, with one that lasts as long as this server."""

    def __init__(self, secret: bytes | None = None) -> None:
        self._secret = secret or secrets.token_bytes(32)

    def sign(self, room: str, *, hidden: bool, seconds: float) -> str:
        """A token for a client of its own; it may join again with it, as when its network was cut."""
        identity = f"{BACKEND if hidden else VISITOR}:{secrets.token_hex(6)}"
        now = int(time.time())
        rights = {"roomJoin": True, "canSubscribe": True, "canPublish": not hidden, "canPublishData": True}
        video = {"room": room, "hidden": hidden, **rights}
        claims = {"iss": ISSUER, "sub": identity, "nbf": now - 5, "exp": now + round(seconds), "video": video}
        return jwt.encode(claims, self._secret, algorithm=ALGORITHM)

    def read(self, token: str) -> Grant:
        """What a token allows.

        Raises:
            WrongKeyError: it was not signed by this server, or its time is over.
        """
        try:
            claims = jwt.decode(
                token, self._secret, algorithms=[ALGORITHM], issuer=ISSUER, options={"require": ["exp", "sub", "nbf"]}
            )
        except jwt.InvalidTokenError as error:
            raise WrongKeyError(f"The access token is not valid ({error}). Begin a new session.") from error
        return Grant(claims["video"]["room"], claims["sub"], claims["video"]["hidden"])
