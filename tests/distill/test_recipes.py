"""Every recipe from one end to the other at tiny scale: chunks of 1 and 3 frames, 1, 2 and 4 steps; then served."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from distill.consistency import ConsistencyStage
from gwm.chunks import ChunkPattern
from gwm.guidance import Guidance
from gwm.weights import save_weights
from serve.artifact import Artifact
from serve.engine import Engine
from tests.test_configs import composed
from tests.tiny import tiny_vae
from tests.train import test_resume
from tests.train.test_resume import dmd, network, run, weights
from train.causal import CausalStage
from train.needs import described, planned_contract
from train.networks import load_dit

FRAMES = 6  # two chunks of three
CHUNKS = (1, 3)
FLOW: dict[str, Any] = {"motion_weight": 0.5, "shift": 2.0, "seed": 0, "history_noise": 0.3}


def left(module: Any, folder: Path) -> str:
    """What a stage leaves for the next one."""
    model, header = module.weights()
    save_weights(folder / "weights", model.state_dict(), header)
    return str(folder / "weights")


@pytest.fixture(scope="module")
def chains(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[int, dict[str, str]]]:
    """Folders of the stages before DMD, by frames of a chunk."""
    found: dict[int, dict[str, str]] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(test_resume, "FRAMES", FRAMES)
        for chunk in CHUNKS:
            folder = tmp_path_factory.mktemp(f"chunk{chunk}")
            folders = weights(folder)
            pattern = ChunkPattern(chunk_frames=chunk, window_chunks=3, sink_chunks=1, first_frames=1)
            torch.manual_seed(2)
            causal = CausalStage(init=folders["bidirectional"], pattern=pattern, num_steps=2, network=network(), **FLOW)
            folders["causal"] = left(run(causal, max_steps=2, folder=folder / "c"), folder / "causal")
            few = ConsistencyStage(
                init=folders["causal"], sigmas=[1.0, 0.5], num_levels=4, guidance=Guidance(), network=network(), **FLOW
            )
            found[chunk] = folders | {"consistency": left(run(few, max_steps=2, folder=folder / "j"), folder / "few")}
        yield found


@pytest.mark.parametrize("sigmas", [[1.0], [1.0, 0.833], [1.0, 0.938, 0.833, 0.625]])
@pytest.mark.parametrize("chunk", CHUNKS)
def test_a_recipe_ends_in_a_stream_of_its_chunks_and_steps(
    chains: dict[int, dict[str, str]], chunk: int, sigmas: list[float], tmp_path: Path
):
    folders = chains[chunk]
    module = dmd(folders, init=folders["consistency"], sigmas=sigmas)
    before = {name: value.clone() for name, value in module.network.model.state_dict().items()}
    run(module, max_steps=2, folder=tmp_path)
    model, contract = load_dit(Path(left(module, tmp_path)), stage="dmd")
    assert any(not torch.equal(value, before[name]) for name, value in model.state_dict().items())
    passes: list[int] = []
    model.register_forward_hook(lambda *_: passes.append(1))
    engine = Engine(Artifact(contract, model.eval().requires_grad_(False), tiny_vae()), seed=0)
    engine.start(np.zeros((*contract.resolution.shape, 3), np.uint8))
    sound = np.zeros(engine.chunk_samples + engine.lookahead_samples, np.float32)
    engine.push(sound, sound)
    passes.clear()
    assert len(engine.step()) == 4 * chunk
    assert len(passes) == len(sigmas) + 1  # and the clean commit


def test_a_plan_has_the_chunks_of_the_model_that_a_stage_starts_from(chains: dict[int, dict[str, str]]):
    """Only stage=causal says how long they are."""
    for chunk, folders in chains.items():
        cfg = composed("train", ["stage=dmd", "runs=/nowhere", f"stage.init={folders['consistency']}"])
        found = planned_contract(cfg, cfg.stage.init)
        assert (found.pattern.chunk_frames, found.dit.dim) == (chunk, 32)
        cfg = composed("train", ["stage=causal", "runs=/nowhere", f"init={folders['bidirectional']}"])
        cfg.stage.pattern.chunk_frames = 2
        with FakeTensorMode(allow_non_fake_inputs=True):
            stage: Any = described(cfg)[0](None)[0]
        assert stage.contract.pattern.chunk_frames == 2
