"""`evaluate.py suite=world`: does the model obey, hold and remember, against the world itself and against baselines."""

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from data.manifest import Manifest, read_manifest
from data.shards import Clip
from data.worlds.episodes import make_episode, plan_episodes
from data.worlds.policies import Policy
from data.worlds.world import World, make_world
from evaluate.comparison import PERCENTILES, machine
from evaluate.examine import load_arrays, save_arrays
from evaluate.rules import Gate, summary, verdicts
from evaluate.worlds.endless import Length, Series, bands, collapsed, held, hold
from evaluate.worlds.episodes import Measures, Result, Row, examine, load_result
from evaluate.worlds.inverse import trained
from evaluate.worlds.players import CONDITION, Decoded, Model, Player, Real, Still
from evaluate.worlds.sections import report_sections
from gwm.clock import FPS
from gwm.contract import Contract
from gwm.files.outputs import check_output
from gwm.metrics.distance import PerceptualDistance
from gwm.metrics.frechet import MIN_VECTORS, frechet
from gwm.metrics.statistics import bootstrap
from gwm.optional import MissingPackageError
from gwm.report.page import write_report
from gwm.weights import write_json
from serve.artifact import MANIFEST, Artifact, load_artifact

log = logging.getLogger(__name__)

VERSION = 1  # of what is measured: episodes kept by another version are measured again
SPLIT = "evaluation"  # in the seeds of episodes, beside train, val and test
FRECHETS = {"picture": "frechet_alexnet", "motion": "frechet_motion_alexnet"}
WORLD = ("env", "policy", "hold_s")  # settings of data.worlds that an episode needs


