"""A motion code that is moved by hand: what is shown, what becomes the past, and how it returns to the model."""

import dataclasses
import math
import re
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from gwm.autoencoders.motion.code import NAMES, SCALES, from_latents, place, to_latents
from gwm.condition.spec import ConditionSpec
from gwm.contract import Contract
from gwm.dit import DiT
from serve.acts import check_numbers
from serve.artifact import Artifact
from serve.engine import Engine
from tests.gwm.autoencoders.kit import tiny_motion
from tests.serve.conftest import randomised
from tests.serve.test_graphs import recorded
from tests.serve.test_motion_artifact import motion_contract, portrait
from tests.serve.world import world_contract

SIZE = 64
Voices = tuple[np.ndarray, np.ndarray]


@pytest.fixture(scope="module")
def artifact() -> Artifact:
    torch.manual_seed(0)
    rules = motion_contract()
    return Artifact(rules, randomised(DiT(rules.dit)), tiny_motion())


def begun(artifact: Artifact, voices: Voices, **options: int) -> Engine:
    engine = Engine(artifact, seed=3, size=SIZE, **options)
    engine.start(portrait(SIZE))
    engine.push(*voices)
    return engine


def keyed() -> Contract:
    """Of a world with two keys and a pointer."""
    rules = world_contract()
    names, kinds = ("forward", "left", "x", "y"), ("discrete", "discrete", "pointer", "pointer")
    action = ConditionSpec(name="action", rate="frame", width=4 * rules.vae.temporal_stride, names=names, kinds=kinds)
    return rules.replace(dit=dataclasses.replace(rules.dit, conditions=(action,)))


def codes(latents: Tensor) -> Tensor:
    return from_latents(latents)[0].clone()


def decided(engine: Engine, name: str) -> tuple[list[float], list[float]]:
    """Values and shares of a number in the next chunk, which is taken."""
    override = engine.take().override
    return tuple(codes(override[part])[:, place(name)].tolist() for part in ("value", "share"))  # type: ignore[return-value]


@pytest.mark.parametrize("capture", [None, recorded])
def test_frames_are_the_models_own_with_these_numbers_in_their_place(
    artifact: Artifact, voices: Voices, capture: Callable | None
):
    own = codes(begun(artifact, voices).denoise(begun(artifact, voices).take()))
    engine = Engine(artifact, seed=3, size=SIZE, capture=capture)
    engine.start(portrait(SIZE))
    engine.push(*voices)
    engine.act({"jawOpen": [0.1, 0.2, 0.3, 1.0], "yaw": [-0.3]})
    made = engine.denoise(engine.take()).clone()
    expected = own.clone()
    expected[:, place("jawOpen")] = torch.tensor([0.1, 0.2, 0.3, 1.0]) / SCALES["jawOpen"]
    expected[:, place("yaw")] = torch.tensor(-0.3) / SCALES["yaw"]
    assert torch.equal(codes(made), expected)
    memory = artifact.vae.begin(artifact.vae.encode_reference(torch.from_numpy(portrait(SIZE))[None]))
    shown = artifact.vae.decode(to_latents(expected[None]), memory)[0][0].numpy()
    assert np.array_equal(engine.decode(made), shown)


def test_the_model_goes_on_from_what_was_decided(artifact: Artifact, voices: Voices):
    """Other numbers of the chunk after it differ, and only from there on."""
    engines = [begun(artifact, voices) for _ in range(2)]
    engines[1].act({"jawOpen": [1.0]})
    free = [name != "jawOpen" for name in NAMES]
    first, second = ([codes(one.denoise(one.take()))[:, free] for one in engines] for _ in range(2))
    assert torch.equal(*first) and not torch.equal(*second)


def test_a_number_glides_to_its_value_and_back(artifact: Artifact, voices: Voices):
    """In equal steps over four pixel frames and over eight, so that no frame jumps."""
    engine = begun(artifact, tuple(np.tile(voice, 2) for voice in voices))
    shares, values = [], []
    for numbers in ({}, {"jawOpen": 0.8}, {"jawOpen": 0.4}, {"jawOpen": None}, {}, {}):
        engine.act(numbers)
        value, share = decided(engine, "jawOpen")
        values += value
        shares += share
    eighths = [k / 8 for k in range(7, -1, -1)]
    assert shares == [0] * 4 + [0.25, 0.5, 0.75, 1] + [1] * 4 + eighths + [0] * 4
    expected = np.array([0.8] * 4 + [0.7, 0.6, 0.5, 0.4] + [0.4] * 8) / SCALES["jawOpen"]
    np.testing.assert_allclose(values[4:20], expected, rtol=1e-6)


