"""Films with a new voice, made of photographs: whose mouth moves, and that nothing else does."""

import json
import logging
import re
import weakref
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
from PIL import Image

from gwm.autoencoders.motion.code import place
from gwm.media.face import LOWER_LIP, UPPER_LIP, FaceMesh
from gwm.media.refilm import open_film
from gwm.media.video import read_audio, read_video, write_video
from gwm.media.video_frames import RgbReader
from gwm.metrics.identity import FaceEmbedding
from serve.artifact import Artifact, load_artifact
from serve.dub import DubRequest, Scene, chosen_faces, dub, dubbed
from serve.dubbing.people import Choice, Person, people_of
from serve.dubbing.tracks import Follower, State, Survey, Track, survey_film
from serve.dubbing.voice import MouthCodes
from serve.dubbing.work import work_folder
from serve.samples import sample_path

ROOT = Path(__file__).parents[2]
SIDE = 192  # px of a person's picture
START_S = 2.6  # of the recording: in the middle of a word


def picture(path: Path) -> np.ndarray:
    image = Image.open(path).convert("RGB")
    image = image.crop((0, 0, min(image.size), min(image.size))).resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    return np.asarray(image)


HOPPER = picture(sample_path("portrait"))
NOA = picture(ROOT / "serve" / "live" / "characters" / "noa.jpg")
NOBODY = np.full_like(HOPPER, 90)


