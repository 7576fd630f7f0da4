"""What one process does when a data set is made. Not in `__main__`: a spawned process never imports that."""

import functools
from typing import Any

from data.characters.renderer import Renderer, identity
from data.clips import ClipPlan, make_clip
from data.shards import encode_sample


@functools.cache
def renderer(resolution: int) -> Renderer:
    """This process's renderer: an EGL context is made once."""
    return Renderer(resolution)


def draw(plan: ClipPlan, *, resolution: int, head_motion: float) -> dict[str, Any]:
    """The encoded sample of a plan."""
    person = identity(plan.identity_seed, plan.style)
    return encode_sample(make_clip(plan, renderer(resolution), person, head_motion=head_motion))
