"""Which action was taken, read from pictures: a network that is trained on the recorded world alone."""

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn
from tqdm import tqdm

from data.shards import Clip, decode_sample, read_samples
from gwm.condition.spec import Control
from gwm.files.json_text import JsonConfig
from gwm.weights import WeightsHeader, load_weights, read_header, save_weights

log = logging.getLogger(__name__)

KIND = "inverse dynamics"
AROUND = (-2, -1, 0, 1)  # frames from which the action is read that leads to frame 0
SIDE = 64  # px to which larger pictures are reduced
PARTS = 3  # of the range of a number that is no key: low, middle, high
MIN_FRAMES = 5  # of a class in an episode, below which its recall says nothing


@dataclass(frozen=True, kw_only=True, slots=True)
class InverseConfig(JsonConfig):
    names: tuple[str, ...]
    classes: tuple[int, ...]  # of each number: 2 of a key, PARTS of others

    @classmethod
    def of(cls, controls: Sequence[Control]) -> "InverseConfig":
        counts = tuple(2 if control.kind == "discrete" else PARTS for control in controls)
        return cls(names=tuple(control.name for control in controls), classes=counts)


def classes_of(actions: Float[np.ndarray, "f k"], controls: Sequence[Control]) -> Int[np.ndarray, "f k"]:
    """The class of every number: pressed or not; else the third of its limits in which it lies."""
    columns = []
    for column, control in zip(actions.T, controls, strict=True):
        if control.kind == "discrete":
            columns.append((column > 0.5).astype(np.int64))
        else:
            share = (column - control.minimum) / (control.maximum - control.minimum)
            columns.append((share * PARTS).astype(np.int64).clip(0, PARTS - 1))
    return np.stack(columns, axis=1)