@pytest.fixture(scope="module")
def speech(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("speech") / "speech.wav"
    samples = read_audio(sample_path("speech"))[int(START_S * 24_000) :]
    soundfile.write(path, samples[:24_000], 24_000)
    return str(path)


@pytest.fixture(scope="module")
def artifact() -> Artifact:
    return load_artifact(ROOT / "weights" / "character")


def film_of(path: Path, pictures: list[np.ndarray]) -> str:
    write_video(path, pictures, None)
    return str(path)


def survey(video: str, folder: Path) -> Survey:
    folder.mkdir()
    mesh = FaceMesh()
    with open_film(video) as film:
        return survey_film(film, folder, mesh=mesh, embed=FaceEmbedding(mesh), seen=lambda: None)


def request(video: str, audio: str, tmp_path: Path, **more: object) -> DubRequest:
    artifact = str(ROOT / "weights" / "character")
    return DubRequest(video=video, audio=audio, out=str(tmp_path / "out.mp4"), artifact=artifact, **more)  # type: ignore[arg-type]


def gap(frame: np.ndarray, mesh: FaceMesh) -> float:
    points = mesh.landmarks(np.ascontiguousarray(frame))
    assert points is not None
    return float(np.linalg.norm(points[UPPER_LIP] - points[LOWER_LIP])) / SIDE


def test_a_photograph_speaks_and_all_else_is_kept_to_the_bit(tmp_path: Path, speech: str, artifact: Artifact):
    video = film_of(tmp_path / "a.mp4", [HOPPER] * 24)
    asked = request(video, speech, tmp_path)
    dub(asked)
    made, fps = read_video(asked.out)
    assert made.shape == (24, SIDE, SIDE, 3) and fps == 24
    heard, given = read_audio(asked.out), read_audio(speech)
    assert 0 <= len(heard) - len(given) < 512  # AAC has whole packets
    assert np.corrcoef(heard[: len(given)], given)[0, 1] > 0.95
    mesh = FaceMesh()
    gaps, rest = [gap(frame, mesh) for frame in made], gap(HOPPER, mesh)
    assert max(gaps) > 3 * rest and np.std(gaps) > rest
    _, people = chosen_faces(asked, tmp_path)
    drawn = list[float]()
    with open_film(video) as film, open_film(video) as again:
        for (_, frame, mask), (_, source) in zip(dubbed(film, iter(film), people, artifact, asked), again, strict=True):
            assert mask is not None and 0.05 < (mask > 0).mean() < 0.3
            around = np.kron(mask[::2, ::2] + mask[1::2, ::2] + mask[::2, 1::2] + mask[1::2, 1::2], np.ones((2, 2)))
            for plane, (new, old) in enumerate(zip(frame.planes, source.planes, strict=True)):
                outside = (mask if plane == 0 else around[::2, ::2]) == 0
                different = stored(new) != stored(old)
                assert not different[outside].any()
                drawn.append(different.mean())
    assert max(drawn) > 0.05


def stored(plane: object) -> np.ndarray:
    return np.frombuffer(memoryview(plane), np.uint8).reshape(plane.height, -1)[:, : plane.width].copy()  # type: ignore


def test_of_two_faces_the_chosen_one_speaks(tmp_path: Path, speech: str, artifact: Artifact):
    small = np.asarray(Image.fromarray(NOA).resize((144, 144)))
    both = np.concatenate([HOPPER, np.pad(small, ((24, 24), (0, 0), (0, 0)), mode="edge")], axis=1)
    video = film_of(tmp_path / "a.mp4", [both] * 6)
    for face, left, right in ((0, True, False), (1, False, True), ([192 + 72, 96], False, True)):
        asked = request(video, speech, tmp_path, face=face)
        folder = tmp_path / f"{face}"
        folder.mkdir()
        _, people = chosen_faces(asked, folder)
        assert len(people) == 1
        with open_film(video) as film:
            *_, mask = list(dubbed(film, iter(film), people, artifact, asked))[-1]
        assert mask is not None
        assert (mask[:, :SIDE].any(), mask[:, SIDE:].any()) == (left, right)
    found = survey(video, tmp_path / "survey")
    assert Choice(faces="all").of(people_of(found), found, "a.mp4") == [0, 1]
    with pytest.raises(ValueError, match=r"face 2 must be one of 0 to 1: a.mp4 shows 2 faces"):
        Choice(face=2).of(people_of(found), found, "a.mp4")
    with pytest.raises(ValueError, match=r"face 2 must be 0: a.mp4 shows one face\."):
        Choice(face=2).of(people_of(found)[:1], found, "a.mp4")
    with pytest.raises(ValueError, match=r"must be a point on a face: none is near \(1000, 10\)"):
        Choice(face=[1000, 10]).of(people_of(found), found, "a.mp4")


@pytest.fixture(scope="module")
def changing(tmp_path_factory: pytest.TempPathFactory) -> tuple[Survey, list[Person]]:
    """Hopper leaves and returns, then a cut to Noa, and back."""
    folder = tmp_path_factory.mktemp("changing")
    pictures = [HOPPER] * 6 + [NOBODY] * 4 + [np.roll(HOPPER, 20, axis=1)] * 6 + [NOA] * 5 + [HOPPER] * 4
    found = survey(film_of(folder / "a.mp4", pictures), folder / "tracks")
    return found, people_of(found)


def test_a_face_is_known_again_after_an_absence_and_beyond_cuts(changing: tuple[Survey, list[Person]]):
    _, people = changing
    seen = [[(track.pictures[0], track.stop) for track in person.tracks] for person in people]
    assert seen == [[(0, 6), (10, 16), (21, 25)], [(16, 21)]]


def test_the_calm_picture_has_closed_lips(tmp_path: Path):
    points = FaceMesh().landmarks(HOPPER)
    assert points is not None
    opened, wide = points.copy(), points.copy()
    opened[LOWER_LIP, 1] += 8
    wide[LOWER_LIP, 1] += 16
    track = Track(tmp_path / "track")
    for number, shown in enumerate((wide, opened, points, opened)):
        track.add(number, shown, np.full_like(HOPPER, number))
    assert (track.calm().picture == 2).all() and len(track) == 4


def test_landmarks_are_smoothed_over_pictures_that_follow_each_other(tmp_path: Path):
    """And not over a gap, in which the face may have gone anywhere."""
    points = FaceMesh().landmarks(HOPPER)
    assert points is not None
    track = Track(tmp_path / "track")
    for number, away in ((0, 0.0), (1, 2.0), (2, 0.0), (50, 60.0)):
        track.add(number, points + np.float32(away), HOPPER)
    moved = [float((track.points(place) - points).mean()) for place in range(4)]
    assert 0.3 < moved[1] < 1.7 and 0 < moved[0] < 1
    assert moved[3] == pytest.approx(60, abs=1e-3)
    assert [track.place(number) for number in (0, 2, 3, 50)] == [0, 2, None, 3]


def test_a_point_may_name_its_time(changing: tuple[Survey, list[Person]]):
    found, people = changing
    assert Choice(face=[96, 96, 18 / 24]).of(people, found, "a.mp4") == [1]
    assert Choice(face=[96, 96, 22 / 24]).of(people, found, "a.mp4") == [0]
    with pytest.raises(ValueError, match=r"none is near \(96, 96\) at 0.29"):
        Choice(face=[96, 96, 7 / 24]).of(people, found, "a.mp4")


@pytest.mark.parametrize("value", [-1, True, "left", [1], [1, 2, 3, 4]])
def test_a_face_that_is_no_choice_is_refused(value: object):
    with pytest.raises(ValueError, match=r"must be a number from 0, or a point"):
        Choice(face=value)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", ["both", [], [0, -1], ["a"]])
def test_faces_that_are_no_choice_are_refused(value: object):
    with pytest.raises(ValueError, match=r"must be all, or a list of numbers"):
        Choice(faces=value)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="exclude each other"):
        Choice(face=0, faces="all")


