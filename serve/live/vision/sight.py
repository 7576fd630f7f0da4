"""What one session sees of its visitor, while it is shown."""

import asyncio
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8

from serve.live.vision.pictures import SOURCES, Picture, check_jpeg
from serve.live.vision.reader import Words

OFF, ON_REQUEST, EVERY_SECOND = "off", "on_request", "every_second"
MODES = (OFF, ON_REQUEST, EVERY_SECOND)  # how often pictures are looked at, from the least to the most
LOOK_S = 12.0  # for one picture that is asked for: until it is here, and read; a busy machine reads for seconds
FRESH_S = 10.0  # after which a picture is no longer what is shown: its sender has gone, or sends none
PER_S, BURST = 2.0, 4  # pictures of one session
MODEL, FALLBACK = "model", "fallback"
METHODS = {"camera": "face landmarks", "screen": "text recognition"}  # of the fallback, as visitors read it


class UnseenError(RuntimeError):
    """A source cannot be looked at; the message says why, in a sentence that the character can say."""


@runtime_checkable
class PictureReader(Protocol):
    """Puts pictures into words, for all sessions."""

    async def words(self, picture: Picture, before: UInt8[np.ndarray, "h w"] | None) -> Words:
        """
        before: what was kept of the last picture that was read of this source.

        Raises:
            ValueError: the picture cannot be decoded.
            RuntimeError: reading it was interrupted.
        """
        ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Vision:
    """What a server can do with pictures: the language model is given them, or a reader puts them into words."""

    sources: tuple[str, ...]
    reader: PictureReader | None  # None: the language model takes pictures itself
    mode: str = EVERY_SECOND  # or ON_REQUEST

    @property
    def by(self) -> str:
        return MODEL if self.reader is None else FALLBACK

    def offered(self) -> dict[str, Any]:
        """The message to a client: what it may show, and who looks at it."""
        return {"type": "vision", "sources": list(self.sources), "by": self.by, "mode": self.mode}

    def within(self, mode: str) -> "Vision | None":
        """The same, looking no more often than by this mode; None: not at all."""
        least = min(self.mode, mode, key=MODES.index)
        return None if least == OFF else replace(self, mode=least)


@dataclass(frozen=True, slots=True)
class Sighting:
    """What is shown, in words of the fallback."""

    source: str
    text: str

    @property
    def title(self) -> str:
        whose = "the visitor's screen" if self.source == "screen" else "the visitor's camera"
        return f"{whose}, by {METHODS[self.source]} (fallback)"


@dataclass(slots=True)
class _Showing:
    """One source, from its first picture until it is old or hidden."""

    picture: Picture
    at_s: float
    words: str | None = None  # of the fallback; None: nothing was read yet
    kept: UInt8[np.ndarray, "h w"] | None = None  # of the last picture that was read


@dataclass(slots=True)
class _Look:
    """A picture that is asked for; done when it has been taken, and read where somebody reads it."""

    done: asyncio.Future[None]
    taken: bool = False


