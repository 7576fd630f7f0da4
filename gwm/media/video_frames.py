"""Pictures of any video: in order of time, without interlacing, as upright RGB of BT.709 with square pixels."""

import math
from collections.abc import Iterable, Iterator
from typing import Any

import av
import av.error
import numpy as np
from av.container import InputContainer
from av.filter import Graph
from av.stream import Disposition
from av.video.reformatter import ColorPrimaries, Colorspace, ColorTrc, VideoReformatter
from av.video.stream import VideoStream
from jaxtyping import UInt8

from gwm.media.decoding import Damage, decoded
from gwm.media.images import BACKGROUND

NOMINAL_FPS = 25.0  # of a stream that names no rate and has pictures without time stamps
UNKNOWN_MATRICES = (0, 2, 3)  # RGB, unspecified, reserved: of YCbCr pictures, none of them names a matrix
HD_WIDTH, HD_HEIGHT = 1280, 577  # from these on, pictures without a named matrix are taken for BT.709, as players do
HDR = (ColorTrc.SMPTE2084, ColorTrc.ARIB_STD_B67)
# Curves that differ too much from BT.709 to be taken for it. Those of SDR cameras and displays (BT.601, BT.2020, sRGB,
# gamma 2.2) do not: converting them would only undo what the camera meant.
OTHER_CURVES = (*HDR, ColorTrc.LINEAR, ColorTrc.LOG, ColorTrc.LOG_SQRT, ColorTrc.SMPTE428)
# Gamuts that are visibly wider than BT.709. Those of BT.601 are as wide; players show them unconverted.
DISPLAY_MATRIX = "DISPLAYMATRIX"
WIDE_GAMUTS = (ColorPrimaries.BT2020, ColorPrimaries.SMPTE428, ColorPrimaries.SMPTE431, ColorPrimaries.SMPTE432)


class ColourError(ValueError):
    """The colours of a video are stored in a way that FFmpeg cannot convert."""


def picture_stream(container: InputContainer) -> VideoStream | None:
    """The first moving picture; the cover of an album does not count."""
    return next((s for s in container.streams.video if not s.disposition & Disposition.attached_pic), None)


def pixel_aspect(stream: VideoStream) -> float:
    """Width over height of a stored pixel; 1 where the file does not say."""
    aspect = stream.sample_aspect_ratio
    return float(aspect) if aspect else 1.0


def pictures(container: InputContainer, stream: VideoStream, damage: Damage) -> Iterator[tuple[float, av.VideoFrame]]:
    """Moment in seconds, on the container's clock, and picture; strictly in order of time."""
    gap = 1 / float(stream.average_rate or NOMINAL_FPS)
    last = -math.inf
    whole = (f for f in decoded(container, stream, damage) if isinstance(f, av.VideoFrame) and not f.is_corrupt)
    for frame in progressive(whole):
        moment = frame.time
        if moment is None:
            moment = last + gap if last > -math.inf else 0.0
        if moment > last:
            yield moment, frame
            last = moment


def progressive(frames: Iterable[av.VideoFrame]) -> Iterator[av.VideoFrame]:
    """The same pictures; of interlaced ones, the missing lines of the first field are interpolated (FFmpeg's bwdif)."""
    graph, shape = None, None
    for frame in frames:
        if shape != (shape := (frame.width, frame.height, frame.format.name)) or (not graph and frame.interlaced_frame):
            yield from _pulled(graph, None)
            graph = _deinterlacer(frame) if frame.interlaced_frame else None
        if graph is None:
            yield frame
        else:
            yield from _pulled(graph, frame)
    yield from _pulled(graph, None)


def _deinterlacer(frame: av.VideoFrame) -> Graph:
    graph = Graph()
    source = graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base)
    graph.link_nodes(
        source, graph.add("bwdif", "mode=send_frame:deint=interlaced"), graph.add("buffersink")
    ).configure()
    return graph


def _pulled(graph: Graph | None, frame: av.VideoFrame | None) -> Iterator[av.VideoFrame]:
    """What the filter gives for one more picture; for None, what it still holds."""
    if graph is None:
        return
    graph.vpush(frame)
    while True:
        try:
            yield graph.vpull()
        except (av.error.BlockingIOError, av.error.EOFError):
            return


