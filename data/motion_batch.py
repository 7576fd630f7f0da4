"""Batches of pictures with exact motion, for the motion autoencoder."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from data.characters.exact_flow import BACKGROUND, EYE
from data.motion import Pair, Person, pair_files, picture, read_pair
from data.steps import StepData
from gwm.autoencoders.motion.code import mirror, standardise
from gwm.autoencoders.motion.network import SIDE
from gwm.media.pixels import to_float

MARGIN_PX, SOFT_PX = 5, 2.5  # the moving layer ends outside the person, softly: no edge of it stays behind
ORDER, SIGNS = mirror()


@dataclass
class MotionBatch:
    """Rows of `reference` are people; rows of the other tensors are pictures, `owner` says whose."""

    reference: Float[Tensor, "p 3 256 256"]  # in [-1, 1]
    person: Float[Tensor, "p 1 128 128"]  # share of the moving layer
    flat: Bool[Tensor, "p"]  # drawn characters, which have no layers
    frames: Float[Tensor, "n 3 256 256"]
    code: Float[Tensor, "n 57"]
    flow: Float[Tensor, "n 2 64 64"]  # in cells
    shown: Bool[Tensor, "n 64 64"]  # the person, where the reference shows it too
    inside: Bool[Tensor, "n 64 64"]  # the person
    eyes: Bool[Tensor, "n 64 64"]
    owner: Tensor
    step: int
    first_slot: int = 0

    def __len__(self) -> int:
        return len(self.reference) // 2


class MotionPairs(Dataset[dict[str, Any]]):
    """Both characters of a pair, a few pictures of each, mirrored and tinted at random."""

    def __init__(self, files: list[Path], *, pictures: int, seed: int) -> None:
        self.files, self.pictures, self.seed = files, pictures, seed

    def __getitem__(self, key: tuple[int, int, int]) -> dict[str, Any]:
        step, slot, index = key
        rng = np.random.default_rng((self.seed, step, slot))
        pair = read_pair(self.files[index])
        chosen = [draw_pictures(pair, person, self.pictures, rng) for person in pair.people]
        return {name: np.concatenate([c[name] for c in chosen]) for name in chosen[0]} | {"step": step, "slot": slot}


def draw_pictures(pair: Pair, person: Person, count: int, rng: np.random.Generator | None) -> dict[str, np.ndarray]:
    """Pictures of one character as arrays; the first `count`, untouched, without a generator."""
    total = len(person.frames)
    rows = np.arange(count) if rng is None else rng.choice(total, count, replace=False)
    images = np.stack([working(picture(jpeg)) for jpeg in (person.reference, *(person.frames[row] for row in rows))])
    parts = [torch.from_numpy(x) for x in (pair.actions[rows], person.pose[rows], pair.gaze[rows])]
    code, flow = standardise(*parts).numpy(), person.flow[rows].astype(np.float32).transpose(0, 3, 1, 2)
    label, visible = person.label[rows], person.visible[rows]
    layer = moving_layer(person.person)
    if rng is not None:
        images = tinted(images, rng)
        if rng.random() < 0.5:
            images, label, visible, layer = (x[..., ::-1] for x in (images.swapaxes(2, 3), label, visible, layer))
            images = images.swapaxes(2, 3)
            flow = flow[..., ::-1] * np.array([-1, 1], np.float32)[:, None, None]
            code = code[:, ORDER] * SIGNS.numpy()
    inside = label != BACKGROUND
    return {
        "images": images[None],
        "person": layer[None, None],
        "flat": np.array([person.flat]),
        "code": code,
        "flow": flow,
        "shown": visible & inside,
        "inside": inside,
        "eyes": label == EYE,
    }


def working(picture: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "256 256 3"]:
    """In the size in which the autoencoder works: pictures that are larger cost training nothing more.

    Raises:
        ValueError: it is smaller.
    """
    side = picture.shape[0]
    if side < SIDE:
        raise ValueError(
            f"pictures of {side} px must have at least the {SIDE} px in which the autoencoder works: make them again "
            "with python -m data.motion resolution=256."
        )
    return picture if side == SIDE else cv2.resize(picture, (SIDE, SIDE), interpolation=cv2.INTER_AREA)


def moving_layer(person: Bool[np.ndarray, "256 256"]) -> Float[np.ndarray, "128 128"]:
    """The person with a margin and a soft edge."""
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * MARGIN_PX + 1, 2 * MARGIN_PX + 1))
    wide = cv2.dilate(person.astype(np.float32), disc)
    soft = cv2.GaussianBlur(wide, (0, 0), SOFT_PX, borderType=cv2.BORDER_REPLICATE)
    return cv2.resize(soft, (128, 128), interpolation=cv2.INTER_AREA)


def tinted(images: UInt8[np.ndarray, "n h w 3"], rng: np.random.Generator) -> UInt8[np.ndarray, "n h w 3"]:
    """All pictures of a person in another light: a curve for each colour; some nearly grey."""
    ticks = np.linspace(0, 1, 256)[:, None]
    gamma, gain = np.exp(rng.normal(0, 0.15) + rng.normal(0, 0.04, 3)), np.exp(rng.normal(0, 0.06, 3))
    table = np.round(255 * np.clip(gain * ticks**gamma, 0, 1)).astype(np.uint8)
    out = np.stack([table[images[..., c], c] for c in range(3)], axis=-1)
    if rng.random() < 0.15:
        grey = out.mean(-1, keepdims=True)
        out = np.round(out + rng.uniform(0.4, 1) * (grey - out)).astype(np.uint8)
    return out


def collate(items: list[dict[str, Any]]) -> MotionBatch:
    images = np.concatenate([item["images"] for item in items])
    people, count = len(images), images.shape[1] - 1
    tensors = {
        name: torch.from_numpy(np.ascontiguousarray(np.concatenate([item[name] for item in items])))
        for name in ("person", "flat", "code", "flow", "shown", "inside", "eyes")
    }
    return MotionBatch(
        reference=to_float(images[:, 0]),
        frames=to_float(images[:, 1:].reshape(-1, *images.shape[2:])),
        owner=torch.arange(people).repeat_interleave(count),
        step=items[0]["step"],
        first_slot=items[0]["slot"],
        **tensors,
    )


class MotionData(StepData):
    """Pairs of `python -m data.motion`; `batch_size` counts them: twice as many people, `pictures` of each."""

    def __init__(
        self,
        *,
        shards: str,
        batch_size: int,
        pictures: int,
        num_workers: int,
        seed: int,
        device_batch: int | None = None,
    ) -> None:
        super().__init__(
            shards=shards, batch_size=batch_size, num_workers=num_workers, seed=seed, device_batch=device_batch
        )
        self.pictures = pictures

    def files(self, split: str) -> list[Path]:
        """The files of a split, one for each pair of pictures.

        Raises:
            FileNotFoundError: there is none.
        """
        return pair_files(Path(self.shards), split)

    def train_dataloader(self) -> DataLoader[Any]:
        files = self.files("train")
        return self.loader(MotionPairs(files, pictures=self.pictures, seed=self.seed), len(files), collate)
