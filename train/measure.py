"""Memory and arithmetic of one pass, counted while it is computed, on real tensors or on fake ones without storage; and
how fast a machine multiplies matrices, which the speed of training is compared with."""

import contextlib
import time
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._pytree import tree_flatten, tree_unflatten
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from gwm.block import Branch, DiTBlock
from train.work import Pass, Work

PRECISIONS = {"32-true": torch.float32, "bf16-mixed": torch.bfloat16}  # of products; weights stay in float32
MATRIX = {"cpu": 1024, "cuda": 8192}  # rows and columns: large enough to be limited by arithmetic
ROUNDS = 5


class SavedTensors:
    """Counts the bytes that autograd keeps for the backward pass, each storage once, parameters not.

    What it counts stays alive as long as the counter.
    """

    def __init__(self, models: list[nn.Module]) -> None:
        self._own = {StorageWeakRef(p.untyped_storage()) for model in models for p in model.parameters()}
        self._kept: dict[StorageWeakRef, torch.UntypedStorage] = {}

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        with torch.autograd.graph.saved_tensors_hooks(self._pack, lambda kept: kept):
            yield

    @property
    def bytes(self) -> int:
        return sum(storage.nbytes() for storage in self._kept.values())

    def _pack(self, kept: Tensor) -> Tensor:
        storage = kept.untyped_storage()
        reference = StorageWeakRef(storage)
        if reference not in self._own:
            self._kept[reference] = storage
        return kept


def flop_counter() -> FlopCounterMode:
    """Counts multiplications and additions of matrix products, convolutions and attention, also on CPUs."""
    ops = torch.ops.aten

    def attention(q: Any, k: Any, v: Any, *rest: Any, out_shape: Any = None, **options: Any) -> int:
        return sdpa_flop_count(q, k, v)

    def attention_backward(grad: Any, q: Any, k: Any, v: Any, *rest: Any, out_shape: Any = None, **options: Any) -> int:
        return sdpa_backward_flop_count(grad, q, k, v)

    mapping = {
        ops._scaled_dot_product_flash_attention_for_cpu: attention,
        ops._scaled_dot_product_flash_attention_for_cpu_backward: attention_backward,
    }
    return FlopCounterMode(display=False, custom_mapping=mapping)


def autocast(precision: str) -> contextlib.AbstractContextManager[Any]:
    """The context in which Lightning runs a step of this precision.

    Raises:
        ValueError: an unknown precision.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision={precision!r} must be one of {sorted(PRECISIONS)}.")
    if not precision.endswith("mixed"):
        return contextlib.nullcontext()
    device = "cuda" if torch.get_default_device().type == "cuda" else "cpu"
    return torch.autocast(device, PRECISIONS[precision])


def measure_pass(work: Work, one: Pass, precision: str) -> tuple[int, float]:
    """Bytes that one pass keeps for its backward pass, and operations of both; it is computed, fake or real."""
    saved = SavedTensors([*work.trained, *work.frozen])
    with flop_counter() as counter:
        with saved.watching(), autocast(precision):
            loss = one.compute()
        if loss.requires_grad:
            loss.backward()
    return saved.bytes, one.per_batch * counter.get_total_flops()


def checkpoint_blocks(models: Iterable[nn.Module], *, reentrant: bool = False) -> int:
    """Make every block keep only its input and compute the rest again in the backward pass. Returns the number of
    blocks.

    reentrant: for planning, as only then what is kept can be seen by `SavedTensors`; loses gradients to cached keys.
    """
    blocks = [module for model in models for module in model.modules() if isinstance(module, DiTBlock)]
    for block in blocks:
        block.forward = _checkpointed(block.forward, reentrant)
    return len(blocks)


def _checkpointed(forward: Any, reentrant: bool) -> Any:
    def again(*inputs: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*inputs)
        if not reentrant:
            return checkpoint(forward, *inputs, use_reentrant=False, preserve_rng_state=False)
        # Tensors one by one: a prompt's lie in a tuple, through which every block would go back to the one embedding.
        tensors, structure = tree_flatten(inputs)
        return checkpoint(
            lambda *flat: _whole_stream(*forward(*tree_unflatten(flat, structure))),
            *tensors,
            use_reentrant=True,
            preserve_rng_state=False,
        )

    return again


def _whole_stream(x: Tensor, branch: Branch, keys_values: Any) -> tuple[Tensor, Branch, Any]:
    """A block's output as it is while gradients are recorded, also where they are not, as in a reentrant forward."""
    if branch.y is not None and branch.gate is not None:
        x = x + branch.gate * branch.y
    return x, Branch(), keys_values


def matmul_flops(dtype: torch.dtype, device: str = "cpu") -> float:
    """Operations a second of the fastest of a few products of square matrices."""
    size = MATRIX[device]
    a, b = torch.randn(2, size, size, dtype=dtype, device=device)
    best = min(timed(lambda: a @ b, device) for _ in range(ROUNDS + 1))
    return 2 * size**3 / best


def timed(function, device: str) -> float:
    """Seconds of one call, the device's work included."""
    synchronize(device)
    start = time.perf_counter()
    function()
    synchronize(device)
    return time.perf_counter() - start


def synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()
