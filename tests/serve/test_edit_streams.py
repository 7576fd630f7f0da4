"""Films that models of ours edit as streams: from one prompt to another, and under numbers at the film's times."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from gwm.autoencoders.haar import HaarAutoencoder
from gwm.chunks import whole_clip
from gwm.contract import Contract
from gwm.dit import DiT
from gwm.media.pixels import to_tensor
from gwm.media.video import write_video
from gwm.no_text import save_no_text
from gwm.weights import WeightsHeader, save_weights
from serve import edit as command
from serve.edit import edit
from serve.editing import editors
from serve.editing.editors import StreamEditor
from serve.editing.request import EditRequest
from serve.engine import Engine
from tests.serve.conftest import randomised
from tests.serve.world import ACTIONS, TEXT, world, world_contract
from tests.wan import save_text_encoder
from train.networks import dit_header

CPU = torch.device("cpu")
PICTURES, SIZE = 8, (32, 48)
WOMAN, SMILES = "a woman " * 200, "smiles talks " * 200  # long: random weights attend to all of 512 tokens alike


def bidirectional(rules: Contract) -> Contract:
    return rules.replace(pattern=whole_clip(3, first_frames=1), horizon_frames=2)


@pytest.fixture(params=[world_contract, lambda: bidirectional(world_contract())], ids=["causal", "bidirectional"])
def stage(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Weights of a model of many steps that follows a text, with its autoencoder and a text encoder."""
    rules = request.param().replace(solver="ode", sigmas=(1.0,))
    weights, vae = tmp_path / "teacher" / "weights", tmp_path / "autoencoder" / "weights"
    save_weights(weights, randomised(DiT(rules.dit)).state_dict(), dit_header(rules))
    save_no_text(weights, torch.full((2, TEXT), 0.5))
    header = WeightsHeader(kind="autoencoder", config=rules.vae.to_json())
    save_weights(vae, randomised(HaarAutoencoder(rules.vae)).state_dict(), header)
    save_text_encoder(weights, width=TEXT)
    return str(weights)


@pytest.fixture
def pictures() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (PICTURES, *SIZE, 3), np.uint8)


def editor(artifact: str | Path, **settings: Any) -> StreamEditor:
    asked = {"video": "film.mp4", "out": "out.mp4", "artifact": str(artifact), "box": [0, 0, 8, 8]}
    return StreamEditor(EditRequest(**(asked | settings)), device=CPU)


def prompts(source: str, prompt: str) -> dict[str, Any]:
    return {"source": source, "prompt": prompt, "steps": 3, "guidance": 5, "source_guidance": 5}


def through_the_autoencoder(model: StreamEditor, pictures: np.ndarray) -> np.ndarray:
    vae = model.artifact.vae
    reference = vae.encode_reference(to_tensor(pictures[0])[None])
    x0 = vae.encode(to_tensor(pictures)[None], reference)
    return vae.decode(x0, vae.begin(reference))[0][0].numpy()


def test_a_stream_moves_from_one_prompt_to_another(stage: str, pictures: np.ndarray):
    """And nowhere between equal ones, nor in a latent frame of which nothing is drawn."""
    drawn = np.ones((PICTURES, *SIZE), bool)
    same = editor(stage, **prompts(WOMAN, WOMAN))
    film = through_the_autoencoder(same, pictures)
    assert np.abs(same(pictures, drawn, first=0).astype(int) - film).max() <= 1
    drawn[:4] = False
    other = editor(stage, **prompts(WOMAN, SMILES))(pictures, drawn, first=0)
    assert np.abs(other[:4].astype(int) - film[:4]).max() <= 1
    assert np.abs(other[4:].astype(int) - film[4:]).mean() > 2


@pytest.mark.parametrize("stage", [world_contract], indirect=True, ids=["causal"])
def test_one_stream_remembers_the_film_and_one_what_it_became(
    stage: str, pictures: np.ndarray, monkeypatch: pytest.MonkeyPatch
):
    """Velocities of the same latents in the second chunk: only the target's depend on an edit of the first."""
    own, found = editors.edited, list[list[Tensor]]()

    def looked(source: Callable, target: Callable, x0: Tensor, *rest: Any, **more: Any) -> Tensor:
        x = torch.ones_like(x0)
        found.append([source(x, 0.5), target(x, 0.5)])
        return own(source, target, x0, *rest, **more)

    monkeypatch.setattr(editors, "edited", looked)
    for first_drawn in (True, False):
        drawn = np.ones((PICTURES, *SIZE), bool)
        drawn[:4] = first_drawn
        editor(stage, **prompts(WOMAN, SMILES))(pictures, drawn, first=0)
    (_, moved), (_, stayed) = found[:2], found[2:]
    assert torch.equal(moved[0], stayed[0])
    assert (moved[1] - stayed[1]).abs().max() > 1e-3
    assert (stayed[0] - stayed[1]).abs().max() > 1e-3  # under another text


