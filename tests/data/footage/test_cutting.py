"""What becomes of videos with which something is wrong: each is kept, or dropped under a reason of its own."""

import json
import os
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest

import data.footage.cutting
from data.footage.ledger import LEDGER_NAME, Ledger
from data.footage.sources import Source
from data.footage.takes import TakeRules
from data.ingest import REPORT_NAME, ingest
from data.manifest import read_manifest
from data.shards import decode_sample, read_samples
from gwm.files.outputs import PARTIAL
from gwm.media.face import FaceMesh
from gwm.resolution import Resolution
from tests.data.footage import corpus

RULES = TakeRules(
    resolution=Resolution(32, 32), num_frames=16, face="off", look_every_s=0.25, reference_gap=8, max_enlargement=2.0
)
TIMES = corpus.steady(24, 1.5)  # one clip of 16 frames and one whose reference is out of reach of the first


class NoFaces(FaceMesh):
    """A face mesh that sees none, and needs no models."""

    def __init__(self):
        pass

    def landmarks(self, image):
        return None

    detect = landmarks


def run(videos: Path, out: Path, rules: TakeRules = RULES) -> dict:
    return ingest(videos, out, rules, val=0.0, test=0.0, seed=0, videos_per_shard=9, workers=1)


def black(time_s: float, height: int, width: int) -> np.ndarray:
    return np.zeros((height, width, 3), np.uint8)


