"""What lies beside shards with actions: their declaration, how well they are covered, and pictures to begin at."""

import logging
from collections.abc import Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import yaml

from data.shards import decode_signals, read_samples
from data.worlds.policies import coverage
from gwm.condition.spec import Kind
from gwm.weights import write_json

log = logging.getLogger(__name__)

STRIDE = 4  # pixel frames of a latent frame of every autoencoder here
PLACES, NUM_PLACES = "places", 4
RARE = 0.02  # share of frames, or of the range, below which an action is hardly learned


def declaration(names: Sequence[str], kinds: Sequence[Kind]) -> dict[str, Any]:
    """The condition that a model of such actions declares: fields of `gwm.condition.spec.ConditionSpec`."""
    limits = {"minimum": [-1.0] * len(names), "maximum": [1.0] * len(names)} if {*kinds} == {"continuous"} else {}
    return {"rate": "frame", "width": STRIDE * len(names), "names": [*names], "kinds": [*kinds], **limits}


def report(out: Path, names: Sequence[str], kinds: Sequence[Kind], splits: Sequence[str]) -> None:
    """Write coverage.json; condition.yaml, which goes into configs/condition/; and pictures to begin at."""
    places = out / PLACES
    places.mkdir(exist_ok=True)
    for number, sample in enumerate(islice(read_samples(out, splits[-1]), NUM_PLACES)):
        (places / f"place-{number + 1}.png").write_bytes(sample["reference.png"])
    samples = (sample for split in splits for sample in read_samples(out, split))
    found = coverage(names, kinds, [decode_signals(sample)["action"] for sample in samples])
    write_json(out / "coverage.json", asdict(found))
    declared = {"action": declaration(names, kinds)}
    (out / "condition.yaml").write_text(yaml.safe_dump(declared, default_flow_style=None))
    log.info("actions: %s, nothing %.2f, held for %.0f frames", _shown(found.share), found.idle, found.held_frames)
    if missing := found.missing(RARE):
        log.warning("%s: hardly any clip shows them. Record more, with these actions", ", ".join(missing))


def _shown(share: dict[str, float]) -> str:
    return " ".join(f"{name} {value:.2f}" for name, value in share.items())
