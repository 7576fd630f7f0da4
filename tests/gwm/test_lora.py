"""Adapters change nothing until they are trained, only the model that owns them, and nothing that a merge loses."""

import copy
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from gwm.block import MaskedClip
from gwm.dit import DiT
from gwm.lora import LAYERS, LoRAConfig, LoRALinear, merged, with_lora
from tests.tiny import latents, speech, tiny_dit

RANK2 = LoRAConfig(rank=2, alpha=3.0)
FRAMES = 2


def velocity(model: DiT) -> Tensor:
    torch.manual_seed(5)
    sigma = torch.rand(2, FRAMES)
    where = {"positions": torch.arange(FRAMES), "context": MaskedClip(None)}
    return model(latents(FRAMES), sigma, speech(FRAMES), **where).velocity


def trained(model: DiT, steps: int = 3) -> DiT:
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        velocity(model).square().mean().backward()
        optimizer.step()
    return model


def adapters(model: DiT) -> Iterator[LoRALinear]:
    return (module for module in model.modules() if isinstance(module, LoRALinear))


def test_untrained_adapters_change_no_bit():
    base = tiny_dit()
    expected = velocity(base)
    assert torch.equal(velocity(with_lora(base, RANK2)), expected)


def test_training_one_role_moves_neither_the_base_nor_another_role():
    base = tiny_dit()
    student, critic = with_lora(base, RANK2), with_lora(base, LoRAConfig(rank=3))
    expected = velocity(base)
    trained(student)
    assert (velocity(student) - expected).abs().max() > 1e-3
    assert torch.equal(velocity(base), expected)
    assert torch.equal(velocity(critic), expected)


def test_all_roles_hold_the_same_frozen_weights():
    """In memory once, on whatever device the stage that holds them is moved to."""
    base = tiny_dit()
    roles = torch.nn.ModuleList([base, with_lora(base, RANK2), with_lora(base, RANK2)]).double()
    weights = [role.blocks[0].attention.q.weight for role in roles]
    assert weights[0] is weights[1] is weights[2]
    assert weights[0].dtype == torch.float64
    assert not weights[0].requires_grad
    assert len({p.data_ptr() for p in base.parameters()} - {p.data_ptr() for p in roles[1].parameters()}) == 8  # voices


def test_a_running_average_shares_the_base_and_owns_its_adapters():
    base = tiny_dit()
    model = with_lora(base, RANK2)
    average = AveragedModel(model)
    average.update_parameters(model)
    before = velocity(average.module)
    trained(model)
    assert average.module.blocks[0].ffn[0].weight is base.blocks[0].ffn[0].weight
    assert torch.equal(velocity(average.module), before)


def test_adapters_and_added_conditions_alone_are_trained():
    model = with_lora(tiny_dit(), RANK2)
    velocity(model).square().mean().backward()
    trainable = {name for name, p in model.named_parameters() if p.grad is not None}
    ends = {name.rpartition(".")[2] for name in trainable if "embedding" not in name}
    assert ends == {"down", "up"}
    assert {name.partition(".")[0] for name in trainable} == {"blocks", "frame_embeddings"}
    assert len(list(adapters(model))) == 2 * 6  # blocks; four projections and two layers of the MLP in each


def test_a_merged_model_is_plain_and_does_the_same():
    base = tiny_dit()
    model = trained(with_lora(base, RANK2))
    plain = merged(model)
    assert isinstance(plain, DiT)
    assert plain.state_dict().keys() == base.state_dict().keys()
    torch.testing.assert_close(velocity(plain), velocity(model), rtol=1e-5, atol=1e-5)
    expected = velocity(base)
    trained(plain.requires_grad_(True))  # a merged model owns its weights
    assert torch.equal(velocity(base), expected)


def test_a_model_without_adapters_is_merged_already():
    model = tiny_dit()
    assert merged(model) is model


def test_the_product_is_scaled_by_alpha_over_rank():
    model = with_lora(tiny_dit(), LoRAConfig(rank=2, alpha=3.0))
    layer = next(adapters(model))
    torch.nn.init.normal_(layer.up)
    expected = layer.weight + 1.5 * layer.up @ layer.down
    torch.testing.assert_close(layer.merged().weight, expected)


def test_layers_can_be_chosen():
    model = with_lora(tiny_dit(), LoRAConfig(rank=1, layers=("q", "v")))
    assert len(list(adapters(model))) == 2 * 2


def test_weights_in_half_precision_keep_adapters_in_full():
    base = tiny_dit().bfloat16()
    layer = next(adapters(with_lora(base, RANK2)))
    assert (layer.weight.dtype, layer.up.dtype, layer.down.dtype) == (torch.bfloat16, torch.float32, torch.float32)
    torch.nn.init.normal_(layer.up)
    x = torch.randn(4, layer.weight.shape[1], dtype=torch.bfloat16)
    exact = x.float() @ (layer.weight.float() + 1.5 * layer.up @ layer.down).T + layer.bias.float()
    assert layer(x).dtype == torch.bfloat16
    torch.testing.assert_close(layer(x).float(), exact, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rank": 0}, "rank=0 must be at least 1"),
        ({"layers": ("q", "query")}, r"layers=\('q', 'query'\) must be some of .*\['query'\]"),
        ({"layers": ()}, r"layers=\(\)"),
    ],
)
def test_impossible_adapters_are_errors(change: dict, message: str):
    with pytest.raises(ValueError, match=message):
        LoRAConfig(**({"rank": 1, "layers": LAYERS} | change))


def test_adapters_on_adapters_are_an_error():
    with pytest.raises(ValueError, match="Merge it first"):
        with_lora(copy.deepcopy(with_lora(tiny_dit(), RANK2)), RANK2)
