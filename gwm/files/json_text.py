"""JSON that every reader understands, and frozen dataclasses that are saved as JSON next to the weights."""

import dataclasses
import json
import math
from collections.abc import Mapping
from typing import Any, TypeVar


def json_text(value: Any, **options: Any) -> str:
    """As `json.dumps`; a number that is not finite, for which JSON has no word, is null: not measured."""
    return json.dumps(_finite(value), allow_nan=False, **options)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(part) for key, part in value.items()}
    return [_finite(part) for part in value] if isinstance(value, list | tuple) else value


Config = TypeVar("Config", bound="JsonConfig")  # not `Self`: beartype knows it only in classes it decorates itself


class JsonConfig:
    """JSON in, JSON out, and no unknown key ever."""

    @classmethod
    def from_json(cls: type[Config], values: Mapping[str, Any]) -> Config:
        """Build from a decoded JSON object; lists become tuples.

        Raises:
            ValueError: a key is missing or unknown; the message lists both.
        """
        known = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]  # every subclass is a dataclass
        unknown = sorted(set(values) - set(known))
        missing = sorted(
            n
            for n, f in known.items()
            if n not in values and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
        )
        if unknown or missing:
            raise ValueError(
                f"{cls.__name__}: unknown keys {unknown}, missing keys {missing}; known keys are {sorted(known)}. "
                "The file was written by another version of gwm or edited by hand."
            )
        return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)  # type: ignore[call-overload]
