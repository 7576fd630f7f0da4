"""Learn to read reward, end and state of a recorded world from its latents; minutes on a CPU.

python -m train.outcome artifact=runs/maze/artifact shards=shards/maze
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from omegaconf import DictConfig
from torch import Tensor
from tqdm import tqdm

from configs.command.main import command
from data.manifest import read_manifest
from data.shards import Clip, decode_sample, read_samples
from gwm.autoencoders.families import load_autoencoder
from gwm.autoencoders.protocol import Autoencoder
from gwm.files.folder_kind import folder_kind
from gwm.media.pixels import to_tensor
from gwm.metrics.statistics import auc
from gwm.outcome import FOLDER, KIND, OutcomeConfig, OutcomeHead
from gwm.weights import WeightsHeader, save_weights

log = logging.getLogger(__name__)

REWARD, ENDED, STATE = "reward", "ended", "state"  # signals of recorded clips
NOISE = 0.1  # of latents, whose mean square is 1: generated ones are never exact


@dataclass(frozen=True)
class Outcomes:
    """Of every latent frame of some clips."""

    latents: Float[Tensor, "n f c h w"]  # those that the head sees for each
    reward: Float[Tensor, " n"]
    ended: Float[Tensor, " n"]
    state: Float[Tensor, "n s"]


@torch.no_grad()
def outcomes(clips: Sequence[Clip], vae: Autoencoder, frames: int) -> Outcomes:
    """Encode clips; before a clip's first frame its reference image is seen."""
    stride = vae.config.temporal_stride
    parts: list[tuple[Tensor, ...]] = []
    for clip in tqdm(clips, desc="encode", unit="clip"):
        reference = vae.encode_reference(to_tensor(clip.reference)[None])
        latents = vae.encode(to_tensor(clip.frames)[None], reference)[0]
        padded = torch.cat([reference.latent[0].expand(frames - 1, -1, -1, -1), latents])
        signals = {name: np.asarray(values, np.float32) for name, values in clip.signals.items()}
        packs = {name: values.reshape(len(latents), stride, -1) for name, values in signals.items()}
        ended = packs[ENDED].max((1, 2)) if ENDED in packs else np.zeros(len(latents), np.float32)
        state = packs[STATE][:, -1] if STATE in packs else np.zeros((len(latents), 0), np.float32)
        rows = (packs[REWARD].sum((1, 2)), ended, state)
        parts.append((padded.unfold(0, frames, 1).movedim(-1, 1).cpu(), *map(torch.from_numpy, rows)))
    return Outcomes(*(torch.cat(part) for part in zip(*parts, strict=True)))


