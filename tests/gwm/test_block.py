import torch

from gwm.block import MaskedClip, SelfAttention, attend
from gwm.rope import rotation
from kernels.attention import rotate_pairs
from tests.tiny import DIT

FP32 = 1e-5


def test_attend_is_the_softmax_formula_under_the_mask():
    q, k, v = torch.randn(2, 5, 3, 4), torch.randn(2, 7, 3, 4), torch.randn(2, 7, 3, 4)
    mask = torch.rand(5, 7) < 0.5
    mask[:, 0] = True
    scores = torch.einsum("blne,bsne->bnls", q, k) / 4**0.5
    weights = scores.masked_fill(~mask, -torch.inf).softmax(-1)
    expected = torch.einsum("bnls,bsne->blne", weights, v).flatten(2)
    torch.testing.assert_close(attend(q, k, v, mask), expected, rtol=FP32, atol=FP32)


def test_queries_and_keys_are_normalised_over_all_heads_before_they_turn():
    """Wan's RMSNorm runs over the model width, not over a head's."""
    layer = SelfAttention(DIT, layer=0)
    torch.nn.init.normal_(layer.norm_q.weight)
    torch.nn.init.normal_(layer.norm_k.weight)
    x, turn = torch.randn(2, 4, DIT.dim), rotation(torch.tensor([3]), 2, 2, DIT.head_dim)

    def heads(linear: torch.nn.Linear, weight: torch.Tensor) -> torch.Tensor:
        y = x @ linear.weight.T + linear.bias
        y = y / (y.square().mean(-1, keepdim=True) + DIT.eps).sqrt() * weight
        return rotate_pairs(y.unflatten(-1, (DIT.num_heads, -1)), *turn)

    q, k = heads(layer.q, layer.norm_q.weight), heads(layer.k, layer.norm_k.weight)
    v = (x @ layer.v.weight.T + layer.v.bias).unflatten(-1, (DIT.num_heads, -1))
    weights = (torch.einsum("blne,bsne->bnls", q, k) / DIT.head_dim**0.5).softmax(-1)
    expected = torch.einsum("bnls,bsne->blne", weights, v).flatten(2) @ layer.o.weight.T + layer.o.bias
    output, (new_k, new_v) = layer(x, turn, MaskedClip(None))
    torch.testing.assert_close(output, expected, rtol=FP32, atol=FP32)
    torch.testing.assert_close((new_k, new_v), (k, v), rtol=FP32, atol=FP32)


def packed() -> tuple[SelfAttention, SelfAttention]:
    """A layer, and its twin with packed projections."""
    layer, twin = SelfAttention(DIT, layer=0), SelfAttention(DIT, layer=0)
    twin.pack()
    twin.load_state_dict(layer.state_dict())  # also into the packed storage
    return layer, twin


@torch.no_grad()
def test_packed_projections_are_the_three_also_after_weights_changed_in_place():
    layer, twin = packed()
    x = torch.randn(2, 4, DIT.dim)
    assert twin.packed is not None
    torch.testing.assert_close(twin.project(x), layer.project(x), rtol=FP32, atol=FP32)
    assert twin.state_dict().keys() == layer.state_dict().keys()
    assert twin.k.weight.untyped_storage().data_ptr() == twin.packed[0].untyped_storage().data_ptr(), "no copy is kept"


def test_layers_that_are_no_plain_projections_are_not_packed():
    layer = SelfAttention(DIT, layer=0)
    layer.register_module("k", torch.nn.Sequential(layer.k))
    layer.pack()
    assert layer.packed is None
