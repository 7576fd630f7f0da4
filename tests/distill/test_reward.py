"""Rewards weigh every sample by its own clip, whatever its place in the batch."""

import dataclasses
import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from distill import reward as rewarding
from distill.reward import LipSyncReward, reward_weights, synchrony
from distill.windows import Window
from gwm.condition.audio import chunk_windows, frame_features, own_features
from gwm.config import AudioConfig
from gwm.contract import Contract
from gwm.media.pixels import as_bytes
from gwm.metrics.sync_net import MAX_LAG
from tests.distill.test_dmd_stage import diary
from tests.serve.test_motion_artifact import motion_contract
from tests.tiny import AUDIO, DIT, GRID, contract, latents, speech
from tests.train.test_resume import LatentsInMemory, weights

ROUND = 1e-5
NAN = float("nan")


def test_weights_are_exponentials_of_mean_one():
    rewards = torch.tensor([0.0, math.log(3.0)])
    torch.testing.assert_close(reward_weights(rewards, rewards, 1.0), torch.tensor([0.5, 1.5]), rtol=ROUND, atol=ROUND)
    # beta 2: 1 and 9, of mean 5
    torch.testing.assert_close(reward_weights(rewards, rewards, 2.0), torch.tensor([0.2, 1.8]), rtol=ROUND, atol=ROUND)


def test_the_mean_is_that_of_all_devices():
    mine, everyones = torch.tensor([0.0]), torch.tensor([0.0, math.log(3.0)])
    assert reward_weights(mine, everyones, 1.0).item() == pytest.approx(0.5)


def test_what_cannot_be_judged_weighs_one_and_leaves_the_others_alone():
    rewards = torch.tensor([0.0, NAN, math.log(3.0)])
    torch.testing.assert_close(reward_weights(rewards, rewards, 1.0), torch.tensor([0.5, 1.0, 1.5]))
    assert reward_weights(rewards[1:2], rewards[1:2], 1.0).item() == 1


def test_large_rewards_do_not_overflow():
    rewards = torch.tensor([0.0, 300.0])
    assert reward_weights(rewards, rewards, 5.0).tolist() == [0.0, pytest.approx(2.0, rel=1e-3)]


class Brightness:
    """The reward of a clip is its mean."""

    beta = 1.0

    def __call__(self, window: Window, contract: Contract, vae: Any) -> Tensor:
        return window.x0.mean(dim=(1, 2, 3, 4))

    def check(self, contract: Contract, batch_size: int) -> None: ...


def test_every_sample_of_the_students_step_has_its_own_weight(tmp_path):
    """Trap 20. Two clips of different reward, then the same two in the other order, on one device and on two."""
    stage = diary(weights(tmp_path), reward=Brightness())
    data = LatentsInMemory(shards=".", batch_size=2, num_workers=0, seed=0)
    data.vae = None  # type: ignore[assignment]  # this reward needs no pixels
    others: list[Tensor] = []
    gather = SimpleNamespace(all_gather=lambda x, **_: torch.stack([x, *others]) if others else x)
    stage._trainer = SimpleNamespace(datamodule=data, strategy=gather)  # type: ignore[assignment]
    clip, direction = torch.zeros(2, 3, 4, *GRID), torch.randn(2, 3, 4, *GRID)
    clip[1] += math.log(3.0)

    def weighted(order: list[int]) -> Tensor:
        stage.health = {}
        return stage._weighted(direction, Window(clip[order], latents(1), speech(3), 1.0)) / direction

    for order, expected in (([0, 1], [0.5, 1.5]), ([1, 0], [1.5, 0.5])):
        made = weighted(order)
        for sample, weight in enumerate(expected):
            torch.testing.assert_close(made[sample], torch.full_like(made[sample], weight), rtol=1e-4, atol=1e-4)
    others.append(torch.tensor([math.log(5.0), 0.0]))  # 1, 3 here and 5, 1 there: mean 2.5
    made = weighted([0, 1])
    assert made.mean(dim=(1, 2, 3, 4)).tolist() == [pytest.approx(0.4, rel=1e-3), pytest.approx(1.2, rel=1e-3)]


