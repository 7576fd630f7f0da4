"""Sound of any file as mono samples: which track is taken, how its channels are mixed, what of it is damaged.

A first pass measures the track, a second one mixes it: whether channels cancel is known only when all were heard.
At the end, 16-bit PCM, as files, sockets and WebRTC carry sound; inside, samples are floats in [-1, 1].
"""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import av
import numpy as np
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.stream import Disposition
from jaxtyping import Float, Int16

from gwm.media.decoding import Damage, decoded

# Tracks that are not the programme itself: taken only where there is no other.
SPECIAL = (
    Disposition.comment | Disposition.lyrics | Disposition.karaoke | Disposition.hearing_impaired
    | Disposition.visual_impaired | Disposition.clean_effects | Disposition.descriptions
)  # fmt: skip
SILENT_PEAK = 1e-3  # -60 dB: below it, a track holds nothing that anybody hears
SILENT_CHANNEL = 1e-4  # power relative to the loudest channel, -40 dB: below it, a channel is left out of the mix
CANCELLED = 0.1  # power of the mix relative to that of unrelated channels: below it, channels are opposite
BEYOND = 16.0  # times full scale: no mastered sound reaches it, integers stored as floats exceed it
MAX_BEYOND = 0.01  # share of such samples; more are a wrong scale, not single errors
MAX_DAMAGED = 0.5  # share of packets that may be skipped
LOUD_SHARE = 1e-3  # share of samples above full scale from which on the track is made quieter as a whole
# Share of each channel in the mix, before the shares are scaled to a sum of 1. Source: ITU-R BS.775-3, Table 2.
SHARES = {"FC": 1.0, "FL": 0.7071, "FR": 0.7071, "LFE": 0.0, "LFE2": 0.0}
OTHER_SHARE = 0.5  # surround channels

Opener = Callable[[], contextlib.AbstractContextManager[InputContainer]]


@dataclass(slots=True)
class Levels:
    """What one pass through a track measures."""

    powers: dict[tuple[str, ...], Float[np.ndarray, "c c"]] = field(default_factory=dict)  # sums of products, by layout
    damage: Damage = field(default_factory=Damage)
    samples: int = 0  # of one channel
    length_s: float = 0.0
    peak: float = 0.0  # of the samples that are usable
    above: int = 0  # samples above full scale
    not_finite: int = 0
    beyond: int = 0


@dataclass(frozen=True, slots=True)
class Track:
    """The track of a file that is heard, and how it becomes mono."""

    index: int  # among all streams
    weights: dict[tuple[str, ...], Float[np.ndarray, " c"]]  # of the channels, by layout
    gain: float
    silent: bool
    notes: list[str]  # what a person should know about it; empty for an ordinary file


def find_track(opener: Opener) -> Track | None:
    """Measure the tracks of a file, the default one first, until one is not silent; None where none gives a sample.

    Raises:
        ValueError: most of the track is damaged, or its samples are no numbers in [-1, 1].
    """
    with opener() as container:
        wanted = [s.index for s in sorted(container.streams.audio, key=_rank)]
    best: Track | None = None
    for index in wanted:
        levels = Levels()
        with opener() as container:
            stream = container.streams[index]
            assert isinstance(stream, AudioStream), "the same file has the same streams"
            declared_s = float(stream.duration * stream.time_base) if stream.duration and stream.time_base else 0.0
            _measure(container, stream, levels)
        if not levels.samples:
            continue
        track = _track(index, levels, declared_s)
        if best is None or not track.silent:
            best = track
        if not best.silent:
            break
    if best and len(wanted) > 1:
        best.notes.append(f"of {len(wanted)} sound tracks, that of stream {best.index} is used")
    return best