class InverseDynamics(nn.Module):
    """Four neighbouring frames to the class of each number of the action of the third."""

    def __init__(self, config: InverseConfig) -> None:
        super().__init__()
        self.config = config
        widths = (3 * len(AROUND), 32, 64, 96, 96)
        layers = [
            layer
            for before, after in pairwise(widths)
            for layer in (nn.Conv2d(before, after, 3, stride=2, padding=1), nn.GroupNorm(8, after), nn.ReLU())
        ]
        self.layers = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(16 * 96, 128), nn.ReLU())
        self.head = nn.Linear(128, sum(config.classes))

    def forward(self, frames: UInt8[Tensor, "b 4 h w 3"]) -> tuple[Float[Tensor, "b _"], ...]:
        """Logits of each number's classes."""
        x = frames.permute(0, 1, 4, 2, 3).flatten(1, 2).float() / 127.5 - 1
        if min(x.shape[2:]) > SIDE:
            x = F.interpolate(x, (SIDE, SIDE), mode="area")
        return self.head(self.layers(x)).split(self.config.classes, dim=1)

    @torch.no_grad()
    def read(
        self, reference: UInt8[np.ndarray, "h w 3"], frames: UInt8[np.ndarray, "f h w 3"]
    ) -> Int[np.ndarray, "g k"]:
        """Classes of the actions of all frames but those of `edges`, at both ends, that have too few neighbours."""
        shown = torch.from_numpy(np.concatenate([reference[None], frames]))
        numbers = np.arange(len(frames))[edges(len(frames))] + 1
        found = []
        for part in np.array_split(numbers, max(1, len(numbers) // 128)):
            logits = self(torch.stack([shown[part + shift] for shift in AROUND], dim=1))
            found.append(torch.stack([one.argmax(1) for one in logits], dim=1))
        return torch.cat(found).numpy()


def edges(num_frames: int) -> slice:
    """The frames whose neighbours are all there; the picture before the first is."""
    return slice(-AROUND[0] - 1, num_frames - AROUND[-1])


def recall(found: Int[np.ndarray, "f k"], truth: Int[np.ndarray, "f k"], counts: Sequence[int]) -> list[float]:
    """Of each number, the mean over its classes of the share that is recognised: chance is one over the classes,
    however rare a key is. NaN of a number of which less than two classes occur."""
    rows = []
    for column, true, count in zip(found.T, truth.T, counts, strict=True):
        there = [true == kind for kind in range(count) if (true == kind).sum() >= MIN_FRAMES]
        shares = [float((column[at] == true[at]).mean()) for at in there]
        rows.append(float(np.mean(shares)) if len(shares) > 1 else float("nan"))
    return rows


def trained(
    folder: Path, shards: Path, controls: Sequence[Control], *, clips: int, steps: int, seed: int
) -> tuple[InverseDynamics, dict[str, Any]]:
    """The network and what it reaches on clips of the test split; kept in `folder`, where it is looked for first.

    Raises:
        ValueError: the shards have no clips to train on.
    """
    net = begun(controls, seed=seed)
    if (folder / "config.json").is_file():
        header = read_header(folder, kind=KIND)
        load_weights(folder, net)
        return net.eval(), dict(header.gate)
    chosen = [clip for clip, _ in zip(_clips(shards, "train"), range(clips))]
    _fit(net, chosen, controls, steps=steps, seed=seed)
    gate = _gate(net, [clip for clip, _ in zip(_clips(shards, "test"), range(64))], controls)
    save_weights(folder, net.state_dict(), WeightsHeader(kind=KIND, config=asdict(net.config), gate=gate))
    log.info("inverse dynamics on held-out frames: %.3f, chance %.3f", gate["accuracy"], gate["chance"])
    return net, gate


def begun(controls: Sequence[Control], *, seed: int) -> InverseDynamics:
    """An untrained network, whose weights the seed decides."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return InverseDynamics(InverseConfig.of(controls))


def _clips(shards: Path, split: str) -> Any:
    return (decode_sample(sample) for sample in read_samples(shards, split))


def _fit(net: InverseDynamics, clips: Sequence[Clip], controls: Sequence[Control], *, steps: int, seed: int) -> None:
    """Cross-entropy, each class weighted by its rarity; AdamW with a cosine."""
    if not clips:
        raise ValueError("the train split must hold clips: inverse dynamics is learned from them. Record more.")
    shown = torch.from_numpy(np.stack([np.concatenate([clip.reference[None], clip.frames]) for clip in clips]))
    truth = torch.from_numpy(np.stack([classes_of(clip.signals["action"], controls) for clip in clips]))
    weights = [
        1 / torch.bincount(truth[..., k].flatten(), minlength=count).clamp(min=1).float()
        for k, count in enumerate(net.config.classes)
    ]
    weights = [weight / weight.sum() * len(weight) for weight in weights]
    rng, own = np.random.default_rng(seed), edges(truth.shape[1])
    optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in tqdm(range(steps), desc="inverse dynamics", unit="step"):
        rows = torch.from_numpy(rng.integers(len(clips), size=64))
        frames = torch.from_numpy(rng.integers(own.start, own.stop, size=64))
        logits = net(torch.stack([shown[rows, frames + 1 + shift] for shift in AROUND], dim=1))
        wanted = truth[rows, frames]
        losses = [F.cross_entropy(one, wanted[:, k], weight=weights[k]) for k, one in enumerate(logits)]
        optimizer.zero_grad(set_to_none=True)
        torch.stack(losses).mean().backward()
        optimizer.step()
        schedule.step()
    net.eval().requires_grad_(False)


def _gate(net: InverseDynamics, clips: Sequence[Clip], controls: Sequence[Control]) -> dict[str, Any]:
    found = np.concatenate([net.read(clip.reference, clip.frames) for clip in clips])
    truth = np.concatenate([classes_of(clip.signals["action"], controls)[edges(len(clip.frames))] for clip in clips])
    rows = recall(found, truth, net.config.classes)
    chance = float(np.mean([1 / count for count in net.config.classes]))
    by_name = dict(zip(net.config.names, rows, strict=True))
    return {"accuracy": float(np.nanmean(rows)), "chance": chance, "by_name": by_name, "clips": len(clips)}
