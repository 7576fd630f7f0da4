"""Films that are made anew from others: what is not drawn stays as it was stored."""

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc

from gwm.media.refilm import SOUND_RATE, open_film, refilm
from gwm.media.stored_picture import redrawn, writable
from gwm.media.video import read_audio

SIZE = (96, 64)
TIMES = [0, 40, 70, 180, 190, 300]  # ms: telephones take pictures when they can


def write_source(
    path: Path, *, format: str = "yuv420p", degrees: int = 0, times: list[int] = TIMES, full: bool = False
) -> Path:
    """Noise, without loss."""
    rng = np.random.default_rng(0)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"qp": "0"})
        stream.width, stream.height, stream.pix_fmt = *SIZE, format
        context = stream.codec_context
        context.time_base = Fraction(1, 1000)
        context.colorspace, context.color_range = Colorspace.ITU601, ColorRange.JPEG if full else ColorRange.MPEG
        if degrees:
            stream.set_display_rotation(degrees)
        for moment in times:
            frame = av.VideoFrame(*SIZE, format)
            deep = frame.format.components[0].bits > 8
            for number, plane in enumerate(frame.planes):
                count = plane.buffer_size // (2 if deep else 1)
                low, high = (120, 136) if number else (60, 180)  # all of it are colours that RGB has
                values = rng.integers(low, high, count) * (4 if deep else 1)
                plane.update(values.astype("<u2" if deep else "u1").tobytes())
            frame.pts, frame.time_base = moment, Fraction(1, 1000)
            frame.colorspace, frame.color_range = context.colorspace, context.color_range
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def planes(frame: av.VideoFrame) -> list[np.ndarray]:
    kind = np.uint16 if frame.format.components[0].bits > 8 else np.uint8
    return [
        np.frombuffer(memoryview(p), kind).reshape(p.height, -1)[:, : p.width].astype(int)  # type: ignore[arg-type]
        for p in frame.planes
    ]