def test_a_telephones_film_keeps_times_depth_and_orientation(
    tmp_path: Path, speech: str, caplog: pytest.LogCaptureFixture
):
    """Of unequal times, on its side, 10 bits; and longer than the sound."""
    times = [0, 40, 70, 180, 190, 1500, 1540]
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "8"})
        stream.width, stream.height, stream.pix_fmt = SIDE, SIDE, "yuv420p10le"
        stream.codec_context.time_base = Fraction(1, 1000)
        stream.set_display_rotation(90)
        for moment in times:
            lying = np.ascontiguousarray(np.rot90(HOPPER, -1))
            frame = av.VideoFrame.from_ndarray(lying, format="rgb24").reformat(format="yuv420p10le")
            frame.pts, frame.time_base = moment, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    asked = request(str(tmp_path / "a.mp4"), speech, tmp_path)
    with caplog.at_level(logging.INFO):
        dub(asked)
    assert "ends at 1.00 s" in caplog.text and "at 1.58 s: silence follows" in caplog.text
    assert "face 0: in 7 of 7 pictures" in caplog.text
    with open_film(asked.out) as film:
        to_rgb = film.rgb_reader()
        made = [(moment, frame.format.name, frame.rotation, to_rgb(frame)) for moment, frame in film]
    assert [round(1000 * moment) for moment, *_ in made] == times
    assert {(name, rotation) for _, name, rotation, _ in made} == {("yuv420p10le", 90)}
    mesh = FaceMesh()
    assert all(mesh.landmarks(np.ascontiguousarray(rgb)) is not None for *_, rgb in made)
    assert np.abs(made[4][3].astype(int) - made[5][3]).max() > 30  # it speaks, and then is silent
    assert np.abs(read_audio(asked.out)[25_000:]).max() < 0.01


def test_codes_come_from_the_sound_and_few_are_kept(artifact: Artifact, speech: str):
    """However long the sound, and however it is cut; between frames of the model they are mixed."""

    def blocks(size: int) -> Iterator[np.ndarray]:
        samples = read_audio(speech)
        yield from (samples[k : k + size] for k in range(0, len(samples), size))

    jaws = []
    for size in (777, 24_000):
        codes = MouthCodes(artifact, blocks(size), seed=0)
        made = [codes.at(k / 48).clone() for k in range(96)]
        assert len(codes.codes) <= 8
        jaws.append(np.array([code[place("jawOpen")] for code in made]))
        assert all(code[place("yaw")] == code[place("eyeBlinkLeft")] == 0 for code in made)
    assert jaws[0] == pytest.approx(jaws[1], abs=1e-4)
    assert jaws[0][1:-1:2] == pytest.approx((jaws[0][:-2:2] + jaws[0][2::2]) / 2, abs=1e-4)
    spoken, silent = jaws[0][:44], jaws[0][60:]
    assert spoken.max() > 0.5 and silent.max() < 0.3


def refused(asked: DubRequest, match: str) -> None:
    out = Path(asked.out)
    before = sorted(out.parent.iterdir()) if out.parent.is_dir() else None
    with pytest.raises(ValueError, match=match):
        dub(asked)
    assert not out.exists() and (before is None or sorted(out.parent.iterdir()) == before)


