"""Lip-sync without ground truth: a small network compares pixels of the mouth with sound.

It needs no phonemes and no renderer, so it judges real recordings too. Trained here, on generated data (`stage=sync`),
because no public weights can be had.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from gwm.condition.audio import frame_features
from gwm.config import AudioConfig
from gwm.media.pixels import to_float
from gwm.optional import MissingPackageError
from gwm.weights import load_weights, read_header

KIND = "sync"
COMMAND = "python train.py stage=sync shards=..."  # makes the weights
WINDOW_FRAMES = 5  # 0.2 s, as in Chung and Zisserman 2016
CROP_PX = 32
MAX_LAG = 15  # frames, also theirs
EMBEDDING = 64


@dataclass(frozen=True, slots=True)
class SyncScore:
    """Agreement of mouth and voice over a clip. Source: Chung and Zisserman 2016, "Out of time", Sec. 4.1."""

    confidence: float  # median distance over lags less the minimum: 0 is no relation (their Sync-C)
    distance: float  # the minimum over lags of the mean distance of embeddings of unit length, in [0, 2] (their Sync-D)
    lag_frames: int  # where that minimum is; > 0: the mouth comes after the voice


class SyncNet(nn.Module):
    """Embeddings of unit length of five frames of mouth and of the sound that was made in them."""

    def __init__(self, audio: AudioConfig) -> None:
        super().__init__()
        self.audio = audio
        self.mouth_layers = nn.Sequential(
            *_strided(3 * WINDOW_FRAMES, 32, nn.Conv2d),
            *_strided(32, 48, nn.Conv2d),
            *_strided(48, 64, nn.Conv2d),
            nn.Flatten(),
            nn.Linear(64 * (CROP_PX // 8) ** 2, EMBEDDING),
        )
        steps = -(-WINDOW_FRAMES * audio.hops_per_frame // 4)
        self.voice_layers = nn.Sequential(
            *_strided(audio.num_mels, 64, nn.Conv1d),
            *_strided(64, 64, nn.Conv1d),
            nn.Flatten(),
            nn.Linear(64 * steps, EMBEDDING),
        )

    def embed_mouths(self, mouths: Float[Tensor, "b w 3 h h"]) -> Float[Tensor, "b e"]:
        """Windows of mouth pixels in [-1, 1]; brightness and contrast of a window do not matter."""
        flat = mouths.flatten(1, 2)
        mean, std = flat.mean(dim=(1, 2, 3), keepdim=True), flat.std(dim=(1, 2, 3), keepdim=True)
        return F.normalize(self.mouth_layers((flat - mean) / (std + 0.05)), dim=1)

    def embed_voice(self, features: Float[Tensor, "b w k"]) -> Float[Tensor, "b e"]:
        """Windows of log-mel features."""
        mels = features.flatten(1).unflatten(1, (-1, self.audio.num_mels))
        return F.normalize(self.voice_layers(mels.transpose(1, 2)), dim=1)


def _strided(given: int, made: int, convolution: type[nn.Conv1d] | type[nn.Conv2d]) -> list[nn.Module]:
    return [convolution(given, made, 3, stride=2, padding=1), nn.SiLU()]


def load_sync_net(folder: Path) -> SyncNet:
    """The trained network.

    Raises:
        MissingPackageError: nobody has trained it; the message has the command.
        ValueError: the folder holds another kind of weights.
    """
    if not (folder / "config.json").is_file():
        raise MissingPackageError(f"weights {folder}", COMMAND)
    net = SyncNet(AudioConfig.from_json(read_header(folder, kind=KIND)["config"]))
    load_weights(folder, net)
    return net.eval().requires_grad_(False)


def windows(per_frame: Tensor) -> Tensor:
    """Every window of WINDOW_FRAMES neighbours of what is given per frame, the windows' axis second."""
    return per_frame.unfold(0, WINDOW_FRAMES, 1).movedim(-1, 1)


def voice_features(samples: Float[np.ndarray, " t"], num_frames: int, audio: AudioConfig) -> Float[Tensor, "f k"]:
    """Features of the frames that a recording accompanies, cut or continued with silence to their number."""
    wanted = num_frames * audio.frame_samples
    exact = torch.from_numpy(samples[:wanted].astype(np.float32))
    return frame_features(F.pad(exact, (0, wanted - len(exact)))[None], audio)[0]


@torch.no_grad()
def embeddings(
    net: SyncNet, mouths: UInt8[np.ndarray, "f h h 3"], samples: Float[np.ndarray, " t"]
) -> tuple[Float[Tensor, "w e"], Float[Tensor, "w e"]]:
    """Embeddings of every window of a clip: of its mouth and of its voice."""
    voice = voice_features(samples, len(mouths), net.audio)
    return net.embed_mouths(windows(to_float(mouths))), net.embed_voice(windows(voice))


def sync_score(
    net: SyncNet, mouths: UInt8[np.ndarray, "f h h 3"], samples: Float[np.ndarray, " t"], *, max_lag: int = MAX_LAG
) -> SyncScore:
    """Confidence, distance and lag of a clip.

    Raises:
        ValueError: the clip has too few frames for the largest lag.
    """
    minimum = max_lag + WINDOW_FRAMES + 2
    if len(mouths) < minimum:
        raise ValueError(
            f"{len(mouths)} frames must be at least {minimum}, for lags up to {max_lag}: use a longer clip."
        )
    mouth, voice = embeddings(net, mouths, samples)
    distances = {lag: lag_distance(mouth, voice, lag) for lag in sorted(range(-max_lag, max_lag + 1), key=abs)}
    best = min(distances, key=distances.__getitem__)
    return SyncScore(float(np.median(list(distances.values()))) - distances[best], distances[best], best)


def lag_distance(mouth: Float[Tensor, "w e"], voice: Float[Tensor, "w e"], lag: int) -> float:
    """Mean distance of a mouth to the voice `lag` frames before it."""
    late, early = mouth[max(0, lag) : len(mouth) + min(0, lag)], voice[max(0, -lag) : len(voice) - max(0, lag)]
    return float((late - early).norm(dim=1).mean())
