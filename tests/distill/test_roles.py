"""One frozen base for three roles: in memory once, never moved, never saved, and gone in what the stage leaves."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from distill.dmd_stage import DMDStage
from distill.roles import RoleAdapters
from gwm.dit import DiT
from gwm.lora import LoRAConfig, adapted_as, merged, with_lora
from gwm.weights import read_header, save_weights
from tests.gwm.test_lora import trained, velocity
from tests.tiny import DIT, tiny_dit
from tests.train.test_resume import dmd, run, weights
from train.networks import load_dit

FP32 = 1e-5
BOTH = {"student": {"rank": 3}, "critic": {"rank": 2}}


def adapted_weights(folder: Path, *, rank: int = 2) -> dict[str, str]:
    """As `weights`, but the causal model is the bidirectional one with trained adapters, merged."""
    folders = weights(folder)
    model, _ = load_dit(folders["bidirectional"], stage="bidirectional")
    torch.manual_seed(4)
    plain = merged(trained(with_lora(model, LoRAConfig(rank=rank))))
    header = read_header(Path(folders["causal"]), kind="dit")
    save_weights(Path(folders["causal"]), plain.state_dict(), header)
    return folders


def stage(folders: dict[str, str], **changes: Any) -> DMDStage:
    torch.manual_seed(2)
    return dmd(folders, **changes)


def distinct_bytes(*modules: nn.Module) -> int:
    """Of all storages behind the modules' parameters, each once."""
    storages = {p.untyped_storage().data_ptr(): p.untyped_storage().nbytes() for m in modules for p in m.parameters()}
    return sum(storages.values())


def trained_bytes(model: nn.Module) -> int:
    return sum(p.nbytes for p in model.parameters() if p.requires_grad)


def test_three_roles_cost_one_base_and_their_adapters(tmp_path: Path):
    made = stage(adapted_weights(tmp_path), lora=BOTH)
    own = trained_bytes(made.network.model) + trained_bytes(made.critic.model)
    assert distinct_bytes(made) == distinct_bytes(made.teacher) + 2 * own  # of each also the running average
    optimizers = [network.optimizers()["optimizer"] for network in (made.network, made.critic)]
    assert sum(p.nbytes for o in optimizers for group in o.param_groups for p in group["params"]) == own
    assert own < 0.8 * distinct_bytes(made.teacher)  # tiny layers are hardly wider than the ranks


def test_a_student_of_its_own_costs_one_base_more(tmp_path: Path):
    """What it starts from may then be anything: here weights that have nothing in common with the teacher's."""
    made = stage(weights(tmp_path), lora=BOTH | {"student_base": "own"})
    own = trained_bytes(made.network.model) + trained_bytes(made.critic.model)
    embeddings = distinct_bytes(made.network.model.frame_embeddings)
    # What is trained whole is not kept a second time, as it is where the teacher needs it.
    assert distinct_bytes(made) == 2 * distinct_bytes(made.teacher) - embeddings + 2 * own


def test_the_student_starts_as_its_init_and_the_critic_as_the_teacher(tmp_path: Path):
    folders = adapted_weights(tmp_path)
    made = stage(folders, lora=BOTH)
    init, teacher = (load_dit(folders[name], stage=name)[0] for name in ("causal", "bidirectional"))
    assert (velocity(init) - velocity(teacher)).abs().max() > 1e-3
    torch.testing.assert_close(velocity(made.network.model), velocity(init), rtol=FP32, atol=FP32)
    assert torch.equal(velocity(made.critic.model), velocity(teacher))
    assert torch.equal(velocity(made.teacher), velocity(teacher))


def test_only_adapters_move_and_the_merge_does_what_the_student_does(tmp_path: Path):
    made = stage(adapted_weights(tmp_path), lora=BOTH)
    before = velocity(made.teacher)
    started = [velocity(network.model) for network in (made.network, made.critic)]
    run(made, max_steps=4, folder=tmp_path / "run")
    assert torch.equal(velocity(made.teacher), before)
    moved = [(velocity(n.model) - v).abs().max() for n, v in zip((made.network, made.critic), started)]
    assert min(moved) > 1e-4
    student, header = made.weights()
    plain = merged(student)
    torch.testing.assert_close(velocity(plain), velocity(student), rtol=FP32, atol=FP32)  # type: ignore[arg-type]
    save_weights(tmp_path / "out", plain.state_dict(), header)
    read, contract = load_dit(tmp_path / "out", stage="dmd")
    assert torch.equal(velocity(read), velocity(plain))  # type: ignore[arg-type]
    assert type(read) is DiT and contract == made.contract


