"""Who answers actions with pictures: the model, the recorded world itself, its autoencoder, and a still picture."""

from collections.abc import Iterator
from itertools import islice
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, UInt8

from data.shards import Clip
from data.synthetic import derive_seed
from data.worlds.episodes import played
from data.worlds.world import World
from gwm.media.pixels import to_tensor
from gwm.transfer import to_host
from serve.artifact import Artifact
from serve.engine import Engine

Actions = Float[np.ndarray, "f k"]
Frames = UInt8[np.ndarray, "f h w 3"]
CONDITION = "action"  # the name under which worlds are recorded


@runtime_checkable
class Player(Protocol):
    def play(self, clip: Clip, actions: Actions) -> Frames:
        """From where the clip begins, a picture after each action; the clip's own actions may be others."""
        ...


class Still:
    """Shows the first picture for ever."""

    def play(self, clip: Clip, actions: Actions) -> Frames:
        return np.broadcast_to(clip.reference, (len(actions), *clip.reference.shape)).copy()


class Real:
    """The recorded world. Clips begin with their episode, whose seed they know; where it ends another one begins."""

    def __init__(self, world: World) -> None:
        self.world = world

    def play(self, clip: Clip, actions: Actions) -> Frames:
        return np.stack(list(islice(self.pictures(clip.info["seed"], iter(actions)), len(actions))))

    def pictures(self, seed: int, actions: Iterator[Float[np.ndarray, " k"]]) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
        """The picture after each action."""
        latest: list[Float[np.ndarray, " k"]] = []
        moments = played(self.world, seed, lambda: latest[-1])
        next(moments)  # the start
        for number, action in enumerate(actions):
            latest[:] = [action]
            moment = next(moments, None)
            if moment is None:  # the episode has ended
                moments = played(self.world, derive_seed(seed, "again", number), lambda: latest[-1])
                next(moments)
                moment = next(moments)
            yield moment.picture


class Decoded:
    """The recorded world as the model's autoencoder shows it: what a model in its latents can reach."""

    def __init__(self, real: Real, artifact: Artifact) -> None:
        self.real, self.vae = real, artifact.vae

    @torch.no_grad()
    def play(self, clip: Clip, actions: Actions) -> Frames:
        frames, stride = self.real.play(clip, actions), self.vae.config.temporal_stride
        whole = np.concatenate([frames, np.repeat(frames[-1:], -len(frames) % stride, axis=0)])
        reference = self.vae.encode_reference(to_tensor(clip.reference)[None])
        latents = self.vae.encode(to_tensor(whole)[None], reference)
        return to_host(self.vae.decode(latents, self.vae.begin(reference))[0]).numpy()[0, : len(frames)]


class Model:
    """An artifact, as it is served."""

    def __init__(self, artifact: Artifact, *, seed: int) -> None:
        self.artifact, self.seed = artifact, seed
        self.names = [control.name for control in artifact.contract.controls_of(CONDITION)]

    def play(self, clip: Clip, actions: Actions) -> Frames:
        return np.concatenate(list(self.chunks(clip.reference, actions)))[: len(actions)]

    def chunks(self, reference: UInt8[np.ndarray, "h w 3"], actions: Actions) -> Iterator[Frames]:
        """As many whole chunks as there are actions for; in the last one the last action goes on."""
        engine = self.started(reference)
        size = engine.contract.chunk_pixel_frames
        for start in range(0, len(actions), size):
            yield self.step(engine, actions[start : start + size])

    def started(self, reference: UInt8[np.ndarray, "h w 3"]) -> Engine:
        engine = Engine(self.artifact, seed=self.seed)
        engine.start(reference.copy())  # a decoded picture is read-only, which torch warns about
        return engine

    def step(self, engine: Engine, actions: Float[np.ndarray, "n k"]) -> Frames:
        """The next chunk under an action for each of its frames."""
        engine.act(dict(zip(self.names, actions.T.tolist(), strict=True)))
        return engine.step()
