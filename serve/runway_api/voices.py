"""Voices that people describe or bring a sample of.

Where the server of `endpoints.tts` makes voices, it is asked for one; else they get the built-in one that fits best.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from jaxtyping import Float
from sqlalchemy import delete, select
from sqlalchemy.orm import Session as Db

from gwm.media.mp3 import to_mp3
from serve.live.speech.local_voices import LOCAL_VOICES
from serve.live.speech.speaker import SpeakerEncoder
from serve.live.speech.voice_choice import best_wishes, built_in, described, nearest, ranked, wish_of
from serve.live.speech.voice_measures import FEMALE_HZ, median_pitch
from serve.live.speech.voice_servers import Speak, Speech, base_voice
from serve.runway_api import answers
from serve.runway_api.answers import Created, Listed, by_status, time_of
from serve.runway_api.call import ApiError, Call, not_found
from serve.runway_api.presets import VOICE_PRESETS
from serve.runway_api.requests import (
    BuiltInQuery,
    BuiltInVoice,
    NoQuery,
    PageQuery,
    VoiceAudio,
    VoiceChange,
    VoicePreviewRequest,
    VoiceRequest,
)
from serve.store.pages import read_page
from serve.store.tables import File, Voice, now_ms

NO_RIGHTS = (
    "from.rights is missing: it must state why you may use this voice, such as: I am the speaker, or the speaker has "
    "allowed me to use this recording as a voice."
)
PREVIEW_MS = 24 * 3600 * 1000


def create(db: Db, call: Call, query: NoQuery, body: VoiceRequest) -> Created:
    """A sample without a statement of rights is never read: its voice is FAILED from the beginning."""
    made, failure = body.from_, None
    if isinstance(made, VoiceAudio) and made.rights is None:
        source, failure = dict[str, Any](), NO_RIGHTS
    elif isinstance(made, VoiceAudio):
        rights = {"statement": made.rights, "at_ms": now_ms()}
        source = {"audio": made.source, "rights": rights, "consent_id": made.consent_id}
    else:
        source = {"prompt": made.prompt}
    voice = Voice(name=body.name, description=body.description, source=source, wish={}, status="PROCESSING")
    if failure is not None:
        voice.status, voice.failure = "FAILED", failure
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
    maker, made = call.desk.speech.maker, voice.wish.get("openai")
    if maker is not None and isinstance(made, dict):
        call.later.append(lambda: maker.delete(made))


def list_all(db: Db, call: Call, query: PageQuery, body: None) -> Listed:
    page = read_page(db, select(Voice), Voice.created_ms, cursor=query.cursor, limit=query.limit)
    data = [_shown(call, row) for row in page.rows]
    return Listed(data=data, has_more=page.next_cursor is not None, next_cursor=page.next_cursor)


def spoken(call: Call, body: VoicePreviewRequest) -> "Preview":
    """What `try_out` stores: seconds of work, during which others must be able to write.

    Raises:
        ApiError: the endpoint that speaks does not.
    """
    speech = call.desk.speech
    try:
        if isinstance(body.voice, BuiltInVoice):
            wish = wish_of(built_in(body.voice.name))
        elif body.voice is not None:
            wish = VOICE_PRESETS[body.voice.preset_id].wish
        else:
            wish = designed(body.prompt or "", speech).wish
        return preview(speech.speak, wish)
    except ValueError as error:
        raise ApiError(503, str(error)) from error


def try_out(db: Db, call: Call, query: NoQuery, body: VoicePreviewRequest, sound: "Preview") -> answers.VoicePreview:
    file = File(content_type="audio/mpeg", data=sound.mp3, public=True, expires_ms=now_ms() + PREVIEW_MS)
    db.add(file)
    db.flush()
    return answers.VoicePreview(url=call.file_url(file.id) or "", duration_secs=round(sound.seconds, 2))


def built_ins(db: Db, call: Call, query: BuiltInQuery, body: None) -> Listed:
    """The voices that run here, those that fit a description best first."""
    tts = query.tts or call.desk.speech.tts
    try:
        choices = ranked(query.describe or "", tts)
    except ValueError as error:
        raise ApiError(400, str(error)) from error
    shown = [
        answers.BuiltInVoice(
            name=one.voice.label,
            tts=one.voice.tts,
            accent=one.voice.accent,
            gender=one.voice.gender,
            pitch_hz=one.voice.pitch_hz,
            syllables_per_s=one.voice.syllables_per_s,
            brightness_hz=one.voice.brightness_hz,
            score=one.score,
            reasons=list(one.reasons),
        )
        for one in choices
    ]
    return Listed(data=shown, has_more=False, next_cursor=None)


def found(db: Db, voice_id: str) -> Voice:
    voice = db.get(Voice, voice_id)
    if voice is None:
        raise not_found("voice")
    return voice


def _shown(call: Call, voice: Voice) -> answers.AnyVoice:
    rights = voice.source.get("rights")
    values = {
        "id": voice.id,
        "name": voice.name,
        "description": voice.description,
        "created_at": time_of(voice.created_ms),
        "status": voice.status,
        "preview_url": call.file_url(voice.preview_id),
        "failure_reason": voice.failure or "",
        "basis": voice.source.get("basis"),
        "rights": rights and {"statement": rights["statement"], "stated_at": time_of(rights["at_ms"])},
    }
    return by_status(answers.AnyVoice, values)


SENTENCE = "Hello! This is how I sound when I am talking with you."


@dataclass(frozen=True, slots=True)
class Preview:
    mp3: bytes
    seconds: float


def preview(speak: Speak, wish: dict[str, Any]) -> Preview:
    sound, sample_rate = speak(wish, SENTENCE)
    return Preview(to_mp3(sound, sample_rate), len(sound) / sample_rate)


@dataclass(frozen=True, slots=True)
class Design:
    """A voice that was chosen or made: as a character's `voice`, and what it is."""

    wish: dict[str, Any]
    description: str


