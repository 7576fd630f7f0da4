"""Films that are edited by models of random weights: what is not drawn stays, what cannot be is refused by name."""

from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from gwm.autoencoders.haar import HaarAutoencoder
from gwm.chunks import whole_clip
from gwm.dit import DiT
from gwm.media.face import LOWER_LIP, UPPER_LIP, FaceMesh
from gwm.media.pixels import to_float, to_uint8
from gwm.media.refilm import open_film
from gwm.media.video import read_audio, read_video, write_video
from gwm.resolution import Resolution
from gwm.wan.vae import load_wan_vae
from gwm.weights import save_weights
from serve.edit import edit, written
from serve.editing import windows
from serve.editing.editors import ClipEditor, StreamEditor
from serve.editing.regions import Regions, pictures_of, survey_of
from serve.editing.request import EditRequest
from serve.editing.view import View, feathered, view_of
from serve.samples import sample_path
from tests.serve.conftest import tiny_contract
from tests.wan import published_folder
from train.networks import dit_header

HEIGHT, WIDTH, COUNT = 64, 96, 14
BOX = [40, 16, 32, 32]
H264_DB = 45
SEEN = Resolution(32, 48)  # what the tiny models see


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A smooth picture that moves, with a tone, at 24 fps."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    waves = [
        np.stack([np.sin((x + shift * k) / 9) * np.cos(y / 7) for shift in (1, 2, 3)], axis=-1) for k in range(COUNT)
    ]
    frames = (127 + 90 * np.stack(waves)).astype(np.uint8)
    path = tmp_path_factory.mktemp("film") / "film.mp4"
    write_video(path, frames, np.sin(np.arange(COUNT * 1000) / 10).astype(np.float32) / 4)
    return str(path)


