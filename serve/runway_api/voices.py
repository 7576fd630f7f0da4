"""Voices that people describe or bring a sample of; what they get is the nearest that this server has."""

import io
import math
import re
from dataclasses import dataclass
from typing import Any

import av
import numpy as np
from jaxtyping import Float
from sqlalchemy import delete, select
from sqlalchemy.orm import Session as Db

from gwm.media.sound import to_pcm
from serve.runway_api import answers
from serve.runway_api.answers import Created, Listed, by_status, time_of
from serve.runway_api.call import ApiError, Call, Speak, not_found
from serve.runway_api.presets import VOICE_PRESETS, VoicePreset
from serve.runway_api.requests import NoQuery, PageQuery, VoiceAudio, VoiceChange, VoicePreviewRequest, VoiceRequest
from serve.store.pages import read_page
from serve.store.tables import File, Voice, now_ms

PREVIEW_MS = 24 * 3600 * 1000


def create(db: Db, call: Call, query: NoQuery, body: VoiceRequest) -> Created:
    made = body.from_
    source = {"audio": made.source} if isinstance(made, VoiceAudio) else {"prompt": made.prompt}
    voice = Voice(name=body.name, description=body.description, source=source, wish={}, status="PROCESSING")
    db.add(voice)
    db.flush()
    return Created(id=voice.id)


def read(db: Db, call: Call, query: NoQuery, body: None) -> answers.AnyVoice:
    return _shown(call, found(db, call.id))


def change(db: Db, call: Call, query: NoQuery, body: VoiceChange) -> answers.AnyVoice:
    voice = found(db, call.id)
    voice.name = body.name or voice.name
    if "description" in body.model_fields_set:
        voice.description = body.description
    return _shown(call, voice)


def remove(db: Db, call: Call, query: NoQuery, body: None) -> None:
    """Avatars that have it are shown it as deleted, and speak with the server's own."""
    voice = found(db, call.id)
    db.delete(voice)
    db.flush()
    if voice.preview_id is not None:
        db.execute(delete(File).where(File.id == voice.preview_id))


def list_all(db: Db, call: Call, query: PageQuery, body: None) -> Listed:
    page = read_page(db, select(Voice), Voice.created_ms, cursor=query.cursor, limit=query.limit)
    data = [_shown(call, row) for row in page.rows]
    return Listed(data=data, has_more=page.next_cursor is not None, next_cursor=page.next_cursor)


def spoken(call: Call, body: VoicePreviewRequest) -> "Preview":
    """What `try_out` stores: seconds of work, during which others must be able to write."""
    if call.desk.speak is None:
        raise ApiError(503, "Voices of an endpoint have no preview here. Set tts=piper, tts=kokoro or tts=espeak.")
    chosen = VOICE_PRESETS[body.voice.preset_id] if body.voice else designed(body.prompt or "")
    return preview(call.desk.speak, chosen.wish)


def try_out(db: Db, call: Call, query: NoQuery, body: VoicePreviewRequest, sound: "Preview") -> answers.VoicePreview:
    file = File(content_type="audio/mpeg", data=sound.mp3, public=True, expires_ms=now_ms() + PREVIEW_MS)
    db.add(file)
    db.flush()
    return answers.VoicePreview(url=call.file_url(file.id) or "", duration_secs=round(sound.seconds, 2))


def found(db: Db, voice_id: str) -> Voice:
    voice = db.get(Voice, voice_id)
    if voice is None:
        raise not_found("voice")
    return voice


def _shown(call: Call, voice: Voice) -> answers.AnyVoice:
    values = {
        "id": voice.id,
        "name": voice.name,
        "description": voice.description,
        "created_at": time_of(voice.created_ms),
        "status": voice.status,
        "preview_url": call.file_url(voice.preview_id),
        "failure_reason": voice.failure or "",
    }
    return by_status(answers.AnyVoice, values)


LOCAL_HZ = 93.4  # median pitch of Piper's Joe over the sentence below, measured with `median_pitch`
SENTENCE = "Hello! This is how I sound when I am talking with you."
SEMITONES = 12.0  # Tuning allows no more
# Semitones, speed factor, and words that mean them. Words of one description add up.
MEANINGS = (
    (-4.0, 1.0, r"deep|bass|baritone"),
    (-2.0, 1.0, r"low|dark|gravelly|husky|rough"),
    (4.0, 1.0, r"wom[ae]n|female|lady|feminine|mother|grandmother"),
    (7.0, 1.0, r"girl|child|kid|boy|cartoon"),
    (3.0, 1.0, r"high|bright|light|squeaky"),
    (1.0, 1.0, r"young|youthful|teenager?"),
    (-1.0, 0.92, r"old|older|elderly|grandfather"),
    (0.0, 0.88, r"slow|slowly|calm|soothing|relaxed|measured|gentle|sleepy"),
    (0.0, 1.12, r"fast|quick|energetic|lively|excited|hurried|upbeat"),
)
BRITISH = re.compile(r"\b(british|english accent|london|scottish)\b", re.IGNORECASE)
FEMALE = re.compile(r"\b(wom[ae]n|female|lady|feminine|girl|mother|grandmother)\b", re.IGNORECASE)
FRAME_S, STEP_S, LOWEST_HZ, HIGHEST_HZ = 0.04, 0.01, 60.0, 420.0
VOICED, LOUD = 0.5, 0.1  # minimum autocorrelation of a voiced frame; minimum share of the loudest frame's RMS