class RgbReader:
    """Pictures of one stream as upright RGB; `pixel_aspect` is a stored pixel's width over its height.

    Matrix and range are those that the file names; without a matrix it is BT.601 for small pictures and BT.709 for
    large ones. PQ and HLG are mapped to the brightness of SDR, wide gamuts into that of BT.709, both by FFmpeg's
    swscale; unless they are to stay `as_stored`. Transparent parts are in front of neutral grey.
    """

    def __init__(self, pixel_aspect: float, *, as_stored: bool = False) -> None:
        self.pixel_aspect, self.as_stored = pixel_aspect, as_stored
        self._reformatter = VideoReformatter()  # one a stream: its table for wide gamuts takes a second to make

    def __call__(self, frame: av.VideoFrame) -> UInt8[np.ndarray, "h w 3"]:
        """Convert a decoded frame to 8-bit RGB in BT.709, with square pixels and without transparency.

        Raises:
            ColourError: FFmpeg has no conversion for the colours.
        """
        matrix = name_colours(frame)
        other = frame.color_trc in OTHER_CURVES or frame.color_primaries in WIDE_GAMUTS
        convert = other and not self.as_stored
        alpha = any(component.is_alpha for component in frame.format.components) or frame.format.has_palette
        try:
            rgb = self._reformatter.reformat(
                frame,
                width=round(frame.width * self.pixel_aspect),
                format="rgba" if alpha else "rgb24",
                src_colorspace=matrix,
                dst_color_trc=ColorTrc.BT709 if convert else None,
                dst_color_primaries=ColorPrimaries.BT709 if convert else None,
            ).to_ndarray()
        except av.error.FFmpegError as error:
            raise ColourError(
                f"its colours, in the numbers of ITU-T H.273 matrix {frame.colorspace}, curve {frame.color_trc} and "
                f"primaries {frame.color_primaries}, cannot be converted to BT.709 ({error.strerror}). Convert the "
                "video to BT.709 first."
            ) from error
        return turned(_over_grey(rgb) if alpha else rgb, frame)


def name_colours(frame: av.VideoFrame) -> int | None:
    """Fill in what the file leaves open about its colours; the matrix where the file does not name it, else None."""
    hdr = frame.color_trc in HDR
    if hdr and frame.color_primaries == ColorPrimaries.UNSPECIFIED:
        frame.color_primaries = ColorPrimaries.BT2020
    if frame.format.is_rgb or frame.colorspace not in UNKNOWN_MATRICES:
        return None
    if _side_data(frame, "DOVI_METADATA") is not None and not hdr:
        raise ColourError("it is Dolby Vision of profile 5, which only licensed players show. Export it as SDR.")
    if hdr:
        return Colorspace.BT2020
    large = frame.width >= HD_WIDTH or frame.height >= HD_HEIGHT
    return Colorspace.ITU709 if large else Colorspace.ITU601


def _over_grey(rgba: UInt8[np.ndarray, "h w 4"]) -> UInt8[np.ndarray, "h w 3"]:
    alpha = rgba[..., 3:].astype(np.float32) / 255
    return (rgba[..., :3] * alpha + np.array(BACKGROUND, np.float32) * (1 - alpha)).round().astype(np.uint8)


def turned(rgb: UInt8[np.ndarray, "h w 3"], frame: av.VideoFrame) -> UInt8[np.ndarray, "i j 3"]:
    """Apply the file's display matrix: telephones store pictures on their side, front cameras mirror them."""
    mirrored, quarters = orientation(frame)
    return np.rot90(rgb[:, ::-1] if mirrored else rgb, quarters)


def orientation(frame: av.VideoFrame) -> tuple[bool, int]:
    """Whether an upright picture is the mirror image of the stored one, and then counterclockwise quarter turns."""
    data = _side_data(frame, DISPLAY_MATRIX)
    if data is None:
        return False, 0
    a, b, _, c, d = np.frombuffer(data, np.int32)[:5].astype(float)
    mirrored = bool(a * d - b * c < 0)
    return mirrored, round(frame.rotation / 90) + (2 if mirrored else 0)


def display_matrix(frame: av.VideoFrame) -> bytes | None:
    """How the file says that its pictures are turned and mirrored; None where it does not."""
    return _side_data(frame, DISPLAY_MATRIX)


def _side_data(frame: av.VideoFrame, name: str) -> bytes | None:
    entries: Any = frame.side_data  # PyAV's type stub has it as a single entry
    found = entries.get(name)
    return None if found is None else bytes(found)
