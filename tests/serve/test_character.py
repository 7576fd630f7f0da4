"""The character that ships: small enough for the repository, and its mouth follows the voice."""

from pathlib import Path

import numpy as np
import pytest

from gwm.media.face import FaceMesh
from gwm.media.video import read_audio
from gwm.metrics.face_track import face_track, lip_gap
from serve.artifact import Artifact, load_artifact
from serve.engine import Engine
from serve.request import read_portrait
from serve.samples import sample_path

CHARACTER = Path(__file__).parents[2] / "weights" / "character"
SECONDS = 3


@pytest.fixture(scope="module")
def artifact() -> Artifact:
    return load_artifact(str(CHARACTER))


def mouth_motion(artifact: Artifact, voice: np.ndarray) -> float:
    """Mean change of a real person's lip gap from frame to frame: pixels change with the head too."""
    portrait = read_portrait(sample_path("portrait"), artifact.contract.framing(None), crop=True)
    chunks = Engine(artifact, seed=0).stream(portrait, voice, np.zeros_like(voice))
    gap = lip_gap(face_track(np.concatenate([pixels for pixels, _ in chunks]), FaceMesh()))
    return float(np.abs(np.diff(gap)).mean())


def test_it_is_small_enough_for_the_repository():
    assert sum(file.stat().st_size for file in CHARACTER.iterdir()) <= 32e6


def test_the_mouth_of_a_real_face_moves_with_a_real_voice_and_rests_without(artifact: Artifact):
    rate = artifact.contract.audio.sample_rate
    voice = read_audio(sample_path("speech"))[rate : (1 + SECONDS) * rate]
    assert mouth_motion(artifact, voice) > 2 * mouth_motion(artifact, np.zeros_like(voice))
