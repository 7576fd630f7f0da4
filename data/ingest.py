"""Make shards of a folder of videos: `python -m data.ingest videos=DIR out=shards/mine`. See configs/ingest.yaml."""

import hashlib
import logging
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from tqdm import tqdm

from configs.command.main import command
from data.footage.batches import make_batches, plan_jobs
from data.footage.ledger import Ledger, tally
from data.footage.sources import Source, assign_splits, find_files, read_source
from data.footage.takes import TakeRules
from data.manifest import Manifest, SplitManifest, write_manifest
from data.worlds.recorded import declaration
from data.worlds.recorded import report as report_actions
from gwm.clock import FPS, SAMPLE_RATE
from gwm.files.json_text import json_text
from gwm.files.outputs import whole_file
from gwm.resolution import Resolution

log = logging.getLogger(__name__)

REPORT_NAME = "report.json"
SPLITS = ("train", "val", "test")
# Every second of every file is either kept or counted under one of these.
REASONS: dict[str, str] = {
    "other_file": "neither a video by its name nor the side-car of one",
    "duplicate": "the same bytes as another file",
    "unreadable": "it may not be opened, FFmpeg cannot read it, or finds no picture in it",
    "changed": "it grew or changed while it was read; run again when it is complete",
    "no_picture": "no video stream",
    "bad_sidecar": "its .txt, .json or .npz cannot be read; correct it and run again",
    "no_actions": "no actions lie beside it (actions=...)",
    "colour": "its colours are stored in a way that cannot be converted to BT.709",
    "bad_sound": "most of its sound is damaged, or its samples are no numbers in [-1, 1]",
    "scene_too_short": "between two cuts, too short for a clip and a reference frame outside it",
    "rest": "what remains of a scene behind its last whole clip",
    "no_face": "a face is not seen for most of the clip (face=required)",
    "face_moves": "the face leaves its crop, or two people take turns",
    "too_small": "the crop would be enlarged more than allowed",
    "blank": "the crop of the clip, or of its reference frame, shows nothing: one colour, such as black",
    "no_reference": "no frame near the clip, outside it, serves as its reference",
}


def ingest(
    videos: Path,
    out: Path,
    rules: TakeRules,
    *,
    val: float,
    test: float,
    seed: int,
    videos_per_shard: int,
    workers: int,
) -> dict[str, Any]:
    """Cut every video of a folder that is not cut yet; the report, which also lies in `out` beside the manifest.

    Called again, it adds nothing; interrupted and called again, it goes on at the first unfinished shard; with new
    videos in the folder, it adds these.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: `out` was made with other settings; or a setting is out of range.
        RuntimeError: a worker was killed, or another process writes to `out`.
    """
    if workers < 1:
        raise ValueError(f"workers={workers} must be at least 1: somebody has to cut.")
    settings = {**asdict(rules), "val": val, "test": test, "seed": seed}
    if not rules.actions:  # folders of earlier releases go on
        del settings["actions"], settings["lag_s"]
    files, others = find_files(videos)
    with closing(Ledger(out, settings)) as ledger:
        sources, closed = read_sources(files, videos)
        first_of: dict[str, Source] = {}
        for source in sources:
            first_of.setdefault(source.digest, source)
        people = (source.person for source in first_of.values())
        splits = assign_splits(people, ledger.splits, val_share=val, test_share=test, seed=seed)
        finished = {record.key for record in ledger.records} | {r.digest for r in ledger.records if r.clips}
        pending = [s for s in first_of.values() if s.key not in finished and s.digest not in finished]
        names = [batch.name for batch in ledger.batches]
        jobs = plan_jobs(pending, splits, finished=names, videos_per_shard=videos_per_shard)
        with tqdm(total=len(first_of), initial=len(first_of) - len(pending), unit="video", desc=str(out)) as bar:
            for batch in make_batches(jobs, videos=videos, out=out, rules=rules, num_workers=workers):
                ledger.add(batch)
                bar.update(len(batch.records))
        duplicates = len(sources) - len(first_of)
        report = make_report(ledger, num_duplicates=duplicates, num_others=len(others), closed=closed)
        command = f"python -m data.ingest videos={videos} out={out}"
        manifest = make_manifest(ledger, rules, settings, report, command=command)
        write_manifest(out, manifest)
        if rules.actions and manifest.splits:
            report_actions(out, [*rules.actions], [*rules.actions.values()], [*manifest.splits])
        with whole_file(out / REPORT_NAME) as partial:
            partial.write_text(json_text(report, indent=1) + "\n", encoding="ascii")
        return report


