"""Products on CPUs by oneDNN, with weights in its own order: PyTorch takes MKL's, which leave AVX-512 unused on CPUs of
AMD, and asks oneDNN anew in every call."""

from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn

BY_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def onednn_computes(dtype: torch.dtype) -> bool:
    """Whether oneDNN has products in this precision, on this CPU."""
    if dtype == torch.bfloat16:
        return BY_ONEDNN and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return BY_ONEDNN and dtype == torch.float32


class Linear(nn.Linear):
    """A linear layer whose weight may also lie in oneDNN's order, for products without gradient."""

    def order(self, rows: int | None) -> None:
        """Compute by oneDNN from now on, fastest for so many rows; None: by PyTorch's own products again. The weight
        is there twice then, and must not change. Quantised weights, those on GPUs, and precisions that oneDNN
        does not compute in, stay as they are."""
        self.__dict__.pop("forward", None)
        weight = self.weight.detach()
        plain = type(self.weight.data) is Tensor and weight.device.type == "cpu"
        if rows is not None and plain and onednn_computes(weight.dtype):
            ordered = torch.ops.mkldnn._reorder_linear_weight(weight, rows)
            self.__dict__["forward"] = partial(product, weight=ordered, bias=self.bias)


def product(x: Float[Tensor, "*rows i"], weight: Float[Tensor, "o i"], bias: Tensor | None = None) -> Tensor:
    """`F.linear` by oneDNN, without gradient; the weight plain, or ordered."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


def prefix_by_products(
    q: Float[Tensor, "b l n e"], k: Float[Tensor, "b s n e"], v: Float[Tensor, "b s n e"], length: int
) -> Float[Tensor, "b l n e"]:
    """Attention to the first `length` keys as two products by oneDNN and a softmax for each head. Holds the scores of
    one head: queries times keys."""
    out = torch.empty_like(q)
    q = q * q.shape[-1] ** -0.5
    for sample, head in ((sample, head) for sample in range(q.shape[0]) for head in range(q.shape[2])):
        queries = q[sample, :, head].contiguous()
        keys, values = (z[sample, :length, head] for z in (k, v))
        scores = product(queries, keys.contiguous())
        out[sample, :, head] = product(scores.softmax(-1), values.t().contiguous())
    return out
