"""What a handler is given beside the database: who asks, how, and what of the live server it may use."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from serve.store.tables import ApiKey

# Sound of a text in a voice (as a character's `voice`), and its samples a second.
Speak = Callable[[dict[str, Any], str], tuple[Float[np.ndarray, " t"], int]]


@dataclass(frozen=True, slots=True)
class Desk:
    """The server as handlers see it."""

    owner: str  # id of this server among those that share the store
    characters: dict[str, str]  # built-in ones: key and name
    capacity: int
    speak: Speak | None  # None: voices are elsewhere
    # From a session's id: token and name of the room that a program joins; None: it is not open here.
    backend_room: Callable[[str], dict[str, str] | None]


@dataclass(frozen=True, slots=True)
class Call:
    """One request."""

    desk: Desk
    base_url: str  # of this server, as the client sees it
    ids: dict[str, str]  # of the path
    bearer: str
    key: ApiKey | None  # None: the route needs none

    @property
    def id(self) -> str:
        return self.ids["id"]

    def file_url(self, file_id: str | None) -> str | None:
        return None if file_id is None else f"{self.base_url}/v1/files/{file_id}"


@dataclass(frozen=True, slots=True)
class Binary:
    """An answer that is no JSON."""

    data: bytes
    content_type: str
