"""Held-out clips as a stage would play them: the server's stream under the conditions of a batch of clips."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from data.batch import LatentBatch, latent_batch
from data.encoding import ImageEncoder, TextEncoder, encode_clip
from data.latents import with_windows
from data.shards import Clip
from gwm.autoencoders.protocol import Autoencoder
from gwm.condition.keyframes import with_keyframes
from gwm.contract import Contract
from gwm.dit import DiT
from gwm.media.pixels import to_tensor
from gwm.rollout import Rollout
from gwm.transfer import to_host

Played = tuple[list[UInt8[np.ndarray, "f h w 3"]], list[int]]  # pixels of clips, and the clips' frames they begin at


def clip_batch(
    clips: Sequence[Clip],
    vae: Autoencoder,
    contract: Contract,
    text: TextEncoder | None = None,
    image: ImageEncoder | None = None,
) -> tuple[LatentBatch, int]:
    """Latents and conditions of whole clips, and the pixel frame at which they begin."""
    encoded = []
    for clip in clips:
        arrays = encode_clip(clip, vae, contract.audio, encoder=image, actions=contract.dit.names("action"))
        if text is not None:
            arrays["tokens.text"] = text(clip.info.get("caption") or "")
        encoded.append(with_windows(arrays, contract.audio) | {"step": 0, "slot": 0})
    stride = contract.vae.temporal_stride
    return latent_batch(encoded), -(-contract.audio.left_frames // stride) * stride


@torch.no_grad()
def stream(
    model: DiT, contract: Contract, batch: LatentBatch, *, num_frames: int, seed: int
) -> Float[Tensor, "b f c h w"]:
    """As many whole chunks as fit into `num_frames` latent frames, each generated from the past alone, without
    keyframes unless the batch has some."""
    condition, known = batch.condition, contract.dit.keyframes
    if known is not None and known.name not in condition.channels:
        condition = with_keyframes(condition, contract.dit, batch.x0)
    rollout = Rollout(model, contract, batch_size=len(batch.x0))
    rollout.start(batch.reference, condition, seed=seed)
    size = contract.pattern.chunk_frames
    chunks = [
        rollout.step(condition.frames(slice(start, start + size))) for start in range(0, num_frames - size + 1, size)
    ]
    return torch.cat(chunks, dim=1)


@torch.no_grad()
def play_clips(
    model: DiT,
    contract: Contract,
    vae: Autoencoder,
    clips: Sequence[Clip],
    *,
    batch_size: int,
    seed: int,
    text: TextEncoder | None = None,
    image: ImageEncoder | None = None,
    swap_voices: bool = False,
) -> Played:
    """Pixels of every clip as the model plays it, and where in the clip they begin.

    swap_voices: every clip is given another clip's voice, or, where there is no sound, actions; what is left then of
    lip-sync, or of a likeness to the clip, does not come from them.
    """
    frames, starts = [], []
    for at in range(0, len(clips), batch_size):
        batch, start = clip_batch(clips[at : at + batch_size], vae, contract, text, image)
        if swap_voices:
            swapped = ["agent"] if contract.takes_sound else [spec.name for spec in contract.dit.of_rate("frame")]
            for name in (f"frame.{name}" for name in swapped):
                batch.conditions[name] = batch.conditions[name].roll(1, dims=0)
        latents = stream(model, contract, batch, num_frames=batch.x0.shape[1], seed=seed)
        images = torch.stack([to_tensor(clip.reference) for clip in clips[at : at + batch_size]])
        pixel_frames, _ = vae.decode(latents, vae.begin(vae.encode_reference(images)))
        frames += list(to_host(pixel_frames).numpy())
        starts += [start] * len(latents)
    return frames, starts
