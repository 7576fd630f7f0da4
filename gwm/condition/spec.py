"""Conditions: what a model is given besides noised latents. Each is declared once, as a `ConditionSpec` of its config;
dropout, guidance, batches, plans, converters and the engine loop over these declarations."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from gwm.files.json_text import JsonConfig

# discrete: 0 or 1, as a key; continuous: any number in the limits; pointer: one of two neighbours, x and y of a place
# in the picture, from -1 at the left and the top to 1.
Kind = Literal["continuous", "discrete", "pointer"]
LIMIT = 10.0  # numbers of training are of the order of 1; larger ones would leave everything it has seen


@dataclass(frozen=True, slots=True)
class Control:
    """One number of each pixel frame."""

    name: str
    minimum: float = -LIMIT
    maximum: float = LIMIT
    default: float = 0.0  # where a caller sets others of its condition and not this
    kind: Kind = "continuous"


Rate = Literal["tokens", "channels", "frame"]
Encoder = Literal["text", "image", "linear", "speech", "keyframes"]
ENCODERS: Mapping[Rate, tuple[Encoder, ...]] = {
    "tokens": ("text", "image"),
    "channels": ("linear", "keyframes"),
    "frame": ("linear", "speech"),
}
LIMITS: Mapping[Kind, tuple[float, float]] = {
    "discrete": (0.0, 1.0),
    "pointer": (-1.0, 1.0),
    "continuous": (-LIMIT, LIMIT),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class ConditionSpec(JsonConfig):
    """One condition of a model.

    Declare outer conditions of guidance before inner ones: with text before voice, text guidance compares text alone
    with nothing, and voice guidance both with text alone.
    """

    name: str
    rate: Rate  # tokens: of the whole clip, by cross-attention; channels: beside the noised ones; frame: a vector each
    width: int  # numbers of a token, of a latent frame; or channels
    # What comes before the embedding. speech: the frozen speech encoder; keyframes: `gwm.condition.keyframes`.
    encoder: Encoder = "linear"
    places: int = 0  # of image tokens, each with numbers of its own (first and last picture, Wan 2.1 FLF2V); 0: none
    drop_rate: float = 0.0  # chance that a training sample loses the condition, so that guidance can leave it out
    names: tuple[str, ...] = ()  # of the numbers of one pixel frame, for callers who set them; (): by their places
    kinds: tuple[Kind, ...] = ()  # of each name, as `Kind`; (): continuous
    minimum: tuple[float, ...] = ()  # of each name's value, as a caller may set it; (): -LIMIT
    maximum: tuple[float, ...] = ()  # likewise; (): LIMIT
    default: tuple[float, ...] = ()  # of names that a caller leaves out while setting others; (): 0

    def __post_init__(self) -> None:
        if self.rate not in get_args(Rate):
            raise ValueError(f"condition {self.name}: rate={self.rate!r} must be one of {get_args(Rate)}.")
        if self.encoder not in ENCODERS[self.rate]:
            raise ValueError(
                f"condition {self.name}: encoder={self.encoder!r} must be one of {ENCODERS[self.rate]} "
                f"with rate={self.rate}."
            )
        if self.width < 1:
            raise ValueError(f"condition {self.name}: width={self.width} must be at least 1.")
        if self.places < 0 or (self.places and self.encoder != "image"):
            raise ValueError(
                f"condition {self.name}: places={self.places} must be 0, or a number of tokens with encoder=image."
            )
        if not 0 <= self.drop_rate < 1:
            raise ValueError(f"condition {self.name}: drop_rate={self.drop_rate} must be in [0, 1).")
        if self.names and self.width % len(self.names):
            raise ValueError(
                f"condition {self.name}: width={self.width} must be a multiple of {len(self.names)}, the number of "
                f"names={list(self.names)}: each pixel frame of a latent frame has a number for each name."
            )
        for field in ("kinds", "minimum", "maximum", "default"):
            values = getattr(self, field)
            if values and len(values) != len(self.names):
                raise ValueError(
                    f"condition {self.name}: {field}={list(values)} must have {len(self.names)} entries, one for each "
                    f"of names={list(self.names)}, or none."
                )
        self._check_kinds()

    def _check_kinds(self) -> None:
        for name, kind in zip(self.names, self.kinds, strict=False):
            if kind not in get_args(Kind):
                raise ValueError(
                    f"condition {self.name}: kind={kind!r} of {name} must be one of {', '.join(get_args(Kind))}."
                )
        if self.kinds and (self.minimum or self.maximum) and set(self.kinds) != {"continuous"}:
            raise ValueError(
                f"condition {self.name}: minimum and maximum must be left out with kinds={list(self.kinds)}: discrete "
                "numbers are 0 or 1, pointers in [-1, 1]. Declare others as a condition of their own."
            )
        pointers = [place for place, kind in enumerate(self.kinds) if kind == "pointer"]
        if len(pointers) not in (0, 2) or (pointers and pointers[1] != pointers[0] + 1):
            raise ValueError(
                f"condition {self.name}: kinds={list(self.kinds)} must have pointer twice, one after the other, or not "
                "at all: x and y of one place in the picture."
            )

    def controls(self, pixel_frames: int) -> tuple[Control, ...]:
        """The numbers that callers may set for each of a latent frame's `pixel_frames`, in order. Numbers without names
        are called by the condition's name and their index."""
        if self.rate != "frame" or self.encoder != "linear" or self.width % pixel_frames:
            return ()
        names = self.names or tuple(f"{self.name}{place}" for place in range(self.width // pixel_frames))
        kinds = self.kinds or ("continuous",) * len(names)
        minimum = self.minimum or tuple(LIMITS[kind][0] for kind in kinds)
        maximum = self.maximum or tuple(LIMITS[kind][1] for kind in kinds)
        default = self.default or (0.0,) * len(names)
        return tuple(Control(*parts) for parts in zip(names, minimum, maximum, default, kinds, strict=True))


def specs_of(declared: Mapping[str, Mapping[str, Any] | None], **widths: int) -> tuple[ConditionSpec, ...]:
    """Specs in the order in which they act: tokens, channels, frame; within a rate, as declared.

    Args:
        declared: the fields of each spec by its name, as a config has them; None takes a condition out.
        widths: of encoders, for specs that leave their width to the rest of the model.
    """
    specs = []
    for name, fields in declared.items():
        if fields is not None:
            width = fields.get("width") or widths[fields.get("encoder", "linear")]
            specs.append(ConditionSpec.from_json({"name": name, **fields, "width": width}))
    return in_order(specs)


def in_order(specs: Iterable[ConditionSpec]) -> tuple[ConditionSpec, ...]:
    """Specs by rate: tokens, channels, frame."""
    return tuple(sorted(specs, key=lambda spec: get_args(Rate).index(spec.rate)))
