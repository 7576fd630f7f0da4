"""Memory and arithmetic, counted while they happen: on real tensors, or on fake ones without storage."""

import contextlib
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensor, unset_fake_temporarily
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

from gwm.block import DiTBlock

PRECISIONS = {"32-true": torch.float32, "bf16-mixed": torch.bfloat16}  # of products; weights stay in float32
ATEN: Any = torch.ops.aten
DEVICE = torch.ops.prim.device.default
NUMBERS = (ATEN.linspace, ATEN.randint)  # by which stages decide what they compute: noise levels, steps, windows


class Meter(TorchDispatchMode):
    """Counts, while it is entered, multiplications and additions of matrix products, convolutions and attention, and
    the bytes of all storages that are made meanwhile and still alive.

    flops: without what checkpoints compute again, which is in `flops_again`. peaks: most bytes alive between one `mark`
    and the next. Among fake tensors, NUMBERS and what is computed of them alone are real; all else that is asked for a
    value is true.
    """

    def __init__(self, known: Iterable[Tensor] = (), *, bytes_too: bool = True) -> None:
        """known: tensors of before, which are not counted. bytes_too: False counts operations alone."""
        super().__init__()
        self.bytes_too = bytes_too
        self.flops, self.flops_again, self._held = 0, 0, 0
        self.peaks = [0]
        self._storages: dict[int, tuple[StorageWeakRef, int]] = {}
        for tensor in known if bytes_too else ():
            self._watch(tensor, counted=False)

    def mark(self, *_: Any) -> None:
        """Begin a new peak; also as a hook of a module."""
        self.peaks.append(self.alive)

    @property
    def alive(self) -> int:
        """Bytes alive now."""
        for key in [key for key, (storage, _) in self._storages.items() if storage.expired()]:
            self._held -= self._storages.pop(key)[1]
        return self._held

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is DEVICE:  # that fake tensors are asked for, before every operation
            return func(*args)
        out = _computed(func, args, kwargs or {})
        formula = FORMULAS.get(func.overloadpacket)
        if formula is not None:
            # Gradients are computed without recording any: what records in a backward pass is computed again.
            again = torch._C._current_graph_task_id() != -1 and torch.is_grad_enabled()
            flops = formula(*args, **(kwargs or {}), out_val=out)
            self.flops, self.flops_again = self.flops + (not again) * flops, self.flops_again + again * flops
        for tensor in tree_leaves(out) if self.bytes_too else ():
            if isinstance(tensor, Tensor):
                self._watch(tensor)
        return out

    def _watch(self, tensor: Tensor, *, counted: bool = True) -> None:
        # No callbacks of weak references: they would run inside destructors, where PyTorch crashes at times.
        storage = tensor.untyped_storage()
        if storage._cdata in self._storages:
            return
        size = counted * storage.nbytes()
        self._storages[storage._cdata] = StorageWeakRef(storage), size
        self._held += size
        if self._held > self.peaks[-1]:  # of which some may have gone
            self.peaks[-1] = max(self.peaks[-1], self.alive)


def _computed(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
    values = func.overloadpacket in NUMBERS if not tensors else not any(isinstance(x, FakeTensor) for x in tensors)
    if values and func.overloadpacket is not ATEN.lift_fresh:  # such as torch.tensor, of which buffers are made
        with unset_fake_temporarily():
            return func(*args, **kwargs)
    try:
        return func(*args, **kwargs)
    except DataDependentOutputException:
        return True


def _attention(q: Any, k: Any, v: Any, *rest: Any, out_val: Any, **options: Any) -> int:
    return sdpa_flop_count(q.shape, k.shape, v.shape)


def _attention_backward(grad: Any, q: Any, k: Any, v: Any, *rest: Any, out_val: Any, **options: Any) -> int:
    return sdpa_backward_flop_count(grad.shape, q.shape, k.shape, v.shape)


FORMULAS: dict[Any, Callable[..., int]] = {
    **flop_registry,
    ATEN._scaled_dot_product_flash_attention_for_cpu: _attention,
    ATEN._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}


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


def checkpoint_blocks(models: Iterable[nn.Module]) -> int:
    """Make every block keep only its input and compute the rest again in the backward pass. Returns the number of
    blocks."""
    blocks = [module for model in models for module in model.modules() if isinstance(module, DiTBlock)]
    for block in blocks:
        block.forward = _checkpointed(block.forward)
    return len(blocks)


def _checkpointed(forward: Any) -> Any:
    def again(*inputs: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*inputs)
        return checkpoint(forward, *inputs, use_reentrant=False, preserve_rng_state=False)

    return again
