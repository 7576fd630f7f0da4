"""A tiny model of the maze with random weights, as an artifact; and shards of the same maze."""

import dataclasses
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from data.worlds.__main__ import record_world
from data.worlds.maze import NAMES
from gwm.autoencoders.haar import HaarAutoencoder
from gwm.condition.spec import ConditionSpec, Kind
from gwm.contract import Contract
from gwm.dit import DiT
from gwm.resolution import Resolution
from gwm.weights import WeightsHeader, save_weights
from serve.export import export
from tests.serve.conftest import randomised, tiny_contract
from train.networks import dit_header

SIDE = 32


def maze_contract(
    *, side: int = SIDE, names: tuple[str, ...] = NAMES, kind: Kind = "discrete", chunk_frames: int = 1
) -> Contract:
    rules = tiny_contract(chunk_frames=chunk_frames)
    stride = rules.vae.temporal_stride
    limits = {"minimum": (-1.0,) * len(names), "maximum": (1.0,) * len(names)} if kind == "continuous" else {}
    action = ConditionSpec(
        name="action", rate="frame", width=stride * len(names), names=names, kinds=(kind,) * len(names), **limits
    )
    place = (side // 16, side // 16)
    dit = dataclasses.replace(rules.dit, conditions=(action,), place_grid=place)
    return rules.replace(dit=dit, resolution=Resolution(side, side))


def maze_artifact(folder: Path, **changes: object) -> Path:
    """With two places to begin at."""
    rules = maze_contract(**changes)  # type: ignore[arg-type]
    student, vae, out, places = (folder / name for name in ("student", "autoencoder", "artifact", "places"))
    torch.manual_seed(0)
    save_weights(student, randomised(DiT(rules.dit)).state_dict(), dit_header(rules))
    header = WeightsHeader(kind="autoencoder", config=rules.vae.to_json())
    save_weights(vae, randomised(HaarAutoencoder(rules.vae)).state_dict(), header)
    places.mkdir()
    for number in range(2):
        pixels = np.random.default_rng(number).integers(0, 256, (*rules.resolution.shape, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(places / f"place-{number + 1}.png")
    export(str(student), str(vae), str(out), places=str(places))
    return out


def maze_shards(
    folder: Path, *, side: int = SIDE, train: int = 4, test: int = 2, num_frames: int = 24, env: str = "maze"
) -> Path:
    record_world(
        out=str(folder), workers=1, env=env, resolution=side, num_frames=num_frames, train=train, val=0, test=test,
        seed=0, policy="mixed", hold_s=0.4, warmup_s=0.5,
    )  # fmt: skip
    return folder
