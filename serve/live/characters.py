"""Who can be talked to: definition files that an operator writes."""

import io
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from jaxtyping import UInt8
from PIL import Image

from gwm.contract import Contract
from gwm.files.texts import read_text
from gwm.media.face import FaceMesh
from gwm.media.framing import Framing
from gwm.media.images import read_image
from gwm.media.portraits import crop_to_centre, crop_to_face
from serve.acts import check_numbers
from serve.live.options import one_of
from serve.live.speech.knowledge import RULE, Knowledge
from serve.live.vision.sight import EVERY_SECOND, MODES

log = logging.getLogger(__name__)

FIELDS = {"name", "image", "voice", "personality", "start_script", "manner", "vision"}
TEXTS = {"name", "image", "personality", "start_script"}
NAME = re.compile(r"[a-z0-9-]{1,40}")


@dataclass(frozen=True, slots=True)
class Character:
    """A face, a voice and a way to be."""

    key: str
    name: str
    portrait: UInt8[np.ndarray, "h w 3"]  # with its margin, as the engine keeps it
    personality: str
    voice: str | dict[str, Any] | None = None  # for the configured voices, or for each kind; None: their own default
    start_script: str | None = None  # said when somebody comes
    manner: Mapping[str, float] = field(default_factory=dict)  # numbers of the model while nobody sets others
    knowledge: Knowledge | None = None  # documents; None: there are none
    vision: str = EVERY_SECOND  # how often it may look at what visitors show: of `serve.live.vision.sight.MODES`
    margin: int = 0  # px on each side of the portrait, around what is shown

    @property
    def instruction(self) -> str:
        """Of a language model."""
        return self.personality if self.knowledge is None else f"{self.personality}\n\n{RULE}"

    @property
    def picture(self) -> UInt8[np.ndarray, "h2 w2 3"]:
        """What is shown, in the size of frames."""
        height, width, _ = self.portrait.shape
        return self.portrait[self.margin : height - self.margin, self.margin : width - self.margin]

    def with_portrait(self, portrait: UInt8[np.ndarray, "h w 3"]) -> "Character":
        return replace(self, portrait=portrait)


def read_characters(folder: Path, framing: Framing) -> dict[str, Character]:
    """Every `*.yaml` of a folder by its file name.

    Raises:
        ValueError: there is none, or one of them is wrong; the message names it.
    """
    files = sorted(folder.glob("*.yaml"))
    if not files:
        raise ValueError(f"characters={folder} must hold at least one .yaml file, has 0. Copy serve/live/characters.")
    return {path.stem: read_character(path, framing) for path in files}


def read_character(path: Path, framing: Framing) -> Character:
    """A definition; its image is found beside it.

    Raises:
        ValueError: a field is missing or foreign, or the image cannot be used.
    """
    values = _definition(path)
    missing, foreign = {"name", "image", "personality"} - set(values), set(values) - FIELDS
    if missing or foreign:
        raise ValueError(
            f"{path} has missing fields {sorted(missing)} and foreign fields {sorted(map(str, foreign))}, must have "
            f"name, image, personality and may have voice, start_script, manner, vision."
        )
    if not NAME.fullmatch(path.stem):
        raise ValueError(f"{path.name} must be named with a-z, 0-9 and -, up to 40 of them: the name is part of a URL.")
    for name in sorted(TEXTS):
        if not isinstance(values.get(name, ""), str | None):
            raise ValueError(f"{path}: {name}={values[name]!r} must be text. Put it in quotes.")
    portrait, found = portrait_of(read_image(path.parent / values["image"]), framing)
    if not found:
        log.warning("%s: no face is found in image %s; its middle is used", path, values["image"])
    rest = {name: values.get(name) for name in ("voice", "start_script")}
    manner = _manner(path, values)
    name, personality = values["name"], values["personality"]
    more = {"manner": manner, "margin": framing.margin}
    return Character(path.stem, name, portrait, personality, vision=_vision(path, values), **rest, **more)


def read_places(folder: Path, framing: Framing) -> dict[str, Character]:
    """Pictures (.png) at which visitors of a world can begin, by their names; their middle is used.

    Raises:
        ValueError: there is none, or one cannot be used.
    """
    files = sorted(folder.glob("*.png"))
    if not files:
        raise ValueError(
            f"{folder} must hold at least one .png, has 0: visitors of a world begin at a picture. Export it again "
            "with call.places=FOLDER, such as places/ of the shards."
        )
    places = {}
    for path in files:
        if not NAME.fullmatch(path.stem):
            raise ValueError(f"{path.name} must be named with a-z, 0-9 and -, up to 40 of them: it is part of a URL.")
        picture = crop_to_centre(read_image(path), framing.frame, str(path), margin=framing.margin)
        name = path.stem.replace("-", " ").capitalize()
        places[path.stem] = Character(path.stem, name, picture, personality="", margin=framing.margin)
    return places


def _manner(path: Path, values: Mapping[str, Any]) -> dict[str, float]:
    manner = values.get("manner") or {}
    if not isinstance(manner, dict) or not all(type(value) in (int, float) for value in manner.values()):
        raise ValueError(f"{path}: manner={manner!r} must be numbers by name, such as {{liveliness: 0.8, joy: 0.3}}.")
    return {name: float(value) for name, value in manner.items()}


def _vision(path: Path, values: Mapping[str, Any]) -> str:
    vision = values.get("vision", EVERY_SECOND)
    vision = "off" if vision is False else vision  # what YAML makes of a bare `off`
    one_of(f"{path}: vision", vision, MODES)
    return vision


def manner_of(character: Character, contract: Contract) -> dict[str, float]:
    """What of a character's manner this model can be given; what it does not have is said in the log.

    Raises:
        ValueError: a number is outside of its limits.
    """
    names = {control.name for control in contract.controls}
    missing = sorted(set(character.manner) - names)
    if missing:
        log.warning("%s: the model has no %s: that part of the manner is left out", character.key, ", ".join(missing))
    manner = {name: value for name, value in character.manner.items() if name in names}
    try:
        check_numbers(manner, contract)
    except ValueError as error:
        raise ValueError(f"manner of character {character.key}: {error}") from error
    return manner


def _definition(path: Path) -> dict[str, Any]:
    """The fields of a definition file.

    Raises:
        ValueError: the file is no YAML mapping of text.
    """
    try:
        values = yaml.safe_load(read_text(path)) or {}
    except yaml.YAMLError as error:
        raise ValueError(f"{path} must be YAML: {' '.join(str(error).split())}. Correct that line.") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} must hold fields such as name: and image:, holds {type(values).__name__}.")
    return values


def portrait_of(image: Image.Image, framing: Framing, *, face: bool = True) -> tuple[UInt8[np.ndarray, "h w 3"], bool]:
    """The part around the face, and True; around the middle, and False where there is none. Of pictures that are not to
    show a `face`: around the middle, and True."""
    name = f"the picture of {image.width}x{image.height} px"
    if not face:
        return crop_to_centre(image, framing.frame, name, margin=framing.margin), True
    try:
        return crop_to_face(image, framing.frame, FaceMesh(), margin=framing.margin), True
    except ValueError:
        return crop_to_centre(image, framing.frame, name, margin=framing.margin), False


def to_png(portrait: UInt8[np.ndarray, "h w 3"]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(portrait).save(buffer, "PNG")
    return buffer.getvalue()
