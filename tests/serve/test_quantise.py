"""Eight-bit blocks, bfloat16, and what they may cost. torchao is optional: without it these tests are skipped."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from serve.artifact import Artifact, load_artifact
from serve.engine import Engine
from serve.export import export, worst_chunk
from serve.quantise import check_recipe, quantise

pytest.importorskip("torchao", reason="pip install torchao==0.18.0")
Voices = tuple[np.ndarray, np.ndarray]
GATE = {"quantise": "int8_weights", "gate_s": 1.0}


def again(run: Path, name: str, **options: object) -> Path:
    export(str(run / "dmd" / "weights"), str(run / "autoencoder" / "weights"), str(run / name), **options)
    return run / name


def test_weights_of_the_blocks_are_rounded_to_255_steps_a_row_and_no_others(folder: Path):
    exact, dit = load_artifact(folder, device="cpu").dit, load_artifact(folder, device="cpu").dit
    quantise(dit, "int8_weights")
    for (name, old), new in zip(exact.named_modules(), dit.modules(), strict=True):
        if isinstance(old, nn.Linear):
            inside = name.startswith("blocks.")
            step = old.weight.abs().amax(dim=1, keepdim=True) / 127
            back = new(torch.eye(old.in_features)).T - old.bias[:, None]
            error = (back - old.weight).abs()
            assert (error <= 0.51 * step + 1e-6).all()
            assert inside == bool(error.max() > 1e-3 * step.max()), name


@pytest.mark.parametrize("recipe", ["int8", "int8_weights", "float8_weights"])
def test_a_quantised_stream_stays_near_the_exact_one(
    folder: Path, artifact: Artifact, portrait: np.ndarray, voices: Voices, recipe: str
):
    other = load_artifact(folder, device="cpu")
    quantise(other.dit, recipe)
    measured = worst_chunk(artifact, other, portrait, *voices)
    assert 15 < measured["worst_db"] <= measured["median_db"]
    # With random weights the change is hardly more than a rounding of the pixels; it is one all the same.
    chunk = [Engine(models, seed=0).play(portrait, *voices)[0] for models in (artifact, other)]
    assert not np.array_equal(*chunk)


def test_one_bad_chunk_decides(artifact: Artifact, portrait: np.ndarray, voices: Voices, monkeypatch):
    size, streams = artifact.contract.chunk_pixel_frames, []

    class Played:
        def __init__(self, *_: object, seed: int) -> None:
            pass

        def play(self, *_: object) -> tuple[np.ndarray, list[float]]:
            frames = np.zeros((6 * size + 1, 8, 8, 3), np.uint8)  # and a rest that is no whole chunk
            if streams:
                frames[2 * size : 3 * size] = 51
            streams.append(frames)
            return frames, []

    monkeypatch.setattr("serve.export.Engine", Played)
    measured = worst_chunk(artifact, artifact, portrait, *voices)
    assert measured["worst_db"] == pytest.approx(20 * np.log10(255 / 51))
    assert measured["median_db"] > 50 and measured["chunks"] == 6


def test_a_quantised_artifact_names_its_recipe_and_what_it_cost(run: Path, folder: Path):
    made = again(run, "int8", **GATE, min_db=10.0)
    manifest = json.loads((made / "manifest.json").read_text())
    assert manifest["quantised"] == "int8_weights" and manifest["gates"]["quantised"]["worst_db"] > 10
    assert (made / "dit.safetensors").read_bytes() == (folder / "dit.safetensors").read_bytes()
    x, loaded = torch.randn(4, 48), load_artifact(made, device="cpu").dit
    twin = load_artifact(folder, device="cpu").dit
    quantise(twin, "int8_weights")
    assert torch.equal(loaded.blocks[1].attention.q(x), twin.blocks[1].attention.q(x))


def test_too_bad_a_chunk_is_refused_and_nothing_is_written(run: Path):
    with pytest.raises(ValueError, match=r"worst_db=.* must be >= min_db=59.0"):
        again(run, "refused", **GATE, min_db=59.0)
    assert not (run / "refused").exists()


def test_a_device_that_cannot_compute_a_recipe_says_so_before_weights_are_read(folder: Path):
    manifest = json.loads((folder / "manifest.json").read_text()) | {"quantised": "float8"}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match="quantised='float8' must run on a CUDA device"):
        load_artifact(folder, device="cpu")
    with pytest.raises(ValueError, match="quantised='int3' must be one of"):
        check_recipe("int3", torch.device("cpu"))


def test_bfloat16_shows_the_same_stream(folder: Path, artifact: Artifact, portrait: np.ndarray, voices: Voices):
    half = load_artifact(folder, device="cpu", dtype=torch.bfloat16)
    assert Engine(half, seed=0).rollout.cache.k.dtype == torch.bfloat16
    assert worst_chunk(artifact, half, portrait, *voices)["worst_db"] > 20
