"""Which files a call of attention passes, against docs/walk.md."""

import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import pytest
import torch

from gwm.block import Context, MaskedClip, SelfAttention
from gwm.cache import PastChunks, RingCache
from gwm.chunks import ChunkPattern
from gwm.rope import rotation
from kernels.frame_mask import FrameMask
from serve.parallel import ulysses
from serve.parallel.ranks import Ranks
from tests.tiny import DIT

ROOT = Path(__file__).parents[2]
SECTION = next(s for s in (ROOT / "docs" / "walk.md").read_text().split("\n## ") if s.startswith("One attention call"))
FILES = set(re.findall(r"\| `([\w/]+\.py)` \|", SECTION))
PATTERN = ChunkPattern(chunk_frames=1, window_chunks=3, sink_chunks=1, first_frames=0)
X, TURN = torch.randn(1, 4, DIT.dim), rotation(torch.tensor([3]), 2, 2, DIT.head_dim)


class Alone(Ranks):
    """One process of one."""

    def __init__(self) -> None:
        self.size = 1


def files_of(call: Callable[[], object]) -> set[str]:
    """The project's files whose code runs."""
    seen: set[str] = set()

    def note(frame: FrameType, event: str, argument: object) -> None:
        path = Path(frame.f_code.co_filename)
        if event == "call" and path.is_relative_to(ROOT) and ".venv" not in path.parts:
            seen.add(str(path.relative_to(ROOT)))

    sys.setprofile(note)
    try:
        call()
    finally:
        sys.setprofile(None)
    return {name for name in seen if name.split("/")[0] in ("gwm", "kernels", "serve")} - {"kernels/dispatch.py"}


def masked() -> Context:
    return MaskedClip(FrameMask(torch.ones(1, 1, dtype=torch.bool), 4))


def past() -> Context:
    """Past the horizon, where sinks move along."""
    chunk = ((torch.randn(1, 4, DIT.num_heads, DIT.head_dim),) * 2,) * 2
    chunks = PastChunks(PATTERN, 1).commit(chunk).commit(chunk)
    assert chunks.sink_turn is not None
    return chunks


def ring() -> Context:
    cache = RingCache(DIT, PATTERN, patches=4, horizon_frames=10)
    cache.positions(1)
    return cache


@pytest.mark.parametrize("context, its_own", [(masked, "kernels/frame_mask"), (past, "gwm/cache"), (ring, "gwm/cache")])
def test_a_call_passes_the_files_that_the_walk_names(context: Callable[[], Context], its_own: str):
    layer, seen = SelfAttention(DIT, layer=1), context()
    with torch.no_grad():
        files = files_of(lambda: layer(X, TURN, seen))
    assert files == {"gwm/block.py", "kernels/attention.py", f"{its_own}.py"} <= FILES


def test_a_call_of_several_processes_passes_four_files(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ulysses, "exchange", lambda parts: parts)
    whole = SelfAttention(DIT, layer=1)
    layer, cache = ulysses.UlyssesAttention(whole, Alone(), patches=4), ring()
    with torch.no_grad():
        files = files_of(lambda: layer(X, TURN, cache))
        assert torch.equal(layer(X, TURN, ring())[0], whole(X, TURN, ring())[0])
    assert files == FILES - {"kernels/frame_mask.py"} and len(files) == 4
