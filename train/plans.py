"""What every stage of a recipe will need on 1, 8 and 64 devices, as JSON: python -m train.plans recipe=wan2_1_t2v_1_3b

Nothing of it is allocated, and no weights are read. A stage is counted once; devices divide what was counted.
"""

import logging
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from hydra import compose
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig

from configs.command.main import command
from gwm.weights import write_json
from train.needs import PlannedRun, described, needs
from train.plan import plan

log = logging.getLogger(__name__)

NOWHERE = "planned"  # no folder has this name: the plan is of the configured model, not of one that lies around


def stage_plans(recipe: str, stage: str, *, devices: Sequence[int], device_flops: float) -> dict[str, Any] | None:
    """Plans of one stage by number of devices; None of a stage that trains nothing, or on one device alone.

    Needs an initialised Hydra.
    """
    options = [f"stage={stage}", f"experiment={recipe}", f"base={NOWHERE}", f"name={NOWHERE}"]
    cfg = compose("train", options, return_hydra_config=True)
    HydraConfig.instance().set_config(cfg)
    if "call" in cfg or cfg.data.batch_size < max(devices):
        return None
    run: PlannedRun = replace(instantiate(cfg.planner), device_flops=device_flops)
    build, num_layers = described(cfg)
    found = needs(build, run, num_layers=num_layers)
    made = {count: plan(replace(run, devices=count), found) for count in devices}
    rows = {
        str(count): asdict(one) | {"device_bytes": one.device_bytes, "days": cfg.trainer.max_steps / steps}
        for count, one in made.items()
        for steps in [one.steps_per_day * _updates(cfg)]
    }
    return {"batch_size": run.batch_size, "updates": cfg.trainer.max_steps, "devices": rows}


def _updates(cfg: DictConfig) -> float:
    """Updates that a batch makes: `trainer.max_steps` counts those of both optimizers of DMD."""
    return 1 + 1 / cfg.stage.critic_per_student if "critic_per_student" in cfg.stage else 1.0


@command("plans", verbatim=("out",))
def main(cfg: DictConfig) -> None:
    own = HydraConfig.instance().cfg
    for recipe in cfg.recipes:
        stages = compose("train", ["stage=causal", f"experiment={recipe}", f"base={NOWHERE}"]).recipe.stages
        found = {}
        for stage in stages:
            row = stage_plans(recipe, stage, devices=cfg.devices, device_flops=cfg.device_flops)
            if row is not None:
                found[stage] = row
                log.info("%s, stage=%s: %.1f GB a device of %d", recipe, stage, _gigabytes(row), cfg.devices[-1])
        command = f"python -m train.plans 'recipes=[{recipe}]'"
        facts = {"command": command, "device_flops": cfg.device_flops}
        write_json(Path(cfg.out) / f"plan_{recipe}.json", facts | found)
    HydraConfig.instance().cfg = own


def _gigabytes(row: dict[str, Any]) -> float:
    return list(row["devices"].values())[-1]["device_bytes"] / 1e9


if __name__ == "__main__":
    main()