def test_checkpoints_hold_what_is_trained(tmp_path: Path):
    made = stage(adapted_weights(tmp_path), lora=BOTH)
    run(made, max_steps=2, folder=tmp_path)
    kept = torch.load(tmp_path / "last.ckpt", weights_only=False)["state_dict"]
    trainable = {f"{role}.{part}.{name}" for role in ("network", "critic") for part in ("model", "ema.module")
                for name, p in getattr(made, role).model.named_parameters() if p.requires_grad}  # fmt: skip
    assert set(kept) == trainable | {"network.ema.n_averaged", "critic.ema.n_averaged", "exit_counts"}
    whole = stage(adapted_weights(tmp_path / "whole"))
    assert not [name for name in whole.state_dict() if name.startswith("teacher") or "speech_encoder" in name]


@pytest.mark.parametrize("lora", [BOTH, BOTH | {"student_base": "own"}])
def test_a_resumed_run_equals_an_uninterrupted_one(lora: dict[str, Any], tmp_path: Path):
    folders = adapted_weights(tmp_path)
    expected = run(stage(folders, lora=lora), max_steps=6, folder=tmp_path / "whole").state_dict()
    resumed = run(stage(folders, lora=lora), max_steps=6, folder=tmp_path, resume=tmp_path / "whole" / "step=4.ckpt")
    assert [key for key, value in resumed.state_dict().items() if not torch.equal(value, expected[key])] == []


def test_other_frozen_weights_than_a_checkpoints_are_an_error(tmp_path: Path):
    folders = adapted_weights(tmp_path)
    run(stage(folders, lora=BOTH), max_steps=2, folder=tmp_path)
    adapted_weights(tmp_path / "other")
    other = weights(tmp_path / "other") | {"causal": folders["causal"]}
    model, _ = load_dit(other["bidirectional"], stage="bidirectional")
    with torch.no_grad():
        model.head.bias += 1
    header = read_header(Path(other["bidirectional"]), kind="dit")
    save_weights(Path(other["bidirectional"]), model.state_dict(), header)
    with pytest.raises(ValueError, match=r"must be .*, those of the checkpoint: teacher or init was trained again"):
        run(stage(other, lora={"critic": {"rank": 2}}), max_steps=4, folder=tmp_path, resume=tmp_path / "last.ckpt")


def test_adapters_come_out_of_a_merge_as_they_went_in():
    """Two stages of rank 2 need rank 4 together; what a rank of 5 has left over starts as fresh adapters do."""
    base, config = tiny_dit(), LoRAConfig(rank=2, alpha=3.0)
    once = merged(trained(with_lora(base, config)))
    twice = merged(trained(with_lora(once, config)))  # type: ignore[arg-type]
    found = adapted_as(twice, base, LoRAConfig(rank=5, alpha=1.0))  # type: ignore[arg-type]
    torch.testing.assert_close(velocity(found), velocity(twice), rtol=FP32, atol=FP32)  # type: ignore[arg-type]
    layer: Any = found.blocks[0].attention.q
    assert (layer.up.norm(dim=0) > 0).tolist() == [True] * 4 + [False]
    assert (layer.down.norm(dim=1) > 0).all()
    assert layer.weight is base.blocks[0].attention.q.weight
    with pytest.raises(ValueError, match=r"12 differ by more than rank=3 \(blocks.*stage.lora.student_base=own"):
        adapted_as(twice, base, LoRAConfig(rank=3))  # type: ignore[arg-type]


def test_weights_that_get_no_adapters_must_be_the_teachers():
    base = tiny_dit()
    target = merged(with_lora(base, LoRAConfig(rank=1)))
    with torch.no_grad():
        target.blocks[0].modulation += 1e-3  # type: ignore[index, union-attr]
    with pytest.raises(ValueError, match=r"1 that get no adapters are not the teacher's \(blocks.0.modulation"):
        adapted_as(target, base, LoRAConfig(rank=1))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="must have the teacher's"):
        adapted_as(tiny_dit(dataclasses.replace(DIT, num_layers=1)), base, LoRAConfig(rank=1))


@pytest.mark.parametrize(
    ("lora", "offload", "rule"),
    [
        ({"studnet": {"rank": 2}}, False, r"unknown keys \['studnet'\]"),
        ({"student": {"rnk": 2}}, False, r"unknown keys \['rnk'\], missing keys \['rank'\]"),
        ({"critic": {"rank": 0}}, False, "rank=0 must be at least 1"),
        ({"student_base": "critic"}, False, "student_base='critic' must be one of"),
        ({"student": {"rank": 2}}, True, "offload=true must be false with lora.student_base=teacher"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_impossible_roles_are_errors(lora: dict[str, Any], offload: bool, rule: str):
    with pytest.raises(ValueError, match=rule):
        RoleAdapters.from_json(lora).check(offloaded=offload)
