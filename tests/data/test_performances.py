"""Codes of performances that nobody renders: those of rendered clips, and the same whoever asks for them."""

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from data.actions import index
from data.batch import LatentBatch
from data.clips import make_clip, plan_split
from data.encoding import codes
from data.performances import Acting, PerformanceData, encode_performance
from data.speech.espeak import voices_of
from data.speech.sentences import split_of
from gwm.autoencoders.motion.code import POSE, from_latents, physical, place
from gwm.condition.audio import frame_features
from tests.tiny import AUDIO

ACTING = Acting(seconds=2.0, head_motion=0.5, manners=False, reference_spread=1.0)


class Noted:
    """A renderer that writes down what it is to draw."""

    def __init__(self) -> None:
        self.told: list[np.ndarray] = []

    def render(self, identity: Any, actions: np.ndarray, pose: np.ndarray, gaze: np.ndarray) -> np.ndarray:
        self.told.append(np.concatenate([actions, pose, gaze], axis=1))
        return np.zeros((len(actions), 8, 8, 3), np.uint8)

    def mouth(self, identity: Any, actions: np.ndarray) -> np.ndarray:
        return actions[:, index("jawOpen")]


def data(**changes: Any) -> PerformanceData:
    how = {
        "audio": AUDIO, "acting": ACTING, "num_frames": 3, "pool": 4, "crops": 4.0, "weights_px": [0.2, 2.0],
        "batch_size": 2, "num_workers": 0, "seed": 5,
    }  # fmt: skip
    return PerformanceData(**(how | changes))


def batches(module: PerformanceData, count: int) -> list[LatentBatch]:
    return list(itertools.islice(module.train_dataloader(), count))


def same(ours: LatentBatch, theirs: LatentBatch) -> bool:
    pairs = [(ours.x0, theirs.x0), *((ours.conditions[name], theirs.conditions[name]) for name in theirs.conditions)]
    return all(torch.equal(a, b) for a, b in pairs) and (ours.step, ours.first_slot) == (theirs.step, theirs.first_slot)


def test_codes_are_those_of_the_rendered_clip_of_the_same_plan():
    """Oracle: what the renderer is told of every picture, less the pose it is told for the reference."""
    plan = plan_split("val", 1, seed=3, num_frames=48, clips_per_identity=1, styles=("anny",), anny_share=1.0)[0]
    renderer = Noted()
    clip = make_clip(plan, renderer, None, head_motion=0.5)
    drawn, reference = renderer.told
    act, own = ACTING.perform(plan.seed, plan.split)
    made = physical(codes(act.actions, act.pose, act.gaze, reference_pose=own)).numpy()
    expected = drawn.copy()
    expected[:, POSE] -= reference[:, POSE]
    np.testing.assert_allclose(made, expected, atol=2e-6)
    assert np.array_equal(act.agent, clip.agent) and np.array_equal(act.user, clip.user)


def test_latents_and_voices_of_a_frame_belong_together():
    """The window of latent frame k is centred on the pixel frames whose codes it holds, in both streams."""
    act, own = ACTING.perform(1, "train")
    clip = encode_performance(act, own, AUDIO)
    every = frame_features(torch.from_numpy(np.stack([act.agent, act.user])), AUDIO)
    first = AUDIO.left_frames  # of the pixel frames with a whole window
    expected = codes(act.actions, act.pose, act.gaze, reference_pose=own)[first:][: 4 * len(clip["x0"])]
    torch.testing.assert_close(from_latents(clip["x0"][None])[0], expected)
    for stream, name in enumerate(("frame.agent", "frame.user")):
        own_frames = clip[name][2].unflatten(0, (-1, AUDIO.frame_features))[AUDIO.left_frames :][:4]
        torch.testing.assert_close(own_frames, every[stream, first + 8 : first + 12])
    assert not clip["reference"].any()


def test_heads_move_about_the_reference_or_about_another_pose():
    act, middle = replace(ACTING, reference_spread=0.0).perform(1, "train")
    _, other = ACTING.perform(1, "train")
    _, between = replace(ACTING, reference_spread=0.25).perform(1, "train")
    np.testing.assert_allclose(
        codes(act.actions, act.pose, act.gaze, reference_pose=middle)[:, POSE].mean(0), 0, atol=1e-5
    )
    np.testing.assert_allclose(between, 0.75 * middle + 0.25 * other, atol=1e-6)


def test_a_batch_depends_on_its_step_and_not_on_workers_or_what_was_made_before():
    """Resumed at step 3, and with two processes: bit for bit."""
    whole = batches(data(), 5)
    for workers in (0, 2):
        resumed = data(num_workers=workers)
        resumed.load_state_dict({"next_step": 3})
        assert all(same(a, b) for a, b in zip(batches(resumed, 2), whole[3:], strict=True)), workers
    assert not torch.equal(whole[3].x0, whole[4].x0)
    assert not torch.equal(batches(data(seed=6), 1)[0].x0, whole[0].x0)


def test_performances_leave_the_pool_after_as_many_crops_as_asked_for():
    """Two crops a step, four of each performance: after 8 steps, all of a pool of four are others."""
    module = data()
    asked: list[int] = []
    module.pool.act, act = lambda n: (asked.append(n), act(n))[1], module.pool.act  # type: ignore[method-assign]
    batches(module, 40)
    assert len(module.pool._kept) <= 4 and max(asked) >= 16
    for first in (0, 8, 16):
        at = [n for n in asked if n >= first]
        assert min(at) < first + 4, "numbers are used one after the other"


def test_held_out_people_say_other_sentences_with_other_voices():
    clips, acts = data().held_out(6, 3.0)
    trained = [data().pool.act(n)[0] for n in range(6)]
    assert {act.voice for act in trained} <= set(voices_of("train"))
    assert {act.voice for act in acts} <= set(voices_of("val")) and not set(voices_of("val")) & set(voices_of("train"))
    for act in acts:
        spoken = " ".join(text for text in (act.sentence, act.user_sentence) if text)
        parts = spoken.replace("?", "?|").replace(".", ".|").split("|")
        assert all(split_of(part.strip()) == "val" for part in parts if part.strip())
    assert len(clips) == 6 and len(clips[0]["x0"]) == 3 * 6 - 2


def test_what_moves_more_of_the_picture_weighs_more_within_limits():
    weight = data().motion[:, 1, 0]
    assert weight[place("jawOpen")] > 3 * weight[place("browInnerUp")]
    assert weight.min() == pytest.approx(0.2) and weight.max() == weight[place("yaw")] == 2.0


def test_crops_longer_than_performances_are_refused():
    with pytest.raises(ValueError, match="num_frames=11 must be in \\[1, 10\\]"):
        data(num_frames=11)


def test_manners_are_given_beside_the_codes_that_follow_them():
    """The window of latent frame k holds the manner of its four pixel frames; voices do not depend on it."""
    plain, own = ACTING.perform(1, "train")
    act, own = replace(ACTING, manners=True).perform(1, "train")
    clip = encode_performance(act, own, AUDIO)
    assert np.array_equal(act.agent, plain.agent) and not np.array_equal(act.pose, plain.pose)
    first = AUDIO.left_frames
    assert act.manner is not None
    expected = torch.from_numpy(act.manner.given[first + 8 : first + 12]).flatten()
    assert torch.equal(clip["frame.manner"][2], expected) and expected.any()
