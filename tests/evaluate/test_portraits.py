"""Photographs and drawn characters that speak: they are measured by what the model meant, and judged by the gates."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from evaluate.portraits import Portraits, photographs_of, speak, speaking_portraits
from evaluate.rules import Gate, verdicts
from gwm.media.face import FaceMesh
from gwm.media.images import read_image
from gwm.media.portraits import crop_to_face
from gwm.media.video import read_audio
from gwm.metrics.judge import Judge
from gwm.report.page import Images, Table
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
    judge = Judge(thorough=False)
    photographs = photographs_of([str(sample_path("portrait"))], artifact, judge, [voice])
    found = speaking_portraits(artifact, judge, photographs=photographs, voices=[voice], drawn=1, seed=0)
    (photograph,), (drawn,) = found.photographs.values(), found.drawn.values()
    assert photograph["lip_sync"] > 0.8 and photograph["identity"] > 0.7 and photograph["faces_found"] == 1
    assert drawn["mouth_follows"] > 0.5
    assert [len(frames) for frames in found.strips.values()] == [48, 72]
    table, strips = found.sections()
    assert isinstance(table, Table) and isinstance(strips, Images)
    assert [row[:2] for row in table.rows] == [["photograph", "grace_hopper"], ["drawn", "drawn 0"]]
    assert table.rows[0][2] == photograph["lip_sync"] and table.rows[0][4] == photograph["identity"]
    assert table.rows[1][2:] == [None, drawn["mouth_follows"], None, None] and len(strips.strips) == 2


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
    rows = {"a": {"lip_sync": 0.9, "identity": 0.8}, "b": {"lip_sync": 0.7, "identity": 0.7}}
    report: dict[str, Any] = {"model": {}, "renders": {"identity": 0.85}, "floor": {}, "long": {}}
    Portraits(photographs=rows, drawn={"drawn 0": {"mouth_follows": 0.6}}, strangers=0.25).add_to(report)
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


def test_one_photograph_is_compared_with_the_strangers_of_the_test_split():
    report: dict[str, Any] = {"model": {}, "renders": {"identity": 0.85}, "floor": {"identity": 0.5}}
    Portraits(photographs={"a": {"lip_sync": 0.9, "identity": 0.8}}).add_to(report)
    assert report["floor"]["photograph_identity"] == 0.5


@pytest.mark.usefixtures("unchecked")  # artifact and judge are stand-ins
def test_photographs_that_cannot_speak_are_refused_before_anything_is_measured(tmp_path: Path):
    def made(side: int | None) -> Any:
        return SimpleNamespace(contract=SimpleNamespace(vae=SimpleNamespace(working_side=side)))

    pixels, motion, judge = made(None), made(256), Judge(thorough=False)
    assert speaking_portraits(pixels, judge, photographs={}, voices=[], drawn=2, seed=0) == Portraits()
    assert photographs_of([], pixels, judge, []) == {}
    with pytest.raises(ValueError, match="photographs= needs an artifact of motion latents"):
        photographs_of(["a.jpg"], pixels, judge, [np.zeros(9)])
    with pytest.raises(ValueError, match="needs a test clip in which somebody speaks"):
        photographs_of(["a.jpg"], motion, judge, [])
    with pytest.raises(ValueError, match=r"no\.jpg does not exist"):
        photographs_of([str(tmp_path / "no.jpg")], motion, judge, [np.zeros(9)])
    portrait = str(sample_path("portrait"))
    with pytest.raises(ValueError, match="photographs has 2 files of 1 names"):
        photographs_of([portrait, portrait], motion, judge, [np.zeros(9)])
