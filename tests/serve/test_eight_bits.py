import torch

from serve.quantise import SCALE, packed, unpacked
from tests.tiny import contract, tiny_dit


def test_packed_matrices_are_within_half_a_step_and_the_rest_is_float16():
    torch.manual_seed(0)
    weights = tiny_dit(contract().dit).state_dict()
    stored = packed(weights)
    back = unpacked(stored)
    assert list(back) == list(weights)
    for name, weight in weights.items():
        if name + SCALE in stored:
            assert stored[name].dtype == torch.int8
            step = weight.abs().amax(dim=1, keepdim=True) / 127
            assert ((back[name] - weight).abs() <= step / 2 + 1e-7).all()
        else:
            assert torch.equal(back[name], weight.half())
    assert all(name.startswith("blocks.") for name in weights if name + SCALE in stored)
    assert sum(weights[name].numel() for name in weights if name + SCALE in stored) > 0.5 * sum(
        weights[name].numel() for name in weights if name.startswith("blocks.")
    )


def test_a_row_of_zeros_stays_zero():
    name = "blocks.0.ffn.weight"
    assert torch.equal(unpacked(packed({name: torch.zeros(2, 3)}))[name], torch.zeros(2, 3))


def test_weights_that_are_not_packed_are_themselves():
    weights = {"a": torch.randn(3), "blocks.0.weight": torch.randn(2, 2).bfloat16()}
    assert all(unpacked(weights)[name] is weight for name, weight in weights.items())
