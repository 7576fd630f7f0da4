"""Clips of synthetic characters: the plan of a data set, and a clip made from its seed."""

import dataclasses
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, UInt8

from data.actions import ACTION_NAMES
from data.performance import Performance, perform
from data.shards import Clip, Truth
from data.speech.sentences import Split
from data.synthetic import derive_seed

MAIN_STYLE = "anny"


@runtime_checkable
class Renderer(Protocol):
    """The interface of `data.characters.renderer.Renderer`; tests implement it with something simpler."""

    def render(
        self,
        identity: Any,
        actions: Float[np.ndarray, "f 52"],
        pose: Float[np.ndarray, "f 3"],
        gaze: Float[np.ndarray, "f 2"],
        /,
    ) -> UInt8[np.ndarray, "f h w 3"]: ...

    def mouth(self, identity: Any, actions: Float[np.ndarray, "f 52"], /) -> Float[np.ndarray, " f"]: ...


@dataclass(frozen=True, slots=True)
class ClipPlan:
    """Everything that determines a clip. Equal plans give equal bytes on any worker."""

    key: str
    split: Split
    style: str
    identity_seed: int
    seed: int
    num_frames: int

    @property
    def identity_name(self) -> str:
        return f"{self.style}-{self.identity_seed}"


def plan_split(
    split: Split,
    num_clips: int,
    *,
    seed: int,
    num_frames: int,
    clips_per_identity: int,
    styles: tuple[str, ...],
    anny_share: float,
) -> list[ClipPlan]:
    """The clips of one split. The split's name is in every seed, so no identity is in two splits; sentences and
    voices belong to one each (`data.speech`)."""
    others = [style for style in styles if style != MAIN_STYLE]
    plans = []
    for index in range(num_clips):
        person = index // clips_per_identity
        rng = np.random.default_rng(derive_seed(seed, split, "style", person))
        main = not others or rng.random() < anny_share
        style = MAIN_STYLE if main else others[rng.integers(len(others))]
        plans.append(
            ClipPlan(
                key=f"{index:08d}-{style}",
                split=split,
                style=style,
                identity_seed=derive_seed(seed, split, "identity", person),
                seed=derive_seed(seed, split, "clip", index),
                num_frames=num_frames,
            )
        )
    return plans


def make_clip(plan: ClipPlan, renderer: Renderer, person: Any, *, head_motion: float = 1.0) -> Clip:
    """Act and draw one clip; `person` is the identity that the plan names, whose head moves by a share of what is
    natural."""
    act = perform(plan.seed, plan.num_frames, plan.split)
    act = dataclasses.replace(act, pose=np.float32(head_motion) * act.pose)
    return Clip(
        key=plan.key,
        frames=renderer.render(person, act.actions, act.pose, act.gaze),
        agent=act.agent,
        user=act.user,
        reference=draw_reference(plan, renderer, person, head_motion=head_motion),
        truth=Truth(
            mouth=renderer.mouth(person, act.actions).astype(np.float32),
            actions=act.actions,
            pose=act.pose,
            gaze=act.gaze,
            agent_speaking=act.agent_speaking,
            user_speaking=act.user_speaking,
            reference_pose=np.float32(head_motion) * reference_pose(plan.seed),
        ),
        info=describe(plan, act),
    )


def draw_reference(
    plan: ClipPlan, renderer: Renderer, person: Any, *, head_motion: float = 1.0
) -> UInt8[np.ndarray, "h w 3"]:
    """A portrait outside the clip: a head pose of its own, mouth closed, eyes open and on the camera."""
    pose = np.float32(head_motion) * reference_pose(plan.seed)[None]
    closed = np.zeros((1, len(ACTION_NAMES)), np.float32)
    return renderer.render(person, closed, pose, np.zeros((1, 2), np.float32))[0]


def reference_pose(seed: int) -> Float[np.ndarray, "3"]:
    """Yaw, pitch and roll of the portrait that belongs to the performance of a seed."""
    rng = np.random.default_rng(derive_seed(seed, "reference"))
    return rng.normal(0, (0.10, 0.05, 0.03)).clip(-0.25, 0.25).astype(np.float32)


def describe(plan: ClipPlan, act: Performance) -> dict[str, Any]:
    """The clip's json member."""
    return {
        "identity": plan.identity_name,
        "style": plan.style,
        "sentence": act.sentence,
        "user_sentence": act.user_sentence,
        "voice": act.voice,
        "phonemes": [[ipa, round(start, 4), round(end, 4)] for ipa, start, end in act.phonemes],
        "seed": plan.seed,
    }
