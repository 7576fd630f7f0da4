"""Run one stage, or several: `python train.py stage=causal`, `python train.py -m stage=autoencoder,bidirectional`.

A stage finds what it needs under runs/<name>/, resumes where it was stopped, and leaves there its weights, its gate
(quality on unseen identities), its logs and its last checkpoint.
"""

import logging
import shutil
import warnings
from pathlib import Path
from typing import Any

import hydra
import lightning as L
from hydra.utils import instantiate
from omegaconf import DictConfig

from train.checkpoint import AtomicCheckpointIO, remember_config
from train.plan import show

# Advertising and notices about Lightning's own insides: nothing that a user could act on.
logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
warnings.filterwarnings("ignore", message=".*(exists and is not empty|treespec|eval mode at the start).*")


def fit(cfg: DictConfig, output: Path) -> None:
    """Train a stage to its last step, then write its weights and its gate."""
    if not cfg.resume and output.exists():
        shutil.rmtree(output)
    remember_config(output, cfg)
    L.seed_everything(cfg.seed, workers=True, verbose=False)
    stage: L.LightningModule = instantiate(cfg.stage, _convert_="all")
    data: L.LightningDataModule = instantiate(cfg.data, _convert_="all")
    checkpoint: Any = instantiate(cfg.checkpoint, _convert_="all")
    bar = instantiate(cfg.progress)
    trainer: L.Trainer = instantiate(
        cfg.trainer,
        _convert_="all",
        logger=instantiate(cfg.logger, _convert_="all"),
        callbacks=[checkpoint, bar],
        plugins=[AtomicCheckpointIO()],
    )
    last = output / "last.ckpt"
    trainer.fit(stage, data, ckpt_path=last if last.is_file() else None, weights_only=False)
    trainer.save_checkpoint(last)
    instantiate(cfg.finish, _convert_="all")(stage, data, output)


def show_plan(cfg: DictConfig) -> None:
    """Print what the stage will need.

    Raises:
        ValueError: nobody described the stage's work.
    """
    if "work" not in cfg:
        raise ValueError("plan=true needs configs/work/<stage>.yaml, and this stage has none: plan the one before it.")
    work = instantiate(cfg.work, _convert_="all")
    show(work["build"], work["optimizer"], **cfg.planner)


@hydra.main(version_base="1.3", config_path="configs", config_name="train")
def main(cfg: DictConfig) -> None:
    output = Path(cfg.output)
    if cfg.plan:
        show_plan(cfg)
    elif "call" in cfg:  # a stage without training, such as export
        instantiate(cfg.call, _convert_="all")
    else:
        fit(cfg, output)


if __name__ == "__main__":
    main()
