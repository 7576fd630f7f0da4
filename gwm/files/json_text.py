"""JSON that every reader understands."""

import json
import math
from collections.abc import Mapping
from typing import Any


def json_text(value: Any, **how: Any) -> str:
    """As `json.dumps`; a number that is not finite, for which JSON has no word, is null: not measured."""
    return json.dumps(_finite(value), allow_nan=False, **how)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(part) for key, part in value.items()}
    return [_finite(part) for part in value] if isinstance(value, list | tuple) else value
