"""The recipe for one GPU, with every setting but the sizes: it trains adapters alone, and says what it needs."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig

from data.batch import TEXT_TOKENS, LatentBatch
from distill.dmd_stage import DMDStage
from gwm.condition.inputs import Conditions
from gwm.contract import Contract
from gwm.lora import LoRAConfig, with_lora
from gwm.weights import save_weights
from tests.test_configs import composed
from tests.tiny import tiny_dit
from train.measure import checkpoint_blocks
from train.needs import described, needs, planned_contract
from train.networks import dit_header
from train.plan import Plan, plan

FRAMES, TEXT = 3, 8
REDUCED = [
    "model.dim=32", "model.ffn_dim=48", "model.num_heads=2", "model.num_layers=1",
    f"model.conditions.text.width={TEXT}",
    "resolution=32x48", f"num_frames={FRAMES}", "stage.lora.student.rank=2", "stage.lora.critic.rank=2",
    "stage.alarm=null",
]  # fmt: skip


def recipe(folder: Path, *options: str) -> DictConfig:
    places = [f"runs={folder}", f"output={folder}/dmd", "base=/nowhere", "planner.device_flops=1e12"]
    return composed("train", ["stage=dmd", "experiment=dmd_single_gpu", *places, *REDUCED, *options])


def saved_networks(cfg: DictConfig, folder: Path) -> Contract:
    contract = planned_contract(cfg, None)
    for name in ("bidirectional", "consistency"):
        model = tiny_dit(contract.dit)
        save_weights(folder / name / "weights", model.state_dict(), dit_header(contract))
    return contract


def batch(contract: Contract) -> LatentBatch:
    grid, speech = (16, *contract.latent_grid), (1, FRAMES, contract.dit.speech_width)
    heard = Conditions(
        frame={"agent": torch.randn(speech), "user": torch.randn(speech)},
        tokens={"text": torch.randn(1, TEXT_TOKENS, TEXT)},
        nothing={"text": torch.randn(1, TEXT)},
    )
    return LatentBatch(
        x0=torch.randn(1, FRAMES, *grid), reference=torch.randn(1, 1, *grid), step=0, conditions=heard.flat(),
    )  # fmt: skip


@pytest.mark.filterwarnings("ignore:You are trying to `self.log")
def test_the_recipe_trains_adapters_and_the_voices_alone(tmp_path: Path):
    cfg = recipe(tmp_path)
    clips = batch(saved_networks(cfg, tmp_path))
    stage: Any = instantiate(cfg.stage, _convert_="all")
    assert isinstance(stage, DMDStage) and stage.gradient == "replay"
    assert not list(stage.teacher.parameters()), "the teacher is not on the host"
    assert cfg.checkpoint_blocks and checkpoint_blocks([stage])
    generator = torch.Generator().manual_seed(0)
    window = stage._window(clips, stage.gradient, generator)
    stage.student_loss(window, clips, generator).backward()
    stage.critic_loss(window, generator).backward()
    for network in (stage.network, stage.critic):
        trainable = {name for name, p in network.model.named_parameters() if p.grad is not None}
        assert {name.rpartition(".")[2] for name in trainable if "embedding" not in name} == {"down", "up"}
        assert {name.partition(".")[0] for name in trainable} == {"blocks", "frame_embeddings"}


def planned(cfg: DictConfig) -> Plan:
    (build, num_layers), how = described(cfg), instantiate(cfg.planner)
    return plan(how, needs(build, how, num_layers=num_layers))


def test_its_plan_counts_two_bases_one_of_them_on_the_host(tmp_path: Path):
    cfg = recipe(tmp_path)
    found = planned(cfg)
    model = tiny_dit(planned_contract(cfg, None).dit)
    base, adapted = sum(p.numel() for p in model.parameters()), with_lora(model, LoRAConfig(rank=2))
    trainable = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
    assert (found.trained_parameters, found.host_bytes) == (2 * trainable, 4 * base)
    whole = sum(p.numel() for p in adapted.parameters()) - trainable  # what the student stands on
    assert (found.frozen_parameters, found.weight_bytes) == (whole, 4 * (whole + 2 * 2 * trainable))
    assert found.optimizer_bytes == pytest.approx(2 * 4 * 2 * trainable, rel=0.01)  # AdamW's two means


def test_its_plan_counts_a_discriminator(tmp_path: Path):
    """The head's parameters to the last one, and its passes of the critic: two without gradient each batch, and one
    more to the clip and back at every student update."""
    head = ["stage/gan=head", "stage.gan.layers=[0]", "stage.gan.width=4"]
    plain, with_head = (planned(recipe(tmp_path, *options)) for options in ([], head))
    dim, width = 32, 4
    own = 2 * dim + (dim + 1) * width + width + 1  # a norm and two layers
    assert with_head.trained_parameters - plain.trained_parameters == own
    assert with_head.frozen_parameters == plain.frozen_parameters
    assert with_head.weight_bytes - plain.weight_bytes == 4 * 2 * own  # and an average
    assert with_head.activation_bytes > plain.activation_bytes  # inputs of the critic's blocks
    assert with_head.flops_per_step > 1.2 * plain.flops_per_step
