"""Whatever a server calls its speech, the same tone comes out at the engine's rate, or the reason why not."""

import asyncio
import io
from collections.abc import AsyncIterator

import av
import numpy as np
import pytest
import soundfile

from serve.live.speech.endpoint_failures import EndpointError, Place
from serve.live.speech.endpoint_speech import transcribed
from serve.live.speech.speech_bytes import decoded

PLACE = Place("tts", "m", "", 60.0)
TONE_HZ, SECONDS, RATE = 440, 0.5, 24_000


def tone(rate: int) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * TONE_HZ * np.arange(round(SECONDS * rate)) / rate)).astype(np.float32)


def raw(rate: int) -> bytes:
    return (tone(rate) * 32_767).astype("<i2").tobytes()


def file(form: str, rate: int, subtype: str | None = None) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, tone(rate), rate, format=form, subtype=subtype)
    return buffer.getvalue()


def encoded(form: str, codec: str, rate: int) -> bytes:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=form) as out:
        stream = out.add_stream(codec, rate=rate, layout="mono")
        frame = av.AudioFrame.from_ndarray((tone(rate)[None] * 32_767).astype(np.int16), format="s16", layout="mono")
        frame.sample_rate = rate
        resampler = av.AudioResampler(stream.format, "mono", rate, stream.frame_size or None)
        for part in [*resampler.resample(frame), *resampler.resample(None)]:
            out.mux(stream.encode(part))
        out.mux(stream.encode(None))
    return buffer.getvalue()


def heard(body: bytes, content_type: str, *, part_bytes: int = 999) -> np.ndarray:
    async def parts() -> AsyncIterator[bytes]:
        for start in range(0, len(body), part_bytes):
            yield body[start : start + part_bytes]

    async def run() -> np.ndarray:
        found = [part async for part in decoded(parts(), content_type, sample_rate=RATE, place=PLACE)]
        return np.concatenate([np.zeros(0, np.float32), *found])

    return asyncio.run(run())


BODIES = {
    "pcm": (raw(24_000), "audio/pcm"),
    "pcm without a type": (raw(24_000), ""),
    "pcm of another rate": (raw(16_000), "audio/L16; rate=16000"),
    "wav 24 kHz": (file("WAV", 24_000), "audio/wav"),
    "wav 48 kHz, called pcm": (file("WAV", 48_000), "audio/pcm"),
    "wav in floats": (file("WAV", 22_050, "FLOAT"), "application/octet-stream"),
    "mp3": (file("MP3", 24_000), "audio/mpeg"),
    "ogg": (file("OGG", 48_000), "audio/ogg"),
    "flac, called pcm": (file("FLAC", 44_100), "audio/pcm"),
    "opus": (file("OGG", 48_000, "OPUS"), "audio/opus"),
    "aac": (encoded("adts", "aac", 24_000), "audio/aac"),
}


@pytest.mark.parametrize(("body", "content_type"), BODIES.values(), ids=BODIES)
def test_the_tone_keeps_its_pitch_and_its_length(body: bytes, content_type: str):
    sound = heard(body, content_type)
    assert abs(len(sound) / RATE - SECONDS) < 0.1
    middle = sound[2_000:10_000]
    peak_hz = np.abs(np.fft.rfft(middle * np.hanning(len(middle)))).argmax() * RATE / len(middle)
    assert abs(peak_hz - TONE_HZ) < 5 and 0.4 < np.abs(middle).max() < 0.65


@pytest.mark.parametrize("part_bytes", [1, 7, 100_000])
def test_samples_that_arrive_in_odd_pieces_are_the_same(part_bytes: int):
    expected = tone(RATE)
    sound = heard(raw(RATE) + b"\0", "audio/pcm", part_bytes=part_bytes)
    np.testing.assert_allclose(sound, expected, atol=1e-4)


@pytest.mark.parametrize(
    ("body", "content_type", "cause"),
    [
        (b'{"error": {"message": "no such voice"}}', "application/json", "reports an error: no such voice"),
        (b'{"error": {"message": "no such voice"}}', "audio/pcm", "reports an error: no such voice"),
        (b"<!DOCTYPE html><p>It works!", "text/html", "answered with a web page"),
        (b"", "audio/pcm", "answered without sound"),
        (b"RIFFxxxxWAVE", "audio/wav", "answered with wav that cannot be read"),
        (b"ID3" + bytes(300), "audio/mpeg", "answered with mp3 that cannot be read"),
        (b"plain words", "text/plain", "is not what was asked for: 'plain words'"),
        (b"\x00" * 40, "video/mp4", "answered with video/mp4"),
    ],
)
def test_what_is_no_sound_is_told_as_what_it_is(body: bytes, content_type: str, cause: str):
    with pytest.raises(EndpointError, match=cause):
        heard(body, content_type)


def test_a_file_without_an_end_is_not_kept_for_ever(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("serve.live.speech.speech_bytes.FILE_BYTES", 1_000)
    with pytest.raises(EndpointError, match="answered with more than"):
        heard(file("WAV", 24_000), "audio/wav")


@pytest.mark.parametrize(
    ("body", "kind", "text"),
    [
        ('{"text": " Hello. "}', "application/json", "Hello."),
        ("Hello.\n", "text/plain; charset=utf-8", "Hello."),
        ('{"text": "[BLANK_AUDIO]"}', "application/json", ""),
        ('{"text": " (music) *sighs*"}', "application/json", ""),
        ('{"text": "(He said) yes"}', "application/json", "(He said) yes"),
    ],
)
def test_a_transcription_is_what_was_said(body: str, kind: str, text: str):
    assert transcribed(body, kind, PLACE) == text


@pytest.mark.parametrize("body", ["<html>", "[]", "{}", '"text"', "null", '{"text": null}', '{"text": 7}'])
def test_what_is_no_transcription_is_an_error(body: str):
    with pytest.raises(EndpointError, match=r"answered with a web page|is not what was asked for"):
        transcribed(body, "application/json", PLACE)