def designed(prompt: str, speech: Speech) -> Design:
    """The voice that the words of a description ask for.

    Raises:
        ValueError: the endpoint's server makes voices, and none of a description.
    """
    choices = {kind: ranked(prompt, kind) for kind in LOCAL_VOICES}
    wish = best_wishes(choices) | {"openai": base_voice(prompt)}
    if speech.maker is not None:
        wish["openai"] = speech.maker.design(prompt)
        return Design(wish, "Made from this description by the voice server, anew with each sentence.")
    if speech.tts == "openai":
        return Design(wish, f"The endpoint's voice {wish['openai']}: of its gender, and nothing more is known of it.")
    best = choices[speech.tts][0]
    reasons = "; ".join(best.reasons) or "the description names no pitch, pace, brightness, accent or gender"
    return Design(wish, f"Built-in voice {best.voice.label}, which fits best: {reasons}.")


def nearest_to(sound: Float[np.ndarray, " t"], sample_rate: int, speech: Speech) -> Design:
    """The voice that runs here and whose speaker sounds most like that of a sample.

    Raises:
        ValueError: nobody is heard in it.
        MissingPackageError, FileNotFoundError: the network that compares voices is not installed.
    """
    pitch = median_pitch(sound, sample_rate)
    embedding = speaker_encoder().embed(sound, sample_rate)
    choices = {kind: nearest(embedding, kind) for kind in LOCAL_VOICES}
    wish = best_wishes(choices) | {"openai": base_voice("a woman" if pitch > FEMALE_HZ else "a man")}
    if speech.tts == "openai":
        return Design(wish, f"The endpoint's voice {wish['openai']}, chosen by the pitch of the sample. It is no copy.")
    best = choices[speech.tts][0]
    what = f"{best.voice.label} ({described(best.voice)})"
    return Design(wish, f"Nearest built-in voice, similarity {best.score:.2f}: {what}. It is no copy of the sample.")


@cache
def speaker_encoder() -> SpeakerEncoder:
    return SpeakerEncoder()
