"""docs/data_format.md names every file, entry and array that is written."""

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest

from data.encoding import encode_clip
from data.manifest import Manifest, SplitManifest
from data.shards import SIGNAL, Clip, Truth, encode_sample
from gwm.config import AudioConfig
from tests.tiny import tiny_vae

ROOT = Path(__file__).parents[2]
NAMED = set(re.findall(r"`([\w.]+)`", (ROOT / "docs" / "data_format.md").read_text()))
FRAMES = 8


def clip() -> Clip:
    voice = np.zeros(FRAMES * 1000, np.float32)
    truth = Truth(
        mouth=np.zeros(FRAMES, np.float32), actions=np.zeros((FRAMES, 52), np.float32),
        pose=np.zeros((FRAMES, 3), np.float32), gaze=np.zeros((FRAMES, 2), np.float32),
        agent_speaking=np.zeros(FRAMES, bool), user_speaking=np.zeros(FRAMES, bool),
    )  # fmt: skip
    picture = np.zeros((32, 32, 3), np.uint8)
    return Clip(
        key="a", frames=np.zeros((FRAMES, 32, 32, 3), np.uint8), agent=voice, user=voice, reference=picture,
        truth=truth, info={}, signals={"action": np.zeros((FRAMES, 2), np.float32)},
    )  # fmt: skip


def test_every_file_of_a_clip_and_every_array_of_the_truth_is_named():
    files = set(encode_sample(clip())) - {"__key__"}
    assert "action" + SIGNAL in files and files <= NAMED
    assert set(Truth.__slots__) <= NAMED


def test_every_array_of_an_encoded_clip_is_named():
    arrays = encode_clip(clip(), tiny_vae(), AudioConfig())
    named = {re.sub(r"^(frame|tokens)\..*", r"\1.NAME", name) for name in arrays}
    assert "frame.NAME" in named and named <= NAMED


@pytest.mark.parametrize("kind", [Manifest, SplitManifest])
def test_every_entry_of_a_manifest_is_named(kind: type):
    assert {field.name for field in dataclasses.fields(kind)} <= NAMED
