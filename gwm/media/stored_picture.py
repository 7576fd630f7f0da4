"""Pictures as a film stores them, with parts drawn anew or more around them.

Depth, subsampling, matrix, range and curve stay. What is drawn in RGB is added as a difference, so that what is not
drawn stays equal to the bit until it is encoded.
"""

from collections.abc import Iterator

import av
import cv2
import numpy as np
from av.video.reformatter import ColorRange, Colorspace
from jaxtyping import Float, UInt8

from gwm.media.video_frames import name_colours

# Shares of red and blue in the brightness, by matrix. Source: ITU-T H.273, Table 4.
BT601, BT709, BT2020 = (0.299, 0.114), (0.2126, 0.0722), (0.2627, 0.0593)
SHARES = {1: BT709, 4: (0.30, 0.11), 5: BT601, 6: BT601, 7: (0.212, 0.087), 9: BT2020, 10: BT2020}


def redrawn(
    frame: av.VideoFrame,
    before: UInt8[np.ndarray, "h w 3"],
    after: UInt8[np.ndarray, "h w 3"],
    turn: tuple[bool, int],
) -> av.VideoFrame:
    """The stored picture with what changed between its RGB and another one of the same size.

    frame: of a format that `writable` gives; it is not changed. turn: of the film. Brightness changes in pixels that
    differ alone, colours in all pixels that share theirs with one of them.
    """
    if (before == after).all():
        return frame
    made = _copied(frame)
    difference = after.astype(np.int16) - before
    mirrored, quarters = turn
    difference = np.rot90(difference, -quarters)
    if mirrored:
        difference = difference[:, ::-1]
    if difference.shape[1] != frame.width:  # pixels that are no squares
        size = frame.width, frame.height
        difference = cv2.resize(np.ascontiguousarray(difference), size, interpolation=cv2.INTER_LINEAR)
    rows, columns = (_even_range(np.flatnonzero(difference.any(axis=(2, 1 - axis)))) for axis in (0, 1))
    for plane, values in enumerate(_to_planes(difference[rows, columns].astype(np.float32), frame)):
        _add(made, plane, values, rows.start, columns.start)
    return made


def _copied(frame: av.VideoFrame) -> av.VideoFrame:
    """The same planes in storage of their own: the decoder predicts other pictures from its own."""
    made = av.VideoFrame(frame.width, frame.height, frame.format.name)
    for new, old in zip(made.planes, frame.planes, strict=True):
        rows, stored = (np.frombuffer(memoryview(p), np.uint8).reshape(p.height, -1) for p in (new, old))
        width = min(rows.shape[1], stored.shape[1])  # what is behind the picture's own bytes does not matter
        rows[:, :width] = stored[:, :width]
    return _like(made, frame)


def _like(made: av.VideoFrame, frame: av.VideoFrame) -> av.VideoFrame:
    """With the time of another picture and the names of its colours."""
    made.pts, made.time_base = frame.pts, frame.time_base
    made.colorspace, made.color_range = frame.colorspace, frame.color_range
    made.color_primaries, made.color_trc = frame.color_primaries, frame.color_trc
    return made


def on_canvas(frame: av.VideoFrame, height: int, width: int) -> av.VideoFrame:
    """The stored picture in the middle of a larger one, at an even place, equal to the bit; its edges are repeated
    around it. The new picture has lost what says that it is turned.

    frame: of a format that `writable` gives. height, width: even, and at least the frame's.
    """
    made = av.VideoFrame(width, height, frame.format.name)
    top, left = canvas_place((frame.height, frame.width), (height, width))
    for number, (new, old) in enumerate(zip(made.planes, frame.planes, strict=True)):
        deep = np.uint8 if frame.format.components[number].bits <= 8 else np.uint16
        rows, stored = (np.frombuffer(memoryview(p), deep).reshape(p.height, -1)[:, : p.width] for p in (new, old))
        above, before = top * old.height // frame.height, left * old.width // frame.width
        sides = [(above, new.height - old.height - above), (before, new.width - old.width - before)]
        rows[:] = np.pad(stored, sides, mode="edge")
    return _like(made, frame)


