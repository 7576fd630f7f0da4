"""Every configuration composes, resolves, and names arguments that exist."""

import inspect
import tomllib
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf

CONFIGS = Path(__file__).parents[1] / "configs"
STAGES = sorted(path.stem for path in (CONFIGS / "stage").glob("*.yaml"))
EXPERIMENTS = {  # and the stages they are for
    "vae": ["autoencoder"],
    "speech": ["speech"],
    "sync": ["sync"],
    "character_256": ["autoencoder", "bidirectional", "causal", "consistency", "dmd", "regression"],
    "character_blinks": ["regression"],
    "character_motion": ["bidirectional", "causal", "consistency", "dmd", "long"],
    "character_s": ["bidirectional", "causal", "consistency", "dmd", "regression"],
    "dmd_single_gpu": ["dmd"],
    "keyframes": ["bidirectional", "causal", "consistency", "dmd"],
    "nano_motion": ["bidirectional", "causal", "consistency", "dmd"],
    "robot_nano": ["autoencoder", "bidirectional", "causal", "consistency", "regression", "dmd", "long"],
    "world_nano": ["autoencoder", "bidirectional", "causal", "consistency", "dmd", "long"],
    "world_s": ["autoencoder", "bidirectional", "causal", "consistency", "dmd", "long"],
}
SHARDING = ("fsdp", "deepspeed")
SWEEPS = sorted(path.stem for path in (CONFIGS / "sweep").glob("*.yaml") if path.stem != "table")


def composed(name: str, overrides: list[str]) -> DictConfig:
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        cfg = compose(name, overrides=overrides, return_hydra_config=True)
    HydraConfig.instance().set_config(cfg)  # for ${hydra:...}
    return cfg


def check_targets(node: Any) -> int:
    """Every `_target_` below a node exists and accepts its keys; how many there were."""
    if isinstance(node, list):
        return sum(check_targets(item) for item in node)
    if not isinstance(node, dict):
        return 0
    count = sum(check_targets(value) for value in node.values())
    if "_target_" not in node:
        return count
    if node["_target_"] == "datetime.timedelta":  # written in C, without a signature
        return count + (timedelta(**{key: node[key] for key in node if not key.startswith("_")}) > timedelta())
    parameters = inspect.signature(get_object(node["_target_"])).parameters
    keys = {key for key in node if not key.startswith("_")}
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    assert takes_any or keys <= set(parameters), f"{node['_target_']} has no {sorted(keys - set(parameters))}"
    if not node.get("_partial_"):
        required = {n for n, p in parameters.items() if p.default is p.empty and p.kind is p.KEYWORD_ONLY}
        assert required <= keys, f"{node['_target_']} needs {sorted(required - keys)}"
    return count + 1


@pytest.mark.parametrize("stage", STAGES)
def test_stage_composes_and_names_real_arguments(stage: str):
    cfg = composed("train", [f"stage={stage}"])
    plain = OmegaConf.to_container(cfg, resolve=False)
    assert isinstance(plain, dict)
    del plain["hydra"]
    assert check_targets(plain) > 3 or stage in ("export", "motion_export")


@pytest.mark.parametrize("option", ["gan=head", "reward=lip_sync"])
@pytest.mark.parametrize("stage", ["dmd", "long"])
def test_an_option_of_distillation_composes_and_names_real_arguments(stage: str, option: str):
    cfg = composed("train", [f"stage={stage}", f"stage/{option}"])
    name = option.split("=")[0]
    assert cfg.stage[name]._target_.startswith("distill.") and cfg.stage._target_ == "distill.dmd_stage.DMDStage"
    check_targets(OmegaConf.to_container(cfg.stage, resolve=False))
    assert name not in composed("train", [f"stage={stage}"]).stage, "off by default"


def test_the_comparison_names_every_variant_once():
    variants = composed("comparison", ["runs=r", "shards=s"]).variants
    assert (
        check_targets(OmegaConf.to_container(variants, resolve=False))
        == len({variant.run for variant in variants})
        == 9
    )


