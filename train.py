"""Run one stage, or several: `python train.py stage=causal`, `python train.py -m stage=autoencoder,bidirectional`.

A stage finds what it needs under runs/<name>/, resumes where it was stopped, and leaves there its weights, its gate
(quality on unseen identities), its logs and its last checkpoint.
"""

import logging
import shutil
import sys
import warnings
from pathlib import Path
from typing import Any

import lightning as L
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.strategies import SingleDeviceStrategy
from omegaconf import DictConfig

from configs.command.main import HELP, command
from gwm.tf32 import allow_tf32
from train.checkpoint import AtomicCheckpointIO, read_checkpoint, remember_config
from train.finite import FiniteNumbers
from train.measure import checkpoint_blocks
from train.plan import show
from train.recipe import check_recipe, guide, wants_guide
from train.throughput import Accumulation

# Advertising and notices about Lightning's own insides: nothing that a user could act on.
logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
NOTICES = ("exists and is not empty", "treespec", "eval mode at the start", "ModelCheckpoint with manual optimization")
warnings.filterwarnings("ignore", message=f".*({'|'.join(NOTICES)}).*")

# Settings that are paths, or parts of them, wherever they stand (`init` is also `stage.init`).
PATHS = (
    "name",
    "shards",
    "runs",
    "output",
    "init",
    "vae",
    "speech",
    "latents",
    "mouths",
    "pairs",
    "teacher",
    "student",
)
PATHS += ("weights", "out", "before", "folder", "dirpath", "save_dir")


def fit(cfg: DictConfig, output: Path) -> None:
    """Train a stage to its last step, then write its weights and its gate."""
    last = output / "last.ckpt"
    goes_on = cfg.resume and last.is_file()  # decided before the first process clears the folder
    if rank_zero_only.rank == 0:
        if not cfg.resume and output.exists():
            shutil.rmtree(output)
        if not goes_on:  # a run without a checkpoint, such as one that was refused, binds nobody
            (output / "run.yaml").unlink(missing_ok=True)
        remember_config(output, cfg)
    L.seed_everything(cfg.seed, workers=True, verbose=False)
    if cfg.tf32 is not None:
        allow_tf32(cfg.tf32)
    stage: L.LightningModule = instantiate(cfg.stage, _convert_="all")
    if cfg.checkpoint_blocks and not checkpoint_blocks([stage]):
        raise ValueError("checkpoint_blocks=true needs a DiT: this stage has no blocks to compute again.")
    data: L.LightningDataModule = instantiate(cfg.data, device_batch=cfg.device_batch, _convert_="all")
    callbacks = [Accumulation(), *(instantiate(cfg[name], _convert_="all") for name in ("throughput", "checkpoint"))]
    trainer: L.Trainer = instantiate(
        cfg.trainer,
        _convert_="all",
        logger=instantiate(cfg.logger, _convert_="all"),
        callbacks=[FiniteNumbers(output), *callbacks, instantiate(cfg.progress)],
        plugins=[AtomicCheckpointIO()],
    )
    trainer.fit(stage, data, ckpt_path=last if goes_on else None, weights_only=False)
    trainer.save_checkpoint(last)
    if trainer.global_rank == 0:
        # Also of one device: a strategy that divides weights keeps them as parts.
        whole = isinstance(trainer.strategy, SingleDeviceStrategy)
        trained = stage if whole else whole_stage(cfg, last, trainer)
        instantiate(cfg.finish, _convert_="all")(trained, data, output)


def whole_stage(cfg: DictConfig, last: Path, trainer: L.Trainer) -> L.LightningModule:
    """The trained stage on this process alone, which need not ask others for their parts of it."""
    stage: L.LightningModule = instantiate(cfg.stage, _convert_="all")
    stage.load_state_dict(read_checkpoint(last)["state_dict"])
    stage.trainer = trainer
    return stage


def show_plan(cfg: DictConfig) -> None:
    """Print what the stage will need.

    Raises:
        ValueError: nobody described the stage's work.
    """
    if "work" not in cfg:
        raise ValueError("plan=true needs configs/work/<stage>.yaml, and this stage has none: plan the one before it.")
    work = instantiate(cfg.work, _convert_="all")
    show(work["build"], work["optimizer"], instantiate(cfg.planner))


def run(cfg: DictConfig) -> Any:
    """Run one stage, or print its plan or guide; the measures of a sweep, in a sweep."""
    output, choices = Path(cfg.output), HydraConfig.get().runtime.choices
    check_recipe(cfg, stage=choices["stage"], model=choices["model"])
    if cfg.plan:
        show_plan(cfg)
    elif "call" in cfg:  # a stage without training, such as export
        instantiate(cfg.call, _convert_="all")
    else:
        fit(cfg, output)
    return instantiate(cfg.objective, _convert_="all") if "objective" in cfg else None


@command("train", verbatim=PATHS, chain="stage")
def main(cfg: DictConfig) -> Any:
    return run(cfg)


if __name__ == "__main__":
    if wants_guide(sys.argv[1:]):
        asked = any(argument in HELP for argument in sys.argv[1:])
        sys.exit(print(guide()) if asked else f"stage= is missing: it must name one of the stages below.\n\n{guide()}")
    main()
