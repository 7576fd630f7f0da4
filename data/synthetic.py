"""Data sets that are made from plans: seeds, and shards written by several processes, the same bytes for any number."""

import hashlib
import json
import logging
import multiprocessing
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeAlias, runtime_checkable

from tqdm import tqdm
from webdataset.compat import WebDataset

from data.manifest import (
    MANIFEST_NAME,
    PROGRESS_NAME,
    Manifest,
    Shard,
    SplitManifest,
    is_whole,
    parse_manifest,
    write_manifest,
)
from data.shards import write_shard
from gwm.clock import FPS, SAMPLE_RATE
from gwm.resolution import Resolution

log = logging.getLogger(__name__)

SPLITS = ("train", "val", "test")
SAMPLES_PER_SHARD = 64


@runtime_checkable
class Plan(Protocol):
    """Everything that determines a clip; must pickle."""

    @property
    def identity_name(self) -> str: ...


Worker: TypeAlias = Callable[[Any], dict[str, Any]]  # makes one encoded sample of a plan; must pickle
Plans: TypeAlias = Mapping[str, Sequence[Plan]]  # by split


def derive_seed(*parts: int | str) -> int:
    """A seed in [0, 2^62) from anything that names a thing; different names give unrelated seeds."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 2


def pixel_settings(program: str, out: str, options: Mapping[str, Any], **recorded: Any) -> Manifest:
    """The manifest, without its splits, of square clips that `program` makes with `options`.

    options: of the command line, resolution, num_frames and seed among them. recorded: what else decides the bytes.
    """
    return Manifest(
        kind="pixels",
        fps=FPS,
        sample_rate=SAMPLE_RATE,
        resolution=Resolution(options["resolution"], options["resolution"]),
        num_frames=options["num_frames"],
        splits={},
        seed=options["seed"],
        command=" ".join([f"python -m {program}", f"out={out}", *(f"{k}={v}" for k, v in options.items())]),
        generator={**options, **recorded},
    )


def generate(folder: Path, settings: Manifest, plans: Plans, worker: Worker, *, num_workers: int) -> Manifest:
    """Make every shard that is not there yet, then the manifest: `settings` with its splits filled in.

    Interrupted, it goes on at the first unfinished shard when called again.

    Raises:
        ValueError: there are no clips, the folder holds shards of other settings, or num_workers is below 1.
    """
    if not any(plans.values()):
        raise ValueError(f"{', '.join(plans)} = {[*map(len, plans.values())]} must have at least 1 clip together.")
    plans = {split: clips for split, clips in plans.items() if clips}
    if num_workers < 1:
        raise ValueError(f"num_workers={num_workers} must be at least 1: somebody has to make the clips.")
    folder.mkdir(parents=True, exist_ok=True)
    done = finished_shards(folder, settings)
    splits = {split: SplitManifest(shards=[], identities=[], sentences=[]) for split in plans}
    num_frames = settings.num_frames * sum(map(len, plans.values()))
    with tqdm(total=num_frames, unit="frame", desc=str(folder)) as bar, pool(worker, num_workers) as run:
        for split, name, batch in pieces(plans):
            if name in done:
                bar.update(len(batch) * settings.num_frames)
            else:
                done[name] = write_shard(folder / name, watch(run(batch), bar, settings.num_frames))
            splits[split].shards.append(done[name])
            write_manifest(folder, replace(settings, splits=splits), name=PROGRESS_NAME)
    for split, batch in plans.items():
        splits[split].identities.extend(sorted({plan.identity_name for plan in batch}))
        splits[split].sentences.extend(read_sentences(folder, splits[split].shards))
    manifest = replace(settings, splits=splits)
    write_manifest(folder, manifest)
    (folder / PROGRESS_NAME).unlink()
    return manifest


def pieces(plans: Plans) -> Iterator[tuple[str, str, Sequence[Plan]]]:
    """Split, file name and clips of every shard."""
    for split, clips in plans.items():
        for number, start in enumerate(range(0, len(clips), SAMPLES_PER_SHARD)):
            yield split, f"{split}-{number:06d}.tar", clips[start : start + SAMPLES_PER_SHARD]


@contextmanager
def pool(worker: Worker, num_workers: int) -> Iterator[Callable[[Sequence[Plan]], Iterable[dict[str, Any]]]]:
    """A function that runs `worker` over plans and yields in their order; with one worker, in this process.

    Spawned, not forked: a forked EGL context is broken. An executor, not a Pool: a Pool waits for ever for the sample
    of a worker that was killed.
    """
    if num_workers == 1:
        yield partial(map, worker)
        return
    with ProcessPoolExecutor(num_workers, mp_context=multiprocessing.get_context("spawn")) as processes:
        yield partial(processes.map, worker)


def watch(samples: Iterable[dict[str, Any]], bar: tqdm, num_frames: int) -> Iterator[dict[str, Any]]:
    """The same samples, counted on the progress bar."""
    for sample in samples:
        yield sample
        bar.update(num_frames)


def finished_shards(folder: Path, settings: Manifest) -> dict[str, Shard]:
    """Shards of an earlier call that are on disk at full size, by name.

    Raises:
        ValueError: they were made with other settings.
    """
    done: dict[str, Shard] = {}
    for path in (folder / MANIFEST_NAME, folder / PROGRESS_NAME):
        if not path.is_file():
            continue
        found = parse_manifest(path)
        if found.generator != settings.generator:
            differ = {k for k in settings.generator if found.generator.get(k) != settings.generator[k]}
            raise ValueError(
                f"out={folder} holds shards with other settings ({', '.join(sorted(differ))}), "
                "must be an empty folder or shards of the same: choose another out, or delete the folder."
            )
        shards = [shard for split in found.splits.values() for shard in split.shards]
        done |= {shard.name: shard for shard in shards if is_whole(folder, shard)}
    if done:
        log.info("%s: keeping %d finished shards", folder, len(done))
    return done


def read_sentences(folder: Path, shards: list[Shard]) -> list[str]:
    """Distinct sentences of both speakers in finished shards, sorted."""
    urls = [str(folder / shard.name) for shard in shards]
    heard: set[str] = set()
    for sample in WebDataset(urls, shardshuffle=False, select_files=lambda name: name.endswith(".json")):
        info = json.loads(sample["json"])
        for text in (info.get("sentence"), info.get("user_sentence")):
            heard.update(re.findall(r"[^.?]+[.?]", text or ""))
    return sorted(text.strip() for text in heard)
