"""Plans of the recipes for published models: what docs/wan.md says is in the JSON, and the JSON is what is said now."""

import json
from pathlib import Path
from typing import Any

import pytest
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.utils import instantiate

from tests.test_configs import CONFIGS, composed
from train.needs import planned_contract
from train.plans import stage_plans

ROOT = Path(__file__).parents[2]
RECIPES = composed("plans", []).recipes
FAST = ("bidirectional", "causal")


def kept(recipe: str) -> dict[str, Any]:
    return json.loads((ROOT / "train" / "results" / f"plan_{recipe}.json").read_text())


def said_now(recipe: str, stages: tuple[str, ...] | None = None) -> dict[str, Any]:
    cfg, found = composed("plans", []), {}
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        for stage in stages or [name for name in kept(recipe) if isinstance(kept(recipe)[name], dict)]:
            found[stage] = stage_plans(recipe, stage, devices=cfg.devices, device_flops=cfg.device_flops)
    return json.loads(json.dumps(found))


def test_a_recipes_plan_is_what_the_command_says_now():
    """Of the shortest; all of them in the test below."""
    recipe = RECIPES[0]
    assert said_now(recipe, FAST) == {stage: kept(recipe)[stage] for stage in FAST}


@pytest.mark.acceptance
@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipes_plan_is_what_the_command_says_now(recipe: str):
    assert said_now(recipe) == {name: value for name, value in kept(recipe).items() if isinstance(value, dict)}


@pytest.mark.parametrize("recipe", [*RECIPES, "character_motion"])
@pytest.mark.parametrize("stage", ["consistency", "dmd"])
def test_a_stage_without_a_model_is_planned_with_the_chunks_that_stage_causal_trains(recipe: str, stage: str):
    options = [f"experiment={recipe}", "++base=x"]
    own, causal = (composed("train", [f"stage={name}", *options]) for name in (stage, "causal"))
    assert planned_contract(own, None).pattern == instantiate(causal.stage.pattern)


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_page_has_the_numbers_of_the_plan(recipe: str):
    page = (ROOT / "docs" / "wan.md").read_text()
    for stage, found in kept(recipe).items():
        if isinstance(found, dict):
            assert row(recipe, stage, found) in page


def row(recipe: str, stage: str, found: dict[str, Any]) -> str:
    """Of the page's table: gigabytes a device of 1, 8 and 64, and days on them."""
    devices = [found["devices"][count] for count in ("1", "8", "64")]
    cells = [f"{one['device_bytes'] / 1e9:.0f}" for one in devices] + [f"{one['days']:.2f}" for one in devices]
    return f"| `{recipe}` | {stage} | {' | '.join(cells)} |"


def test_a_plan_divides_what_devices_share():
    """Weights, gradients and optimizer by their number; what a clip's activations need stays."""
    found = kept(RECIPES[0])["dmd"]["devices"]
    one, eight = found["1"], found["8"]
    assert eight["weight_bytes"] == one["weight_bytes"] // 8 and eight["optimizer_bytes"] == one["optimizer_bytes"] // 8
    assert eight["activation_bytes"] == one["activation_bytes"] and eight["flops_per_step"] == one["flops_per_step"]
    assert eight["days"] == pytest.approx(one["days"] / 8)
