import pytest
import torch

from gwm.chunks import ChunkPattern
from gwm.condition.inputs import Conditions
from gwm.condition.spec import ConditionSpec
from gwm.config import DiTConfig
from tests.tiny import latents
from train.noise import (
    Corruption,
    chunk_sigmas,
    clip_sigmas,
    corrupt,
    dropped,
    gaussian_like,
    step_generator,
    without_some,
)

CPU = torch.device("cpu")
PATTERN = ChunkPattern(chunk_frames=3, window_chunks=3, sink_chunks=1, first_frames=1)


def draws(seed: int, step: int) -> list[torch.Tensor]:
    """One of each, in the order of a training step."""
    x0, generator = torch.zeros(2, 6, 4, 4, 4), step_generator(seed, step, CPU)
    return [
        chunk_sigmas(x0, PATTERN, shift=2.0, generator=generator),
        gaussian_like(x0, generator),
        corrupt(x0, Corruption(noise=0.3), generator),
        dropped(torch.zeros(100, 1, 1, 1, 1), 0.5, generator),
    ]


def test_a_step_draws_the_same_whatever_was_drawn_before():
    first = draws(3, 17)
    torch.randn(5)
    draws(3, 16)
    assert all(torch.equal(a, b) for a, b in zip(draws(3, 17), first, strict=True))


@pytest.mark.parametrize(("seed", "step"), [(3, 18), (4, 17)])
def test_another_step_or_seed_draws_otherwise(seed: int, step: int):
    assert all(not torch.equal(a, b) for a, b in zip(draws(seed, step), draws(3, 17), strict=True))


def test_a_chunk_has_one_level_and_chunks_have_different_ones():
    sigma = chunk_sigmas(latents(6), PATTERN, shift=2.0, generator=step_generator(0, 0, CPU))
    assert torch.equal(sigma[:, [0, 0, 0, 3, 3, 3]], sigma)
    assert len(sigma.unique()) == 4


def test_a_clip_has_one_level():
    sigma = clip_sigmas(latents(6), shift=2.0, generator=step_generator(0, 0, CPU))
    assert torch.equal(sigma[:, :1].expand(-1, 6), sigma)
    assert len(sigma.unique()) == 2


def test_levels_are_uniform_before_their_shift():
    """The median of a uniform level, 1/2, moves to shift / (1 + shift)."""
    x0 = torch.zeros(4000, 6, 1, 1, 1)
    for sigma in (
        clip_sigmas(x0, shift=3.0, generator=step_generator(0, 0, CPU)),
        chunk_sigmas(x0, PATTERN, shift=3.0, generator=step_generator(0, 0, CPU)),
    ):
        assert sigma.median().item() == pytest.approx(0.75, abs=0.02)
        assert 0 <= sigma.min() < 0.01 and 0.99 < sigma.max() <= 1


def test_history_is_corrupted_up_to_the_given_level_and_each_frame_by_its_own():
    noised = corrupt(torch.zeros(50, 6, 16, 8, 8), Corruption(noise=0.3), step_generator(0, 0, CPU))
    levels = noised.std(dim=(2, 3, 4))
    assert 0.27 < levels.max() < 0.32 and levels.min() < 0.02
    assert levels.mean().item() == pytest.approx(0.15, abs=0.02)
    history = latents(6)
    assert corrupt(history, Corruption(), step_generator(0, 0, CPU)) is history


def test_exposure_scales_frames_and_blur_evens_them():
    frames = torch.randn(20, 6, 4, 8, 8)
    scaled = corrupt(frames, Corruption(exposure=0.4), step_generator(0, 0, CPU))
    gain = (scaled / frames).mean(dim=(2, 3, 4))
    torch.testing.assert_close(scaled, gain[..., None, None, None] * frames)
    assert 0.6 <= gain.min() < 0.65 and 1.35 < gain.max() <= 1.4
    blur = Corruption(blur=1.0)
    evened = corrupt(frames, blur, step_generator(0, 0, CPU)).std(dim=(2, 3, 4)) / frames.std(dim=(2, 3, 4))
    assert evened.min() < 0.5 and 0.9 < evened.max() <= 1
    flat = torch.ones(1, 2, 3, 4, 4)
    torch.testing.assert_close(corrupt(flat, blur, step_generator(0, 0, CPU)), flat)


@pytest.mark.parametrize("chance", [0.0, 0.1, 1.0])
def test_as_many_samples_lose_the_condition_as_asked(chance: float):
    share = dropped(torch.zeros(4000, 1, 1, 1, 1), chance, step_generator(0, 0, CPU)).float().mean().item()
    assert share == pytest.approx(chance, abs=0.02)


def test_voice_and_text_are_dropped_apart_each_by_its_own_chance():
    count = 2000
    condition = Conditions(
        frame={"agent": torch.ones(count, 1, 1)},
        tokens={"text": torch.ones(count, 1, 1)},
        nothing={"text": torch.zeros(1, 1)},
    )
    agent = ConditionSpec(name="agent", rate="frame", width=1, drop_rate=0.1)
    text = ConditionSpec(name="text", rate="tokens", width=1, encoder="text", drop_rate=0.3)
    x0, config = torch.zeros(count, 1, 1, 1, 1), DiTConfig(conditions=(text, agent))
    some = without_some(condition, x0, config=config, generator=step_generator(0, 0, CPU))
    silent, untold = (some["agent"] == 0).flatten(), (some["text"] == 0).flatten()
    assert silent.float().mean().item() == pytest.approx(0.1, abs=0.02)
    assert untold.float().mean().item() == pytest.approx(0.3, abs=0.03)
    assert untold[silent].float().mean().item() == pytest.approx(0.3, abs=0.1)  # independent
