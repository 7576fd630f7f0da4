"""The face of one session, drawn in the process of the engines."""

import contextlib
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from serve.acts import Applied
from serve.live.avatar.changes import Act, Change, ChangeRefusedError, Redo, Reset, SetKeyframe, SetPrompt
from serve.live.avatar.engine_process import EngineProcess
from serve.live.avatar.engines import Portrait
from serve.live.avatar.performer import FaceLostError, Frames
from serve.live.avatar.text_process import TextProcess
from serve.live.avatar.voice_buffers import Ahead, Sound

ReadPicture = Callable[[str], Awaitable[Portrait]]  # from what a message names; ChangeRefusedError: it is none


class ProcessFace:
    """One session's `Face` in the engine process. A new engine gets the prompt and the numbers of the lost one."""

    def __init__(
        self,
        process: EngineProcess,
        session: str,
        portrait: Portrait,
        *,
        seed: int,
        texts: TextProcess | None = None,
        pictures: ReadPicture | None = None,
        manner: Mapping[str, float] | None = None,
    ) -> None:
        """texts: encodes prompts; None: the model has no text condition. pictures: reads those of keyframes; None: the
        model takes none. manner: numbers while nobody sets others."""
        self.process, self.session, self.portrait, self.seed, self.texts = process, session, portrait, seed, texts
        self.pictures = pictures
        self.manner = Act(dict(manner or {}))
        self._kept: dict[type, Change] = {Act: self.manner} if manner else {}

    async def start(self) -> None:
        await self.process.start()
        await self.process.call("start", self.session, self.portrait, self.seed)
        for change in self._kept.values():
            await self.process.call("change", self.session, change)

    async def change(self, change: Change) -> Applied:
        """As `Face.change`."""
        if isinstance(change, Reset):
            await self.start()
            return Applied(0, 0.0)
        if isinstance(change, SetPrompt):
            if self.texts is None:
                raise ChangeRefusedError("prompt must be left out: the model has no text condition.")
            change = SetPrompt(change.text, await self.texts.tokens(change.text))
        if isinstance(change, SetKeyframe):
            if self.pictures is None:
                raise ChangeRefusedError(
                    "keyframes must be left out: the model has no condition with encoder=keyframes."
                )
            change = SetKeyframe("", change.in_s, await self.pictures(change.image))
        applied: Applied = await self._changed(change)
        if isinstance(change, Act):
            await self._keep_numbers(change)
        elif isinstance(change, SetPrompt):
            self._kept[type(change)] = change
        return applied

    async def redo(self, change: Redo) -> tuple[Applied, Frames]:
        """As `serve.live.avatar.performer.Redoing.redo`."""
        applied, frames = await self._changed(change)
        await self._keep_numbers(Act(dict(change.action)))
        return applied, frames

    async def _changed(self, change: Change) -> Any:
        answer = await self.process.call("change", self.session, change)
        if isinstance(answer, str):
            raise ChangeRefusedError(answer)
        return answer

    async def _keep_numbers(self, change: Act) -> None:
        """All that hold now: whoever releases all of them has the character's own manner back."""
        if change.action is None:
            self._kept[Act] = self.manner
            await self.process.call("change", self.session, self.manner)
            return
        before = self._kept.get(Act, self.manner)
        assert isinstance(before, Act)
        self._kept[Act] = Act({**(before.action or {}), **change.action})

    async def step(self, agent: Ahead, user: Sound, *, within_s: float = 0.0) -> Frames | None:
        return await self.process.call("step", self.session, agent, user, within_s=within_s)

    async def retake(self, agent: Ahead, *, within_s: float) -> Frames | None:
        """As `serve.live.avatar.performer.Retaking.retake`."""
        return await self.process.call("retake", self.session, agent, within_s=within_s)

    async def stop(self) -> None:
        try:
            with contextlib.suppress(FaceLostError):
                await self.process.call("stop", self.session)
        finally:
            self.process.queue.close(self.session)
