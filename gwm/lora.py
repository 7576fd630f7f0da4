"""Low-rank adapters on a frozen DiT: several networks, each a model of its own, on one set of frozen weights.

There is no switch to forget. The adapted models and the base itself are separate modules that hold the same parameters;
each computes with its own adapters, whichever was called before.

    teacher = load(...)                                      # frozen by the first `with_lora`, and shared
    critic = with_lora(teacher, LoRAConfig(rank=64))         # trains 64 dimensions a layer
    student = with_lora(teacher, LoRAConfig(rank=128))
    merged(student)                                          # a plain DiT, for export and serving

`adapted_as` goes the other way: a stage that trains adapters leaves a merged, plain model. Its difference to the model
it was trained on still has the adapters' rank, so that a later stage can go on training it on the same frozen weights.

Source: Hu et al. 2021, arXiv:2106.09685, Eq. 3.
"""

import copy
import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from gwm.block import MLP, PROJECTIONS
from gwm.dit import DiT
from gwm.files.json_text import JsonConfig
from gwm.weights import has_values

LAYERS = (*PROJECTIONS, *MLP)  # within a block: the projections of both attentions, both layers of the MLP


@dataclass(frozen=True, kw_only=True, slots=True)
class LoRAConfig(JsonConfig):
    """Which layers of the blocks get adapters, and of which rank."""

    rank: int
    alpha: float | None = None  # the adapters' product is multiplied by alpha / rank; None: by 1
    layers: tuple[str, ...] = LAYERS  # last parts of their names
    trained: tuple[str, ...] = ("frame_embeddings",)  # whole, not by adapters

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"rank={self.rank} must be at least 1.")
        unknown = sorted(set(self.layers) - set(LAYERS))
        if unknown or not self.layers:
            raise ValueError(f"layers={self.layers} must be some of {LAYERS}, and has {unknown}.")

    @property
    def scale(self) -> float:
        return 1.0 if self.alpha is None else self.alpha / self.rank


class SharedParameter(nn.Parameter):
    """A frozen parameter of several models: copies of a model, such as its EMA, hold it too."""

    def __deepcopy__(self, memo: dict[int, Any]) -> "SharedParameter":
        return self


class LoRALinear(nn.Module):
    """x W + scale (x A) B, with W frozen and shared; B starts at zero, so that at first nothing changes."""

    def __init__(self, base: nn.Linear, config: LoRAConfig) -> None:
        super().__init__()
        self.weight, self.bias, self.scale = base.weight, base.bias, config.scale
        # Adapters are trained: in full precision, also where the base is kept in half.
        down = torch.empty(config.rank, base.in_features, device=base.weight.device, dtype=torch.float32)
        self.down, self.up = nn.Parameter(down), nn.Parameter(down.new_zeros(base.out_features, config.rank))
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))  # as nn.Linear's own

    def forward(self, x: Float[Tensor, "*b i"]) -> Float[Tensor, "*b o"]:
        low = F.linear(x.to(self.down.dtype), self.down)
        return F.linear(x, self.weight, self.bias) + self.scale * F.linear(low, self.up).to(x.dtype)

    @torch.no_grad()
    def merged(self) -> nn.Linear:
        """A layer that does the same; the product is added in float32 and rounded once to the base's precision."""
        outputs, inputs = self.weight.shape
        layer = nn.Linear(inputs, outputs, device="meta")
        product = self.scale * (self.up.float() @ self.down.float())
        layer.weight = nn.Parameter((self.weight.float() + product).to(self.weight.dtype))
        layer.bias = nn.Parameter(self.bias.clone())
        return layer


def with_lora(base: DiT, config: LoRAConfig) -> DiT:
    """A DiT that computes what `base` computes, until its adapters are trained.

    `base` is frozen by this and shares its parameters: it must not be trained again, and can be used meanwhile, also as
    the base of others. Only adapters and `config.trained` of the new model have gradients.

    Raises:
        ValueError: `base` has adapters itself.
    """
    if is_adapted(base):
        raise ValueError(
            "base has adapters, must have none: a stack of them would be one of more rank. Merge it first."
        )
    for module in base.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if not isinstance(parameter, SharedParameter):
                module.register_parameter(name, SharedParameter(parameter.detach(), requires_grad=False))
    model = copy.deepcopy(base, {id(p): p for p in base.parameters()})  # new modules, the same parameters
    for name, module in model.named_children():
        if name in config.trained:
            _own(module)
    for block in model.blocks:
        for name, layer in list(block.named_modules()):
            parent, _, last = name.rpartition(".")
            if isinstance(layer, nn.Linear) and last in config.layers:
                block.get_submodule(parent).register_module(last, LoRALinear(layer, config))
    return model


@torch.no_grad()
def merged(model: nn.Module) -> nn.Module:
    """The model with every adapter added to its layer and nothing shared; without adapters, the model itself."""
    if not is_adapted(model):
        return model
    plain = copy.deepcopy(model)
    for name, layer in list(plain.named_modules()):
        if isinstance(layer, LoRALinear):
            parent, _, last = name.rpartition(".")
            plain.get_submodule(parent).register_module(last, layer.merged())
    _own(plain)
    return plain


def is_adapted(model: nn.Module) -> bool:
    """Whether the model has adapters; its frozen parameters are then shared."""
    return any(isinstance(module, LoRALinear) for module in model.modules())


def _own(module: nn.Module) -> None:
    """Give a module ordinary parameters in place of frozen ones, which it may share."""
    for part in module.modules():
        for name, parameter in list(part.named_parameters(recurse=False)):
            if not parameter.requires_grad:
                part.register_parameter(name, nn.Parameter(parameter.detach().clone()))


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