def bright_edge(time_s: float, height: int, width: int) -> np.ndarray:
    """Something to see, at the side of a wide picture: the square in its middle is black."""
    frame = black(time_s, height, width)
    frame[:, : height // 2] = corpus.picture(time_s, height, height // 2)
    return frame


@pytest.mark.parametrize("face", ["off", "prefer"])
def test_clips_that_show_nothing_are_dropped_as_blank(tmp_path: Path, monkeypatch, face: str):
    monkeypatch.setattr(data.footage.cutting, "face_mesh", NoFaces)
    (tmp_path / "videos").mkdir()
    corpus.write(tmp_path / "videos" / "black.mp4", TIMES, draw=black)
    corpus.write(tmp_path / "videos" / "wide.mp4", TIMES, draw=bright_edge, size=(48, 192))
    corpus.write(tmp_path / "videos" / "seen.mp4", TIMES)
    report = run(tmp_path / "videos", tmp_path / "out", replace(RULES, face=face))
    assert report["dropped"]["blank"]["files"] == 2 and report["files_with_clips"] == 1
    assert report["clips"] > 0 and report["clips_without_face"] == (report["clips"] if face == "prefer" else 0)
    total = sum(entry["frames"] for entry in report["dropped"].values()) + 16 * report["clips"]
    assert total / 24 == pytest.approx(report["video_s"], abs=0.01)


def measured(time_s: float, height: int, width: int) -> np.ndarray:
    """Black above, white at the left below: both edges can be found."""
    frame = corpus.picture(time_s, height, width)
    frame[height // 4 :, : width // 4] = 255
    return frame


@pytest.mark.parametrize(("size", "edges"), [("96x160", (24, 37)), ("160x96", (40, 0)), ("96", (24, 5))])
def test_frames_of_another_aspect_show_the_largest_part_of_the_middle(tmp_path: Path, size: str, edges: tuple):
    """Of 144 x 256: 144 x 240, 144 x 86.4, 144 x 144. White ends 64 px from the left, black 36 px from above."""
    (tmp_path / "videos").mkdir()
    corpus.write(tmp_path / "videos" / "wide.mkv", TIMES, draw=measured, size=(144, 256))
    rules = replace(RULES, resolution=Resolution.parse(size))
    run(tmp_path / "videos", tmp_path / "out", rules)
    clip = decode_sample(next(read_samples(tmp_path / "out", "train")))
    assert clip.frames.shape[1:3] == clip.reference.shape[:2] == rules.resolution.shape
    assert read_manifest(tmp_path / "out").resolution == rules.resolution
    frame = clip.frames[0].mean(2)
    assert ((frame[:, -8:] < 30).all(1).sum(), (frame[-8:] > 200).all(0).sum()) == pytest.approx(edges, abs=1)


def with_colours(path: Path, matrix: int) -> Path:
    """Lossless video that names a matrix."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=24, options={"crf": "1"})
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        stream.codec_context.colorspace = matrix
        for time in TIMES:
            picture = av.VideoFrame.from_ndarray(corpus.picture(time, 48, 64), format="rgb24")
            container.mux(stream.encode(picture.reformat(format="yuv420p", dst_colorspace="ITU709")))
        container.mux(stream.encode())
    return path


def test_colours_and_sound_that_cannot_be_read_have_reasons_of_their_own(tmp_path: Path):
    videos = tmp_path / "videos"
    videos.mkdir()
    with_colours(videos / "ycgco.mp4", 8)
    wrong = 20_000 * corpus.beep(0.2, 1.5)
    corpus.write(videos / "loud.mkv", TIMES, sound=np.zeros(0))
    with av.open(str(videos / "loud.mkv"), "w") as container:
        stream = container.add_stream("libx264", rate=24)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        voice = container.add_stream("pcm_f32le", rate=corpus.RATE, layout="mono")
        for time in TIMES:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(corpus.picture(time, 48, 64), format="rgb24")))
        container.mux(stream.encode())
        part = av.AudioFrame.from_ndarray(wrong.astype(np.float32)[None], format="flt", layout="mono")
        part.sample_rate = corpus.RATE
        container.mux(voice.encode(part))
        container.mux(voice.encode())
    report = run(videos, tmp_path / "out")
    assert {reason: entry["files_without_clip"] for reason, entry in report["dropped"].items() if reason != "rest"} == {
        "bad_sound": 1,
        "colour": 1,
    }
    assert "matrix 8" in report["files_without_clip"]["ycgco.mp4"]
    assert "Divide them by" in report["files_without_clip"]["loud.mkv"]


def test_opposite_channels_are_heard_and_it_is_noted(tmp_path: Path):
    (tmp_path / "videos").mkdir()
    tone = corpus.beep(0.1, 1.5)
    path = tmp_path / "videos" / "a.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=24, options={"crf": "1"})
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        voice = container.add_stream("pcm_s16le", rate=corpus.RATE, layout="stereo")
        for time in TIMES:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(corpus.picture(time, 48, 64), format="rgb24")))
        container.mux(stream.encode())
        packed = (np.stack([tone, -tone], 1) * 32767).astype(np.int16).reshape(1, -1)
        part = av.AudioFrame.from_ndarray(packed, format="s16", layout="stereo")
        part.sample_rate = corpus.RATE
        container.mux(voice.encode(part))
        container.mux(voice.encode())
    report = run(tmp_path / "videos", tmp_path / "out")
    clip = decode_sample(next(read_samples(tmp_path / "out", "train")))
    assert clip.agent is not None and np.abs(clip.agent).max() > 0.4
    assert "cancel each other" in report["notes"]["a.mkv"][0]


def test_odd_names_and_files_that_cannot_be_opened_stop_nothing(tmp_path: Path):
    videos = tmp_path / "videos"
    videos.mkdir()
    corpus.write(videos / "plain.mp4", TIMES)
    for name in (b"new\nline.mp4", b"not-utf8-\xff.mp4", b"a=b,{c} 'd'.mp4"):
        path = Path(os.fsdecode(os.fsencode(videos) + b"/" + name))
        corpus.write(tmp_path / "b.mp4", TIMES, draw=lambda t, h, w, name=name: corpus.picture(t, h, w) + len(name))
        (tmp_path / "b.mp4").rename(path)
    (videos / "none.mp4").symlink_to(tmp_path / "nothing")
    report = run(videos, tmp_path / "out")
    assert report["files_with_clips"] == 4 and report["files"] == 5
    assert report["dropped"]["unreadable"]["files"] == 1 and "none.mp4" in report["files_without_clip"]
    assert json.loads((tmp_path / "out" / REPORT_NAME).read_text())["files"] == 5


def test_a_file_that_grows_is_dropped_as_changed(tmp_path: Path, monkeypatch):
    (tmp_path / "videos").mkdir()
    corpus.write(tmp_path / "videos" / "a.mkv", TIMES)
    survey = data.footage.cutting.survey_video

    def grows(path: Path, **options):
        with path.open("ab") as file:
            file.write(b"more")
        return survey(path, **options)

    monkeypatch.setattr(data.footage.cutting, "survey_video", grows)
    report = run(tmp_path / "videos", tmp_path / "out")
    assert report["dropped"]["changed"]["files"] == 1 and report["clips"] == 0
    monkeypatch.undo()
    assert run(tmp_path / "videos", tmp_path / "out")["clips"] > 0


def test_two_runs_do_not_write_to_one_folder(tmp_path: Path):
    ledger = Ledger(tmp_path, {})
    with pytest.raises(RuntimeError, match=r"is being written by another data\.ingest"):
        Ledger(tmp_path, {})
    ledger.close()
    left = tmp_path / f"{PARTIAL}of-a-run-that-was-killed"
    left.mkdir()
    (left / "train-000000.tar").write_bytes(b"half")
    Ledger(tmp_path, {}).close()
    assert not left.exists()


def test_a_damaged_ledger_is_named_with_its_line(tmp_path: Path):
    Ledger(tmp_path, {}).close()
    with (tmp_path / LEDGER_NAME).open("a") as file:
        file.write("{half\n")
    with pytest.raises(ValueError, match=r"ingest\.jsonl, line 2 must be JSON"):
        Ledger(tmp_path, {})


def test_a_replaced_file_is_told_by_its_size(tmp_path: Path):
    (tmp_path / "a.mp4").write_bytes(b"123")
    source = Source("a.mp4", "digest", "key", "person", 3)
    data.footage.cutting.check_unchanged(source, tmp_path / "a.mp4")
    with pytest.raises(ValueError, match="had 4 bytes when it was found, has 3"):
        data.footage.cutting.check_unchanged(replace(source, size_bytes=4), tmp_path / "a.mp4")
