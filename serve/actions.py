"""Actions as callers name them, checked, in the rows that the model is given."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

from gwm.contract import Contract

LARGEST = 10.0  # numbers of training are of the order of 1; larger ones would leave everything it has seen
Action = Mapping[str, float | int] | Sequence[float | int]


def action_rows(contract: Contract, action: Action) -> Float[np.ndarray, "1 k"]:
    """One row for all pixel frames: numbers by their names, where those that are left out are 0, or all in their order.

    Raises:
        ValueError: a name that the model does not have, another number of numbers, or one that is not finite or too
            large.
    """
    names = contract.dit.names("action")
    columns = contract.dit.width("action") // contract.vae.temporal_stride
    if not columns:
        raise ValueError("action must be left out: the model is given no actions. Take one that is.")
    if isinstance(action, Mapping):
        unknown = sorted(set(action) - set(names))
        if unknown:
            raise ValueError(f"action has {unknown}, must have names of {list(names)}.")
        values = [action.get(name, 0) for name in names]
    else:
        values = list(action)
    if len(values) != columns:
        raise ValueError(
            f"action has {len(values)} numbers, must have {columns}: {list(names) or 'they have no names'}."
        )
    for value in values:
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= LARGEST:
            raise ValueError(f"action has {value!r}, must have finite numbers in [-{LARGEST:g}, {LARGEST:g}].")
    return np.array([values], np.float32)
