"""Voices that run here: find one by a description or a sample, hear it; or measure them all.

python -m serve.voices                                      every voice of a kind, with what was measured
python -m serve.voices describe="a calm low British man"    those that fit best, and why
python -m serve.voices sample=SPEECH.wav out=NEAREST.mp3    those nearest to a speaker, and the nearest one heard
python -m serve.voices voice=bm_george out=VOICE.mp3        one of them heard
python -m serve.voices measure=true                         measure all: weights/voices/measured.json
python -m serve.voices times=TIMES.json                     how long each kind takes to its first sound
python -m serve.voices styles=FOLDER                        Kokoro's style packs: weights/voices/kokoro.safetensors
"""

import asyncio
import json
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from safetensors.numpy import save_file
from tqdm import tqdm

from configs.command.main import command
from gwm.media.mp3 import to_mp3
from gwm.media.video import read_audio
from gwm.weights import write_json
from serve.bench.report import machine
from serve.live.speech.espeak_voice import Espeak
from serve.live.speech.kokoro_voice import STYLES, Kokoro, read_styles
from serve.live.speech.local_voices import LOCAL_VOICES, LocalVoices
from serve.live.speech.phrases import Phrases
from serve.live.speech.speaker import SAMPLE_RATE, SpeakerEncoder
from serve.live.speech.voice_choice import as_text, described, nearest, of_kind, ranked, wanted
from serve.live.speech.voice_measures import MeasuredVoice, measure, write_measured
from serve.live.speech.voices import EspeakVoice, PiperVoice, Tuning, Voice, voice_among

log = logging.getLogger(__name__)

PIPER_SEMITONES = (-4, -2, 0, 2, 4, 6, 8)
ESPEAK_ACCENTS = (("en-us", "American"), ("en-gb-x-rp", "British"))
ESPEAK_VARIANTS = ("m1", "m3", "m7", "f2", "f3", "f5")
RANK = 10  # of a style pack's 510 rows; the rest is below 5e-5


def every_voice() -> Iterator[tuple[Voice, dict[str, Any]]]:
    """What runs here, with the fields of `MeasuredVoice` that are not measured."""
    library = Espeak()
    kokoro = Kokoro(library)
    for name in kokoro.names:
        accent, gender = {"a": "American", "b": "British"}[name[0]], {"f": "female", "m": "male"}[name[1]]
        yield kokoro.voice(name), {"tts": "kokoro", "voice": name, "accent": accent, "gender": gender}
    piper = PiperVoice(library)
    piper.scales[[0, 2]] = 0  # without its noise, so that it measures the same twice
    for semitones in PIPER_SEMITONES:
        wish = {"semitones": semitones}
        yield piper.tuned(Tuning(semitones)), {"tts": "piper", "voice": wish, "accent": "American", "gender": None}
    for language, accent in ESPEAK_ACCENTS:
        for variant in ESPEAK_VARIANTS:
            name, gender = f"{language}+{variant}", {"m": "male", "f": "female"}[variant[0]]
            yield EspeakVoice(library, name=name), {"tts": "espeak", "voice": name, "accent": accent, "gender": gender}


def measure_all() -> list[MeasuredVoice]:
    encoder = SpeakerEncoder()
    return [measure(voice, encoder, **named) for voice, named in tqdm(list(every_voice()), desc="measure")]


ANSWERS = (
    "I am very well, thank you for asking. And you?",
    "Hello! It is good to see you. How are you today?",
    "I cannot look out of the window from in here. What is it like where you are?",
)
RUNS = 5


async def first_pieces() -> list[str]:
    """What of each answer is spoken first, as a conversation cuts it."""
    found = []
    for answer in ANSWERS:
        pieces, cuts = [], Phrases()
        async for piece in cuts.aggregate(answer):
            pieces.append(piece.text)
        found.append(pieces[0])
    return found


def times(kind: str) -> dict[str, float]:
    """Medians over answers and runs, in ms: to the first sound of an answer; CPU time of that, and of a second of
    speech in whole answers. CPU time is little changed by what else runs."""
    voice, pieces = LocalVoices(kind).voice(None), asyncio.run(first_pieces())
    voice.speak(pieces[0])  # the first one of all waits for memory
    found: dict[str, list[float]] = {"first_ms": [], "first_cpu_ms": [], "cpu_ms_per_s": []}
    for _ in range(RUNS):
        for piece, answer in zip(pieces, ANSWERS, strict=True):
            begin, begin_cpu = time.perf_counter(), time.process_time()
            voice.speak(piece)
            found["first_ms"].append(1e3 * (time.perf_counter() - begin))
            found["first_cpu_ms"].append(1e3 * (time.process_time() - begin_cpu))
            begin_cpu = time.process_time()
            sound = voice.speak(answer)
            found["cpu_ms_per_s"].append(1e3 * (time.process_time() - begin_cpu) * voice.sample_rate / len(sound))
    return {name: round(float(np.median(values)), 1) for name, values in found.items()}