class Sight:
    """`take` pictures; the latest of each source is kept in memory until it is old, hidden, or the session ends.

    Where the mode is on request, a picture is taken when `look` asks for it, and no other one.

    on_event: is given the words of the fallback, so that the visitor knows them too.
    """

    def __init__(
        self,
        vision: Vision,
        *,
        on_event: Callable[[dict[str, Any]], None],
        spawn: Callable[[Coroutine[Any, Any, None]], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.vision, self.on_event, self.spawn, self.clock = vision, on_event, spawn, clock
        self._showing: dict[str, _Showing] = {}  # by source
        self._waiting: dict[str, _Showing] = {}  # those whose latest picture nobody has read, the longest first
        self._reading = False
        self._due_s = -1e9
        self.switched_on = set[str]()  # sources that the visitor lets be looked at
        self._switched_off = set[str]()  # and those of which a picture may still be on its way
        self._looks: dict[str, _Look] = {}

    def take(self, picture: Picture) -> None:
        """The latest picture of a source; while too many come, the rest is left out.

        Raises:
            ValueError: it cannot be used, or this source is not looked at.
        """
        if picture.source not in self.vision.sources:
            raise ValueError(f"The {picture.source} is not looked at here: {self._offer()}.")
        check_jpeg(picture)
        if not self.wants(picture.source):
            return
        now = self.clock()
        self._due_s = max(self._due_s, now - BURST / PER_S)
        if self._due_s > now:
            return
        self._due_s += 1 / PER_S
        showing = self._showing.get(picture.source)
        if showing is None or not self._is_fresh(showing):
            showing = self._showing[picture.source] = _Showing(picture, now)
        showing.picture, showing.at_s = picture, now
        if look := self._looks.get(picture.source):
            look.taken = True
        if self.vision.reader is None:
            self._looked(picture.source)
        else:
            self._waiting[picture.source] = showing
            if not self._reading:
                self._reading = True
                self.spawn(self._read(self.vision.reader))

    def show(self, source: object) -> None:
        """The visitor has switched a source on: from now on it may be looked at.

        Raises:
            ValueError: there is no such source, or it is not looked at.
        """
        name = _checked(source)
        if name not in self.vision.sources:
            raise ValueError(f"The {name} is not looked at here: {self._offer()}.")
        self.switched_on.add(name)
        self._switched_off.discard(name)

    def hide(self, source: object) -> None:
        """Forget what a source has shown; it may be looked at no longer, until `show`.

        Raises:
            ValueError: there is no such source.
        """
        name = _checked(source)
        self.switched_on.discard(name)
        self._switched_off.add(name)
        for kept in (self._showing, self._waiting):
            kept.pop(name, None)
        if look := self._looks.get(name):
            _fail(look, f"The visitor has switched the {name} off.")

    def wants(self, source: str) -> bool:
        """Whether a picture of this source would be taken now."""
        if source in self._switched_off:
            return False
        if self.vision.mode == EVERY_SECOND:
            return True
        look = self._looks.get(source)
        return look is not None and not look.taken

    async def look(self, source: str) -> None:
        """On request, ask for one picture and wait until it is here, and read where somebody reads it. Otherwise what
        is shown is seen anyway.

        Raises:
            UnseenError: the source is not shown, or no picture comes.
        """
        if source not in self.available:
            raise UnseenError(f"The visitor does not show the {source}.")
        if self.vision.mode == EVERY_SECOND:
            return
        if source not in self._looks:
            self._showing.pop(source, None)
            self._looks[source] = _Look(asyncio.get_running_loop().create_future())
            self.on_event({"type": "vision.look", "source": source})
        look = self._looks[source]
        try:
            async with asyncio.timeout(LOOK_S):
                await asyncio.shield(look.done)
        except TimeoutError as error:
            raise UnseenError(f"No picture of the {source} came within {LOOK_S:.0f} s.") from error
        finally:
            if self._looks.get(source) is look:
                del self._looks[source]

    def begin_question(self) -> None:
        """On request, a picture is of one question alone."""
        if self.vision.mode == ON_REQUEST:
            self._showing.clear()

    def clear(self) -> None:
        """Forget everything, as when another client takes the visitor's place."""
        for source in SOURCES:
            self.hide(source)
        self._switched_off.clear()

    def pictures(self) -> list[Picture]:
        """For a model that takes them: what is shown now, one of each source."""
        return [showing.picture for showing in self._fresh()] if self.vision.reader is None else []

    def sightings(self) -> list[Sighting]:
        """What is shown now, in words of the fallback."""
        return [Sighting(each.picture.source, each.words) for each in self._fresh() if each.words is not None]

    @property
    def available(self) -> tuple[str, ...]:
        """Sources that the visitor lets be looked at now."""
        on_request = self.vision.mode == ON_REQUEST
        return tuple(source for source in SOURCES if source in self.switched_on) if on_request else self.shown

    @property
    def shown(self) -> tuple[str, ...]:
        """Sources that are shown now."""
        return tuple(showing.picture.source for showing in self._fresh())

    def _fresh(self) -> list[_Showing]:
        return [each for each in self._showing.values() if self._is_fresh(each)]

    def _is_fresh(self, showing: _Showing) -> bool:
        return showing.at_s >= self.clock() - FRESH_S

    def _offer(self) -> str:
        return f"only {' and '.join(self.vision.sources)}" if self.vision.sources else "nothing is"

    async def _read(self, reader: PictureReader) -> None:
        try:
            while self._waiting:
                source = next(iter(self._waiting))
                await self._read_one(reader, self._waiting.pop(source))
        finally:
            self._reading = False

    async def _read_one(self, reader: PictureReader, showing: _Showing) -> None:
        source = showing.picture.source
        try:
            words = await reader.words(showing.picture, showing.kept)
        except (ValueError, RuntimeError) as error:
            if look := self._looks.get(source):
                _fail(look, str(error))
            return self.on_event({"type": "error", "message": str(error)})
        if self._showing.get(source) is not showing:  # hidden meanwhile, perhaps to show something else
            return
        showing.kept = words.kept
        if words.text is not None and words.text != showing.words:
            showing.words = words.text
            self.on_event({"type": "vision.seen", "source": source, "text": words.text, "by": METHODS[source]})
        self._looked(source)

    def _looked(self, source: str) -> None:
        if (look := self._looks.get(source)) and not look.done.done():
            look.done.set_result(None)


def _checked(source: object) -> str:
    if not isinstance(source, str) or source not in SOURCES:
        raise ValueError(f"source must be one of {', '.join(SOURCES)}.")
    return source


def _fail(look: _Look, message: str) -> None:
    if not look.done.done():
        look.done.set_exception(UnseenError(message))
