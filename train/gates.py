"""The gates of finished stages, in the order of the chain."""

import json
from pathlib import Path
from typing import Any

ORDER = ("autoencoder", "bidirectional", "causal", "consistency", "dmd", "long", "regression")


def read_gates(runs: Path) -> dict[str, dict[str, Any]]:
    """Gates by stage; stages without a gate are left out."""
    paths = {stage: runs / stage / "gate.json" for stage in ORDER}
    return {stage: json.loads(path.read_text()) for stage, path in paths.items() if path.is_file()}
