"""A stream without a prompt is generated under the empty prompt, from the trained folder to the engine."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from gwm.autoencoders.haar import HaarAutoencoder
from gwm.condition.inputs import Conditions
from gwm.dit import DiT
from gwm.no_text import NO_TEXT_FILE, save_no_text
from gwm.weights import WeightsHeader, save_weights
from serve.artifact import Artifact, load_artifact
from serve.engine import Engine
from serve.export import export
from tests.serve.conftest import randomised, tiny_contract
from tests.tiny import declared
from train.networks import dit_header

TOKENS = 4  # of every text
NO_TEXT = torch.full((2, 6), 0.5)
RULES = tiny_contract(chunk_frames=1)
RULES = RULES.replace(dit=declared(RULES.dit, text=6))


@pytest.fixture
def weights(tmp_path: Path) -> tuple[str, str, str]:
    """A student with a text condition and its autoencoder, and where the artifact goes."""
    student, vae = tmp_path / "dmd" / "weights", tmp_path / "autoencoder" / "weights"
    torch.manual_seed(0)
    save_weights(student, randomised(DiT(RULES.dit)).state_dict(), dit_header(RULES))
    header = WeightsHeader(kind="autoencoder", config=RULES.vae.to_json())
    save_weights(vae, randomised(HaarAutoencoder(RULES.vae)).state_dict(), header)
    return str(student), str(vae), str(tmp_path / "artifact")


def first_chunk(artifact: Artifact, portrait: np.ndarray, text: torch.Tensor | None) -> torch.Tensor:
    engine = Engine(artifact, seed=3, text_tokens=TOKENS)
    engine.start(portrait, text)
    engine.push(*np.zeros((2, engine.chunk_samples + engine.lookahead_samples), np.float32))
    return engine.denoise(engine.take()).clone()


def test_a_stream_without_a_prompt_has_the_text_of_a_clip_without_a_caption(
    weights: tuple[str, str, str], portrait: np.ndarray
):
    save_no_text(Path(weights[0]), NO_TEXT)
    export(*weights)
    artifact = load_artifact(weights[2], device="cpu")
    dropped = Conditions(tokens={"text": torch.randn(1, TOKENS, 6)}, nothing={"text": NO_TEXT}).dropped("text")["text"]
    assert dropped is not None
    made = first_chunk(artifact, portrait, None)
    assert torch.equal(made, first_chunk(artifact, portrait, dropped))
    assert not torch.equal(made, first_chunk(artifact, portrait, torch.zeros_like(dropped)))


def test_half_precision_weights_keep_the_tokens_as_training_had_them(weights: tuple[str, str, str]):
    tokens = torch.randn(1, 6)
    save_no_text(Path(weights[0]), tokens)
    export(*weights, dtype="bfloat16")
    found = load_artifact(weights[2], device="cpu").no_text
    assert found is not None and torch.equal(found, tokens)


def test_a_student_without_the_tokens_has_them_made_by_the_text_encoder(weights: tuple[str, str, str]):
    export(*weights, text=lambda caption: NO_TEXT if not caption else -NO_TEXT)
    found = load_artifact(weights[2], device="cpu").no_text
    assert found is not None and torch.equal(found, NO_TEXT)


def test_a_student_without_the_tokens_is_refused_with_both_remedies(weights: tuple[str, str, str]):
    with pytest.raises(ValueError, match=rf"has no {NO_TEXT_FILE}, must have .*Train its last stage.*call.text="):
        export(*weights)
    assert not Path(weights[2]).exists()


def test_an_artifact_that_lost_the_tokens_is_refused(weights: tuple[str, str, str]):
    save_no_text(Path(weights[0]), NO_TEXT)
    export(*weights)
    path = Path(weights[2], "manifest.json")
    manifest = json.loads(path.read_text())
    del manifest["files"][NO_TEXT_FILE]
    path.write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match=rf"missing keys \['{NO_TEXT_FILE}'\]"):
        load_artifact(weights[2], device="cpu")


def test_an_engine_without_the_tokens_is_refused():
    artifact = Artifact(RULES, randomised(DiT(RULES.dit)), randomised(HaarAutoencoder(RULES.vae)))
    with pytest.raises(ValueError, match="no_text is None, must be the empty prompt's tokens of width 6"):
        Engine(artifact, seed=0)
