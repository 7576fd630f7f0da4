"""A causal teacher in a folder, and clips in memory: what both tests of ODE pairs start from."""

from pathlib import Path
from typing import Any

import torch

from data.batch import LatentData
from data.steps import StepData
from distill.ode_pairs import write_pairs
from gwm.chunks import ChunkPattern
from gwm.guidance import Guidance
from gwm.weights import save_weights
from tests.tiny import DIT, GRID, SPEECH, contract, tiny_dit
from train.networks import dit_header

FRAMES = 4
PATTERN = ChunkPattern(chunk_frames=2, window_chunks=2, sink_chunks=1, first_frames=1)
TEACHER = contract(FRAMES, pattern=PATTERN, solver="ode")
SIGMAS = [1.0, 0.7, 0.4]


class ClipsInMemory(LatentData):
    def __init__(self, folder: Path = Path("nowhere")) -> None:
        """folder: in which the empty caption's tokens are."""
        StepData.__init__(self, shards=".", batch_size=2, num_workers=0, seed=0)
        self.num_frames, self.latents = FRAMES, folder
        source = torch.Generator().manual_seed(3)

        def drawn(*shape: int) -> torch.Tensor:
            return torch.randn(shape, generator=source)

        picture = (DIT.in_channels, *GRID)
        self.clips = [
            {
                "x0": drawn(FRAMES + 3, *picture), "reference": drawn(1, *picture),
                "frame.agent": drawn(FRAMES + 3, SPEECH), "frame.user": drawn(FRAMES + 3, SPEECH),
            }
            for _ in range(5)
        ]  # fmt: skip

    def prepare_data(self) -> None: ...

    def setup(self, stage: str) -> None: ...


def save_teacher(folder: Path) -> str:
    torch.manual_seed(1)
    save_weights(folder, tiny_dit().state_dict(), dit_header(TEACHER))
    return str(folder)


def write(folder: Path, teacher: str, **changes: Any) -> Path:
    """Three shards of pairs in `folder`."""
    how = {
        "init": teacher, "data": ClipsInMemory(), "sigmas": SIGMAS, "num_steps": 5, "shift": 2.0,
        "guidance": Guidance(agent=2.0), "num_shards": 3, "seed": 0, "out": str(folder), "part": 0, "parts": 1,
        "device": "cpu",
    }  # fmt: skip
    write_pairs(**(how | changes))
    return folder
