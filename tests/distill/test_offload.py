"""A teacher on the host says what it said on the device, and is there one block at a time."""

import copy
import dataclasses
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import distill.offload
from distill.dmd_stage import DMDStage
from distill.offload import offload
from gwm.dit import DiT
from gwm.lora import LoRAConfig, with_lora
from tests.distill.test_roles import BOTH, stage
from tests.gwm.test_lora import velocity
from tests.tiny import DIT, tiny_dit, trainable
from tests.train.test_resume import run, weights
from train.measure import Meter, checkpoint_blocks

OFFLOADED: dict[str, Any] = {"lora": BOTH | {"student_base": "own"}, "offload": True}


class Carrier:
    """Stands for the way to the device: counts what is carried, and makes copies, as a device would."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.carried: Counter[int] = Counter()
        self.copies: list[Tensor] = []
        monkeypatch.setattr(distill.offload, "bring", self)

    def __call__(self, weight: Tensor, device: torch.device) -> Tensor:
        self.carried[weight.data_ptr()] += 1
        self.copies.append(weight.clone())
        return self.copies[-1]


def test_every_weight_is_brought_once_a_pass_and_changes_nothing(monkeypatch: pytest.MonkeyPatch):
    model = tiny_dit().requires_grad_(False)
    expected, sizes = velocity(model), [p.nbytes for p in model.parameters()]
    host_bytes = offload(model)
    carrier = Carrier(monkeypatch)
    assert torch.equal(velocity(model), expected)
    assert set(carrier.carried.values()) == {1} and len(carrier.carried) == len(sizes)
    assert sum(copy.nbytes for copy in carrier.copies) == host_bytes == sum(sizes)


def test_nothing_of_it_can_be_moved_saved_or_trained():
    model = tiny_dit().requires_grad_(False)
    offload(model)
    assert not list(model.parameters()) and not model.state_dict()
    weight = model.blocks[0].attention.q.weight
    model.double()  # as a framework moves what it finds
    assert model.blocks[0].attention.q.weight is weight and weight.dtype == torch.float32


def test_where_it_is_already_nothing_is_copied():
    model = tiny_dit().requires_grad_(False)
    addresses = {p.data_ptr() for p in model.parameters()}
    expected = velocity(model)
    offload(model)
    assert torch.equal(velocity(model), expected)
    assert {module.weight.data_ptr() for module in model.modules() if isinstance(module, torch.nn.Linear)} <= addresses


def critic_on_the_host(num_layers: int) -> tuple[DiT, DiT, int]:
    """A critic whose base is on the host, its twin whose base is not, and the bytes of one of their blocks."""
    teacher = tiny_dit(dataclasses.replace(DIT, num_layers=num_layers)).requires_grad_(False)
    critic = with_lora(teacher, LoRAConfig(rank=2))
    twin, a_block = copy.deepcopy(critic), sum(p.nbytes for p in teacher.blocks[0].parameters())
    offload(teacher, [critic])
    return critic, twin, a_block


def test_a_backward_pass_has_one_block_at_a_time_there(monkeypatch: pytest.MonkeyPatch):
    """Of adapters on the teacher's weights, and with checkpoints: what is kept does not grow with the blocks."""
    Carrier(monkeypatch)

    def kept_bytes(num_layers: int, checkpointed: bool) -> tuple[int, int]:
        critic, twin, a_block = critic_on_the_host(num_layers)
        if checkpointed:
            assert checkpoint_blocks([critic]) == num_layers
        meter = Meter()
        with meter:
            loss = velocity(critic).square().mean()
        kept = meter.alive
        loss.backward()
        velocity(twin).square().mean().backward()
        for found, wanted in zip(trainable(critic), trainable(twin), strict=True):
            torch.testing.assert_close(found.grad, wanted.grad)
        return kept, a_block

    (two, a_block), (four, _) = (kept_bytes(layers, True) for layers in (2, 4))
    assert four - two < a_block / 2
    (two, _), (four, _) = (kept_bytes(layers, False) for layers in (2, 4))
    assert four - two > 2 * a_block


def test_a_stage_trains_the_same_with_its_teacher_on_the_host(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Bit for bit; and neither a checkpoint nor a device holds the teacher."""
    folders = weights(tmp_path)
    plain = stage(folders, **(OFFLOADED | {"offload": False}))
    teacher_bytes = sum(p.nbytes for p in plain.teacher.parameters())
    run(plain, max_steps=6, folder=tmp_path / "plain")
    carrier, made = Carrier(monkeypatch), stage(folders, **OFFLOADED)
    run(made, max_steps=6, folder=tmp_path / "offloaded")
    states = [torch.load(tmp_path / name / "last.ckpt", weights_only=False) for name in ("plain", "offloaded")]
    expected, found = (state["state_dict"] for state in states)
    assert found.keys() == expected.keys()
    assert [key for key in found if not torch.equal(found[key], expected[key])] == []
    assert carrier.carried and resident_bytes(plain) - resident_bytes(made) == teacher_bytes


def resident_bytes(made: DMDStage) -> int:
    return sum({p.untyped_storage().data_ptr(): p.nbytes for p in made.parameters()}.values())


@pytest.mark.gpu
def test_on_a_gpu_the_teacher_takes_the_room_of_a_block():
    """Pinned on the host; a pass without gradient takes far less room than the model."""
    model = tiny_dit(dataclasses.replace(DIT, dim=256, ffn_dim=1024, num_layers=8)).requires_grad_(False)
    model_bytes, resident = sum(p.nbytes for p in model.parameters()), copy.deepcopy(model).cuda()
    offload(model)
    model.cuda()
    weight = model.blocks[0].attention.q.weight
    assert weight.device.type == "cpu" and weight.is_pinned()
    with torch.device("cuda"), torch.no_grad():
        expected = velocity(resident)  # also what the libraries keep for themselves
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        found = velocity(model)
        assert torch.cuda.max_memory_allocated() - before < model_bytes / 3
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
