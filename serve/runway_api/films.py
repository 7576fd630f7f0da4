"""Films, each made by a command in a process of its own, at low priority: of an avatar that speaks (`serve.generate`),
or of another film (`serve.dub`, `serve.edit`)."""

import asyncio
import io
import json
import os
import re
import sys
import wave
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from gwm.contract import Contract
from gwm.media.sound import to_pcm
from serve.artifact import read_manifest
from serve.runway_api.call import Command
from serve.runway_api.casting import Role

PERCENT = re.compile(rb"([a-z][a-z ]*):\s+(\d+)%")
# Bars of each command, and the part of its time that each takes, nearly.
BARS: dict[Command, dict[str, tuple[float, float]]] = {
    "generate": {"generate": (0.0, 1.0)},
    "dub": {"find faces": (0.0, 0.5), "voice": (0.5, 0.6), "dub": (0.6, 1.0)},
    "edit": {"edit": (0.0, 0.9), "write": (0.9, 1.0)},
}
TRACEBACK, OURS = "Traceback (most recent call last)", ("Memory does not suffice", "Free space")
LAST_LINES = 5
NICENESS = "15"
PIECE_BYTES = 4096
OUT, MOUTH = "film.mp4", "mouth"
FILES = ("video", "audio", "mask", "image")  # settings that are files


class FilmError(RuntimeError):
    """The film could not be made, which is this server's fault."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FilmOptions:
    """Films that are made of others; `films` of configs/serve.yaml.

    Raises:
        ValueError: a value that cannot be.
    """

    work: str = "store/films"  # the folder of what is under way
    max_upload_mb: float | int = 16  # of every upload
    longest_s: float | int = 600  # of a film that is sent
    max_pixels: int = 8_900_000  # of one of its pictures
    edit_artifact: str | None = None  # a model for edits; None: there are none
    text_encoder: str | None = None  # for their prompts; None: the artifact's own

    def __post_init__(self) -> None:
        limits = {"max_upload_mb": self.max_upload_mb, "longest_s": self.longest_s, "max_pixels": self.max_pixels}
        for name, value in limits.items():
            if not value > 0:
                raise ValueError(f"films.{name}={value} must be above 0.")

    @property
    def max_bytes(self) -> int:
        return round(self.max_upload_mb * 1e6)


@dataclass(frozen=True, slots=True)
class Film:
    """An avatar that speaks."""

    role: Role
    sound: Float[np.ndarray, " t"]
    sample_rate: int


@dataclass(frozen=True, slots=True)
class Refilm:
    """A film of another one: settings of a command, whose files lie in the film's folder."""

    command: Literal["dub", "edit"]
    settings: Mapping[str, Any]


GoOn = Callable[[float], Awaitable[bool]]


@runtime_checkable
class MakeFilm(Protocol):
    def refuses(self, command: Command) -> str | None:
        """Why no film is made by this command here; None: some are."""
        ...

    async def __call__(self, film: Film | Refilm, folder: Path, go_on: GoOn) -> Path | None:
        """Make it in a folder, where an earlier run may have finished a part; stops with None when `go_on`, which is
        given the share that is made, answers False.

        Raises:
            ValueError: what was sent cannot be used.
            FilmError: the film could not be made.
        """
        ...


@dataclass(frozen=True, slots=True)
class Generator:
    """The commands of this repository, with an artifact."""

    artifact: str
    characters: str  # the folder of the built-in ones
    size: int | None
    options: FilmOptions

    def refuses(self, command: Command) -> str | None:
        if command == "edit" and self.options.edit_artifact is None:
            return "This server has no model for edits. Start it with films.edit_artifact=DIR, a flow model."
        if command == "dub":
            contract = Contract.from_json(read_manifest(Path(self.artifact))["contract"])
            if contract.vae.working_side is None or not contract.takes_sound:
                return "This server's character has no motion latents, which dubs are made with."
        return None

    async def __call__(self, film: Film | Refilm, folder: Path, go_on: GoOn) -> Path | None:
        out = folder.absolute() / OUT
        if isinstance(film, Refilm):
            settings = str(self._written(film, folder.absolute(), out))
            words = ["serve.runway_api.film_process", film.command, settings, str(os.getpid())]
            return await _run(words, BARS[film.command], out, go_on)
        (folder / "speech.wav").write_bytes(wav_of(film.sound, film.sample_rate))
        words = ["serve.generate", f"artifact={Path(self.artifact).resolve()}", f"image={self._picture(film, folder)}"]
        words += [f"audio={out.parent / 'speech.wav'}", f"out={out}", f"crop={str(film.role.crops_to_face).lower()}"]
        if self.size is not None:
            words.append(f"size={self.size}")
        return await _run(words, BARS["generate"], out, go_on)

    def _written(self, film: Refilm, folder: Path, out: Path) -> Path:
        """The settings of a command in a file."""
        given = {name: film.settings[name] for name in FILES if film.settings.get(name) not in (None, MOUTH)}
        named = {name: str(folder / file) for name, file in given.items()}
        if film.command == "dub":
            own = {"artifact": self.artifact}
        else:
            own = {"artifact": self.options.edit_artifact, "text_encoder": self.options.text_encoder}
        path = folder / "settings.json"
        path.write_text(json.dumps(dict(film.settings) | named | own | {"out": str(out)}))
        return path

    def _picture(self, film: Film, folder: Path) -> Path:
        if film.role.builtin is not None:
            import yaml

            definition = Path(self.characters) / f"{film.role.builtin}.yaml"
            return (definition.parent / yaml.safe_load(definition.read_text())["image"]).resolve()
        path = folder.absolute() / "picture.jpg"
        path.write_bytes(film.role.picture)
        return path


async def _run(words: list[str], bars: Mapping[str, tuple[float, float]], out: Path, go_on: GoOn) -> Path | None:
    environment = os.environ | {"TQDM_MININTERVAL": "1"}
    command = ["nice", "-n", NICENESS, sys.executable, "-m", *words]
    pipe, joined = asyncio.subprocess.PIPE, asyncio.subprocess.STDOUT
    process = await asyncio.create_subprocess_exec(*command, env=environment, stdout=pipe, stderr=joined)
    assert process.stdout is not None
    output = b""
    try:
        while piece := await process.stdout.read(PIECE_BYTES):
            output = (output + piece)[-4 * PIECE_BYTES :]
            if (done := done_of(piece, bars)) is not None and not await go_on(done):
                return None
        if status := await process.wait():
            raise failure_of(status, output.decode(errors="replace"), out.parent)
        return out
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def done_of(output: bytes, bars: Mapping[str, tuple[float, float]]) -> float | None:
    """How much of a film is made, by the last bar that was written; None: there is none."""
    found = [(name.decode(), int(percent)) for name, percent in PERCENT.findall(output) if name.decode() in bars]
    if not found:
        return None
    name, percent = found[-1]
    start, end = bars[name]
    return round(start + (end - start) * percent / 100, 3)


def failure_of(status: int, output: str, folder: Path) -> Exception:
    """By a command's last lines: the sentence of a refusal is for whoever sent the film, all else is this server's."""
    lines = output.replace("\r", "\n").replace(f"{folder}/", "").strip().splitlines() or [""]
    refused = status == 1 and TRACEBACK not in output and not any(words in lines[-1] for words in OURS)
    if refused:
        return ValueError(lines[-1])
    return FilmError("The film could not be made: " + " ".join(lines[-LAST_LINES:]))


def wav_of(sound: Float[np.ndarray, " t"], sample_rate: int) -> bytes:
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(sample_rate)
        file.writeframes(to_pcm(sound).tobytes())
    return buffer.getvalue()