def test_every_experiment_is_tested_here_or_is_a_recipe():
    """Recipes are run from end to end in tests/test_wan_recipes.py."""
    names = {path.stem for path in (CONFIGS / "experiment").glob("*.yaml")}
    assert {name for name in names if not name.startswith("wan2_")} == set(EXPERIMENTS)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_experiment_composes(name: str):
    for stage in EXPERIMENTS[name]:
        cfg = composed("train", [f"stage={stage}", f"experiment={name}"])
        assert cfg.stage._target_.endswith("Stage") and cfg.trainer.max_steps > 0


@pytest.mark.parametrize("trainer", sorted(path.stem for path in (CONFIGS / "trainer").glob("*.yaml")))
def test_trainer_composes_and_names_real_arguments(trainer: str):
    cfg = composed("train", ["stage=causal", f"trainer={trainer}"])
    plain = OmegaConf.to_container(cfg.trainer, resolve=False)
    assert check_targets(plain) >= 1 and cfg.trainer.use_distributed_sampler is False
    steps = OmegaConf.load(CONFIGS / "stage" / "causal.yaml").trainer.max_steps
    assert cfg.trainer.max_steps == steps, "a stage's settings hold for every trainer"


@pytest.mark.parametrize("trainer", ["auto", "ddp", "fsdp", "deepspeed"])
def test_a_plan_divides_what_the_trainer_divides(trainer: str):
    assert composed("train", ["stage=causal", f"trainer={trainer}"]).planner.sharded == (trainer in SHARDING)
    assert composed("train", ["stage=causal", f"trainer={trainer}", "planner.sharded=false"]).planner.sharded is False


@pytest.mark.parametrize("stage", STAGES)
def test_ddp_waits_for_no_gradient_that_never_comes(stage: str):
    """A loss of DMD reaches one of two networks."""
    strategy = composed("train", [f"stage={stage}", "trainer=ddp"]).trainer.strategy
    assert strategy.find_unused_parameters == (stage in ("dmd", "long"))


@pytest.mark.parametrize("name", SWEEPS)
def test_sweep_composes_and_varies_what_exists(name: str):
    cfg = composed("train", ["stage=dmd", f"+sweep={name}"])
    varied = cfg.hydra.sweeper.params
    assert varied and all(OmegaConf.select(cfg, key) is not None for key in varied)
    assert cfg.sweep_name == name  # the folder of its table
    for node in (cfg.objective, cfg.hydra.callbacks.table):
        check_targets(OmegaConf.to_container(node, resolve=False))


def test_a_sweep_of_worlds_compares_what_their_gates_measure():
    given = ["stage=causal", "experiment=world_nano", "+sweep=table", "sweep_name=window"]
    cfg = composed("train", given)
    assert cfg.objective.names == ["obeys_db", "ms_per_chunk"] and cfg.hydra.callbacks.table.quality == "obeys_db"


@pytest.mark.parametrize("logger", ["csv", "wandb"])
def test_loggers_compose(logger: str):
    assert composed("train", ["stage=causal", f"logger={logger}"]).logger._target_.startswith("lightning")


def test_suites_answer_the_same_questions():
    """A key that only one suite has would be an error in the other."""
    quick, full = (composed("evaluate", [f"suite={name}", "artifact=a", "shards=s"]) for name in ("quick", "full"))
    assert set(quick) == set(full)
    assert (quick.name, full.name) == ("quick", "full")
    assert full.long_s >= 5 * full.long_every_s
    assert composed("evaluate", ["suite=full", "artifact=a", "shards=s", "clips=3"]).clips == 3


def test_missing_stage_lists_the_stages():
    with pytest.raises(HydraException) as error:
        composed("train", [])
    assert all(stage in str(error.value) for stage in STAGES)


def test_unknown_key_is_an_error():
    with pytest.raises(HydraException, match="critic_per_studnet"):
        composed("train", ["stage=dmd", "stage.critic_per_studnet=3"])


def test_every_package_is_installed():
    root = CONFIGS.parent
    listed = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    folders = [path.parent.relative_to(root) for path in root.glob("*/**/__init__.py")]
    assert set(listed) >= {".".join(folder.parts) for folder in folders if folder.parts[0] not in ("tests", ".venv")}
