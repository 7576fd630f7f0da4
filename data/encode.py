"""Encode shards for the diffusion model: VAE latents, speech and text features of every clip, in shards of their own.

python -m data.encode shards=shards/pixels vae=runs/pixels/autoencoder/weights out=runs/pixels/latents resolution=128
"""

import dataclasses
import logging
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig
from tqdm import tqdm

from configs.command.main import command
from data.encoding import Encoders, encode_all
from data.latents import NO_TEXT, write_no_text
from data.manifest import (
    MANIFEST_NAME,
    PROGRESS_NAME,
    Manifest,
    Shard,
    SplitManifest,
    is_whole,
    parse_manifest,
    read_manifest,
    write_manifest,
)
from data.storage import Location, locate
from gwm.autoencoders.families import load_autoencoder
from gwm.resolution import Resolution
from gwm.weights import fingerprint

log = logging.getLogger(__name__)

KIND = "latents"
TRAIN = "train"  # the split of which latents are read
GROWING = ("sources", "dropped")  # settings of data sets that change when clips are added


def encode_shards(shards: Location, out: Path, encoders: Encoders, *, workers: int = 1) -> Manifest:
    """Encode every shard of the training split that is not encoded yet, each to one of its name: gates and evaluation
    read the pictures of the others.

    Called again, it adds nothing; interrupted, it goes on at the first unfinished shard; of a data set that has grown,
    it encodes what is new.

    Raises:
        ValueError: `out` holds other latents; the resolution is neither that of the shards nor half of it; no workers.
    """
    if workers < 1:
        raise ValueError(f"workers={workers} must be at least 1: somebody has to encode.")
    source = read_manifest(shards)
    settings = {
        "source": {key: value for key, value in source.generator.items() if key not in GROWING},
        "vae": fingerprint(encoders.vae.state_dict()),
        "audio": encoders.audio.to_json(),
        "resolution": dataclasses.asdict(encoders.resolution),
        "text": None if encoders.text is None else encoders.text.name,
        "image": None if encoders.image is None else encoders.image.name,
    }
    if encoders.vae.config.controls:
        settings["codes"] = "exact where rendered"  # latents of before are the encoder's
    if encoders.actions:  # those who ask for none can read any latents: models without an action never see it
        settings["actions"] = list(encoders.actions)
    out.mkdir(parents=True, exist_ok=True)
    done, of_bytes = encoded_shards(out, settings)
    splits = {split: entry for split, entry in source.splits.items() if split == TRAIN}
    wanted = {shard.name: shard for entry in splits.values() for shard in entry.shards}
    done = {name: shard for name, shard in done.items() if name in wanted and of_bytes.get(name) == wanted[name].bytes}

    def manifest() -> Manifest:
        encoded = {
            split: SplitManifest(
                shards=[done[shard.name] for shard in entry.shards if shard.name in done],
                identities=entry.identities,
                sentences=entry.sentences,
            )
            for split, entry in splits.items()
        }
        generator = {**settings, "of_bytes": {name: wanted[name].bytes for name in done}}
        command = f"python -m data.encode shards={shards} out={out}"
        return dataclasses.replace(
            source, kind=KIND, splits=encoded, command=command, resolution=encoders.resolution, generator=generator
        )

    if encoders.text is not None and not (out / NO_TEXT).is_file():
        write_no_text(out, encoders.text(""))
    missing = [name for name in wanted if name not in done]
    if missing:
        clips = sum(shard.num_samples for shard in wanted.values())
        kept = clips - sum(wanted[name].num_samples for name in missing)
        with tqdm(total=clips, initial=kept, desc=f"encode {shards}", unit="clip") as bar:
            for shard in encode_all(missing, shards=shards, out=out, encoders=encoders, workers=workers, bar=bar):
                done[shard.name] = shard
                write_manifest(out, manifest(), name=PROGRESS_NAME)
    write_manifest(out, manifest())
    (out / PROGRESS_NAME).unlink(missing_ok=True)
    return manifest()


def encoded_shards(out: Path, settings: dict[str, Any]) -> tuple[dict[str, Shard], dict[str, int]]:
    """Shards of earlier calls that are on disk at full size, and the bytes of the shards they were made from.

    Raises:
        ValueError: they were made with other settings.
    """
    done: dict[str, Shard] = {}
    of_bytes: dict[str, int] = {}
    for path in (out / MANIFEST_NAME, out / PROGRESS_NAME):
        if not path.is_file():
            continue
        found = parse_manifest(path)
        differing = sorted(key for key in settings if found.generator.get(key) != settings[key])
        if differing:
            raise ValueError(
                f"{out} holds latents made with another {', '.join(differing)}, must hold none or the same: delete the "
                "folder, or choose another one."
            )
        shards = [shard for split in found.splits.values() for shard in split.shards]
        done |= {shard.name: shard for shard in shards if is_whole(out, shard)}
        of_bytes |= found.generator.get("of_bytes", {})  # older releases did not keep them: all is encoded again
    return done, of_bytes


@command("encode", verbatim=("shards", "vae", "out"))
def main(cfg: DictConfig) -> None:
    vae = load_autoencoder(Path(cfg.vae))
    encoders = Encoders(
        vae.to(cfg.device),
        instantiate(cfg.audio),
        Resolution.parse(cfg.resolution),
        text=instantiate(cfg.text),
        image=instantiate(cfg.image),
        actions=tuple(cfg.actions),
    )
    manifest = encode_shards(locate(cfg.shards), Path(cfg.out), encoders, workers=cfg.workers)
    for split, entry in manifest.splits.items():
        log.info("%s: %d clips in %d shards", split, entry.num_samples, len(entry.shards))


if __name__ == "__main__":
    main()
