"""Record a world as shards: `python -m data.worlds env=maze out=shards/maze`. See configs/worlds.yaml."""

import logging
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from configs.command.main import command
from data.synthetic import SPLITS, generate, pixel_settings
from data.worlds.episodes import plan_episodes, record
from data.worlds.policies import Policy
from data.worlds.recorded import declaration, report
from data.worlds.world import make_world

log = logging.getLogger(__name__)


def record_world(*, out: str, workers: int, env: str, resolution: int, num_frames: int, seed: int, **rest: Any) -> None:
    """Record what is missing of `out`, then say how well the actions are covered.

    Raises:
        ValueError: an unknown world or policy, or as `data.synthetic.generate` and `make_episode`.
    """
    sizes = {split: rest.pop(split) for split in SPLITS}
    world = make_world(env, resolution)
    Policy(world, rest["policy"], hold_s=rest["hold_s"], seed=0)  # refused now, and not by a process
    options = {"env": env, "resolution": resolution, "num_frames": num_frames, **sizes, "seed": seed, **rest}
    settings = pixel_settings("data.worlds", out, options, conditions={"action": declaration(world.names, world.kinds)})
    plans = {
        split: plan_episodes(split, size, seed=seed, num_frames=num_frames, env=env, size=resolution, **rest)
        for split, size in sizes.items()
    }
    manifest = generate(Path(out), settings, plans, record, num_workers=workers)
    for split, entry in manifest.splits.items():
        log.info("%s: %d clips of %d frames", split, entry.num_samples, num_frames)
    report(Path(out), world.names, world.kinds, list(manifest.splits))


@command("worlds", verbatim=("out", "env"))
def main(cfg: DictConfig) -> None:
    settings: Any = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    record_world(**settings)


if __name__ == "__main__":
    main()
