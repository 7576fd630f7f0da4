"""What a chunk costs besides arithmetic: launches, host reads, bytes moved for the cache. Counted, not timed."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from kernels.dispatch import using

HOST_READS = {"aten::_local_scalar_dense", "aten::nonzero", "aten::is_nonzero", "aten::equal", "aten::masked_select"}
# Bookkeeping of PyTorch without work on the device.
FREE = {"aten::empty", "aten::empty_strided", "aten::empty_like", "aten::new_empty", "aten::lift_fresh", "aten::detach"}
ATTENTION = ("scaled_dot_product", "_varlen_attn")  # parts of the names of what reads the cache by design


@dataclass
class Counts:
    """kernel_calls: operations that a GPU would launch; one of `kernels` counts as one."""

    kernel_calls: int = 0
    host_reads: int = 0
    cache_bytes: int = 0  # written into the cache's storage, or copied out of it other than by attention
    sum_by_name: dict[str, int] | None = None


class Counter(TorchDispatchMode):
    """Counts what runs under it; `watched` are the cache's tensors."""

    def __init__(self, watched: Sequence[Tensor]) -> None:
        super().__init__()
        self.storages = {tensor.untyped_storage().data_ptr() for tensor in watched}
        self.counts = Counts(sum_by_name={})
        self.inside_kernel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func._schema.name
        self.counts.host_reads += name in HOST_READS
        if not (func.is_view or name in FREE):
            if not self.inside_kernel:
                self.call(name)
            if not any(part in name for part in ATTENTION) and self._touches(args):
                self.counts.cache_bytes += self._written(name, args, result)
        return result

    def call(self, name: str) -> None:
        self.counts.kernel_calls += 1
        assert self.counts.sum_by_name is not None
        self.counts.sum_by_name[name] = self.counts.sum_by_name.get(name, 0) + 1

    def policy(self, name: str, x: Tensor, reference: Callable, fused: Callable) -> Callable:
        """The reference, counted as the one launch that the kernel would be."""

        def counted(*arguments: Any) -> Any:
            self.call(name)
            self.inside_kernel += 1
            try:
                return reference(*arguments)
            finally:
                self.inside_kernel -= 1

        return counted

    def _touches(self, args: Any) -> bool:
        tensors = [leaf for leaf in tree_leaves(args) if isinstance(leaf, Tensor)]
        return any(tensor.untyped_storage().data_ptr() in self.storages for tensor in tensors)

    def _written(self, name: str, args: Any, result: Any) -> int:
        if name == "aten::index_copy_":
            return args[3].nbytes
        return sum(leaf.nbytes for leaf in tree_leaves(result) if isinstance(leaf, Tensor))


@contextmanager
def counting(watched: Sequence[Tensor]) -> Iterator[Counts]:
    """Counts of the block; on a CPU, where nothing is launched, of what would be."""
    counter = Counter(watched)
    with using(counter.policy), counter:
        yield counter.counts