def factor_styles(folder: Path, symbols: dict[str, int]) -> float:
    """Write the English packs of a folder (510 x 256 numbers each) as a mean and ten axes; the largest error.

    Raises:
        ValueError: there are none.
    """
    packs = sorted(folder.glob("[ab][fm]_*.bin"))
    if not packs:
        raise ValueError(
            f"styles={folder} must hold style packs such as af_heart.bin, has none. Get them from the npm "
            "package kokoro-js 1.2.1: npm pack kokoro-js@1.2.1"
        )
    tensors, error = {}, 0.0
    for path in packs:
        pack = np.fromfile(path, np.float32).reshape(-1, 256)
        mean = pack.mean(axis=0)
        left, values, axes = np.linalg.svd(pack - mean, full_matrices=False)
        parts = {"mean": mean, "scores": left[:, :RANK] * values[:RANK], "axes": axes[:RANK]}
        tensors |= {f"{path.stem}/{name}": np.ascontiguousarray(part) for name, part in parts.items()}
        error = max(error, float(np.abs(mean + parts["scores"] @ parts["axes"] - pack).max()))
    save_file(tensors, STYLES, {"symbols": json.dumps(symbols)})
    return error


def check_spoken(cfg: DictConfig) -> None:
    """
    Raises:
        ValueError: what should be spoken is no text, has nowhere to go, or goes into no MP3.
    """
    if not str(cfg.say).strip():
        raise ValueError(f"say={cfg.say!r} must be a text that can be spoken.")
    if cfg.voice is not None and cfg.out is None:
        raise ValueError(f"voice={cfg.voice} speaks into a file, and out= is missing. Add out=VOICE.mp3")
    if cfg.out is not None and Path(cfg.out).suffix != ".mp3":
        raise ValueError(f"out={cfg.out} must end in .mp3: nothing else is written.")


def found(cfg: DictConfig) -> tuple[list[str], Any]:
    """Lines that say which voices there are or fit, and the voice that is best; None where nothing was asked.

    Raises:
        ValueError: the sample holds no voice, no word of the description is known, or both are asked.
    """
    if cfg.describe is not None and cfg.sample is not None:
        raise ValueError(f"describe={cfg.describe} and sample={cfg.sample} exclude each other. Use one of them.")
    if cfg.voice is not None:
        return [], None
    if cfg.sample is not None:
        sound = read_audio(Path(cfg.sample), sample_rate=SAMPLE_RATE)
        choices = nearest(SpeakerEncoder().embed(sound, SAMPLE_RATE), cfg.tts)
    elif cfg.describe is not None:
        if not wanted(cfg.describe).anything:
            raise ValueError(
                f"describe={cfg.describe!r} must say who speaks or how, such as 'a calm low British man': none of its "
                "words is known here."
            )
        choices = ranked(cfg.describe, cfg.tts)
    else:
        return [f"{voice.label}: {described(voice)}" for voice in of_kind(cfg.tts)], None
    return [as_text(choice) for choice in choices[: cfg.show]], choices[0].wish


@command("voices", verbatim=("describe", "sample", "say", "out", "times", "styles"))
def main(cfg: DictConfig) -> None:
    check_spoken(cfg)
    if cfg.styles is not None:
        log.info("%s: the largest error is %.1e", STYLES, factor_styles(Path(cfg.styles), read_styles().symbols))
    if cfg.measure:
        write_measured(measure_all())
    if cfg.times is not None:
        found_times = {kind: times(kind) for kind in LOCAL_VOICES}
        write_json(Path(cfg.times), {"machine": machine(torch.device("cpu")), "voices": found_times})
    lines, best = found(cfg)
    for line in lines:
        log.info("%s", line)
    if cfg.out is None:
        return
    wish = OmegaConf.to_container(cfg.voice) if OmegaConf.is_config(cfg.voice) else cfg.voice
    voice = LocalVoices(cfg.tts).voice(voice_among({cfg.tts: wish or best}, cfg.tts))
    Path(cfg.out).write_bytes(to_mp3(voice.speak(cfg.say), voice.sample_rate))
    log.info("%s: %s", cfg.out, wish or best or "its own voice")


if __name__ == "__main__":
    main()
