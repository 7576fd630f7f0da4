"""Photographs and drawn characters that speak: they are measured by what the model meant, and judged by the gates."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from evaluate.portraits import Portraits, speak, speaking_portraits
from evaluate.rules import Gate, verdicts
from gwm.media.face import FaceMesh
from gwm.media.images import read_image
from gwm.media.portraits import crop_to_face
from gwm.media.video import read_audio
from gwm.metrics.judge import Judge
from gwm.resolution import Resolution
from serve.artifact import Artifact, load_artifact
from serve.samples import sample_path


@pytest.fixture(scope="module")
def artifact() -> Artifact:
    return load_artifact(Path("weights/character"))


@pytest.fixture(scope="module")
def voice() -> np.ndarray:
    return read_audio(sample_path("speech"))[:48000]


def test_a_photograph_s_lips_follow_the_jaw_that_was_meant_and_a_drawn_mouth_its_sentence(artifact, voice):
    found = speaking_portraits(
        artifact, Judge(thorough=False), photographs=[str(sample_path("portrait"))], voices=[voice], drawn=1, seed=0
    )
    (photograph,), (drawn,) = found.photographs.values(), found.drawn.values()
    assert photograph["follows"] > 0.8 and photograph["identity"] > 0.7 and photograph["faces_found"] == 1
    assert drawn["follows"] > 0.5
    assert [len(frames) for frames in found.strips.values()] == [48, 72]


def test_the_jaw_is_of_the_frame_that_shows_it_and_heads_of_drawn_characters_hold_still(artifact, voice):
    portrait = crop_to_face(read_image(sample_path("portrait")), Resolution(256, 256), FaceMesh())
    still, jaw = speak(artifact, portrait, voice, seed=0, still=True)
    free, _ = speak(artifact, portrait, voice, seed=0, still=False)
    assert len(still) == len(jaw) == 48
    assert jaw.max() > 0.2 > abs(jaw[0])
    hair = (slice(8, None), slice(0, 40))
    moved = [float(frames[hair].std(axis=0).mean()) for frames in (still, free)]
    assert moved[0] < moved[1] / 2


def test_means_stand_beside_the_gates_with_the_renders_identity_as_their_ceiling():
    rows = {"a": {"follows": 0.9, "identity": 0.8}, "b": {"follows": 0.7, "identity": 0.7}}
    report: dict[str, Any] = {"model": {}, "renders": {"identity": 0.85}, "floor": {}, "long": {}}
    Portraits(photographs=rows, drawn={"drawn 0": {"follows": 0.6}}, strangers=0.25).add_to(report)
    gates = [
        Gate(measure="photograph_lips", minimum=0.85),
        Gate(measure="photograph_identity", of="share", minimum=0.8),
        Gate(measure="drawn_mouth", minimum=0.7),
    ]
    lips, identity, drawn = verdicts(gates, report)
    assert lips.number == pytest.approx(0.8) and lips.reached is False
    assert identity.share == pytest.approx(0.5 / 0.6) and identity.reached is True
    assert drawn.number == pytest.approx(0.6) and drawn.reached is False


def test_nothing_measured_changes_no_report_and_has_no_section():
    report: dict[str, Any] = {"model": {}, "renders": {"identity": 0.85}, "floor": {}}
    Portraits().add_to(report)
    assert report["model"] == {} and report["floor"] == {} and Portraits().sections() == []


@pytest.mark.usefixtures("unchecked")  # artifact and judge are stand-ins
def test_a_model_that_draws_what_it_was_trained_on_takes_no_photographs():
    pixels: Any = SimpleNamespace(contract=SimpleNamespace(vae=SimpleNamespace(working_side=None)))
    judge: Any = SimpleNamespace(embedding=None, mesh=None)
    assert speaking_portraits(pixels, judge, photographs=[], voices=[], drawn=2, seed=0) == Portraits()
    with pytest.raises(ValueError, match="photographs= needs an artifact of motion latents"):
        speaking_portraits(pixels, judge, photographs=["a.jpg"], voices=[], drawn=0, seed=0)
