"""The toy's answer is known, so it must be right itself: chain, teacher and measures against sampling."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from distill.dmd import DMDRules, score
from distill.toy.__main__ import Toy, Variant, measured_before
from distill.toy.chain import Chain, ChainCritic, ChainStudent, ExactTeacher, measures, toy_contract
from distill.toy.toy_stages import Recipe, learner, sampled, teacher_forced
from gwm.clip import NoisedClip, teacher_forced_velocity
from gwm.condition.inputs import Conditions
from gwm.guidance import Guidance
from gwm.schedule import add_noise

CHAIN = Chain(num_frames=3, flip=0.2, spread=0.2)
CONTRACT = toy_contract(CHAIN, sigmas=(1.0, 0.5), context="clean")
NOTHING = Conditions()


def drawn(count: int, seed: int = 0) -> Tensor:
    return CHAIN.clips(count, torch.Generator().manual_seed(seed))


def test_paths_and_their_chances_are_those_of_the_clips():
    chances = CHAIN.path_chances()
    assert chances.sum().item() == pytest.approx(1)
    found = measures(CHAIN, drawn(200_000))
    assert found["path_tv"] < 0.01 and found["emission_tv"] < 0.01
    assert found["flips"] == pytest.approx(CHAIN.flip, abs=0.005)
    assert found["spread"] == pytest.approx(CHAIN.spread, abs=0.005)


def test_measures_tell_wrong_clips_from_right_ones():
    """Clips that never flip miss all the chance of paths with a flip; clips without spread are all in two bins."""
    still = drawn(50_000)[:, :1].sign().expand(-1, 4, -1, -1, -1).clone()
    found = measures(CHAIN, still)
    assert found["path_tv"] == pytest.approx(1 - 0.8**3, abs=0.01)
    assert (found["flips"], found["spread"]) == (0, 0)
    assert found["emission_tv"] > 0.8


def test_teacher_is_the_mean_of_clips_that_could_have_been_noised_to_this():
    """Importance sampling over clips of the chain, with the first frame given without noise."""
    sigma, seen = torch.tensor(0.6), drawn(1, seed=5)
    x = add_noise(seen, torch.randn(seen.shape), torch.tensor([[0.0, *[sigma] * 3]]))
    teacher = ExactTeacher(CHAIN, CONTRACT.dit)
    velocity = score(teacher, NoisedClip(x[:, 1:], sigma.expand(1, 3), x[:, :1], NOTHING))
    found = (x[:, 1:] - sigma * velocity).flatten()
    clips = drawn(400_000, seed=1).flatten(1)
    observed = x.flatten()
    # p(x | clip); the given first frame weighs clips by how likely its value is under their first state.
    first = -0.5 * ((observed[0] - clips[:, 0].sign()) / CHAIN.spread).square()
    later = -0.5 * ((observed[1:] - (1 - sigma) * clips[:, 1:]) / sigma).square().sum(1)
    expected = (first + later).softmax(0) @ clips[:, 1:]
    torch.testing.assert_close(found, expected, rtol=0, atol=0.02)


def test_the_critic_begins_as_the_teacher():
    teacher = ExactTeacher(CHAIN, CONTRACT.dit)
    critic, clip, sigma = ChainCritic(teacher, num_frames=3), drawn(8), torch.full((8, 3), 0.4)
    noised = NoisedClip(clip[:, 1:], sigma, clip[:, :1], NOTHING)
    made, expected = (score(model, noised) for model in (critic, teacher))
    assert torch.equal(made, expected)


@torch.no_grad()
def test_the_student_sees_the_two_frames_before_and_no_other():
    """One directly, and one more through what the first had understood of it."""
    model = ChainStudent(CONTRACT.dit)
    clip, noised, sigma = drawn(4), torch.randn(4, 3, 1, 1, 1), torch.full((4, 3), 0.5)

    def velocity(clip: Tensor, noised: Tensor) -> Tensor:
        given = NoisedClip(noised, sigma, clip[:, :1], NOTHING)
        return teacher_forced_velocity(model, given, CONTRACT.pattern, history=clip[:, 1:]).flatten(1)

    before = velocity(clip, noised)
    for frame in range(4):
        changed = clip.clone()
        changed[:, frame] += 1
        moved = (velocity(changed, noised) != before).any(0)
        assert moved.tolist() == [frame <= number <= frame + 1 for number in range(3)]  # frame 0 is the reference
    changed = noised.clone()
    changed[:, 1] += 1
    assert (velocity(clip, changed) != before).any(0).tolist() == [False, True, False]


def test_a_discriminator_changes_what_the_student_learns_and_none_leaves_it_as_it_was():
    """Two student updates: the head starts at zero, so that only from the second on it pulls."""
    torch.manual_seed(0)
    init = ChainStudent(CONTRACT.dit)
    toy = Toy.__new__(Toy)
    toy.chain = CHAIN
    how = {"normaliser": "sample", "normaliser_floor": 1e-2, "shift": 1.0, "sigma_range": (0.1, 0.9)}
    recipe = Recipe(
        exit="last", gradient="detach", critic_per_student=2, steps=4, batch_size=8, student_rate=1e-3,
        critic_rate=1e-3, ema_decay=0.5, clip_norm=10.0, gan_weight=0.0, head_rate=1e-2, seed=0,
    )  # fmt: skip

    rules = DMDRules(**how, guidance=Guidance())

    def distilled(weight: float) -> Tensor:
        made = toy.distil(Variant(init, rules, replace(recipe, gan_weight=weight), "clean", (1.0, 0.5)))
        return torch.nn.utils.parameters_to_vector(made.parameters())

    none, some = distilled(0.0), distilled(1.0)
    assert torch.equal(none, distilled(0.0)) and not torch.equal(none, some)
    assert (none - some).abs().max() < 1e-2  # a pull, not another student


def test_rows_are_kept_only_where_the_rows_before_them_are_equal_to_the_last_digit(tmp_path: Path):
    """Else they are another machine's, or another recipe's."""
    table = tmp_path / "toy.json"
    rows = {"data": {"flips": 0.1}, "DMD, 4 steps": {"flips": 0.2}}
    assert measured_before(table, rows) == {}
    kept = rows | {"gradient replay": {"flips": 0.3}}
    table.write_text(json.dumps({"measures": kept}))
    assert measured_before(table, rows) == kept
    assert measured_before(table, rows | {"DMD, 4 steps": {"flips": 0.2 + 1e-16 * 2}}) == {}


def test_teacher_forcing_learns_the_chain():
    """A hundred steps are enough to flip about as often as the data; fresh weights do not know how."""
    torch.manual_seed(0)
    student = learner(ChainStudent(CONTRACT.dit), 5e-3, 100, ema_decay=0.9)
    many = CONTRACT.replace(sigmas=tuple(1 - k / 20 for k in range(20)), solver="ode")
    before = sampled(student.ema_model, CHAIN, many, count=5000, seed=1)["path_tv"]
    teacher_forced(student, CHAIN, CONTRACT, steps=100, batch_size=256)
    after = sampled(student.ema_model, CHAIN, many, count=5000, seed=1)["path_tv"]
    assert after < 0.5 * before and math.isfinite(after)
