"""The benchmark's numbers belong together, and its configurations compose."""

import dataclasses
import json
import runpy
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.utils import instantiate
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from gwm.config import DiTConfig
from gwm.dit import DiT
from serve.bench.case import SHAPES, Case
from tests.tiny import DIT
from tests.wan import published
from train.bench import Geometry, bench
from train.needs import planned_contract

CONFIGS = Path(__file__).parents[2] / "configs"
GEOMETRY = Geometry(dit=DIT, batch_size=2, num_frames=3, height=4, width=4, pattern=None)
ADAM = partial(torch.optim.AdamW, lr=1e-3)
ATEN: Any = torch.ops.aten
ON_CPUS = {  # what PyTorch's own counter lacks
    ATEN._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, **__: sdpa_flop_count(q, k, v),
    ATEN._scaled_dot_product_flash_attention_for_cpu_backward: lambda *shapes, **_: sdpa_backward_flop_count(
        *shapes[:4]
    ),
}


def test_speed_share_and_operations_agree():
    found = bench(GEOMETRY, ADAM, precision="32-true", device="cpu", steps=3, warmup_steps=1)
    with FlopCounterMode(display=False, custom_mapping=ON_CPUS) as counter:
        GEOMETRY.loss(DiT(DIT), GEOMETRY.batch()).backward()
    flops = counter.get_total_flops()
    assert found["flops_per_step"] == flops and found["tokens_per_step"] == 2 * 3 * 4
    seconds = found["step_ms_p50"] / 1000
    assert found["tokens_per_s"] * seconds == pytest.approx(24, rel=0.01)
    assert found["share_of_matmul_peak"] == pytest.approx(flops / seconds / found["matmul_flops_per_s"], rel=0.05)
    assert 0 < found["share_of_matmul_peak"] < 1 and found["matmul_flops_per_s"] > 1e9
    assert found["step_ms_p95"] >= found["step_ms_p50"]


def test_the_command_writes_its_json(tmp_path: Path, monkeypatch):
    out = tmp_path / "results" / "bench.json"
    small = [
        f"geometry.{key}" for key in ("batch_size=1", "num_frames=1", "height=4", "width=4", "dit.model.num_layers=1")
    ]
    monkeypatch.setattr("sys.argv", ["bench", "steps=1", "warmup_steps=0", f"out={out}", *small])
    GlobalHydra.instance().clear()
    runpy.run_module("train.bench", run_name="__main__")
    found = json.loads(out.read_text())
    assert found["geometry"] == "nano" and "geometry=nano" in found["command"] and found["parameters"] > 1e5


def test_the_wan_geometry_is_that_of_its_1_3_b_model():
    """1.42 B parameters: as many as diffusers' Wan2.1-T2V-1.3B has; 20 frames of 30 x 52 tokens."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        cfg = compose("bench_train", ["geometry=wan2_1_1_3b"])
    geometry = instantiate(cfg.geometry, _convert_="all")
    with torch.device("meta"):
        model = DiT(geometry.dit)
    assert sum(p.numel() for p in model.parameters()) == 1_418_996_800
    assert geometry.tokens == 20 * 30 * 52


def test_nano_is_one_shape_wherever_it_is_timed():
    """Training speed was once that of a fifth layer, and of a model that does not see its reference."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        timed = instantiate(compose("bench_train").geometry.dit)
        cfg = compose("train", ["stage=causal", f"vae={CONFIGS.parent / 'weights' / 'vae'}"])
    trained = planned_contract(cfg, None).dit
    served = Case(shape="nano", height=128, width=128).contract().dit
    assert timed == trained
    assert dataclasses.replace(served, place_grid=trained.place_grid) == trained


def test_wan_is_one_shape_wherever_it_is_timed():
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        timed = instantiate(compose("bench_train", ["geometry=wan2_1_1_3b"]).geometry.dit)
    assert timed == published("wan2_1_1_3b") == DiTConfig(**SHAPES["wan2_1_1_3b"])


def test_a_missing_gpu_is_named():
    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(RuntimeError, match="device=cuda needs a GPU"):
        bench(GEOMETRY, ADAM, precision="32-true", device="cuda", steps=1, warmup_steps=0)
