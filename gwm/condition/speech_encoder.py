"""Speech windows to features that say what the mouth does: one small network for both streams, frozen in the DiT."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

WIDTH = 96
FEATURES = 64
STRIDE = 4  # hops that become one step


class SpeechEncoder(nn.Module):
    """A log-mel window to features of mean 0 and mean square 1, and to its loudness over time.

    Trained on speech alone to classify the visemes of its frames (`stage=speech`). Speech costs a hundredth of what a
    rendered or encoded video costs, so a video model need not learn speech from the few voices of its clips.
    """

    def __init__(self, window_features: int, num_mels: int) -> None:
        """An encoder of windows of `window_features` numbers: hops x `num_mels`.

        Raises:
            ValueError: the window is no whole number of steps of `STRIDE` hops.
        """
        super().__init__()
        if window_features % (STRIDE * num_mels):
            raise ValueError(
                f"speech_dim={window_features} must be a multiple of {STRIDE} hops * speech_mels={num_mels}: "
                "frames * hops_per_frame * num_mels of the audio config."
            )
        self.num_mels, steps = num_mels, window_features // (STRIDE * num_mels)
        self.layers = nn.Sequential(
            nn.Conv1d(num_mels, WIDTH, 5, stride=2, padding=2),
            nn.SiLU(),
            nn.Conv1d(WIDTH, WIDTH, 3, stride=2, padding=1),
            nn.SiLU(),
            nn.Conv1d(WIDTH, WIDTH, 3, padding=1),
            nn.SiLU(),
            nn.Flatten(),
            nn.Linear(WIDTH * steps, 2 * WIDTH),
            nn.SiLU(),
            nn.Linear(2 * WIDTH, FEATURES),
        )
        self.features = FEATURES + steps

    def forward(self, window: Float[Tensor, "b f k"]) -> Float[Tensor, "b f e"]:
        mels = window.flatten(0, 1).unflatten(1, (-1, self.num_mels)).transpose(1, 2)
        features = F.layer_norm(self.layers(mels), (FEATURES,))
        loudness = F.avg_pool1d(mels.mean(dim=1), STRIDE)
        return torch.cat([features, loudness], dim=1).unflatten(0, window.shape[:2])