@pytest.fixture(scope="module")
def wan(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(published_folder(tmp_path_factory.mktemp("t2v"), "wan2_1_1_3b"))


def planes(frame: av.VideoFrame) -> list[np.ndarray]:
    shown = frame.to_ndarray()  # yuv420p: brightness, then both colours at half the size
    height = frame.height
    colours = shown[height:].reshape(2, height // 2, frame.width // 2)
    return [shown[:height], *colours]


def before_encoding(request: EditRequest, made: np.ndarray, folder: Path) -> list[tuple[list[np.ndarray], np.ndarray]]:
    """Planes and mask of each picture, where the model would have made `made`."""
    survey = survey_of(request, folder)
    regions = Regions(request, survey)
    view = view_of(request, regions.size, SEEN)
    with open_film(request.video) as opened:
        shown = written(pictures_of(opened, request), regions, view, iter(made))
        return [(planes(frame), drawn) for _, frame, drawn in shown]


def asked(film: str, artifact: str, tmp_path: Path, **settings: Any) -> EditRequest:
    return EditRequest(**({"video": film, "artifact": artifact, "out": str(tmp_path / "out.mp4")} | settings))


def test_what_is_outside_of_the_mask_is_equal_to_the_bit_until_it_is_encoded(film: str, tmp_path: Path):
    """Box edges at odd px: colours that are shared with a px outside of the mask stay too."""
    request = asked(film, "A", tmp_path, box=[41, 17, 31, 33])
    noise = np.random.default_rng(0).integers(0, 256, (COUNT, 32, 48, 3), np.uint8)
    made = before_encoding(request, noise, tmp_path)
    with open_film(film) as opened:
        stored = [planes(frame) for _, frame in opened]
    for (new, drawn), old in zip(made, stored, strict=True):
        outside = ~drawn
        shared = outside.reshape(HEIGHT // 2, 2, WIDTH // 2, 2).any(axis=(1, 3))
        assert np.array_equal(new[0][outside], old[0][outside])
        assert all(np.array_equal(a[shared], b[shared]) for a, b in zip(new[1:], old[1:], strict=True))
        assert np.abs(new[0].astype(int) - old[0])[24:44, 48:66].mean() > 20


def test_the_film_lies_in_the_middle_of_a_canvas_to_the_bit(film: str, tmp_path: Path):
    request = asked(film, "A", tmp_path, canvas="72x120")
    noise = np.random.default_rng(0).integers(0, 256, (COUNT, 32, 48, 3), np.uint8)
    made = before_encoding(request, noise, tmp_path)
    with open_film(film) as opened:
        for (new, drawn), (_, frame) in zip(made, opened, strict=True):
            old = planes(frame)
            assert drawn.sum() == 72 * 120 - HEIGHT * WIDTH and not drawn[4:68, 12:108].any()
            assert np.array_equal(new[0][4:68, 12:108], old[0]) and np.array_equal(new[1][2:34, 6:54], old[1])


def test_an_edited_film_keeps_its_rest_and_its_sound(film: str, folder: Path, tmp_path: Path):
    """An artifact edits it in two windows; after H.264 the rest differs by less than 45 dB."""
    request = asked(film, str(folder), tmp_path, box=BOX, window=8, overlap=4)
    edit(request)
    old, (new, fps) = read_video(film)[0], read_video(request.out)
    assert fps == 24 and new.shape == old.shape and not Path(f"{request.out}.parts").exists()
    inside = np.zeros((HEIGHT, WIDTH), bool)
    inside[BOX[1] : BOX[1] + BOX[3], BOX[0] : BOX[0] + BOX[2]] = True
    error = (new.astype(float) - old)[:, ~inside]
    assert 10 * np.log10(255**2 / np.square(error).mean()) > H264_DB
    assert np.abs(new.astype(float) - old)[:, 24:40, 48:64].mean() > 10
    sound, kept = read_audio(film), read_audio(request.out)
    assert np.corrcoef(sound[4000:10_000], kept[4000:10_000])[0, 1] > 0.98


def test_an_edit_goes_on_where_it_was_interrupted(
    film: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    whole = asked(film, str(folder), tmp_path, box=BOX, window=8, overlap=4, out=str(tmp_path / "whole.mp4"))
    edit(whole)
    request = asked(film, str(folder), tmp_path, box=BOX, window=8, overlap=4)
    calls, own = [], StreamEditor.__call__

    def once(self: StreamEditor, *args: Any, **kwargs: Any) -> Any:
        calls.append(kwargs["first"])
        if calls == [0, 4]:
            raise KeyboardInterrupt
        return own(self, *args, **kwargs)

    monkeypatch.setattr(StreamEditor, "__call__", once)
    with pytest.raises(KeyboardInterrupt):
        edit(request)
    assert not Path(request.out).exists() and len(list(Path(f"{request.out}.parts").glob("*.safetensors"))) == 1
    with pytest.raises(ValueError, match=r"out.mp4.parts has windows of an edit with another seed\. Delete"):
        edit(asked(film, str(folder), tmp_path, box=BOX, window=8, overlap=4, seed=1))
    edit(request)
    assert calls == [0, 4, 4, 8]
    assert np.array_equal(read_video(request.out)[0], read_video(whole.out)[0])


@pytest.mark.parametrize(
    "settings",
    [{"box": BOX, "overlap": 0}, {"box": BOX, "overlap": 4, "between": [0.3, 0.5]}],
    ids=["no overlap", "times"],
)
def test_several_workers_make_the_film_of_one(film: str, folder: Path, tmp_path: Path, settings: dict[str, Any]):
    """Windows of 8 that do not depend on each other; a third worker has nothing to do."""
    made = []
    for workers in (1, 3):
        request = asked(film, str(folder), tmp_path, **settings, window=8, workers=workers, out=str(tmp_path / "a.mp4"))
        edit(request)
        made.append(Path(request.out).read_bytes())
    assert made[0] == made[1]
    assert not (tmp_path / "a.mp4.parts").exists()


def test_windows_are_parted_where_no_drawn_picture_joins_them():
    drawn = [number in (2, 9, 10, 21) for number in range(30)]
    assert windows.Windows.of(drawn, length=8, overlap=2).chains == [0, 1, 2, 3, 4]  # from 6, 12, 18 and 24 on
    assert windows.Windows.of([True] * 30, length=8, overlap=2).chains == [0] * 5
    assert windows.Windows.of([True] * 30, length=8, overlap=0).chains == [0, 1, 2, 3]
    assert windows.Windows.of([number == 7 for number in range(14)], length=8, overlap=2).chains == [0, 0]


@pytest.mark.parametrize(
    ("length", "overlap", "added"),
    [
        (1, 0, [1]),
        (1, 0, [1, 1, 1]),
        (8, 0, [8]),
        (8, 0, [8, 1]),
        (8, 7, [8, 1]),
        (4, 3, [4, 1, 1, 1, 1, 1, 1]),
        (8, 8, [3]),
        (8, 20, [8]),
        (8, 20, [5]),
    ],
)
def test_windows_of_any_length_and_overlap_add_every_picture_once(
    tmp_path: Path, film: str, length: int, overlap: int, added: list[int]
):
    class Same:
        seen, fps, artifact = SEEN, 24, type("Artifact", (), {"dit": torch.nn.Identity()})()

        def length(self, num_frames: int) -> int:
            return length

        def __call__(self, pictures: np.ndarray, drawn: np.ndarray, *, first: int) -> np.ndarray:
            assert len(pictures) == length
            return pictures

    kept, count = windows.Kept(asked(film, "A", tmp_path, box=BOX)), sum(added)
    pairs = [(np.full((2, 2, 3), number, np.uint8), np.ones((2, 2), bool)) for number in range(count)]
    parts = windows.Windows.of([True] * count, length=length, overlap=overlap)
    assert parts.chains == ([0] * len(added) if overlap else list(range(len(added))))
    windows.edit_windows(pairs, Same(), kept, parts, mine=range(len(added)), shown=False)  # type: ignore[arg-type]
    firsts = [sum(added[:number]) for number in range(len(added))]
    assert [len(part) for first in firsts if (part := kept.read(first)) is not None] == added
    assert [int(picture[0, 0, 0]) for picture in kept.pictures()] == list(range(count))


def test_what_a_worker_refuses_ends_the_edit(film: str, folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    with pytest.raises(ValueError, match=r"workers=0 must be a whole number of processes"):
        asked(film, str(folder), tmp_path, box=BOX, workers=0)
    request = asked(film, str(folder), tmp_path, box=BOX, window=8, overlap=4, workers=2)
    edit(request)
    assert "workers=2: 1 here, as no more windows are independent of each other" in caplog.text


def test_pictures_outside_of_the_times_are_not_generated(film: str, folder: Path, tmp_path: Path):
    request = asked(film, str(folder), tmp_path, between=[0.2, 0.4], out=str(tmp_path / "b.mp4"))
    edit(request)
    moved = np.abs(read_video(request.out)[0].astype(float) - read_video(film)[0]).mean(axis=(1, 2, 3))
    assert (moved[5:10] > 10).all() and (moved[:5] < 2).all() and (moved[10:] < 2).all()


def test_vace_sees_film_and_mask_and_the_rest_stays(film: str, tmp_path: Path):
    """With the whole picture drawn anew and no prompt it makes the clip of its noise and of a grey film."""
    vace = str(published_folder(tmp_path / "vace", "wan2_1_1_3b", vace_layers=[0], vace_in_channels=96))
    settings = {"prompt": "a woman", "steps": 2, "guidance": 1}
    request = asked(film, vace, tmp_path, box=BOX, **settings)
    editor = ClipEditor(request, (HEIGHT, WIDTH), device=torch.device("cpu"))
    pictures, drawn = read_video(film)[0][:5], np.zeros((5, HEIGHT, WIDTH), bool)
    drawn[:, 16:48, 40:72] = True
    made = [
        editor(one, where, first=0) for one, where in ((pictures, drawn), (255 - pictures, drawn), (pictures, ~drawn))
    ]
    assert all((made[0] != other).mean() > 0.05 for other in made[1:])  # it sees film and mask
    everything = [editor(one, drawn | True, first=0) for one in (pictures, 255 - pictures)]
    assert (everything[0] != everything[1]).mean() > 0.05  # also of what is to be drawn anew
    edit(request)
    error = read_video(request.out)[0].astype(float) - read_video(film)[0]
    inside = np.zeros((HEIGHT, WIDTH), bool)
    inside[16:48, 40:72] = True
    assert 10 * np.log10(255**2 / np.square(error[:, ~inside]).mean()) > H264_DB and np.abs(error[:, inside]).mean() > 5
    with pytest.raises(ValueError, match=r"source and rounds must be left out: .* is VACE"):
        edit(asked(film, vace, tmp_path, source="a man", **settings))


def test_a_published_model_under_equal_prompts_changes_nothing(wan: str, film: str, tmp_path: Path):
    """FlowEdit from a text to itself: what comes out is what the autoencoder makes of the film."""
    same = {"source": "a woman", "prompt": "a woman", "guidance": 3, "source_guidance": 3, "steps": 3}
    editor = ClipEditor(asked(film, wan, tmp_path, **same), (HEIGHT, WIDTH), device=torch.device("cpu"))
    assert editor.seen.shape == (HEIGHT, WIDTH) and editor.length(COUNT) == 17 and editor.length(500) == 81
    pictures = read_video(film)[0][:5]
    drawn = np.ones(pictures.shape[:3], bool)
    vae = load_wan_vae(Path(wan))
    expected = to_uint8(vae.decode_pixels(vae.encode_pixels(to_float(pictures)[None]))[0][0])
    assert np.abs(editor(pictures, drawn, first=0).astype(int) - expected).max() <= 1
    other = asked(film, wan, tmp_path, **(same | {"prompt": "smiles"}))
    moved = ClipEditor(other, (HEIGHT, WIDTH), device=torch.device("cpu"))(pictures, drawn, first=0)
    assert np.abs(moved.astype(int) - expected).mean() > 0.2


def test_a_published_model_draws_a_box_anew(wan: str, film: str, tmp_path: Path):
    request = asked(film, wan, tmp_path, box=BOX, prompt="a woman smiles", steps=2, resolution="32x48", window=9)
    edit(request)
    moved = np.abs(read_video(request.out)[0].astype(float) - read_video(film)[0])
    assert len(moved) == COUNT and moved[:, 24:40, 48:64].mean() > 10 and moved[:, :, :36].mean() < 2


def test_a_stream_of_a_bidirectional_model_moves_between_prompts_that_differ(
    run: Path, trained: tuple[DiT, HaarAutoencoder], film: str, tmp_path: Path
):
    """Without a text condition a prompt is refused; in rounds, what is known stays."""
    rules = tiny_contract(chunk_frames=1).replace(pattern=whole_clip(3, first_frames=1), horizon_frames=2)
    folder = run / "bidirectional" / "weights"
    save_weights(folder, trained[0].state_dict(), dit_header(rules.replace(solver="ode", sigmas=(1.0,))))
    with pytest.raises(
        ValueError, match=r"source='a' must be left out: the model of .* has no text|prompt='b' must be left"
    ):
        StreamEditor(asked(film, str(folder), tmp_path, source="a", prompt="b"), device=torch.device("cpu"))
    request = asked(film, str(folder), tmp_path, box=BOX, steps=3, rounds=2)
    editor = StreamEditor(request, device=torch.device("cpu"))
    pictures = np.random.default_rng(0).integers(0, 256, (8, 32, 48, 3), np.uint8)
    drawn = np.zeros((8, 32, 48), bool)
    drawn[4:, 8:16, 8:16] = True  # the first latent frame has nothing to draw
    made = editor(pictures, drawn, first=0)
    known = StreamEditor(request, device=torch.device("cpu"))(pictures, np.zeros_like(drawn), first=0)
    assert made.shape == pictures.shape and np.array_equal(made[:4], known[:4])
    assert (made[4:, 8:16, 8:16] != known[4:, 8:16, 8:16]).mean() > 0.5


def test_masks_are_pictures_videos_and_mouths(film: str, tmp_path: Path):
    square = np.zeros((HEIGHT, WIDTH), np.uint8)
    square[20:30, 50:70] = 255
    Image.fromarray(square).save(tmp_path / "mask.png")
    request = asked(film, "A", tmp_path, mask=str(tmp_path / "mask.png"))
    regions = Regions(request, survey_of(request, tmp_path))
    assert all(np.array_equal(drawn, square > 0) for drawn in regions) and len(list(regions)) == COUNT
    frames = np.zeros((COUNT, HEIGHT, WIDTH, 3), np.uint8)
    frames[5:, 16:32, 48:64] = 255
    write_video(tmp_path / "mask.mp4", frames, None)
    request = asked(film, "A", tmp_path, mask=str(tmp_path / "mask.mp4"))
    found = np.stack(list(Regions(request, survey_of(request, tmp_path))))
    assert not found[:5].any() and (found[5:, 18:30, 50:62]).all() and not found[:, :10].any()
    write_video(tmp_path / "short.mp4", frames[:6], None)
    request = asked(film, "A", tmp_path, mask=str(tmp_path / "short.mp4"))
    with pytest.raises(ValueError, match=r"short\.mp4 has 6 pictures, must have 14"):
        Regions(request, survey_of(request, tmp_path)).check()


def test_a_mouth_is_found_by_the_face_mesh(tmp_path: Path):
    face = np.asarray(Image.open(sample_path("portrait")).convert("RGB").resize((256, 256)))
    write_video(tmp_path / "face.mp4", np.stack([face] * 3), None)
    request = asked(str(tmp_path / "face.mp4"), "A", tmp_path, mask="mouth")
    masks = list(Regions(request, survey_of(request, tmp_path)))
    (points,) = FaceMesh().all_landmarks(face)
    for x, y, _ in points[[LOWER_LIP, UPPER_LIP]]:
        assert all(drawn[round(float(y)), round(float(x))] for drawn in masks)
    assert len(masks) == 3 and all(0.01 < drawn.mean() < 0.3 for drawn in masks)


def test_what_is_made_fades_in_inside_of_the_mask():
    drawn = np.zeros((40, 40), bool)
    drawn[9:31, 9:31] = True
    share = feathered(drawn)
    assert (share[~drawn] == 0).all() and share[9].max() == 0 and share[10, 20] > 0 and (share[15:25, 15:25] == 1).all()
    assert (feathered(np.ones((6, 6), bool)) == 1).all()


def test_a_view_holds_the_mask_or_is_refused(film: str, tmp_path: Path):
    view = view_of(asked(film, "A", tmp_path, box=BOX), (64, 96), SEEN)
    assert view == View(0, 0, 96, 64, SEEN)
    view = view_of(asked(film, "A", tmp_path, box=BOX), (64, 200), SEEN)
    assert (view.left, view.width) == (52, 96)
    drawn = np.zeros((64, 200), bool)
    drawn[3, 40] = True
    with pytest.raises(ValueError, match=r"the mask has \(40, 3\), outside of what the model sees"):
        view.check(drawn)


@pytest.mark.parametrize(
    ("settings", "rule"),
    [
        ({}, "one of mask, box, between, canvas or source must be given"),
        ({"box": BOX, "mask": "m.png"}, "mask=m.png and box=.* exclude each other"),
        ({"box": [90, 0, 10, 10]}, r"box=\[90, 0, 10, 10\] must lie in the picture of 96 px across"),
        ({"box": [0, 0, 0, 4]}, r"box=\[0, 0, 0, 4\] must be whole px"),
        ({"between": [2, 1]}, r"between=\[2, 1\] must be two times in seconds"),
        ({"between": [9, 10]}, r"between=\[9, 10\] must begin before .* ends, at 0\.58 s"),
        ({"between": [0, 10]}, r"between=\[0, 10\] must end by 0\.58 s"),
        ({"canvas": "32x32"}, "canvas=32x32 must be at least 64x96"),
        ({"canvas": "65x97"}, "must have height and width that are multiples of .* = 2"),
        ({"canvas": "wide"}, "canvas=wide must be height x width"),
        ({"mask": "SMALL"}, "has 8 x 8 px, must have the film's 96 x 64"),
        ({"mask": "BLACK"}, "BLACK.* is black in all pictures that count"),
        ({"mask": "mouth"}, "shows no face"),
        ({"box": BOX, "prompt": "rain"}, "prompt='rain' must be left out: the model of .* has no text condition"),
        ({"box": BOX, "overlap": 64, "window": 8}, "overlap=64 must be below window=8"),
        ({"box": BOX, "resolution": "64x64"}, "resolution=64x64 must be left out"),
        ({"box": BOX, "steps": 9}, "steps=9 must be left out: .* is distilled"),
        ({"box": BOX, "view": [0, 0, 48, 32]}, "outside of what the model sees"),
        ({"box": BOX, "view": [0, 0, 480, 32]}, r"view=\[0, 0, 480, 32\] must lie in the picture"),
        ({"box": BOX, "rounds": 2}, "rounds=2 must be 1, or more with Euler steps"),
        ({"box": BOX, "strength": 0}, "strength=0 must be in"),
        ({"source": "a"}, "source='a' needs prompt"),
        ({"box": BOX, "image": "SMALL"}, "SMALL.* has 8 x 8 px, must have the new film's 96 x 64"),
        ({"box": BOX, "act": {"joy": 1}}, "joy=1 must be"),
        ({"box": BOX, "out": "out.gif"}, "out.gif"),
    ],
)
def test_what_cannot_be_is_refused_and_nothing_is_left(
    film: str, folder: Path, tmp_path: Path, settings: dict[str, Any], rule: str
):
    Image.new("L", (8, 8), 255).save(tmp_path / "SMALL.png")
    Image.new("L", (WIDTH, HEIGHT)).save(tmp_path / "BLACK.png")
    place = tmp_path / "made"
    values = {k: str(tmp_path / f"{v}.png") if v in ("SMALL", "BLACK") else v for k, v in settings.items()}
    with pytest.raises(ValueError, match=rule):
        edit(EditRequest(**({"video": film, "artifact": str(folder), "out": str(place / "out.mp4")} | values)))
    assert not place.exists() or not list(place.iterdir())


def test_films_without_pictures_and_models_without_places_are_refused(
    film: str, folder: Path, wan: str, tmp_path: Path
):
    soundfile.write(tmp_path / "sound.wav", np.zeros(2400), 24_000)
    with pytest.raises(ValueError, match="must have a video stream"):
        edit(asked(str(tmp_path / "sound.wav"), str(folder), tmp_path, box=BOX))
    with pytest.raises(ValueError, match="its own are codes of a face"):
        edit(asked(film, str(Path(__file__).parents[2] / "weights" / "character"), tmp_path, box=BOX))
    with pytest.raises(ValueError, match=r"image=i\.png must be left out: .* is a published model"):
        edit(asked(film, wan, tmp_path, box=BOX, image="i.png"))


def test_a_window_that_does_not_fit_is_refused(wan: str, film: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("serve.memory.host_bytes", lambda: 10_000)
    with pytest.raises(RuntimeError, match=r"window=81 pictures of 64x96 px need at least .* bytes, 10000 are free"):
        edit(asked(film, wan, tmp_path, box=BOX, prompt="a woman"))


def test_windows_overlap_and_add_every_picture_once(tmp_path: Path, film: str):
    """Of 14 pictures in windows of 8 that overlap by 4: the last one is filled up with its last picture."""

    class Counting:
        artifact = type("Artifact", (), {"dit": torch.nn.Identity()})()
        seen, fps = SEEN, 24

        def length(self, num_frames: int) -> int:
            return 8

        def __call__(self, pictures: np.ndarray, drawn: np.ndarray, *, first: int) -> np.ndarray:
            seen.append((first, pictures[:, 0, 0, 0].tolist(), drawn.any(axis=(1, 2)).tolist()))
            return pictures + 100

    seen: list[tuple[int, list[int], list[bool]]] = []
    kept = windows.Kept(asked(film, "A", tmp_path, box=BOX))
    pairs = [(np.full((2, 2, 3), k, np.uint8), np.ones((2, 2), bool)) for k in range(14)]
    parts = windows.Windows.of([True] * 14, length=8, overlap=4)
    windows.edit_windows(iter(pairs), Counting(), kept, parts, mine=range(3), shown=False)  # type: ignore[arg-type]
    assert [first for first, _, _ in seen] == [0, 4, 8]
    assert seen[1][1] == [104, 105, 106, 107, 8, 9, 10, 11] and seen[1][2] == [False] * 4 + [True] * 4
    assert seen[2][1] == [108, 109, 110, 111, 12, 13, 13, 13]
    assert [int(picture[0, 0, 0]) for picture in kept.pictures()] == [100 + k for k in range(14)]
