"""Record a world as shards: `python -m data.worlds env=maze out=shards/maze`. See configs/worlds.yaml."""

import logging
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

from configs.command.main import command
from data.shards import decode_signals, read_samples
from data.synthetic import SPLITS, generate, pixel_settings
from data.worlds.episodes import plan_episodes, record
from data.worlds.policies import Policy, coverage
from data.worlds.world import World, make_world
from gwm.weights import write_json

log = logging.getLogger(__name__)

STRIDE = 4  # pixel frames of a latent frame of every autoencoder here
PLACES, NUM_PLACES = "places", 4
RARE = 0.02  # share of frames, or of the range, below which an action is hardly learned


def declaration(world: World) -> dict[str, Any]:
    """The condition that a model of this world declares: fields of `gwm.condition.spec.ConditionSpec`."""
    names, kinds = list(world.names), list(world.kinds)
    limits = {"minimum": [-1.0] * len(names), "maximum": [1.0] * len(names)} if {*kinds} == {"continuous"} else {}
    return {"rate": "frame", "width": STRIDE * len(names), "names": names, "kinds": kinds, **limits}


def record_world(*, out: str, workers: int, env: str, resolution: int, num_frames: int, seed: int, **rest: Any) -> None:
    """Record what is missing of `out`, then say how well the actions are covered.

    Raises:
        ValueError: an unknown world or policy, or as `data.synthetic.generate` and `make_episode`.
    """
    sizes = {split: rest.pop(split) for split in SPLITS}
    world = make_world(env, resolution)
    Policy(world, rest["policy"], hold_s=rest["hold_s"], seed=0)  # refused now, and not by a process
    options = {"env": env, "resolution": resolution, "num_frames": num_frames, **sizes, "seed": seed, **rest}
    settings = pixel_settings("data.worlds", out, options, conditions={"action": declaration(world)})
    plans = {
        split: plan_episodes(split, size, seed=seed, num_frames=num_frames, env=env, size=resolution, **rest)
        for split, size in sizes.items()
    }
    manifest = generate(Path(out), settings, plans, record, num_workers=workers)
    for split, entry in manifest.splits.items():
        log.info("%s: %d clips of %d frames", split, entry.num_samples, num_frames)
    report(Path(out), world, list(manifest.splits))


def report(out: Path, world: World, splits: list[str]) -> None:
    """Write coverage.json; condition.yaml, which goes into configs/condition/; and pictures to begin at."""
    places = out / PLACES
    places.mkdir(exist_ok=True)
    for number, sample in enumerate(islice(read_samples(out, splits[-1]), NUM_PLACES)):
        (places / f"place-{number + 1}.png").write_bytes(sample["reference.png"])
    samples = (sample for split in splits for sample in read_samples(out, split))
    found = coverage(world.names, world.kinds, [decode_signals(sample)["action"] for sample in samples])
    write_json(out / "coverage.json", asdict(found))
    (out / "condition.yaml").write_text(yaml.safe_dump({"action": declaration(world)}, default_flow_style=None))
    log.info("actions: %s, nothing %.2f, held for %.0f frames", _shown(found.share), found.idle, found.held_frames)
    if missing := found.missing(RARE):
        log.warning("%s: hardly any clip shows them. Record more, or with policy=random", ", ".join(missing))


def _shown(share: dict[str, float]) -> str:
    return " ".join(f"{name} {value:.2f}" for name, value in share.items())


@command("worlds", verbatim=("out", "env"))
def main(cfg: DictConfig) -> None:
    settings: Any = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    record_world(**settings)


if __name__ == "__main__":
    main()
