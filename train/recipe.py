"""Checks of the command line before anything is loaded: a stage, its initial weights, and a recipe for its model."""

from pathlib import Path

from omegaconf import DictConfig

from configs.command.main import CONFIGS, HELP


def check_recipe(cfg: DictConfig, *, stage: str, model: str) -> None:
    """Refuse settings that would silently belong to another model, or to none.

    Raises:
        ValueError: a published model without a recipe of its own, a stage that the recipe does not have, or `init` for
            a stage that starts from nothing.
    """
    if cfg.recipes and cfg.recipe.model != model:
        named = " or ".join(f"experiment={name}" for name in cfg.recipes)
        raise ValueError(
            f"model={model} must come with a recipe of its own: learning rates, steps and sizes of "
            f"{cfg.recipe.model or 'model=nano'} are not meant for it. In place of model={model}: python train.py "
            f"stage={stage} {named} base=DIR shards=DIR. Settings of your own, in configs/experiment/, are accepted "
            f"with recipe.model={model}."
        )
    if cfg.recipe.stages and stage not in cfg.recipe.stages:
        raise ValueError(
            f"stage={stage} must be one of {list(cfg.recipe.stages)}: this recipe has no settings for another one."
        )
    if cfg.from_nothing and cfg.init is not None:
        raise ValueError(
            f"init={cfg.init} must be left out: stage={stage} trains from nothing. What it leaves is given to a video "
            f"model with speech=DIR, to evaluate.py with sync=DIR."
        )


def guide() -> str:
    """Stages and recipes, each with the first sentence of its file."""
    rows = ["python train.py stage=STAGE [experiment=RECIPE] [KEY=VALUE ...]", "", "stages"]
    rows += [f"  {name:24s} {text}" for name, text in _described("stage")]
    rows += ["", "recipes and settings of shipped models (experiment=)"]
    rows += [f"  {name:24s} {text}" for name, text in _described("experiment")]
    rows += [
        "",
        "Several stages one after the other: python train.py -m stage=autoencoder,bidirectional,causal",
        "All keys of a stage and their values: python train.py stage=causal --cfg job",
    ]
    return "\n".join(rows)


def wants_guide(arguments: list[str]) -> bool:
    """Help is asked for, or no stage is named; Hydra's own options are left to Hydra."""
    if any(argument in HELP for argument in arguments):
        return True
    named = any(argument.lstrip("+").startswith("stage=") for argument in arguments)
    of_hydra = any(argument.startswith("-") and argument not in ("-m", "--multirun") for argument in arguments)
    return not named and not of_hydra


def _described(group: str) -> list[tuple[str, str]]:
    return [(path.stem, _first_sentence(path)) for path in sorted((CONFIGS / group).glob("*.yaml"))]


def _first_sentence(path: Path) -> str:
    comments = []
    for line in path.read_text().splitlines():
        if line.startswith("# ") and not line.startswith("# @"):
            comments.append(line[2:].strip())
        elif comments:
            break
    return " ".join(comments).split(". ")[0].rstrip(".")