def mono_blocks(
    opener: Opener, track: Track, sample_rate: int
) -> Iterator[tuple[float | None, Float[np.ndarray, " b"]]]:
    """Moment of the first sample in seconds, where it is known, and samples in [-1, 1]; block after block."""
    resampler, rate = None, 0
    with opener() as container:
        stream = container.streams[track.index]
        assert isinstance(stream, AudioStream), "the same file has the same streams"
        for frame in decoded(container, stream, Damage()):
            assert isinstance(frame, av.AudioFrame), "audio streams hold audio"
            if rate != (rate := frame.sample_rate):  # it may change on the way
                yield from _resampled(resampler, None)
                resampler = av.AudioResampler(format="flt", layout="mono", rate=sample_rate)
            samples = channels(frame)
            samples[~_usable(samples)] = 0
            mono = (track.gain * track.weights[_layout(frame)]).astype(np.float32) @ samples
            moment = frame.time
            # No time stamp: a resampler that is given the rounded times of containers inserts and removes samples.
            mixed = av.AudioFrame.from_ndarray(mono[None], format="flt", layout="mono")
            mixed.sample_rate = rate
            for _, block in _resampled(resampler, mixed):
                yield moment, block
                moment = None
        yield from _resampled(resampler, None)


def channels(frame: av.AudioFrame) -> Float[np.ndarray, "c n"]:
    """Samples of every channel as floats; integers are scaled to [-1, 1], floats are as the file has them."""
    # PyAV 18.1 has no arrays of 64-bit integers, and reads beyond the planes of a frame that has 8 of them or more.
    if frame.format.name.startswith("s64") or (frame.format.is_planar and frame.layout.nb_channels >= 8):
        (frame,) = av.AudioResampler(format="dbl", layout=frame.layout, rate=frame.sample_rate).resample(frame)
    stored = frame.to_ndarray()
    if not frame.format.is_planar:
        stored = stored.reshape(-1, frame.layout.nb_channels).T
    if np.issubdtype(stored.dtype, np.floating):
        with np.errstate(over="ignore"):  # a double that is too large becomes infinite, which is counted
            return stored.astype(np.float32)
    if stored.dtype == np.uint8:
        return (stored.astype(np.float32) - 128) / 128
    return (stored / 2.0 ** (8 * stored.itemsize - 1)).astype(np.float32)


def _resampled(
    resampler: av.AudioResampler | None, frame: av.AudioFrame | None
) -> Iterator[tuple[None, Float[np.ndarray, " b"]]]:
    for part in resampler.resample(frame) if resampler else ():
        yield None, part.to_ndarray()[0].clip(-1, 1)


def _usable(samples: Float[np.ndarray, "c n"]) -> np.ndarray:
    return np.abs(samples) <= BEYOND  # false for what is not a number


def _layout(frame: av.AudioFrame) -> tuple[str, ...]:
    """Names of the channels; where the file does not name them, two are left and right, and others have numbers."""
    names = [channel.name for channel in frame.layout.channels]
    if "NONE" not in names:
        return tuple(names)
    return {1: ("FC",), 2: ("FL", "FR")}.get(len(names), tuple(f"channel {n}" for n in range(1, len(names) + 1)))


def _rank(stream: AudioStream) -> tuple[bool, bool, int]:
    flags = stream.disposition
    return bool(flags & SPECIAL), not flags & Disposition.default, stream.index


def _measure(container: InputContainer, stream: AudioStream, levels: Levels) -> None:
    for frame in decoded(container, stream, levels.damage):
        assert isinstance(frame, av.AudioFrame), "audio streams hold audio"
        samples = channels(frame)
        usable, finite = _usable(samples), np.isfinite(samples)
        levels.not_finite += int((~finite).any(axis=0).sum())
        levels.beyond += int((finite & ~usable).any(axis=0).sum())
        samples[~usable] = 0
        sizes = np.abs(samples)
        levels.peak = max(levels.peak, float(sizes.max(initial=0)))
        levels.above += int((sizes > 1).any(axis=0).sum())
        levels.samples += samples.shape[1]
        levels.length_s += samples.shape[1] / frame.sample_rate
        layout = _layout(frame)
        levels.powers[layout] = levels.powers.get(layout, 0) + (samples @ samples.T).astype(np.float64)


