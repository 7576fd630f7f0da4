"""Frames of a stream of any file that FFmpeg reads. What is damaged is left out and counted."""

from collections.abc import Iterator
from dataclasses import dataclass

import av
import av.error
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.video.stream import VideoStream

MAX_FAILURES = 50  # to find a packet, in a row, before the rest of a file is given up


@dataclass(slots=True)
class Damage:
    """What of a stream could not be read: packets that were skipped, or the rest of a file that was given up."""

    packets: int = 0
    skipped: int = 0
    broken_off: bool = False

    @property
    def notes(self) -> list[str]:
        """What was lost, in words; empty where nothing was."""
        notes = []
        if self.skipped:
            notes.append(f"{self.skipped} of {self.packets} packets are damaged and were skipped")
        if self.broken_off:
            notes.append("the file is damaged and was given up before its end")
        return notes


def decoded(
    container: InputContainer, stream: VideoStream | AudioStream, damage: Damage
) -> Iterator[av.VideoFrame | av.AudioFrame]:
    """Frames of a stream; damaged packets are skipped, and where the file breaks off, the frames end."""
    packets, failures = container.demux(stream), 0
    while failures < MAX_FAILURES:
        try:
            packet = next(packets, None)
        except av.error.FFmpegError:
            packets, failures = container.demux(stream), failures + 1  # a generator that raised is over, the file not
            continue
        if packet is None:
            return
        failures = 0
        damage.packets += bool(packet.size)  # the last one is empty: it flushes the decoder
        try:
            frames = packet.decode()
        except av.error.FFmpegError:
            damage.skipped += 1
            continue
        yield from (frame for frame in frames if isinstance(frame, av.VideoFrame | av.AudioFrame))
    damage.broken_off = True