@dataclass(frozen=True, slots=True)
class Preview:
    mp3: bytes
    seconds: float


def _voice(semitones: float, speed: float, *, british: bool, female: bool) -> VoicePreset:
    accent, kind = "en-gb-x-rp" if british else "en-us", "f2" if female else "m3"
    name = ("fable" if british else "nova") if female else "onyx" if semitones < -1 else "echo"
    kokoro = ("bf_emma" if british else "af_heart") if female else "bm_george" if british else "am_michael"
    return VoicePreset(semitones, speed, kokoro, f"{accent}+{kind}", name)


def designed(prompt: str) -> VoicePreset:
    """The voice that the words of a description ask for."""
    found = [(up, speed) for up, speed, words in MEANINGS if re.search(rf"\b({words})\b", prompt, re.IGNORECASE)]
    semitones = float(np.clip(sum(up for up, _ in found), -SEMITONES, SEMITONES))
    speed = float(np.clip(math.prod(speed for _, speed in found), 0.7, 1.4))
    return _voice(semitones, round(speed, 3), british=bool(BRITISH.search(prompt)), female=bool(FEMALE.search(prompt)))


def nearest(sound: Float[np.ndarray, " t"], sample_rate: int) -> tuple[VoicePreset, float]:
    """The voice at the pitch of a sample, and that pitch in Hz.

    Raises:
        ValueError: nobody is heard in it.
    """
    pitch = median_pitch(sound, sample_rate)
    semitones = float(np.clip(12 * math.log2(pitch / LOCAL_HZ), -SEMITONES, SEMITONES))
    return _voice(round(semitones, 1), 1.0, british=False, female=pitch > 165), pitch


def median_pitch(sound: Float[np.ndarray, " t"], sample_rate: int) -> float:
    """Median over voiced frames of the lag with the largest normalised autocorrelation, in Hz.

    Raises:
        ValueError: no frame is voiced.
    """
    size, step = round(FRAME_S * sample_rate), round(STEP_S * sample_rate)
    first, last = round(sample_rate / HIGHEST_HZ), round(sample_rate / LOWEST_HZ)
    if len(sound) < size + last:
        raise ValueError("The sample is too short. Send at least a second of one person who speaks.")
    frames = np.lib.stride_tricks.sliding_window_view(sound.astype(np.float64), size + last)[::step]
    frames = frames - frames.mean(axis=1, keepdims=True)
    loudness = np.sqrt((frames**2).mean(axis=1))
    pitches = []
    for frame in frames[loudness > max(LOUD * loudness.max(), 1e-4)]:
        begin, lags = frame[:size], np.lib.stride_tricks.sliding_window_view(frame, size)[: last + 1]
        scale = np.linalg.norm(begin) * np.linalg.norm(lags, axis=1) + 1e-9
        likeness = (lags @ begin) / scale
        best = likeness[first : last + 1].max()
        if best > VOICED:
            # The smallest lag that is nearly as good: twice the period fits as well as the period.
            lag = first + int(np.argmax(likeness[first : last + 1] > 0.95 * best))
            while lag < last and likeness[lag + 1] > likeness[lag]:
                lag += 1
            pitches.append(sample_rate / lag)
    if not pitches:
        raise ValueError("Nobody is heard in this sample. Send some seconds of one person who speaks.")
    return float(np.median(pitches))


def preview(speak: Speak, wish: dict[str, Any]) -> Preview:
    sound, sample_rate = speak(wish, SENTENCE)
    return Preview(to_mp3(sound, sample_rate), len(sound) / sample_rate)


def to_mp3(sound: Float[np.ndarray, " t"], sample_rate: int) -> bytes:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp3") as container:
        stream = container.add_stream("libmp3lame", rate=24_000)
        stream.layout = "mono"
        samples = to_pcm(sound)
        frame = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
        frame.sample_rate = sample_rate
        resampler = av.AudioResampler(format="s16p", layout="mono", rate=24_000)
        for part in (*resampler.resample(frame), *resampler.resample(None)):
            container.mux(stream.encode(part))
        container.mux(stream.encode(None))
    return buffer.getvalue()
