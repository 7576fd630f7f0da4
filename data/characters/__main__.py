"""Make the embedded data set: `python -m data.characters out=shards/pixels`. See configs/characters.yaml."""

import functools
import logging
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from configs.command.main import command
from data.characters.renderer import STYLES
from data.characters.worker import draw
from data.clips import plan_split
from data.synthetic import SPLITS, generate, pixel_settings

log = logging.getLogger(__name__)


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
        ValueError: see `data.synthetic.generate`.
    """
    sizes = dict(zip(SPLITS, (train, val, test)))
    options = {
        "resolution": resolution,
        "num_frames": num_frames,
        **sizes,
        "seed": seed,
        "anny_share": anny_share,
        "clips_per_identity": clips_per_identity,
        "head_motion": head_motion,
    }
    # Shards of before have voices of training in all splits.
    settings = pixel_settings("data.characters", out, options, voices="of their split")
    plan = functools.partial(
        plan_split,
        seed=seed,
        num_frames=num_frames,
        clips_per_identity=clips_per_identity,
        styles=STYLES,
        anny_share=anny_share,
    )
    plans = {split: plan(split, size) for split, size in sizes.items()}
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
