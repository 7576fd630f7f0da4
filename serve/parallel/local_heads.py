"""The cache of a process that computes some of the heads."""

import dataclasses
from collections.abc import Callable

from gwm.cache import RingCache
from gwm.config import DiTConfig
from serve.parallel.ranks import Ranks


def local_config(dit: DiTConfig, size: int) -> DiTConfig:
    """The shape that one of `size` processes sees.

    Raises:
        ValueError: the heads do not divide.
    """
    if dit.num_heads % size:
        raise ValueError(
            f"num_heads={dit.num_heads} must be a multiple of the {size} processes: each has as many. Start another "
            "number of processes."
        )
    return dataclasses.replace(dit, dim=dit.dim // size, num_heads=dit.num_heads // size)


def local_cache(ranks: Ranks) -> Callable[..., RingCache]:
    """Makes caches of the own heads."""
    return lambda dit, pattern, **rest: RingCache(local_config(dit, ranks.size), pattern, **rest)
