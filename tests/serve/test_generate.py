import dataclasses
import logging
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
from PIL import Image

from gwm.media.framing import Framing
from gwm.media.video import read_audio, read_video, write_video
from gwm.resolution import Resolution
from serve.artifact import Artifact
from serve.engine import Engine
from serve.generate import generate
from serve.request import ClipRequest, read_portrait, read_voices
from serve.samples import sample_path
from tests.tiny import DIT, contract


@pytest.fixture
def image(tmp_path: Path, portrait: np.ndarray) -> Path:
    Image.fromarray(portrait).save(tmp_path / "face.png")
    return tmp_path / "face.png"


@pytest.fixture
def audio(tmp_path: Path, voices: tuple[np.ndarray, np.ndarray]) -> Path:
    soundfile.write(tmp_path / "speech.wav", voices[0], 24_000, subtype="FLOAT")
    return tmp_path / "speech.wav"


@pytest.fixture
def clip(folder: Path, image: Path, audio: Path, tmp_path: Path) -> Path:
    out = str(tmp_path / "talk.mp4")
    generate(ClipRequest(artifact=str(folder), image=str(image), audio=str(audio), out=out, seed=7, crop=False))
    return tmp_path / "talk.mp4"


def test_picture_and_sound_start_together_and_last_equally_long(clip: Path):
    with av.open(str(clip)) as container:
        picture, sound = container.streams.video[0], container.streams.audio[0]
        assert (picture.codec_context.name, sound.codec_context.name) == ("h264", "aac")
        assert picture.start_time == sound.start_time == 0
        assert picture.duration * picture.time_base == sound.duration * sound.time_base == 1  # 23.4 frames: 24


def test_clip_shows_what_the_engine_makes(
    clip: Path, artifact: Artifact, portrait: np.ndarray, audio: Path, tmp_path: Path
):
    shown, fps = read_video(clip)
    agent = read_audio(audio)
    for seed in (7, 8):
        frames, _ = Engine(artifact, seed=seed).play(portrait, agent, np.zeros_like(agent))
        write_video(tmp_path / f"{seed}.mp4", frames, agent)
    assert fps == 24 and shown.shape[1:] == portrait.shape
    assert np.array_equal(shown, read_video(tmp_path / "7.mp4")[0])
    assert not np.array_equal(shown, read_video(tmp_path / "8.mp4")[0])


def test_the_sound_is_the_voice(clip: Path, audio: Path):
    heard, said = read_audio(clip)[:23_400], read_audio(audio)
    assert np.corrcoef(np.abs(heard), np.abs(said))[0, 1] > 0.9


def test_last_line_names_file_length_and_speed(
    folder: Path, image: Path, audio: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.INFO)
    out = str(tmp_path / "talk.mp4")
    generate(ClipRequest(artifact=str(folder), image=str(image), audio=str(audio), out=out, crop=False))
    last = caplog.messages[-1]
    assert last.startswith(f"{out}: 1.0 s; a chunk of ") and "p95" in last and "first" in last


def test_a_conversation_lasts_as_long_as_its_longer_side(audio: Path, tmp_path: Path):
    soundfile.write(tmp_path / "user.wav", np.full(30_000, 0.25), 24_000, subtype="FLOAT")
    voices = read_voices(audio, tmp_path / "user.wav")
    agent, user = voices.agent, voices.user
    assert len(agent) == len(user) == 30_000
    assert not agent[23_400:].any() and np.allclose(user, 0.25, atol=1e-3)


def test_image_without_a_face_says_so_and_how_to_go_on(tmp_path: Path):
    Image.new("RGB", (200, 160), (90, 120, 150)).save(tmp_path / "sky.png")
    with pytest.raises(ValueError, match=r"sky\.png: .* must show a face.*crop=false"):
        read_portrait(tmp_path / "sky.png", Framing(Resolution(32, 32)), crop=True)


@pytest.mark.parametrize(("crop", "speaks", "cut"), [(None, True, True), (None, False, False), (True, False, True)])
def test_only_who_speaks_needs_a_face(crop: bool | None, speaks: bool, cut: bool):
    """A world begins with any picture."""
    dit = DIT if speaks else dataclasses.replace(DIT, conditions=())
    request = ClipRequest(artifact="a", out="b.mp4", image="c.png", crop=crop)
    assert request.cuts_face(contract(dit=dit)) is cut


def test_face_of_a_photograph_fills_the_portrait():
    """The same person at the same scale, whatever the photograph's margin is."""
    photograph = sample_path("portrait")
    face = read_portrait(photograph, Framing(Resolution(64, 64)), crop=True).astype(float)
    centre = read_portrait(photograph, Framing(Resolution(64, 64)), crop=False).astype(float)
    assert np.abs(face - centre).mean() > 10


def test_without_crop_the_centre_square_is_kept(tmp_path: Path):
    pixels = np.zeros((40, 100, 3), np.uint8)
    pixels[:, 30:70] = (200, 100, 50)
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    square = read_portrait(tmp_path / "wide.png", Framing(Resolution(20, 20)), crop=False)
    assert (square[:, 4:-4] == (200, 100, 50)).all()  # the filter mixes in what lies beside the square


def test_empty_sound_leaves_no_clip(folder: Path, image: Path, tmp_path: Path):
    soundfile.write(tmp_path / "empty.wav", np.zeros(0), 24_000)
    out = str(tmp_path / "talk.mp4")
    with pytest.raises(ValueError, match=r"empty\.wav"):
        generate(ClipRequest(artifact=str(folder), image=str(image), audio=str(tmp_path / "empty.wav"), out=out))
    assert not list(tmp_path.glob("talk*"))


@pytest.mark.parametrize(("name", "rule"), [("crop", "true, false or null"), ("whole", "true or false")])
def test_switches_are_true_or_false(name: str, rule: str):
    request = ClipRequest(artifact="a", out="a.mp4")
    object.__setattr__(request, name, "maybe")  # tests check types, commands do not
    with pytest.raises(ValueError, match=f"^{name}=maybe must be {rule}, such as {name}=true"):
        request.__post_init__()
