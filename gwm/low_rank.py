"""A model as adapters on another one: what low-rank training and merging made, taken apart again.

A stage that trains adapters leaves a merged, plain model. Its difference to the model it was trained on still has the
adapters' rank, so that a later stage can go on training it on the same frozen weights.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from gwm.dit import DiT
from gwm.lora import LoRAConfig, LoRALinear, with_lora
from gwm.weights import has_values

ROUNDING = 1e-6  # of a weight's norm: what merging a few times in float32 may leave beside the adapters
SPARE = 8  # dimensions that are looked at beyond the rank


@torch.no_grad()
def adapted_as(target: DiT, base: DiT, config: LoRAConfig) -> DiT:
    """What `target` computes, within rounding, as adapters on `base`, which is frozen and shared by this.

    Ranks that the difference does not use start as fresh adapters do. The product is split evenly: both factors have
    the same singular values.

    Raises:
        ValueError: the models differ in shape, in weights that get no adapters, or by more than `config.rank`.
    """
    if target.config != base.config:
        raise ValueError(f"init has the shape {target.config}, must have the teacher's, {base.config}.")
    model = with_lora(base, config)
    if not has_values(model.parameters()):
        return model
    wanted, outside, higher = dict(target.named_parameters()), [], {}
    for name, parameter in model.named_parameters():
        if name.endswith((".down", ".up")):
            continue
        if parameter.requires_grad:  # trained whole, such as what embeds a voice
            parameter.copy_(wanted[name])
            continue
        layer = model.get_submodule(name.rpartition(".")[0])
        if name.endswith(".weight") and isinstance(layer, LoRALinear):
            left = _adapt(layer, wanted[name])
            if left > ROUNDING:
                higher[name] = left
        elif not torch.equal(parameter, wanted[name]):
            outside.append(name)
    if outside or higher:
        raise ValueError(_message(config.rank, outside, higher))
    return model


def _adapt(layer: LoRALinear, weight: Float[Tensor, "o i"]) -> float:
    """Let a layer compute x `weight`; the share of the weight's norm that its rank cannot hold."""
    difference = weight.float() - layer.weight.float()
    if not difference.any():
        return 0.0
    rank, norm = len(layer.down), weight.norm().item()
    size = min(rank + SPARE, *difference.shape)
    u, s, v = torch.svd_lowrank(difference, q=size, niter=4)
    used = int((s[:rank] > ROUNDING * norm).sum())
    root = s[:used].sqrt()
    layer.up[:, :used], layer.down[:used] = u[:, :used] * root / layer.scale, (v[:, :used] * root).T
    return (difference - layer.scale * layer.up @ layer.down).norm().item() / norm


def _message(rank: int, outside: list[str], higher: dict[str, float]) -> str:
    problems = []
    if outside:
        problems.append(f"{len(outside)} that get no adapters are not the teacher's ({outside[0]}, ...)")
    if higher:
        worst = max(higher, key=lambda name: higher[name])
        problems.append(f"{len(higher)} differ by more than rank={rank} ({worst} by {100 * higher[worst]:.2g} % of it)")
    return (
        f"init must be the teacher's weights, or these with merged adapters of at most rank={rank} altogether; of its "
        f"weights {' and '.join(problems)}. Train the stages before this one with "
        "'+stage.network.lora={_target_: gwm.lora.LoRAConfig, rank: R}' and give the sum of their ranks here, or let "
        "the student stand on its own frozen weights: stage.lora.student_base=own."
    )