def test_a_frames_own_features_come_back_out_of_its_window():
    audio = AudioConfig(num_mels=3, hops_per_frame=2, left_frames=5, lookahead_frames=3)
    features = frame_features(torch.randn(2, 20_000), audio)
    windows = chunk_windows(features, audio, temporal_stride=4)
    made = own_features(windows, audio, temporal_stride=4)
    assert torch.equal(made, features[:, 5 : 5 + made.shape[1]])


class Pixels:
    """An autoencoder whose pictures are as bright as the latents, four frames of them."""

    device, dtype = torch.device("cpu"), torch.float32

    def from_latent(self, latent: Tensor) -> None: ...

    def begin(self, reference: None) -> None: ...

    def decode(self, x0: Tensor, memory: None) -> tuple[Tensor, None]:
        frames = x0.mean(dim=(2, 3, 4)).repeat_interleave(4, dim=1)
        return as_bytes(frames[:, :, None, None, None].expand(-1, -1, 3, 8, 8)), None


@pytest.mark.usefixtures("unchecked")
def test_each_clip_is_judged_with_its_own_voice_and_only_at_its_end(monkeypatch):
    """The judge is a stand-in that says which picture and which voice it was given, and how much of them."""
    made = LipSyncReward.__new__(LipSyncReward)
    made.num_frames, heard = 2, []
    monkeypatch.setattr(made, "judge", lambda frames, voice: heard.append((frames, voice)) or float(frames.mean()))
    x0 = torch.zeros(2, 3, 4, 4, 4)
    x0[1, 1:] = 0.5
    condition = speech(3)
    found = made(Window(x0, latents(1), condition, 1.0), contract(3), Pixels())
    assert found.tolist() == [pytest.approx(127.5, abs=1), pytest.approx(191, abs=1)]
    audio = contract(3).audio
    voices = own_features(condition["agent"], audio, temporal_stride=4)
    for sample, (frames, voice) in enumerate(heard):
        assert len(frames) == len(voice) == 8
        assert torch.equal(voice, voices[sample, 4:])


class Equal:
    """Both embeddings are the given ones."""

    def embed_mouths(self, windows: Tensor) -> Tensor:
        return windows[:, 0]

    embed_voice = embed_mouths


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(("late", "good"), [(0, True), (3, False)])
def test_a_mouth_that_is_late_gets_nothing(monkeypatch, late: int, good: bool):
    embeddings = torch.nn.functional.normalize(torch.randn(24, 16), dim=1)
    monkeypatch.setattr(rewarding, "mouth_crops", lambda *_: None)
    monkeypatch.setattr(rewarding, "to_float", lambda _: embeddings.roll(late, dims=0))
    found = synchrony(Equal(), None, None, embeddings)  # type: ignore[arg-type]
    assert (found > 0.5) is good and MAX_LAG > 3


@pytest.mark.parametrize(
    ("batch_size", "num_frames", "changes", "message"),
    [
        (1, 6, {}, "batch_size=1 must be >= 2"),
        (2, 3, {}, "reward.num_frames=3 are 12 pixel frames, must be >= 15"),
        (2, 6, {"num_mels": AUDIO.num_mels + 1}, "must have the hops and mels"),
    ],
)
def test_what_cannot_be_weighed_is_refused_at_the_start(
    batch_size: int, num_frames: int, changes: dict[str, int], message: str
):
    made = LipSyncReward.__new__(LipSyncReward)
    made.num_frames, made.net = num_frames, SimpleNamespace(audio=dataclasses.replace(AUDIO, **changes))
    with pytest.raises(ValueError, match=message):
        made.check(contract(), batch_size)


def test_a_model_without_a_voice_has_no_lip_sync():
    made, silent = LipSyncReward.__new__(LipSyncReward), dataclasses.replace(DIT, conditions=())
    with pytest.raises(ValueError, match=r"stage\.reward must be null for a model that takes no sound"):
        made.check(contract(dit=silent), 2)


def test_a_decoder_that_needs_the_reference_image_is_refused_before_training():
    made, motion = LipSyncReward.__new__(LipSyncReward), motion_contract()
    with pytest.raises(ValueError, match=r"stage\.reward must be null with family=motion"):
        made.check(motion, 2)
