"""Models before distillation through the same command: the weights of a stage."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from gwm.autoencoders.haar import HaarAutoencoder
from gwm.chunks import whole_clip
from gwm.dit import DiT
from gwm.guidance import Guidance
from gwm.media.video import read_audio, read_video, write_video
from gwm.rollout import Guided
from gwm.schedule import sigma_steps
from gwm.weights import save_weights
from serve.artifact import Artifact
from serve.engine import Engine
from serve.generate import generate
from serve.many_steps import Sampling, load_stage
from serve.request import ClipRequest
from tests.serve.conftest import tiny_contract
from train.networks import dit_header

TEXT = 16
FRAMES = 3  # latent frames in a second of voices are six


@pytest.fixture
def asked(tmp_path: Path, portrait: np.ndarray, voices: tuple[np.ndarray, np.ndarray]) -> dict[str, Any]:
    Image.fromarray(portrait).save(tmp_path / "face.png")
    soundfile.write(tmp_path / "speech.wav", voices[0], 24_000, subtype="FLOAT")
    given = {"image": str(tmp_path / "face.png"), "audio": str(tmp_path / "speech.wav"), "crop": False, "seed": 3}
    return given | {"out": str(tmp_path / "talk.mp4")}


def shown(frames: np.ndarray, folder: Path, sound: np.ndarray | None, *, fps: int = 24) -> np.ndarray:
    """What a film of the frames shows: its codec loses something."""
    write_video(folder / "expected.mp4", frames, sound, fps=fps)
    return read_video(folder / "expected.mp4")[0]


@pytest.mark.parametrize(("sampler", "solver", "end"), [(None, "ode", 0.0), ("unipc", "unipc", 1 / 1000)])
def test_a_bidirectional_stage_is_sampled_as_one_clip_of_the_wanted_length(
    run: Path,
    trained: tuple[DiT, HaarAutoencoder],
    asked: dict[str, Any],
    portrait: np.ndarray,
    sampler: Any,
    solver: str,
    end: float,
    tmp_path: Path,
):
    """Of another length than it was trained with; its autoencoder is found beside it."""
    rules = tiny_contract(chunk_frames=1).replace(pattern=whole_clip(FRAMES + 1, first_frames=1), horizon_frames=FRAMES)
    rules = rules.replace(solver="ode", sigmas=(1.0,))
    folder = run / "bidirectional" / "weights"
    save_weights(folder, trained[0].state_dict(), dit_header(rules))
    generate(ClipRequest(artifact=str(folder), steps=3, shift=2, guidance=2, sampler=sampler, **asked))
    pattern, levels = whole_clip(7, first_frames=1), tuple(sigma_steps(3, shift=2.0, end=end))
    rules = rules.replace(pattern=pattern, horizon_frames=6, sigmas=levels, solver=solver)
    artifact = Artifact(rules, *trained, guided=Guided(Guidance(agent=2.0), {}))
    agent = read_audio(asked["audio"])
    frames, times = Engine(artifact, seed=3).play(portrait, agent, np.zeros_like(agent))
    assert len(times) == 1
    assert np.array_equal(read_video(asked["out"])[0], shown(frames, tmp_path, agent))


def test_threads_are_chosen_by_one_step_of_many(
    run: Path, trained: tuple[DiT, HaarAutoencoder], asked: dict[str, Any], monkeypatch: pytest.MonkeyPatch
):
    """Of the clip in its own length; decoding it again and again would take longer than its steps."""
    rules = tiny_contract(chunk_frames=1).replace(pattern=whole_clip(FRAMES + 1, first_frames=1), horizon_frames=FRAMES)
    folder, timed = run / "bidirectional" / "weights", list[Any]()
    save_weights(folder, trained[0].state_dict(), dit_header(rules.replace(solver="ode", sigmas=(1.0,))))

    def chosen(engine: Engine, *, decoded: bool) -> None:
        timed.append((engine.contract.sigmas, engine.contract.pattern, decoded))

    monkeypatch.setattr("serve.generate.choose_threads", chosen)
    generate(ClipRequest(artifact=str(folder), steps=3, **asked))
    assert timed == [((1.0,), whole_clip(7, first_frames=1), False)]


@pytest.mark.parametrize(
    ("settings", "rule"),
    [
        ({"sampler": "unipc"}, r"sampler=unipc must be left out: .* is distilled"),
        ({"steps": 50}, r"steps=50 must be left out: .* is distilled"),
        ({"guidance": 2.0}, r"guidance=2\.0 must be left out: .* is distilled"),
        ({"vae": "NOWHERE"}, "vae=NOWHERE does not exist"),
        ({"negative_prompt": "rain"}, "negative_prompt=... must be left out: it says what guidance leads away from"),
    ],
)
def test_a_student_has_steps_of_its_own(run: Path, asked: dict[str, Any], settings: dict[str, Any], rule: str):
    with pytest.raises((ValueError, FileNotFoundError), match=rule):
        generate(ClipRequest(artifact=str(run / "dmd" / "weights"), **asked, **settings))


def test_a_student_with_ode_steps_is_sampled_in_its_own(run: Path, trained: tuple[DiT, HaarAutoencoder]):
    """Its solver is that of models with many steps: what tells it from them is that it was distilled."""
    rules = tiny_contract(chunk_frames=1).replace(solver="ode", distilled=True)
    folder = str(run / "dmd" / "weights")
    save_weights(Path(folder), trained[0].state_dict(), dit_header(rules))
    loaded = load_stage(folder, None, Sampling(), device=torch.device("cpu"))
    assert loaded.contract.sigmas == rules.sigmas and loaded.guided is None
    with pytest.raises(ValueError, match=r"steps=50 must be left out: .* is distilled"):
        load_stage(folder, None, Sampling(steps=50), device=torch.device("cpu"))