def canvas_place(size: tuple[int, int], canvas: tuple[int, int]) -> tuple[int, int]:
    """Even row and column at which a picture of (height, width) begins in the middle of a canvas."""
    top, left = ((whole - own) // 4 * 2 for whole, own in zip(canvas, size, strict=True))
    return top, left


def _even_range(places: np.ndarray) -> slice:
    """From the first to the last, begun and ended with whole pairs: pixels that share their colours."""
    return slice(int(places[0]) // 2 * 2, (int(places[-1]) // 2 + 1) * 2)


def _to_planes(difference: Float[np.ndarray, "h w 3"], frame: av.VideoFrame) -> Iterator[Float[np.ndarray, "h w"]]:
    """Differences of brightness and of both colours, in the steps of the frame's depth and range."""
    matrix = frame.colorspace if frame.colorspace in SHARES else name_colours(frame)
    red, blue = SHARES[Colorspace.ITU709 if matrix is None else int(matrix)]
    full = frame.color_range == ColorRange.JPEG or frame.format.name.startswith("yuvj")
    step = 2.0 ** (frame.format.components[0].bits - 8)
    bright = difference @ np.array([red, 1 - red - blue, blue], np.float32)
    yield bright * (step if full else step * 219 / 255)
    for channel, share in ((2, blue), (0, red)):
        yield (difference[..., channel] - bright) * ((step if full else step * 224 / 255) / (2 - 2 * share))


def _add(frame: av.VideoFrame, number: int, values: Float[np.ndarray, "h w"], top: int, left: int) -> None:
    plane, component = frame.planes[number], frame.format.components[number]
    wide, deep = component.bits <= 8, np.uint8 if component.bits <= 8 else np.uint16
    stored = np.frombuffer(memoryview(plane), deep).reshape(plane.height, -1)[:, : plane.width]
    across, down = round(frame.width / plane.width), round(frame.height / plane.height)
    height, width = (-(-n // by) for n, by in zip(values.shape, (down, across), strict=True))
    if (across, down) != (1, 1):
        values = cv2.resize(values, (width, height), interpolation=cv2.INTER_AREA)  # type: ignore[assignment]
    part = stored[top // down : top // down + height, left // across : left // across + width]
    values = values[: part.shape[0], : part.shape[1]]
    top_value = 255 if wide else 2**component.bits - 1
    part[:] = np.rint(part + values).clip(0, top_value).astype(deep)


def writable(frame: av.VideoFrame, codec: str) -> av.VideoFrame:
    """The same picture in a format that a codec encodes: the same planes where it can, otherwise the next best."""
    formats = [f.name for f in av.Codec(codec, "w").video_formats or []]
    odd = frame.width % 2 or frame.height % 2
    name = frame.format.name
    if name in formats and name.startswith("yuv") and not (odd and not name.startswith("yuv444")):
        return frame
    deep = any(c.bits > 8 for c in frame.format.components) and "yuv420p10le" in formats
    ratio = [frame.format.chroma_width(frame.width), frame.format.chroma_height(frame.height)]
    halves = [n * 2 <= side + 1 for n, side in zip(ratio, (frame.width, frame.height), strict=True)]
    kind = "420" if all(halves) and not odd else "422" if halves[0] and not odd else "444"
    rgb = frame.format.is_rgb or frame.format.has_palette
    made = frame.reformat(
        format=f"yuv{kind}p10le" if deep else f"yuv{kind}p",
        dst_colorspace=Colorspace.ITU709 if rgb else None,
        dst_color_range=ColorRange.MPEG if rgb else None,
    )
    made.pts, made.time_base = frame.pts, frame.time_base
    return made