@dataclass(frozen=True, kw_only=True)
class Suite:
    """Settings; see configs/suite/world.yaml."""

    episodes: int
    lengths_s: Sequence[float | int]
    minutes: float | int
    every_s: float | int
    train_clips: int
    train_steps: int
    shown: int
    seed: int
    gates: Sequence[Gate]

    def __post_init__(self) -> None:
        if self.episodes < 2:
            raise ValueError(f"episodes={self.episodes} must be at least 2: another one's actions are the control.")
        if not self.lengths_s or min(self.lengths_s) < 0.5:
            raise ValueError(f"lengths_s={list(self.lengths_s)} must be seconds, each at least 0.5.")
        Length(minutes=self.minutes, every_s=self.every_s)

    def __call__(self, folder: Path, shards: Path, out: Path) -> None:
        """Measure the artifact; report.json and report.html are written at the end, and a line is logged.

        Raises:
            ValueError: the artifact is of a character, the shards are of another world, or as `__post_init__`.
            MissingPackageError: the recorded environment is not installed.
        """
        check_output(out / "report.json")
        artifact, manifest = load_artifact(folder), read_manifest(shards)
        check_fits(artifact.contract, manifest, folder, shards)
        world = make_world(manifest.generator["env"], manifest.resolution.width)
        work = self._work_folder(folder, shards, out)
        clips = self._clips(manifest, world)
        measures, skipped, gate = self._measures(artifact, shards, work)
        real = Real(world)
        model = Model(artifact, seed=self.seed)
        players = {"model": model, "real": real, "autoencoder": Decoded(real, artifact), "still": Still()}
        results = self._results(clips, players, measures, work)
        series, times = self._held(model, real, clips[0], manifest, measures, work)
        report: dict[str, Any] = {
            "artifact": str(folder),
            "shards": str(shards),
            "suite": "world",
            "machine": machine(),
        }
        report |= numbers(results) | {"floor": {}, "inverse_dynamics": gate, "skipped": skipped}
        real_share, chance = report["real"]["obeys"], gate["chance"]
        report["obeys_above_chance"] = (report["model"]["obeys"] - chance) / max(real_share - chance, 1e-6)
        report |= self._long(series, times, artifact.contract)
        reached = verdicts(self.gates, report, ceiling="real")
        report["gates"] = [asdict(verdict) for verdict in reached]
        line = f"{folder}: {_shown(report)}; {summary(reached)}"
        sections = report_sections(line, report, reached, results[: self.shown], series, out)
        write_json(out / "report.json", report)
        write_report(out / "report.html", f"gwm: {folder}", sections)
        log.info("%s; %s", line, out / "report.html")

    def _work_folder(self, folder: Path, shards: Path, out: Path) -> Path:
        digest = hashlib.sha256((folder / MANIFEST).read_bytes() + (shards / "manifest.json").read_bytes())
        kept = ("episodes", "lengths_s", "train_clips", "train_steps", "shown", "seed")
        settings = [VERSION, {name: str(getattr(self, name)) for name in kept}]
        digest.update(json.dumps(settings, sort_keys=True).encode())
        return out / "episodes" / digest.hexdigest()[:12]

    def _clips(self, manifest: Manifest, world: World) -> list[Clip]:
        """Episodes from their very beginning, which no split has."""
        settings, longest = manifest.generator, max(self.lengths_s)
        plans = plan_episodes(
            SPLIT,
            self.episodes,
            seed=self.seed,
            num_frames=round(longest * FPS),
            size=manifest.resolution.width,
            warmup_s=0.0,
            **{name: settings[name] for name in WORLD},
        )
        try:
            return [make_episode(plan, world) for plan in tqdm(plans, desc="episodes", unit="episode")]
        except ValueError as error:
            raise ValueError(
                f"world.lengths_s={list(self.lengths_s)} must not be longer than an episode lasts ({error})"
            ) from error

    def _measures(self, artifact: Artifact, shards: Path, work: Path) -> tuple[Measures, dict[str, str], Any]:
        controls = artifact.contract.controls_of(CONDITION)
        net, gate = trained(
            work / "inverse", shards, controls, clips=self.train_clips, steps=self.train_steps, seed=self.seed
        )
        perceptual, skipped = None, {}
        try:
            perceptual = PerceptualDistance()
        except MissingPackageError as error:
            skipped["perceptual"] = error.command
        return (
            Measures(net=net, controls=controls, perceptual=perceptual, lengths_s=self.lengths_s),
            skipped,
            gate,
        )

    def _results(self, clips: list[Clip], players: dict[str, Player], measures: Measures, work: Path) -> list[Result]:
        results = []
        for number, clip in enumerate(tqdm(clips, desc="evaluate", unit="episode")):
            path = work / f"{clip.key}.npz"
            result = load_result(path)
            if result is None:
                other = clips[(number + 1) % len(clips)]
                result = examine(clip, other, players, measures, shown=number < self.shown)
                result.save(path)
            results.append(result)
        return results

    def _held(
        self, model: Model, real: Real, start: Clip, manifest: Manifest, measures: Measures, work: Path
    ) -> tuple[Series, list[float]]:
        """The long stream, kept like an episode; nothing where no minutes are asked for."""
        if not self.minutes:
            return {}, []
        path = work / f"long-{self.minutes:g}-{self.every_s:g}.npz"
        kept = load_arrays(path)
        if kept is None:
            settings = manifest.generator
            policy = Policy(real.world, settings["policy"], hold_s=settings["hold_s"], seed=self.seed)
            length = Length(minutes=self.minutes, every_s=self.every_s)
            series, times = hold(model, real, start, policy, measures, length)
            save_arrays(path, series | {"times": np.array(times)})
            return series, times
        return {name: values for name, values in kept.items() if name != "times"}, kept["times"].tolist()

    def _long(self, series: Series, times: list[float], contract: Contract) -> dict[str, Any]:
        """The stream's part of the report. A stream that is shorter than a gate asks for and did not collapse has
        neither reached nor missed it."""
        if not series:
            return {"long": {}, "bands": {}, "speed": {}}
        found = held(series, Length(minutes=self.minutes, every_s=self.every_s))
        asked = [gate.minimum for gate in self.gates if gate.measure == "held_minutes" and gate.minimum is not None]
        if not found["collapsed"] and asked and self.minutes < max(asked):
            found["held_minutes_at_least"] = found.pop("held_minutes")
        fall = collapsed(series)
        speed = {f"ms_per_chunk_p{p}": float(np.percentile(times, p)) for p in PERCENTILES}
        return {
            "long": found,
            "collapse": None if fall is None else {"minute": fall[0], "statistic": fall[1]},
            "bands": bands(series),
            "long_series": {name: values.tolist() for name, values in series.items()},
            "speed": speed | {"chunk_ms": contract.chunk_ms},
        }