def fit(head: OutcomeHead, data: Outcomes, *, steps: int, batch_size: int, seed: int) -> None:
    """Squared error of reward and state, cross-entropy of the end. Rewards and ends are rare: half of a batch has one
    where there are any."""
    rng = np.random.default_rng(seed)
    rare = np.flatnonzero(((data.reward != 0) | (data.ended != 0)).numpy())
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(head.parameters(), lr=1e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    scale = data.reward.std().clamp(min=1e-6)
    state = (data.state - head.state_mean) / head.state_std
    share = min(0.5, 10 * len(rare) / len(data.reward))
    for _ in tqdm(range(steps), desc="outcome", unit="step"):
        rows = rng.integers(len(data.reward), size=batch_size)
        weights = torch.ones(batch_size)
        if len(rare):  # drawn more often, and weighted less: the expectation stays that of the data
            drawn = rng.random(batch_size) < share
            rows[drawn] = rng.choice(rare, drawn.sum())
            often = share * len(data.reward) / len(rare) / (1 - share) + 1
            weights = torch.from_numpy(np.where(np.isin(rows, rare), 1 / often, 1.0)).float()
        latents = data.latents[rows]
        latents = latents + NOISE * torch.randn(latents.shape, generator=generator)
        reward, ended, place = head.raw(latents)
        losses = (reward - data.reward[rows]).square() / scale**2
        losses = losses + F.binary_cross_entropy_with_logits(ended, data.ended[rows], reduction="none")
        if place.shape[1]:
            losses = losses + (place - state[rows]).square().mean(1)
        optimizer.zero_grad(set_to_none=True)
        ((weights * losses).sum() / weights.sum()).backward()
        optimizer.step()
        schedule.step()


@torch.no_grad()
def judge(head: OutcomeHead, data: Outcomes) -> dict[str, Any]:
    """On other clips: how well rewards are separated from none (AUC; 0.5 is chance), their correlation, the mean
    reward in units of the true one, and the share of each number of the state that is explained."""
    parts = [head(part) for part in data.latents.split(256)]
    reward = torch.cat([part.reward for part in parts]).numpy()
    ended = torch.cat([part.ended for part in parts]).numpy()
    true, end = data.reward.numpy(), data.ended.numpy()
    found: dict[str, Any] = {"latent_frames": len(true), "rewarded": int((true != 0).sum()), "ends": int(end.sum())}
    if 0 < found["rewarded"] < len(true):
        found["reward_auc"] = auc(reward[true > 0], reward[true <= 0]) if (true > 0).any() else None
        found["reward_correlation"] = float(np.corrcoef(reward, true)[0, 1])
        found["reward_of_true"] = float(reward.mean() / true.mean())
    if head.config.learned_end and 0 < found["ends"] < len(end):
        found["end_auc"] = auc(ended[end > 0], ended[end == 0])
    if data.state.shape[1]:
        state = torch.cat([part.state for part in parts])
        left = (state - data.state).square().mean(0) / data.state.var(0).clamp(min=1e-12)
        found["state_explained"] = (1 - left).tolist()
    return found


def train_outcome(
    artifact: Path, shards: Path, out: Path, *, clips: int, steps: int, batch_size: int, seed: int
) -> dict[str, Any]:
    """Write the head's weights, with what it reaches on clips of the test split.

    Raises:
        ValueError: the shards have no rewards, pictures of another size, or no clips to train on.
        FileNotFoundError: there is no artifact or there are no shards.
    """
    if not (artifact / "manifest.json").is_file():
        kind = folder_kind(artifact)
        raise FileNotFoundError(f"artifact={artifact} must be a folder that stage=export wrote, but {kind}.")
    torch.manual_seed(seed)
    vae = load_autoencoder(artifact)
    splits = {split: _clips(shards, split, limit) for split, limit in (("train", clips), ("test", clips))}
    for split, found in splits.items():
        if not found:
            raise ValueError(f"shards={shards} must have clips of the split {split}. Record some with {split}=64.")
        if REWARD not in found[0].signals:
            raise ValueError(f"shards={shards} must have rewards ({REWARD}.npy): those that data.worlds records have.")
    frames = OutcomeConfig(latent_channels=1).frames
    train, test = (outcomes(found, vae, frames) for found in splits.values())
    config = OutcomeConfig(
        latent_channels=vae.config.latent_channels, state=train.state.shape[1], learned_end=bool(train.ended.any())
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = OutcomeHead(config)
    if config.state:
        head.state_mean.copy_(train.state.mean(0))
        head.state_std.copy_(train.state.std(0).clamp(min=1e-6))
    fit(head, train, steps=steps, batch_size=batch_size, seed=seed)
    gate = judge(head.eval(), test)
    save_weights(out, head.state_dict(), WeightsHeader(kind=KIND, config=config.to_json(), gate=gate))
    return gate


def _clips(shards: Path, split: str, limit: int) -> list[Clip]:
    if split not in read_manifest(shards).splits:
        return []
    return [decode_sample(sample) for sample, _ in zip(read_samples(shards, split), range(limit))]


@command("outcome", verbatim=("artifact", "shards", "out"))
def main(cfg: DictConfig) -> None:
    artifact, shards = Path(cfg.artifact), Path(cfg.shards)
    out = artifact / FOLDER if cfg.out is None else Path(cfg.out)
    gate = train_outcome(
        artifact, shards, out, clips=cfg.clips, steps=cfg.steps, batch_size=cfg.batch_size, seed=cfg.seed
    )
    log.info("%s: on other clips %s", out, " ".join(f"{name}={_short(value)}" for name, value in gate.items()))
    if not gate["ends"]:
        log.warning("no clip shows the end of an episode, so none is ever seen: record some with data.worlds ends=0.2")


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(np.round(value, 2) if isinstance(value, list) else value)


if __name__ == "__main__":
    main()
