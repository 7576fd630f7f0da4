"""What a folder is, in words: for messages about one that is of another kind than a setting needs."""

import json
from pathlib import Path
from typing import Any


def folder_kind(folder: Path) -> str:
    """A clause such as "it is an artifact (artifact=...)": what `folder` holds of what gwm and Wan write."""
    if folder.is_file():
        return "it is a file"
    if not folder.is_dir():
        return f"there is no such folder; relative paths start at {Path.cwd()}"
    manifest, config = _json(folder / "manifest.json"), _json(folder / "config.json")
    if manifest.get("format") == "gwm-artifact":
        return "it is an artifact (artifact=...)"
    if manifest.get("format") == "gwm-shards":
        return f"it holds shards of {manifest.get('kind')} (shards=...)"
    if config.get("format") == "gwm-weights":
        return f"it holds the weights of a {config.get('kind')} (init=..., vae=..., speech=... or sync=...)"
    if (folder / "model_index.json").is_file() or "_class_name" in config:
        return "it is a published model (init=...)"
    if (folder / "weights").is_dir() or (folder / "last.ckpt").is_file():
        return f"it is the folder of one stage; its weights are in {folder / 'weights'}"
    if stages := sorted(path.parent.name for path in folder.glob("*/weights")):
        return f"it is a folder of stages ({', '.join(stages)}; runs=...)"
    names = sorted(path.name for path in folder.iterdir())
    return f"it has {', '.join(names[:3])}{', ...' if len(names) > 3 else ''}" if names else "it is empty"


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