def check_fits(contract: Contract, manifest: Manifest, folder: Path, shards: Path) -> None:
    """Refuse what cannot be compared, before anything is computed.

    Raises:
        ValueError: the artifact takes no actions, the shards were not recorded in a world, or their actions or
            pictures are others than the model's.
    """
    controls = contract.controls_of(CONDITION)
    if contract.takes_sound or not controls:
        raise ValueError(
            f"artifact={folder} must be of a world: it has no condition named {CONDITION!r}, or takes sound. Judge a "
            "character with suite=quick."
        )
    recorded = manifest.generator.get("conditions", {}).get(CONDITION)
    if recorded is None or any(name not in manifest.generator for name in WORLD):
        raise ValueError(f"shards={shards} must be recorded by data.worlds: no environment is named in them.")
    names, kinds = [control.name for control in controls], [control.kind for control in controls]
    if [recorded["names"], recorded["kinds"]] != [names, kinds]:
        raise ValueError(
            f"shards={shards} have the actions {recorded['names']} ({', '.join(recorded['kinds'])}), must be those of "
            f"the artifact, {names} ({', '.join(kinds)}), in this order. Take the shards that it was trained on."
        )
    if manifest.resolution != contract.resolution:
        raise ValueError(
            f"shards={shards} have pictures of {manifest.resolution}, must be {contract.resolution}, the artifact's."
        )


def numbers(results: Sequence[Result]) -> dict[str, Any]:
    """What report.json says of the episodes: of each player, means with intervals by episode, and Frechet distances
    from the world's own pictures and motion. Those of the world are of two halves of its episodes."""
    keys = [result.key for result in results]
    sides = list(results[0].rows)
    table: dict[str, Any] = {side: {} for side in sides}
    for side in sides:
        for name in dict.fromkeys(name for result in results for name in result.rows[side]):
            values = np.array([result.rows[side].get(name, np.nan) for result in results], float)
            got = bootstrap(values, keys)
            if got.count:
                table[side][name] = got
    return {
        "episodes": len(results),
        **{side: {name: got.mean for name, got in row.items()} for side, row in table.items()},
        "intervals": {side: {name: asdict(got) for name, got in row.items()} for side, row in table.items()},
        "frechet": {side: frechets(results, side) for side in sides},
        "rows": {result.key: result.rows for result in results},
    }


def frechets(results: Sequence[Result], side: str) -> Row:
    if not all(result.features[side] for result in results):
        return {}
    found = {}
    for kind, name in FRECHETS.items():
        own = results[::2] if side == "real" else results
        truth = results[1::2] if side == "real" else results
        parts = [
            np.concatenate([result.features[who][kind] for result in part])
            for who, part in ((side, own), ("real", truth))
        ]
        if min(map(len, parts)) >= MIN_VECTORS:
            found[name] = frechet(parts[0], parts[1])
    return found


def _shown(report: dict[str, Any]) -> str:
    """The most important measures of the model, each beside the world's and a baseline's."""
    said = []
    for name, baseline in (("obeys", "still"), (_last(report["model"], "psnr"), "still"), ("remembers_db", "still")):
        if name in report["model"]:
            values = [report[side].get(name, float("nan")) for side in ("model", "real", baseline)]
            said.append("{}={:.3g} (world {:.3g}, {} {:.3g})".format(name, *values[:2], baseline, values[2]))
    return " ".join(said)


def _last(row: Row, prefix: str) -> str:
    return [name for name in row if name.startswith(f"{prefix}_")][-1]