@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("format", ["yuv420p", "yuv422p", "yuv444p", "yuv420p10le"])
def test_only_what_is_drawn_changes_and_has_the_colour_that_was_drawn(
    tmp_path: Path, format: str, full: bool, degrees: int
):
    path = write_source(tmp_path / "a.mp4", format=format, degrees=degrees, times=[0, 40], full=full)
    with open_film(path) as film:
        to_rgb = film.rgb_reader()
        _, frame = next(iter(film))
        stored, before = planes(frame), to_rgb(frame)
        assert before.shape[:2] == ((64, 96) if degrees % 180 == 0 else (96, 64))
        after = before.copy()
        after[20:40, 10:30] = np.array([150, 120, 90])
        made = redrawn(writable(frame, "libx264"), before, after, film.turn)
        assert made.format.name in (format, format.replace("yuv", "yuvj"))
        untouched = [np.ones_like(plane, bool) for plane in stored]
        turned = np.rot90((before != after).any(axis=-1), -degrees // 90)
        y, x = np.nonzero(turned)
        for mask, plane in zip(untouched, made.planes, strict=True):
            across, down = frame.width // plane.width, frame.height // plane.height
            mask[y.min() // down : y.max() // down + 1, x.min() // across : x.max() // across + 1] = False
        for mask, old, new in zip(untouched, stored, planes(made), strict=True):
            assert (old[mask] == new[mask]).all() and (old != new)[~mask].mean() > 0.5
        drawn = np.rot90(to_rgb(made), degrees // 90)[22:38, 12:28].reshape(-1, 3)
        # Halved colours were noise, and are mixed with their neighbours' when they are read.
        assert np.abs(drawn.mean(axis=0) - [150, 120, 90]).max() < 2.5


def film_again(source: Path, out: Path, sound: Iterator[np.ndarray]) -> float:
    with open_film(source) as film:
        return refilm(out, film, ((moment, writable(frame, "libx264")) for moment, frame in film), sound)


def test_unequal_times_and_length_are_kept(tmp_path: Path):
    source = write_source(tmp_path / "a.mp4")
    length = film_again(source, tmp_path / "b.mp4", iter([np.zeros(100, np.float32)]))
    with open_film(source) as old, open_film(tmp_path / "b.mp4") as new:
        assert [moment for moment, _ in new] == pytest.approx([moment for moment, _ in old], abs=1e-6)
        assert new.declared_s == pytest.approx(length, abs=2e-3)
    assert length == pytest.approx(0.3 + 0.11)
    assert len(read_audio(tmp_path / "b.mp4")) == pytest.approx(0.41 * 24_000, abs=600)


@pytest.mark.parametrize(("format", "degrees"), [("yuv420p10le", 90), ("yuv420p", 270), ("yuv422p", 180)])
def test_depth_and_orientation_are_kept(tmp_path: Path, format: str, degrees: int):
    source = write_source(tmp_path / "a.mp4", format=format, degrees=degrees)
    film_again(source, tmp_path / "b.mp4", iter([]))
    with open_film(source) as old, open_film(tmp_path / "b.mp4") as new:
        for (_, a), (_, b) in zip(old, new, strict=True):
            assert b.format.name == format and a.rotation == b.rotation != 0
            scale = 4 if a.format.components[0].bits > 8 else 1
            error = np.square((planes(a)[0] - planes(b)[0]) / scale).mean()
            assert 10 * np.log10(255**2 / error) > 35  # of noise, which codecs like least


def test_the_names_of_colours_are_kept(tmp_path: Path):
    source = tmp_path / "a.mp4"
    with av.open(str(source), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = *SIZE, "yuv420p10le"
        context = stream.codec_context
        context.colorspace, context.color_primaries = Colorspace.BT2020, ColorPrimaries.BT2020
        context.color_trc, context.color_range = ColorTrc.ARIB_STD_B67, ColorRange.MPEG
        container.mux(stream.encode(av.VideoFrame(*SIZE, "yuv420p10le")))
        container.mux(stream.encode())
    film_again(source, tmp_path / "b.mp4", iter([]))
    with open_film(tmp_path / "b.mp4") as new:
        _, frame = next(iter(new))
        names = frame.colorspace, frame.color_primaries, frame.color_trc, frame.color_range
        assert names == (Colorspace.BT2020, ColorPrimaries.BT2020, ColorTrc.ARIB_STD_B67, ColorRange.MPEG)


def test_sound_is_taken_as_it_is_needed_and_cut_at_the_end(tmp_path: Path):
    """Blocks that wait are few, however long the film; the rest of the sound is never asked for."""
    source = write_source(tmp_path / "a.mp4", times=list(range(0, 4000, 40)))
    taken, ahead = 0, []

    def blocks() -> Iterator[np.ndarray]:
        nonlocal taken
        while True:
            taken += 480
            yield np.full(480, 0.1, np.float32)

    with open_film(source) as film:

        def made() -> Iterator[tuple[float, av.VideoFrame]]:
            for moment, frame in film:
                ahead.append(taken - moment * SOUND_RATE)
                yield moment, frame

        length = refilm(tmp_path / "b.mp4", film, made(), blocks())
    assert length == pytest.approx(4.0) and taken == pytest.approx(4 * SOUND_RATE, abs=480)
    assert max(ahead) <= 480


def test_nothing_is_left_of_a_film_that_breaks_off(tmp_path: Path):
    source = write_source(tmp_path / "a.mp4")
    with open_film(source) as film, pytest.raises(RuntimeError, match="broken"):

        def made() -> Iterator[tuple[float, av.VideoFrame]]:
            yield next(iter(film))
            raise RuntimeError("broken")

        refilm(tmp_path / "b.mp4", film, made(), iter([]))
    assert list(tmp_path.iterdir()) == [source]


def test_a_file_without_pictures_is_refused(tmp_path: Path):
    path = tmp_path / "text.mp4"
    path.write_text("no film")
    with pytest.raises(ValueError, match="must be a video file"), open_film(path):
        pass
