"""Make the embedded data set: `python -m data.characters out=shards/pixels`. See configs/characters.yaml."""

import functools
import logging
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from configs.command.main import command
from data.characters.renderer import STYLES
from data.characters.worker import draw, generate
from data.clips import plan_split
from data.manifest import Manifest
from gwm.clock import FPS, SAMPLE_RATE
from gwm.resolution import Resolution

log = logging.getLogger(__name__)

SPLITS = ("train", "val", "test")


def make_shards(
    *,
    out: str,
    resolution: int,
    num_frames: int,
    train: int,
    val: int,
    test: int,
    seed: int,
    anny_share: float,
    clips_per_identity: int,
    head_motion: float,
    workers: int,
) -> None:
    """Plan all clips and write what is missing of them to `out`.

    Raises:
        ValueError: see `data.characters.worker.generate`.
    """
    if not train + val + test:
        raise ValueError(f"train={train}, val={val} and test={test} must have at least 1 clip together.")
    sizes = dict(zip(SPLITS, (train, val, test)))
    generator = {
        "resolution": resolution,
        "num_frames": num_frames,
        **sizes,
        "seed": seed,
        "anny_share": anny_share,
        "clips_per_identity": clips_per_identity,
        "head_motion": head_motion,
    }
    command = " ".join(["python -m data.characters", f"out={out}", *(f"{k}={v}" for k, v in generator.items())])
    settings = Manifest(
        kind="pixels",
        fps=FPS,
        sample_rate=SAMPLE_RATE,
        resolution=Resolution(resolution, resolution),
        num_frames=num_frames,
        splits={},
        seed=seed,
        command=command,
        generator=generator | {"voices": "of their split"},  # shards of before have voices of training in all splits
    )
    plan = functools.partial(
        plan_split,
        seed=seed,
        num_frames=num_frames,
        clips_per_identity=clips_per_identity,
        styles=STYLES,
        anny_share=anny_share,
    )
    plans = {split: plan(split, size) for split, size in sizes.items() if size}
    draw_here = functools.partial(draw, resolution=resolution, head_motion=head_motion)
    manifest = generate(Path(out), settings, plans, draw_here, num_workers=workers)
    for split, entry in manifest.splits.items():
        log.info("%s: %d clips, %d identities", split, entry.num_samples, len(entry.identities))


@command("characters", verbatim=("out",))
def main(cfg: DictConfig) -> None:
    settings: Any = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    make_shards(**settings)


if __name__ == "__main__":
    main()
