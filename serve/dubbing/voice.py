"""Speech becomes codes of the mouth, by the diffusion model of a character, as they are asked for."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from gwm.autoencoders.motion.code import NAMES, from_latents
from gwm.files.outputs import whole_file
from serve.artifact import Artifact
from serve.engine import Engine

# What of a code is the mouth's; brows, lids, gaze and head stay those of the film.
MOUTH = [k for k, name in enumerate(NAMES) if name.startswith(("jaw", "mouth", "tongue", "cheekPuff"))]


class MouthCodes:
    """Codes at moments that never go back; only those around the last moment are kept.

    They depend on the sound and the seed alone: latents of a motion autoencoder know no picture. After the sound there
    is silence, in which the mouth rests.
    """

    def __init__(self, artifact: Artifact, sound: Iterator[Float[np.ndarray, " b"]], *, seed: int) -> None:
        """sound: blocks of the voice, at the rate of the artifact."""
        side = artifact.contract.vae.working_side
        self.engine, self.sound, self.fps = Engine(artifact, seed=seed, size=side), sound, artifact.contract.fps
        self.engine.start(np.zeros((*self.engine.size, 3), np.uint8))
        self.first, self.codes = 0, list[Float[Tensor, "57"]]()

    def at(self, moment_s: float) -> Float[Tensor, "57"]:
        """The mouth's code; zero in all else. Between two frames of the model it is mixed."""
        place = moment_s * self.fps
        before = int(place + 1e-6)
        while self.first + len(self.codes) < before + 2:
            self._generate()
        gone = max(0, before - self.first)
        self.first, self.codes = self.first + gone, self.codes[gone:]
        share = min(max(place - before, 0.0), 1.0)
        mixed = torch.lerp(self.codes[0], self.codes[1], share)
        code = torch.zeros_like(mixed)
        code[MOUTH] = mixed[MOUTH]
        return code

    def _generate(self) -> None:
        """The next chunk."""
        while not self.engine.ready:
            block = next(self.sound, None)
            if block is None:
                self.engine.push_silence(self.engine.chunk_samples)
            else:
                self.engine.push(block, np.zeros_like(block))
        latents = self.engine.denoise(self.engine.take())
        self.codes.extend(from_latents(latents)[0].float().cpu())


class StoredCodes:
    """Codes of all frames up to a moment, in a file that is made once and read as it is needed."""

    def __init__(self, path: Path, fps: int) -> None:
        self.codes, self.fps = np.load(path, mmap_mode="r"), fps

    def at(self, moment_s: float) -> Float[Tensor, "57"]:
        """As `MouthCodes.at`."""
        place = moment_s * self.fps
        before = min(int(place + 1e-6), len(self.codes) - 2)
        first, second = (torch.from_numpy(np.array(self.codes[k])) for k in (before, before + 1))
        return torch.lerp(first, second, min(max(place - before, 0.0), 1.0))


Codes = MouthCodes | StoredCodes


def store_codes(path: Path, codes: MouthCodes, until_s: float, *, seen: Callable[[], object]) -> None:
    """Make the file, whole or not at all; `seen` is called after every frame of the model."""
    count = int(until_s * codes.fps + 1e-6) + 2
    with whole_file(path) as partial:
        stored = np.lib.format.open_memmap(partial, "w+", np.float32, (count, len(NAMES)))
        for number in range(count):
            stored[number] = codes.at(number / codes.fps).numpy()
            seen()
        stored.flush()
