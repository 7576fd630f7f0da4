"""Pictures are seen as their author saw them: colours by their names, upright, whole, without interlacing."""

import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc

from gwm.media.decoding import Damage
from gwm.media.video import read_video
from gwm.media.video_frames import ColourError, RgbReader, picture_stream, pictures

RGB = np.array([[200, 100, 80], [128, 128, 128], [255, 255, 255], [40, 60, 200]])
# Luma weights of red and blue. Source: ITU-R BT.601-7, BT.709-6, BT.2020-2.
WEIGHTS = {"601": (0.299, 0.114), "709": (0.2126, 0.0722), "2020": (0.2627, 0.0593)}


def plain(signal: np.ndarray, matrix: str, *, full: bool, bits: int = 8, size: tuple[int, int] = (64, 48)):
    """A frame of one R'G'B' signal in [0, 1], stored by the equations of the recommendations."""
    kr, kb = WEIGHTS[matrix]
    luma = kr * signal[0] + (1 - kr - kb) * signal[1] + kb * signal[2]
    blue, red = (signal[2] - luma) / (2 - 2 * kb), (signal[0] - luma) / (2 - 2 * kr)
    unit = 2 ** (bits - 8)
    if full:
        stored = [luma * 255, 128 + 255 * blue, 128 + 255 * red]
    else:
        stored = [unit * (16 + 219 * luma), unit * (128 + 224 * blue), unit * (128 + 224 * red)]
    frame = av.VideoFrame(*size, "yuv420p" if bits == 8 else "yuv420p10le")
    for plane, value in zip(frame.planes, stored, strict=True):
        plane.update(np.full(plane.buffer_size * 8 // (8 if bits == 8 else 16), round(value), f"<u{1 + (bits > 8)}"))
    frame.color_range = ColorRange.JPEG if full else ColorRange.MPEG
    return frame


def shown(frame: av.VideoFrame) -> np.ndarray:
    return RgbReader(1.0)(frame)[5, 5].astype(float)


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize(
    ("matrix", "name"), [("601", Colorspace.ITU601), ("709", Colorspace.ITU709), ("2020", Colorspace.BT2020)]
)
def test_matrix_and_range_are_those_that_the_file_names(matrix: str, name: Colorspace, full: bool):
    for rgb in RGB:
        frame = plain(rgb / 255, matrix, full=full)
        frame.colorspace = name
        assert shown(frame) == pytest.approx(rgb.astype(float), abs=3)


@pytest.mark.parametrize(
    ("size", "matrix"), [((720, 576), "601"), ((640, 480), "601"), ((1280, 720), "709"), ((720, 1280), "709")]
)
@pytest.mark.parametrize("unknown", [0, 2, 3])
def test_without_a_name_the_size_decides(size: tuple[int, int], matrix: str, unknown: int):
    frame = plain(RGB[0] / 255, matrix, full=False, size=size)
    frame.colorspace = unknown
    assert shown(frame) == pytest.approx(RGB[0].astype(float), abs=3)


# Red, green and blue of each gamut in CIE XYZ. Source: BT.709-6 and BT.2020-2, Table 3 and 2, white D65.
XYZ_709 = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
XYZ_2020 = np.array([[0.6370, 0.1446, 0.1689], [0.2627, 0.6780, 0.0593], [0.0, 0.0281, 1.0610]])


def hlg(light: np.ndarray) -> np.ndarray:
    """Signal of display light relative to 1000 nits. Source: ITU-R BT.2100-2, Table 5; the OOTF with gamma 1.2."""
    scene = light * (light @ XYZ_2020[1]) ** (1 / 1.2 - 1)
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    return np.where(scene <= 1 / 12, np.sqrt(3 * scene), a * np.log(np.maximum(12 * scene - b, 1e-9)) + c)


def pq(light: np.ndarray) -> np.ndarray:
    """Signal of light relative to 1000 nits. Source: ITU-R BT.2100-2, Table 4."""
    y = (light / 10) ** (2610 / 16384)
    return ((3424 / 4096 + 2413 / 128 * y) / (1 + 2392 / 128 * y)) ** (2523 / 32)


@pytest.fixture(scope="module", params=["hlg", pytest.param("pq", marks=pytest.mark.slow)])
def hdr_frames(request) -> list[av.VideoFrame]:
    """The colours of RGB as an HDR film holds them: white at 203 nits. Source: ITU-R BT.2408-7, Table 1."""
    curve, name = {"hlg": (hlg, ColorTrc.ARIB_STD_B67), "pq": (pq, ColorTrc.SMPTE2084)}[request.param]
    frames = []
    for rgb in RGB:
        light = 0.203 * np.linalg.inv(XYZ_2020) @ XYZ_709 @ (rgb / 255) ** 2.4
        frame = plain(curve(light), "2020", full=False, bits=10)
        frame.colorspace, frame.color_trc, frame.color_primaries = Colorspace.BT2020, name, ColorPrimaries.BT2020
        frames.append(frame)
    return frames


def test_hdr_is_shown_at_the_brightness_of_sdr(hdr_frames: list[av.VideoFrame]):
    """Read as if it were SDR, (200, 100, 80) would become (154, 95, 70) or (123, 96, 83)."""
    reader = RgbReader(1.0)  # one for all, as its table takes a second
    for frame, rgb in zip(hdr_frames, RGB, strict=True):
        assert reader(frame)[5, 5].astype(float) == pytest.approx(rgb.astype(float), abs=12)


@pytest.mark.parametrize("matrix", [8, 10, 14])
def test_colours_that_cannot_be_converted_are_refused(matrix: int):
    frame = plain(RGB[0] / 255, "709", full=False)
    frame.colorspace = matrix  # YCgCo, BT.2020 of constant luminance, ICtCp
    with pytest.raises(ColourError, match=f"matrix {matrix}, .*Convert the video"):
        shown(frame)


def test_transparent_parts_are_in_front_of_grey():
    frame = av.VideoFrame.from_ndarray(np.uint8([[[200, 100, 50, 255], [200, 100, 50, 0]]]).repeat(16, 0), "rgba")
    assert RgbReader(1.0)(frame)[3].tolist() == [[200, 100, 50], [128, 128, 128]]


def with_matrix(path: Path, matrix: tuple[int, int, int, int], offset: tuple[int, int]) -> None:
    """Write another display matrix into an mp4."""
    data, one = bytearray(path.read_bytes()), 1 << 16
    at = data.index(struct.pack(">9i", one, 0, 0, 0, one, 0, 0, 0, 1 << 30), data.index(b"tkhd"))
    a, b, c, d = (value * one for value in matrix)
    data[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, offset[0] * one, offset[1] * one, 1 << 30)
    path.write_bytes(data)


SCENE = np.array([[0, 60], [120, 250]])  # four corners that are told apart


@pytest.mark.parametrize(
    ("matrix", "expected"),
    [
        ((0, 1, -1, 0), np.rot90(SCENE, -1)),
        ((-1, 0, 0, -1), np.rot90(SCENE, 2)),
        ((0, -1, 1, 0), np.rot90(SCENE, 1)),
        ((-1, 0, 0, 1), SCENE[:, ::-1]),
        ((1, 0, 0, -1), SCENE[::-1]),
        ((0, 1, 1, 0), SCENE.T),
        ((0, -1, -1, 0), np.rot90(SCENE, 2).T),
    ],
)
def test_a_display_matrix_turns_and_mirrors(tmp_path: Path, matrix: tuple[int, int, int, int], expected: np.ndarray):
    """x' = a x + c y, y' = b x + d y. Source: ISO/IEC 14496-12, 6.2.2."""
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=24, options={"crf": "1"})
        stream.height = stream.width = 32
        stream.pix_fmt = "yuv420p"
        grey = SCENE.astype(np.uint8).repeat(16, 0).repeat(16, 1)[..., None].repeat(3, 2)
        container.mux(stream.encode(av.VideoFrame.from_ndarray(grey, format="rgb24")))
        container.mux(stream.encode())
    with_matrix(tmp_path / "a.mp4", matrix, (32, 32))
    frames, _ = read_video(tmp_path / "a.mp4")
    found = frames[0, [[8, 8], [24, 24]], [[8, 24], [8, 24]], 0]
    assert found == pytest.approx(expected, abs=6)


def test_interlaced_pictures_have_no_comb_and_none_is_lost(tmp_path: Path):
    """A bar that moves between the two fields of each picture: rows that alternate are the comb."""
    with av.open(str(tmp_path / "a.mpg"), "w") as container:
        stream = container.add_stream("mpeg2video", rate=25, options={"flags": "+ildct+ilme"})
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = 64, 48, "yuv420p", 4_000_000
        for number in range(10):
            rows = np.zeros((48, 64, 3), np.uint8)
            rows[0::2, 4 * number : 4 * number + 8] = rows[1::2, 4 * number + 2 : 4 * number + 10] = 255
            frame = av.VideoFrame.from_ndarray(rows, format="rgb24").reformat(format="yuv420p")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with av.open(str(tmp_path / "a.mpg")) as container:
        stream = picture_stream(container)
        assert stream is not None
        stored = next(container.decode(stream)).to_ndarray(format="rgb24")
    frames, _ = read_video(tmp_path / "a.mpg")
    comb = [np.abs(np.diff(picture[..., 0].astype(int), axis=0)).mean() for picture in (stored, *frames[1:])]
    assert len(frames) == 10 and comb[0] > 10 and max(comb[1:]) < 1


def test_damaged_packets_are_counted(tmp_path: Path):
    """Each picture is a packet that needs no other."""
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        stream = container.add_stream("ffv1", rate=24, options={"g": "1"})
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        for number in range(6):
            noise = np.random.default_rng(number).integers(0, 256, (32, 32, 3), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(noise, format="rgb24")))
        container.mux(stream.encode())
    packets = []
    with av.open(str(tmp_path / "a.mkv")) as container:
        packets = [bytes(packet) for packet in container.demux() if packet.size]
    data = (tmp_path / "a.mkv").read_bytes()
    (tmp_path / "a.mkv").write_bytes(data.replace(packets[3], b"\xff" * len(packets[3])))
    damage = Damage()
    with av.open(str(tmp_path / "a.mkv")) as container:
        stream = picture_stream(container)
        assert stream is not None
        found = list(pictures(container, stream, damage))
    assert len(found) + damage.skipped == 6 and damage.skipped == 1
    assert damage.notes == ["1 of 6 packets are damaged and were skipped"]