def test_what_is_released_returns_to_the_models_own_without_a_jump(artifact: Artifact, voices: Voices):
    """A step of a released number is an eighth of its distance, and what the model moves meanwhile."""
    engine = begun(artifact, tuple(np.tile(voice, 2) for voice in voices))
    engine.act({"jawOpen": [1.0]})
    engine.step()
    engine.act(None)
    own, shown = [], []
    engine.rollout._overridden, apply = lambda x, o: own.append(x.clone()) or apply(x, o), engine.rollout._overridden  # type: ignore[method-assign]
    for _ in range(3):
        shown.append(engine.denoise(engine.take()).clone())
    jaw = [torch.cat([codes(x) for x in part])[:, place("jawOpen")].numpy() for part in (own, shown)]
    held = 1 / SCALES["jawOpen"]
    share = np.array([*np.arange(7, -1, -1) / 8, 0, 0, 0, 0])
    np.testing.assert_allclose(jaw[1], share * held + (1 - share) * jaw[0], rtol=1e-5, atol=1e-5)
    steps = [abs(b - a) for a, b in pairwise([held, *jaw[1]])]
    moves = [abs(b - a) for a, b in pairwise([jaw[0][0], *jaw[0]])]
    farthest = max(abs(held - jaw[0]))
    assert all(step <= farthest / 8 + move + 1e-5 for step, move in zip(steps, moves, strict=True))


def test_going_back_decides_again_to_the_bit(artifact: Artifact, voices: Voices):
    engine = begun(artifact, tuple(np.tile(voice, 2) for voice in voices), undo_chunks=3)
    engine.step()
    engine.act({"jawOpen": 1.0, "gazeX": -0.5})
    frames = [engine.step() for _ in range(3)]
    engine.rewind(3)
    assert all(np.array_equal(engine.step(), expected) for expected in frames)
    engine.rewind(2)
    assert decided(engine, "jawOpen")[1] == [1] * 4


def test_a_new_stream_is_the_models_own(artifact: Artifact, voices: Voices):
    engine = begun(artifact, voices)
    expected = engine.step()
    engine.act({"jawOpen": 1.0})
    engine.step()
    engine.start(portrait(SIZE))
    engine.push(*voices)
    assert np.array_equal(engine.step(), expected)


@pytest.mark.parametrize(
    ("numbers", "rule"),
    [
        ({"jawOpen": 1.2}, r"jawOpen=1.2 must be a number in \[0, 1\]"),
        ({"yaw": [0.1, -0.6]}, r"yaw=-0.6 must be a number in \[-0.5, 0.5\]"),
        ({"jaw": 1}, r"jaw=1 must be one of \['browDownLeft'"),
    ],
)
def test_numbers_outside_of_their_limits_are_refused(artifact: Artifact, voices: Voices, numbers: dict, rule: str):
    with pytest.raises(ValueError, match=rule):
        begun(artifact, voices).act(numbers)


@pytest.mark.parametrize("value", [0.5, 2, -1, True, math.nan, [1, 0.5]])
def test_a_key_is_pressed_or_not(value: Any):
    with pytest.raises(ValueError, match=re.escape("forward=")):
        check_numbers({"forward": value}, keyed())
    check_numbers({"forward": [0, 1, 1.0], "left": None}, keyed())


@pytest.mark.parametrize("value", [1.01, -2, math.nan, math.inf, True])
def test_a_pointer_stays_in_the_picture(value: Any):
    with pytest.raises(ValueError, match=re.escape(f"y={value} must be a number in [-1, 1]")):
        check_numbers({"x": -1, "y": value}, keyed())


def test_a_noisy_context_cannot_be_moved_by_hand(artifact: Artifact, voices: Voices):
    """It remembers what the model made, not what was shown."""
    noisy = dataclasses.replace(artifact, contract=artifact.contract.replace(context="noisy"))
    with pytest.raises(ValueError, match="jawOpen=1 must be left out"):
        begun(noisy, voices).act({"jawOpen": 1})
