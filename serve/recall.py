"""What the chunks in sight were made of, so that a stream's memory can be told another text."""

import torch
from jaxtyping import Float
from torch import Tensor

from gwm.condition.inputs import Condition
from gwm.dit import DiT
from gwm.refresh import Told, refreshed
from gwm.rollout import Rollout


class Recall:
    """Latents and conditions of the chunks that can be seen, and of `depth` more that `rewind` could bring back.

    It stays empty where keys cannot be made again: with a noisy context their inputs are gone.
    """

    def __init__(self, model: DiT, rollout: Rollout, depth: int) -> None:
        self.model, self.rollout = model, rollout
        pattern = rollout.contract.pattern
        self.most, self.sinks = pattern.window_chunks - 1 + depth, pattern.sink_chunks
        self.told: list[Told] = []
        self.text: Tensor | None = None  # what all of them have been told; None: not all the same

    def clear(self) -> None:
        """A new stream."""
        self.told.clear()

    def keep(self, latents: Float[Tensor, "1 f c _ _"], condition: Condition) -> None:
        """The newest chunk."""
        if self.rollout.contract.context == "noisy":
            return
        self.text = condition.text
        self.told.append(Told(self.told[-1].number + 1 if self.told else 0, latents.clone(), condition))
        if len(self.told) > self.most:
            del self.told[self.sinks]

    def rewind(self, chunks: int) -> None:
        """The latest `chunks` have never been. What they had overwritten is back, as it was told then."""
        del self.told[len(self.told) - chunks :]
        if not all(_same(chunk.condition.text, self.text) for chunk in self.told):
            self.text = None

    def tell(self, text: Float[Tensor, "1 s t"]) -> None:
        """Make the keys and values in sight anew under `text`; before a chunk that is told it."""
        if not self.told or _same(text, self.text):
            return
        rollout, cache = self.rollout, self.rollout.cache
        seen = cache.pattern.kept(tuple(self.told))
        past = refreshed(
            self.model, seen, pattern=cache.pattern, horizon_frames=cache.horizon_frames, text=text,
            reference=rollout.reference,
        )  # fmt: skip
        for chunk, keys_values in zip(seen, past.chunks, strict=True):
            cache.put(cache.pattern.chunk_start(chunk.number), keys_values)


def _same(text: Tensor | None, other: Tensor | None) -> bool:
    """Without a look at the numbers, for which the host must wait, as long as nothing was switched."""
    return text is other or (text is not None and other is not None and torch.equal(text, other))
