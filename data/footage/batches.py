"""Some videos to one shard: the unit of work, of parallelism and of resuming."""

import multiprocessing
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

from data.footage.cutting import Record, cut_source
from data.footage.sources import Source, Split
from data.footage.takes import TakeRules
from data.manifest import Shard
from data.shards import write_shard


@dataclass(frozen=True, slots=True)
class Job:
    """A batch to be made."""

    name: str
    split: Split
    sources: list[Source]


@dataclass(frozen=True, slots=True)
class Batch:
    """Finished sources of one split, and their shard; None where nothing of them was kept."""

    name: str
    split: Split
    shard: Shard | None
    records: list[Record]


def make_batch(job: Job, *, videos: Path, out: Path, rules: TakeRules) -> Batch:
    """Cut every source of a job into the job's shard. A file that is no good costs nothing but its record."""
    records = [Record(source.path, source.digest, source.key, source.person) for source in job.sources]
    samples = (
        sample for source, record in zip(job.sources, records) for sample in cut_source(source, videos, rules, record)
    )
    shard = write_shard(out / f"{job.name}.tar", samples)
    if not shard.num_samples:
        (out / shard.name).unlink()
    return Batch(job.name, job.split, shard if shard.num_samples else None, records)


def make_batches(jobs: list[Job], *, videos: Path, out: Path, rules: TakeRules, num_workers: int) -> Iterator[Batch]:
    """Batches in the order in which they are finished; in this process for one worker.

    Raises:
        RuntimeError: a worker was killed.
    """
    if num_workers == 1:
        yield from (make_batch(job, videos=videos, out=out, rules=rules) for job in jobs)
        return
    # Spawned: a forked process shares the locks of FFmpeg's and LiteRT's threads without the threads.
    with ProcessPoolExecutor(num_workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        running = {pool.submit(make_batch, job, videos=videos, out=out, rules=rules): job for job in jobs}
        for future in as_completed(running):
            try:
                yield future.result()
            except BrokenProcessPool as error:
                raise RuntimeError(
                    f"a worker process was killed, possibly by one of {_names(running[future])}: too little memory, "
                    "or a file that breaks FFmpeg. Finished shards are kept; lower workers or take the file out, then "
                    "run again."
                ) from error


def plan_jobs(
    sources: Iterable[Source], splits: dict[str, Split], *, finished: Iterable[str], videos_per_shard: int
) -> list[Job]:
    """Jobs for sources that are not cut yet, numbered behind those that are finished.

    Raises:
        ValueError: videos_per_shard below 1.
    """
    if videos_per_shard < 1:
        raise ValueError(f"videos_per_shard={videos_per_shard} must be at least 1.")
    number = max((int(name.rpartition("-")[2]) + 1 for name in finished), default=0)
    by_split: dict[Split, list[Source]] = {"train": [], "val": [], "test": []}
    for source in sources:
        by_split[splits[source.person]].append(source)
    jobs = []
    for split, mine in by_split.items():
        for start in range(0, len(mine), videos_per_shard):
            jobs.append(Job(f"{split}-{number + len(jobs):06d}", split, mine[start : start + videos_per_shard]))
    return jobs


def _names(job: Job) -> str:
    return ", ".join(source.path for source in job.sources[:5]) + (", ..." if len(job.sources) > 5 else "")
