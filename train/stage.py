"""What all stages share that train a DiT: its optimizer, its weights, and its own version of held-out clips."""

from typing import Any

import lightning as L
from torch import nn

from data.batch import LatentBatch, LatentData, latent_data
from data.shards import Clip
from gwm.contract import Contract
from gwm.dit import DiT
from gwm.weights import WeightsHeader
from train.learner import Learner
from train.networks import dit_header
from train.noise import with_drawn_keyframes
from train.played import Played, play_clips


class DiTStage(L.LightningModule):
    """A network under training and the contract under which it will be served; a stage adds its loss."""

    contract: Contract
    network: Learner[DiT]
    seed: int

    @property
    def takes_sound(self) -> bool:
        return self.contract.takes_sound

    @property
    def takes_actions(self) -> bool:
        return bool(self.contract.controls)

    def on_fit_start(self) -> None:
        self.contract.dit.check_declared(latent_data(self).declared)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        if isinstance(batch, LatentBatch):  # else pairs of noise and clip, whose conditions the teacher had
            batch.conditions = with_drawn_keyframes(batch, config=self.contract.dit, seed=self.seed).conditions

    @property
    def sample_tokens(self) -> int:
        """Tokens of a training clip, besides those of its reference image."""
        height, width = self.contract.latent_grid
        return latent_data(self).num_frames * height * width // self.contract.dit.patch**2

    def configure_optimizers(self) -> Any:  # Lightning's own union of a dozen types
        return self.network.optimizers()

    def weights(self) -> tuple[nn.Module, WeightsHeader]:
        return self.network.ema_model, dit_header(self.contract)

    def decode(
        self, model: DiT, clips: list[Clip], data: LatentData, *, batch_size: int, swap_voices: bool = False
    ) -> Played:
        return play_clips(
            model,
            self.contract,
            data.vae,
            clips,
            batch_size=batch_size,
            seed=self.seed,
            text=data.text,
            image=data.image,
            swap_voices=swap_voices,
        )
