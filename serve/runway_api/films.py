"""A film of an avatar that speaks: made by `serve.generate` in a process of its own, at low priority."""

import asyncio
import io
import os
import re
import sys
import tempfile
import wave
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from gwm.media.sound import to_pcm
from serve.runway_api.casting import Role

PERCENT = re.compile(rb"generate:\s+(\d+)%")
LAST_LINES = 5
NICENESS = "15"
PIECE_BYTES = 4096


class FilmError(RuntimeError):
    """The film could not be made."""


@dataclass(frozen=True, slots=True)
class Film:
    """What is asked for."""

    role: Role
    sound: Float[np.ndarray, " t"]
    sample_rate: int


# Makes a film's MP4; tells how far it is, and stops with None when that answers False.
MakeFilm = Callable[[Film, Callable[[float], Awaitable[bool]]], Awaitable[bytes | None]]


@dataclass(frozen=True, slots=True)
class Generator:
    """`python -m serve.generate` with an artifact."""

    artifact: str
    characters: str  # the folder of the built-in ones
    size: int | None

    async def __call__(self, film: Film, go_on: Callable[[float], Awaitable[bool]]) -> bytes | None:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            picture = self._picture(film, folder)
            (folder / "speech.wav").write_bytes(wav_of(film.sound, film.sample_rate))
            words = [f"artifact={Path(self.artifact).resolve()}", f"image={picture}", f"audio={folder / 'speech.wav'}"]
            words += [f"out={folder / 'film.mp4'}", f"crop={str(film.role.crops_to_face).lower()}"]
            if self.size is not None:
                words.append(f"size={self.size}")
            return await _run(words, folder / "film.mp4", go_on)

    def _picture(self, film: Film, folder: Path) -> Path:
        if film.role.builtin is not None:
            import yaml

            definition = Path(self.characters) / f"{film.role.builtin}.yaml"
            return (definition.parent / yaml.safe_load(definition.read_text())["image"]).resolve()
        path = folder / "picture.jpg"
        path.write_bytes(film.role.picture)
        return path


async def _run(words: list[str], out: Path, go_on: Callable[[float], Awaitable[bool]]) -> bytes | None:
    environment = os.environ | {"TQDM_MININTERVAL": "1"}
    command = ["nice", "-n", NICENESS, sys.executable, "-m", "serve.generate", *words]
    pipe, joined = asyncio.subprocess.PIPE, asyncio.subprocess.STDOUT
    process = await asyncio.create_subprocess_exec(*command, env=environment, stdout=pipe, stderr=joined)
    assert process.stdout is not None
    output = b""
    try:
        while piece := await process.stdout.read(PIECE_BYTES):
            output = (output + piece)[-4 * PIECE_BYTES :]
            if (found := PERCENT.findall(piece)) and not await go_on(int(found[-1]) / 100):
                return None
        if await process.wait():
            lines = output.decode(errors="replace").replace("\r", "\n").strip().splitlines()
            raise FilmError("The film could not be made: " + " ".join(lines[-LAST_LINES:]))
        return out.read_bytes()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def wav_of(sound: Float[np.ndarray, " t"], sample_rate: int) -> bytes:
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(sample_rate)
        file.writeframes(to_pcm(sound).tobytes())
    return buffer.getvalue()