def read_sources(files: list[Path], videos: Path) -> tuple[list[Source], dict[str, str]]:
    """Those that can be opened; and by path, why the others cannot."""
    sources, closed = list[Source](), dict[str, str]()
    for path in tqdm(files, desc=f"look at {videos}", unit="video"):
        try:
            sources.append(read_source(path, videos))
        except OSError as error:
            closed[str(path.relative_to(videos))] = error.strerror or str(error)
    return sources, closed


def make_report(ledger: Ledger, *, num_duplicates: int, num_others: int, closed: dict[str, str]) -> dict[str, Any]:
    """What came in, what was kept and why the rest was not; times in seconds of video."""
    latest = {record.digest: record for record in ledger.records}.values()  # a corrected side-car gives a second record
    dropped = tally(latest)
    for reason, count in (("duplicate", num_duplicates), ("other_file", num_others), ("unreadable", len(closed))):
        if count:
            known = dropped.get(reason, {"files": 0, "files_without_clip": 0, "frames": 0})
            dropped[reason] = {**known, **{key: known[key] + count for key in ("files", "files_without_clip")}}
    frames = sum(record.frames for record in latest)
    return {
        "files": len(latest) + num_duplicates + num_others + len(closed),
        "files_with_clips": sum(record.clips > 0 for record in latest),
        "files_without_sound": sum(record.silent for record in latest),
        "clips": sum(record.clips for record in latest),
        "clips_without_face": sum(record.faceless for record in latest),
        "video_s": round(frames / FPS, 2),
        "dropped_s": round(sum(entry["frames"] for entry in dropped.values()) / FPS, 2),
        "dropped": {reason: {**entry, "meaning": REASONS[reason]} for reason, entry in sorted(dropped.items())},
        "files_without_clip": {r.path: r.detail or ", ".join(r.dropped) for r in latest if not r.clips} | closed,
        "notes": {record.path: record.notes for record in latest if record.notes},
    }


def make_manifest(
    ledger: Ledger, rules: TakeRules, settings: dict[str, Any], report: dict[str, Any], *, command: str
) -> Manifest:
    """The manifest of all finished batches; splits of which nothing was kept are left out."""
    splits = {}
    for split in SPLITS:
        batches = sorted((b for b in ledger.batches if b.split == split), key=lambda b: b.name)
        shards = [batch.shard for batch in batches if batch.shard]
        people = sorted({record.person for batch in batches for record in batch.records if record.clips})
        if shards:
            splits[split] = SplitManifest(shards=shards, identities=people, sentences=[])
    keys = sorted(record.key for record in ledger.records)
    dropped = {reason: entry["frames"] for reason, entry in report["dropped"].items()}
    declared = {}
    if rules.actions:
        declared["conditions"] = {"action": declaration([*rules.actions], [*rules.actions.values()])}
    return Manifest(
        kind="pixels",
        fps=FPS,
        sample_rate=SAMPLE_RATE,
        resolution=rules.resolution,
        num_frames=rules.num_frames,
        splits=splits,
        seed=settings["seed"],
        command=command,
        generator={
            **settings,
            **declared,
            "sources": hashlib.sha256("".join(keys).encode()).hexdigest(),
            "dropped": dropped,
        },
    )


@command("ingest", verbatim=("videos", "out"))
def main(cfg: DictConfig) -> None:
    report = ingest(
        Path(cfg.videos),
        Path(cfg.out),
        TakeRules(
            resolution=Resolution.parse(cfg.resolution),
            num_frames=cfg.num_frames,
            face=cfg.face,
            look_every_s=cfg.look_every_s,
            reference_gap=cfg.reference_gap,
            max_enlargement=cfg.max_enlargement,
            follow=cfg.follow,
            actions=dict(cfg.actions or {}),
            lag_s=cfg.lag_s,
        ),
        val=cfg.val,
        test=cfg.test,
        seed=cfg.seed,
        videos_per_shard=cfg.videos_per_shard,
        workers=cfg.workers,
    )
    log.info(
        "%d clips from %d of %d files; %.0f of %.0f s not kept",
        *(report[key] for key in ("clips", "files_with_clips", "files", "dropped_s", "video_s")),
    )
    if report["clips_without_face"]:
        log.warning(
            "%d of %d clips show no face and keep the middle of the picture. To drop them: face=required",
            *(report["clips_without_face"], report["clips"]),
        )
    for path, notes in report["notes"].items():
        log.warning("%s: %s", path, "; ".join(notes))
    for reason, entry in report["dropped"].items():
        log.info("%s: %d files, %.1f s (%s)", reason, entry["files"], entry["frames"] / FPS, entry["meaning"])


if __name__ == "__main__":
    main()