def test_what_cannot_be_dubbed_is_refused_and_nothing_is_written(tmp_path: Path, speech: str):
    (tmp_path / "in").mkdir()
    (tmp_path / "to").mkdir()
    nobody = film_of(tmp_path / "in" / "nobody.mp4", [NOBODY] * 4)
    person = film_of(tmp_path / "in" / "person.mp4", [HOPPER] * 4)
    text = tmp_path / "in" / "text.mp4"
    text.write_text("this is no film")
    soundfile.write(tmp_path / "in" / "empty.wav", np.zeros(0), 24_000)
    refused(request(nobody, speech, tmp_path / "to"), "shows no face whose lips could be moved")
    refused(request(str(text), speech, tmp_path / "to"), "must be a video file")
    refused(request(speech, speech, tmp_path / "to"), "must have a video stream, has audio")
    refused(request(str(tmp_path / "none.mp4"), speech, tmp_path / "to"), "none.mp4")
    refused(request(person, person, tmp_path / "to"), "must have an audio stream, has video")
    refused(request(person, str(tmp_path / "in" / "empty.wav"), tmp_path / "to"), "has 0 audio samples")
    refused(request(person, str(text), tmp_path / "to"), "must be an audio or video file")
    with pytest.raises(ValueError, match="must not be the video itself"):
        DubRequest(video=person, audio=speech, out=person).check()
    with pytest.raises(ValueError, match=r"must end in .mp4"):
        DubRequest(video=person, audio=speech, out=str(tmp_path / "out.avi")).check()
    with pytest.raises(ValueError, match="cannot be written"):
        DubRequest(video=person, audio=speech, out=str(text / "out.mp4")).check()


def test_a_video_without_pictures_is_refused(tmp_path: Path, speech: str):
    """A stream is declared, and holds nothing."""
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=24)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        container.start_encoding()
    (tmp_path / "to").mkdir()
    refused(request(str(path), speech, tmp_path / "to"), "has 0 frames|must be a video file")


class Calls:
    """Numbers of pictures that a method was called with; at one of them the run is killed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, owner: type, name: str) -> None:
        self.numbers, self.killed_at, original = list[int](), -1, getattr(owner, name)

        def called(one: object, number: int, *args: object, **more: object) -> object:
            self.numbers.append(number)
            if number == self.killed_at:
                raise KeyboardInterrupt
            return original(one, number, *args, **more)

        monkeypatch.setattr(owner, name, called)

    def killed(self, asked: DubRequest, at: int) -> None:
        self.killed_at = at
        with pytest.raises(KeyboardInterrupt):
            dub(asked)
        self.killed_at = -1


def test_a_run_that_was_killed_goes_on_and_makes_the_same_film_to_the_bit(
    tmp_path: Path, speech: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    """Killed while faces are looked for, and again while mouths are drawn: what was finished is not made again."""
    video = film_of(tmp_path / "a.mp4", [np.roll(HOPPER, k, axis=1) for k in range(10)])
    whole, asked = (request(video, speech, tmp_path / name, piece=4) for name in ("whole", "killed"))
    dub(whole)
    assert "of 1.00 s is cut where" in caplog.text
    looked, drawn = Calls(monkeypatch, Follower, "add"), Calls(monkeypatch, Scene, "draw")
    looked.killed(asked, at=6)
    assert looked.numbers == list(range(7)) and drawn.numbers == []
    looked.numbers.clear()
    drawn.killed(asked, at=6)
    assert looked.numbers == [4, 5, 6, 7, 8, 9] and drawn.numbers == list(range(7))
    assert not Path(asked.out).exists()
    looked.numbers.clear()
    drawn.numbers.clear()
    monkeypatch.setattr(MouthCodes, "at", None)  # the voice is not made again
    dub(asked)
    assert looked.numbers == [] and drawn.numbers == [4, 5, 6, 7, 8, 9]
    assert Path(asked.out).read_bytes() == Path(whole.out).read_bytes()
    assert list((tmp_path / "killed").iterdir()) == [Path(asked.out)]


@pytest.mark.parametrize(("height", "width"), [(720, 1280), (1080, 1920)])
def test_a_film_is_said_to_take_what_was_measured(
    height: int, width: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    """In the first line, to a tenth; and on the page."""
    measured = json.loads((ROOT / "serve" / "results" / "dub_time_cpu.json").read_text())["sizes"][f"{height} px"]
    video = film_of(tmp_path / "a.mp4", [np.zeros((height, width, 3), np.uint8)] * 96)
    with caplog.at_level("INFO"), pytest.raises(ValueError, match=r"n\.wav"):
        dub(request(video, "n.wav", tmp_path))
    first = caplog.records[0].getMessage()
    said = re.search(rf": 4.0 s of {width}x{height} px: about (\d+) s of one core", first)
    assert said is not None and int(said[1]) == pytest.approx(measured["many_cpu_s"], rel=0.1)
    page = (ROOT / "docs" / "dubbing.md").read_text()
    assert f"takes about {measured['second_of_film_cpu_s']:.0f} s of one core" in page


def test_several_workers_make_the_film_of_one(tmp_path: Path, speech: str):
    """Pieces of 4 pictures: the first, third and fifth are the other process's."""
    video = film_of(tmp_path / "a.mp4", [np.roll(HOPPER, k, axis=1) for k in range(18)])
    made = []
    for workers in (1, 2):
        asked = request(video, speech, tmp_path, piece=4, workers=workers)
        dub(asked)
        made.append(Path(asked.out).read_bytes())
    assert made[0] == made[1]
    with pytest.raises(ValueError, match="workers=0 must be a whole number of processes"):
        request(video, speech, tmp_path, workers=0)


