"""A world: a model that takes no sound, and follows a text and actions."""

import dataclasses
from pathlib import Path

import torch

from gwm.autoencoders.haar import HaarAutoencoder
from gwm.contract import Contract
from gwm.dit import DiT
from gwm.no_text import save_no_text
from gwm.weights import WeightsHeader, save_weights
from serve.export import export
from tests.serve.conftest import randomised, tiny_contract
from tests.tiny import declared
from train.networks import dit_header

TEXT = 8  # numbers of a token
ACTIONS = ("forward", "left")


def world_contract(chunk_frames: int = 1) -> Contract:
    rules = tiny_contract(chunk_frames=chunk_frames)
    deaf = dataclasses.replace(rules.dit, conditions=())
    actions = rules.vae.temporal_stride * len(ACTIONS)
    return rules.replace(dit=declared(deaf, text=TEXT, action=actions, names=ACTIONS))


def world(folder: Path, *, chunk_frames: int = 1) -> Path:
    """The artifact."""
    rules = world_contract(chunk_frames)
    student, vae, out = folder / "dmd" / "weights", folder / "autoencoder" / "weights", folder / "artifact"
    torch.manual_seed(0)
    save_weights(student, randomised(DiT(rules.dit)).state_dict(), dit_header(rules))
    header = WeightsHeader(kind="autoencoder", config=rules.vae.to_json())
    save_weights(vae, randomised(HaarAutoencoder(rules.vae)).state_dict(), header)
    save_no_text(student, torch.full((2, TEXT), 0.5))
    export(str(student), str(vae), str(out))
    return out