@pytest.mark.parametrize(("fps", "chunk_frames"), [(24, 1), (24, 2), (12, 1)])
def test_numbers_are_those_of_their_pictures_in_every_window(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fps: int, chunk_frames: int
):
    """Of several values each is of its picture, however windows and chunks lie; one value holds from the first chunk
    that begins after its time; times are those of the film, whatever its rate."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # nothing is generated to choose threads
    rng, count, from_ = np.random.default_rng(0), 24, 6
    write_video(tmp_path / "film.mp4", rng.integers(0, 256, (count, *SIZE, 3), np.uint8), None, fps=fps)
    keys = rng.integers(0, 2, count - from_).astype(float).tolist()
    given, own = list[np.ndarray](), Engine.take

    def taken(engine: Engine) -> Any:
        condition = own(engine)
        given.append(condition["action"].reshape(-1, len(ACTIONS)).numpy())
        return condition

    monkeypatch.setattr(Engine, "take", taken)
    asked = {"video": str(tmp_path / "film.mp4"), "artifact": str(world(tmp_path, chunk_frames=chunk_frames))}
    act = [{"at": from_ / fps, "forward": keys}, {"at": 10 / fps, "left": 1.0}]
    edit(EditRequest(**asked, out=str(tmp_path / "out.mp4"), box=[0, 0, 40, 32], window=16, overlap=6, act=act))
    size = 4 * chunk_frames
    windows = [np.concatenate(given[k : k + 16 // size]) for k in range(0, len(given), 16 // size)]
    assert len(windows) == 2
    for first, rows in zip((0, 10), windows, strict=True):
        begins = [max(0, -(-(picture - first) // size) * size) for picture in (from_, 10)]
        expected = np.zeros_like(rows)
        wanted = np.array([*keys, *[keys[-1]] * 16])[first + begins[0] - from_ :]
        expected[begins[0] :, 0] = wanted[: 16 - begins[0]]
        expected[begins[1] :, 1] = 1
        assert np.array_equal(rows, expected)


@pytest.mark.parametrize(
    ("act", "rule"),
    [({"at": 0.3, "jump": 1}, "jump=1 must be one of"), ({"at": 9, "left": 1}, r"act at=9 must not be after 0\.29 s")],
)
def test_numbers_that_no_window_would_take_are_refused_before_any_is_made(
    tmp_path: Path, pictures: np.ndarray, act: dict[str, Any], rule: str
):
    write_video(tmp_path / "film.mp4", pictures, None)
    asked = {"video": str(tmp_path / "film.mp4"), "artifact": str(world(tmp_path)), "out": str(tmp_path / "out.mp4")}
    with pytest.raises(ValueError, match=rule):
        edit(EditRequest(**asked, box=[0, 0, 8, 8], act=act, window=4, overlap=0))
    assert not list(tmp_path.glob("out.mp4*"))


def test_a_film_of_one_window_needs_no_overlap_and_the_fastest_threads(
    tmp_path: Path, pictures: np.ndarray, monkeypatch: pytest.MonkeyPatch
):
    """It is as short as the overlap. Threads are chosen by a stream of the same model."""
    timed = list[Engine]()
    monkeypatch.setattr(command, "choose_threads", lambda engine, *, decoded: timed.append(engine))
    write_video(tmp_path / "film.mp4", pictures, None)
    asked = {"video": str(tmp_path / "film.mp4"), "artifact": str(world(tmp_path)), "out": str(tmp_path / "out.mp4")}
    edit(EditRequest(**asked, box=[0, 0, 8, 8], overlap=PICTURES))
    assert (tmp_path / "out.mp4").is_file()
    (engine,) = timed
    assert engine.contract.sigmas == (1.0,) and engine.contract.resolution.shape == SIZE