def test_faces_that_were_followed_after_the_last_keeping_are_followed_anew(tmp_path: Path):
    """Nothing of them stays in files, to which the next run would append."""
    points = FaceMesh().landmarks(HOPPER)
    assert points is not None
    before, after = (Follower(tmp_path, FaceMesh(), None) for _ in range(2))
    for number in range(2):
        before.tracks.append(Track(before.path(number)))
        before.tracks[0].add(number, points, HOPPER)
        if number == 0:
            State(tmp_path / "survey.npz").keep(before)
    before.tracks[1].add(1, points, HOPPER)
    State(tmp_path / "survey.npz").restore(after)
    assert [list(track.pictures) for track in after.tracks] == [[0]]
    assert [path.name for path in tmp_path.glob("*.points")] == ["000000.points"]
    assert np.array_equal(np.fromfile(tmp_path / "000000.points", np.float32), points.astype(np.float32).ravel())


def test_what_was_finished_under_other_settings_is_forgotten(tmp_path: Path):
    """And nobody writes where another run does."""
    out, seeds = tmp_path / "out.mp4", ({"seed": 0}, {"seed": 1})
    for seed, resume, kept in ((0, True, False), (0, True, True), (1, True, False), (1, False, False)):
        with pytest.raises(OSError, match="full"), work_folder(out, seeds[seed], resume=resume) as folder:
            assert (folder / "000000.mkv").exists() == kept
            (folder / "000000.mkv").write_text("a piece")
            with pytest.raises(ValueError, match="is being written by another run"):
                with work_folder(out, seeds[seed], resume=resume):
                    pass
            raise OSError("the disk is full")
    with pytest.raises(ValueError, match="bad"), work_folder(out, seeds[1], resume=True):
        raise ValueError("bad input is bad at every try")
    assert list(tmp_path.iterdir()) == []


def test_few_pictures_are_held_however_long_the_film(tmp_path: Path, speech: str, monkeypatch: pytest.MonkeyPatch):
    held, most, original = 0, 0, RgbReader.__call__

    def counted(reader: RgbReader, frame: av.VideoFrame) -> np.ndarray:
        nonlocal held, most
        rgb = np.ascontiguousarray(original(reader, frame)).copy()
        held, most = held + 1, max(most, held + 1)
        weakref.finalize(rgb, released)
        return rgb

    def released() -> None:
        nonlocal held
        held -= 1

    monkeypatch.setattr(RgbReader, "__call__", counted)
    dub(request(film_of(tmp_path / "a.mp4", [HOPPER] * 30), speech, tmp_path / "to", piece=10))
    assert 1 <= most <= 3
