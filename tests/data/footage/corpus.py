"""Awkward videos, made on the spot. Brightness tells the time: a second of video is RAMP grey levels."""

import json
import struct
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from gwm.media.video import EVERY_CPU

BASE, RAMP = 60, 30  # grey level of the first picture, and what a second adds
LENGTH_S = 3.0
RATE = 48_000
# As good as lossless, as tests read grey levels. Equal bytes in every run: a person is named by the digest of the file.
EXACT = {"libx264": {"crf": "1"} | EVERY_CPU, "libvpx": {"crf": "4", "b": "4M"}, "ffv1": {}}


def steady(fps: float, length_s: float = LENGTH_S) -> list[float]:
    return [number / fps for number in range(round(length_s * fps))]


def picture(time_s: float, height: int, width: int) -> np.ndarray:
    """Grey by time, with a black band at the top that shows what is up."""
    frame = np.full((height, width, 3), round(BASE + RAMP * time_s), np.uint8)
    frame[: height // 4] = 0
    return frame


def beep(start_s: float, length_s: float = LENGTH_S, rate: int = RATE) -> np.ndarray:
    """Silence with a tone from `start_s` for a tenth of a second."""
    times = np.arange(int(length_s * rate)) / rate
    return np.where((times >= start_s) & (times < start_s + 0.1), 0.5 * np.sin(2 * np.pi * 500 * times), 0.0)


def write(
    path: Path,
    times_s: Iterable[float],
    *,
    size: tuple[int, int] = (48, 64),
    codec: str = "libx264",
    pixels: str = "yuv420p",
    sound: np.ndarray | None = None,
    rate: int = RATE,
    channels: int = 1,
    sound_codec: str = "aac",
    sound_from_s: float = 0.0,
    aspect: Fraction | None = None,
    draw=picture,
) -> Path:
    """A video whose pictures are shown at `times_s`, with sound from `sound_from_s` on."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=1000, options=EXACT[codec])
        stream.height, stream.width, stream.pix_fmt = *size, pixels
        stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        stream.codec_context.thread_count = 1  # x264's bytes depend on it
        if aspect:
            stream.codec_context.sample_aspect_ratio = aspect
        layout = "mono" if channels == 1 else "stereo"
        voice = None if sound is None else container.add_stream(sound_codec, rate=rate, layout=layout)
        for time_s in times_s:
            frame = av.VideoFrame.from_ndarray(draw(time_s, *size), format="rgb24")
            frame.pts, frame.time_base = round(1000 * time_s), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        if voice is not None and sound is not None:
            for at in range(0, len(sound), 1024):
                block = (sound[at : at + 1024] * 32767).astype(np.int16)
                part = av.AudioFrame.from_ndarray(np.repeat(block, channels)[None], format="s16", layout=layout)
                part.sample_rate, part.pts = rate, at + round(sound_from_s * rate)
                part.time_base = Fraction(1, rate)
                container.mux(voice.encode(part))
            container.mux(voice.encode())
    return path


def turn(path: Path, height: int) -> None:
    """Make an mp4 say that it must be turned clockwise by a quarter to be seen, as telephones do."""
    data = bytearray(path.read_bytes())
    at = data.find(b"tkhd") + 44
    one = 1 << 16
    data[at : at + 36] = struct.pack(">9i", 0, one, 0, -one, 0, 0, height * one, 0, 1 << 30)
    path.write_bytes(data)


def cut_picture(time_s: float, height: int, width: int) -> np.ndarray:
    frame = picture(time_s, height, width)
    return frame if time_s < LENGTH_S / 2 else 255 - frame


def flash_picture(time_s: float, height: int, width: int) -> np.ndarray:
    return np.full((height, width, 3), 255, np.uint8) if abs(time_s - 1.0) < 1e-6 else picture(time_s, height, width)


def irregular() -> list[float]:
    """As a telephone records: 10 to 40 pictures a second, changing all the time."""
    gaps = np.random.default_rng(0).uniform(0.025, 0.1, 60).round(3)
    times = np.concatenate([[0.0], np.cumsum(gaps)])
    return times[times < LENGTH_S].tolist()


def make_corpus(folder: Path) -> None:
    """26 files. What must become of each is in test_ingest.py."""
    tone = beep(1.0)
    whole = steady(24)
    write(folder / "plain.mp4", whole, sound=tone, channels=2)
    write(folder / "silent.mp4", whole)
    write(folder / "muted.mp4", whole, sound=np.zeros_like(tone))
    write(folder / "sixty.mp4", steady(60), sound=tone)
    write(folder / "five.webm", steady(5), codec="libvpx", sound=tone, sound_codec="libopus")
    write(folder / "vfr.mkv", irregular(), sound=tone)
    write(folder / "turned.mp4", whole)
    turn(folder / "turned.mp4", 48)
    write(folder / "odd.mkv", whole, size=(47, 63), codec="ffv1", pixels="yuv444p")
    write(folder / "wide.mkv", whole, size=(48, 48), aspect=Fraction(2, 1))
    write(folder / "telephone.mov", whole, sound=beep(1.0, rate=8000), rate=8000, sound_codec="pcm_s16le")
    write(folder / "late.mkv", whole, sound=beep(0.5, 2.5), sound_from_s=0.5)
    write(folder / "cut.mp4", whole, draw=cut_picture)
    write(folder / "flash.mp4", whole, draw=flash_picture)
    write(folder / "short.mp4", steady(24, 0.5))
    write(folder / "one.mp4", [0.0])
    write(folder / "small.mkv", whole, size=(14, 14), codec="ffv1", pixels="yuv444p")
    _broken(folder)
    (folder / "sub").mkdir()
    (folder / "sub" / "again.mp4").write_bytes((folder / "plain.mp4").read_bytes())
    write(folder / "sub" / "told.mp4", steady(30), sound=tone)
    (folder / "sub" / "told.txt").write_text("  a grey wall, caf\u00e9\n", encoding="utf-8")
    facts = {"identity": "wall", "captions": [[0, 0.6, "dark"], [0.6, 3, "light"]], "licence": "CC0"}
    (folder / "sub" / "told.json").write_text(json.dumps(facts))
    np.savez(folder / "sub" / "told.npz", actions=np.arange(6.0)[:, None].repeat(2, 1), fps=2)
    write(folder / "misled.mp4", steady(25))
    (folder / "misled.json").write_text("{not json")


def _broken(folder: Path) -> None:
    """Files with which something is wrong."""
    noise = np.random.default_rng(0).integers(0, 256, (72, 48, 64, 3), np.uint8)
    write(folder / "truncated.mkv", steady(24), draw=lambda t, h, w: noise[round(24 * t)] // 8 + picture(t, h, w) // 2)
    data = (folder / "truncated.mkv").read_bytes()
    (folder / "truncated.mkv").write_bytes(data[: len(data) // 2])
    data = write(folder / "damaged.ts", steady(24)).read_bytes()
    (folder / "damaged.ts").write_bytes(data[: len(data) // 2] + bytes(1000) + data[len(data) // 2 + 1000 :])
    data = (folder / "plain.mp4").read_bytes()
    (folder / "headless.mp4").write_bytes(data[: len(data) // 2])
    (folder / "text.mp4").write_text("this is no video\n" * 100)
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "notes.docx").write_bytes(b"PK")
    (folder / ".hidden.mp4").write_bytes(b"")
    with av.open(str(folder / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=RATE, layout="mono")
        part = av.AudioFrame.from_ndarray(np.zeros((1, 4800), np.float32), format="fltp", layout="mono")
        part.sample_rate = RATE
        container.mux(stream.encode(part))
        container.mux(stream.encode())