def _track(index: int, levels: Levels, declared_s: float) -> Track:
    _check(levels)
    notes = levels.damage.notes
    if levels.length_s < 0.9 * declared_s - 0.1:
        notes.append(f"{levels.length_s:.1f} s of sound could be read, the file declares {declared_s:.1f} s")
    if levels.not_finite:
        notes.append(f"{levels.not_finite} of {levels.samples} samples are not finite numbers and were silenced")
    if levels.beyond:
        notes.append(
            f"{levels.beyond} of {levels.samples} samples exceed {BEYOND:.0f} times full scale and were silenced"
        )
    weights = {layout: _weights(layout, powers, notes) for layout, powers in levels.powers.items()}
    silent = levels.peak < SILENT_PEAK
    if silent:
        notes.append(f"the sound is silence: its peak is {levels.peak:.1g} of full scale")
    gain = 1.0
    if levels.above > LOUD_SHARE * levels.samples:
        gain = 1 / levels.peak
        notes.append(f"{levels.above} samples exceed full scale: all were divided by the peak, {levels.peak:.2f}")
    return Track(index, weights, gain, silent, notes)


def _check(levels: Levels) -> None:
    damage = levels.damage
    if damage.skipped > MAX_DAMAGED * damage.packets:
        raise ValueError(f"{damage.notes[0]}, at most half may be. Record or convert it again.")
    if levels.not_finite > MAX_DAMAGED * levels.samples:
        raise ValueError(
            f"{levels.not_finite} of {levels.samples} samples are not finite numbers, at most half may be. Export it "
            "again, as 16-bit integers."
        )
    if levels.beyond > MAX_BEYOND * levels.samples:
        raise ValueError(
            f"{levels.beyond} of {levels.samples} float samples exceed {BEYOND:.0f}, must be in [-1, 1]: they look "
            "like integers that were stored as floats. Divide them by their full scale (32768 for 16 bits) or export "
            "the file as 16-bit integers."
        )


def _weights(layout: tuple[str, ...], powers: Float[np.ndarray, "c c"], notes: list[str]) -> Float[np.ndarray, " c"]:
    """Weights of the channels in the mono mix; their sum is 1, so that the mix never exceeds the loudest channel.

    Channels that are silent do not make the others quieter; where channels cancel, the loudest is taken alone.
    """
    own = powers.diagonal()
    shares = np.array([SHARES.get(name, OTHER_SHARE) for name in layout])
    shares *= own > SILENT_CHANNEL * own.max()
    loudest = np.zeros(len(layout))
    loudest[own.argmax()] = 1
    if not shares.any():
        return loudest
    weights = shares / shares.sum()
    mixed, unrelated = weights @ powers @ weights, weights**2 @ own
    if mixed < CANCELLED * unrelated:
        notes.append(f"channels of {'+'.join(layout)} cancel each other in a mix: {layout[own.argmax()]} is used alone")
        return loudest
    if np.count_nonzero(weights) == 1 < len(layout):
        notes.append(f"of channels {'+'.join(layout)}, only {layout[weights.argmax()]} carries sound: it is used alone")
    return weights


Buffer = bytes | bytearray | memoryview


def from_pcm(data: Buffer) -> Float[np.ndarray, " t"]:
    """Samples of little-endian 16-bit PCM; channels stay interleaved."""
    return np.frombuffer(data, "<i2").astype(np.float32) / 2**15


def to_pcm(samples: Float[np.ndarray, "*t"]) -> Int16[np.ndarray, "*t"]:
    """Inverse of `from_pcm` up to rounding towards zero; samples outside [-1, 1] are clamped."""
    return (samples.clip(-1, 1) * (2**15 - 1)).astype("<i2")
