"""`evaluate.py suite=robot`: does a model of a robot rank policies as the robot's simulator does, and does it know of
contact and of what is hidden."""

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from tqdm import tqdm

from data.manifest import read_manifest
from data.synthetic import derive_seed
from data.worlds.world import Tasked, make_world
from evaluate.comparison import machine
from evaluate.examine import load_arrays, save_arrays
from evaluate.rules import Gate, summary, verdicts
from evaluate.worlds.hidden import judge_cases
from evaluate.worlds.ranks import ranks
from evaluate.worlds.robot_sections import report_sections
from evaluate.worlds.skills import Acting, Actual, Arena, Deaf, Episode, Seen, Simulated, Skill, rollout
from evaluate.worlds.suite import check_fits
from gwm.clock import FPS
from gwm.files.outputs import check_output
from gwm.outcome import FOLDER, load_outcome
from gwm.report.page import write_report
from gwm.weights import write_json
from serve.artifact import MANIFEST, load_artifact

log = logging.getLogger(__name__)

VERSION = 1  # of what is measured: episodes kept by another version are measured again
SPLIT = "robot"  # in the seeds of starts, beside train, val and test
SCORES = ("return", "success")
Scores = dict[str, Float[np.ndarray, "p n"]]  # by name: of each policy from each start


@dataclass(frozen=True, kw_only=True)
class RobotSuite:
    """Settings; see configs/suite/robot.yaml."""

    starts: int
    seconds: float | int
    skills: Sequence[Skill]
    cases: int
    case_s: float | int
    shown: int
    seed: int
    gates: Sequence[Gate]

    def __post_init__(self) -> None:
        if self.starts < 4:
            raise ValueError(f"starts={self.starts} must be at least 4: two halves of them are compared.")
        names = [skill.name for skill in self.skills]
        if len(set(names)) < max(3, len(names)):
            raise ValueError(f"skills={names} must be at least three policies, each of another name: they are ranked.")
        if not self.seconds >= 1:
            raise ValueError(f"seconds={self.seconds} must be at least 1.")

    def __call__(self, folder: Path, shards: Path, out: Path) -> None:
        """Measure the artifact; report.json and report.html are written at the end, and a line is logged.

        Raises:
            FileNotFoundError: nothing reads the state from latents: train.outcome was not run.
            ValueError: the artifact is no world's, the shards are of another one, or their world has no task.
            MissingPackageError: MuJoCo or Gymnasium is not installed.
        """
        check_output(out / "report.json")
        artifact, manifest = load_artifact(folder), read_manifest(shards)
        check_fits(artifact.contract, manifest, folder, shards)
        env = manifest.generator["env"]
        world = make_world(env, manifest.resolution.width)
        if not isinstance(world, Tasked):
            raise ValueError(f"shards={shards} must be of a world with a task, as env=arm; env={env} has none.")
        head = load_outcome(folder / FOLDER, latent_channels=artifact.contract.vae.latent_channels)
        if head.config.state != len(world.state):
            raise ValueError(
                f"{folder / FOLDER} reads {head.config.state} numbers of a state, must be {len(world.state)}, those of "
                f"env={env}: python -m train.outcome artifact={folder} shards={shards}"
            )
        frames = artifact.contract.chunk_pixel_frames
        actual, seen = Actual(world, frames), Seen(world, frames, artifact, head)
        simulated = Simulated(world, simulator(folder))
        arenas: dict[str, Arena] = {
            "real": actual,
            "seen": seen,
            "model": simulated,
            "deaf": Deaf(world, simulated.env),
        }
        work = self._work_folder(folder, shards, out)
        steps = round(self.seconds * FPS / frames)
        found = {name: self._episodes(name, arena, world, steps, frames, work) for name, arena in arenas.items()}
        kept = judge_cases(world, seen, simulated, frames=frames, count=self.cases, seconds=self.case_s, seed=self.seed)
        report: dict[str, Any] = {"artifact": str(folder), "shards": str(shards), "suite": "robot"}
        report |= {"machine": machine(), "starts": self.starts, "seconds": self.seconds} | numbers(found, self.skills)
        report |= {"reader": reader(found["seen"], world), "cases": {name: part.numbers for name, part in kept.items()}}
        reached = verdicts(self.gates, report, ceiling="seen")
        report["gates"] = [asdict(verdict) for verdict in reached]
        line = f"{folder}: {_shown(report)}; {summary(reached)}"
        samples = {name: part[: self.shown] for name, part in self._samples(found).items()}
        write_json(out / "report.json", report)
        sections = report_sections(line, report, reached, samples, kept, out / "samples")
        write_report(out / "report.html", f"gwm: {folder}", sections)
        log.info("%s; %s", line, out / "report.html")

    def _work_folder(self, folder: Path, shards: Path, out: Path) -> Path:
        digest = hashlib.sha256((folder / MANIFEST).read_bytes() + (shards / "manifest.json").read_bytes())
        for path in sorted((folder / FOLDER).iterdir()):  # the head may be trained again
            digest.update(path.read_bytes())
        settings = [VERSION, self.starts, str(self.seconds), self.seed, self.shown]
        digest.update(json.dumps(settings, sort_keys=True).encode())
        return out / "robot" / digest.hexdigest()[:12]

    def _episodes(
        self, name: str, arena: Arena, world: Tasked, steps: int, frames: int, work: Path
    ) -> dict[str, list[Episode]]:
        """Of each policy from each start; those that were kept as they are."""
        found = {}
        for skill in tqdm(self.skills, desc=name, unit="policy"):
            settings = hashlib.sha256(repr(skill).encode()).hexdigest()[:8]
            path = work / f"{name}-{settings}.npz"
            episodes = load_episodes(path)
            if episodes is None:
                episodes = []
                for number in range(self.starts):
                    start = derive_seed(self.seed, SPLIT, number)
                    policy = Acting(skill, world, step_s=frames / FPS, seed=start)
                    episodes.append(rollout(arena, policy, start=start, steps=steps))
                save_episodes(path, episodes, shown=self.shown)
            found[skill.name] = episodes
        return found

    def _samples(self, found: Mapping[str, Mapping[str, list[Episode]]]) -> dict[str, list[dict[str, Any]]]:
        """Pictures of the first policy, the world's beside the model's, by start."""
        first = self.skills[0].name
        sides = {side: found[side][first] for side in ("real", "model")}
        return {first: [{side: part[number].frames for side, part in sides.items()} for number in range(self.starts)]}


def simulator(folder: Path) -> Any:
    """The artifact as `serve.simulator` makes it."""
    import serve.simulator as served  # Gymnasium may be missing, which is said then and not where this file is read

    return served.WorldEnv(str(folder))


def save_episodes(path: Path, episodes: Sequence[Episode], *, shown: int) -> None:
    arrays: dict[str, np.ndarray] = {
        name: np.array([getattr(episode, name) for episode in episodes]) for name in ("total", "solved", "truly")
    }
    for name in episodes[0].errors_m:
        arrays[f"errors_m|{name}"] = np.array([episode.errors_m[name] for episode in episodes])
    arrays |= {f"frames|{number}": episode.frames for number, episode in enumerate(episodes[:shown])}
    save_arrays(path, arrays)


def load_episodes(path: Path) -> list[Episode] | None:
    """What `save_episodes` wrote; None where there is nothing that can be read. Pictures were kept of some alone."""
    kept = load_arrays(path)
    if kept is None:
        return None
    parts = [name.partition("|")[2] for name in kept if name.startswith("errors_m|")]
    none = np.zeros((0, 1, 1, 3), np.uint8)
    return [
        Episode(
            total=float(kept["total"][number]),
            solved=float(kept["solved"][number]),
            truly=float(kept["truly"][number]),
            errors_m={name: kept[f"errors_m|{name}"][number].tolist() for name in parts},
            frames=kept.get(f"frames|{number}", none),
        )
        for number in range(len(kept["total"]))
    ]


def scores(episodes: Mapping[str, Sequence[Episode]]) -> Scores:
    return {
        name: np.array([[getattr(episode, field) for episode in part] for part in episodes.values()])
        for name, field in zip(SCORES, ("total", "solved"), strict=True)
    }


def numbers(found: Mapping[str, Mapping[str, Sequence[Episode]]], skills: Sequence[Skill]) -> dict[str, Any]:
    """What report.json says: mean scores of each policy in each place, and how well each place ranks them. `halves`:
    half of the starts in the world against the other half, which is what chance leaves of a ranking."""
    table = {side: scores(part) for side, part in found.items()}
    real = table["real"]
    half = {name: (values[:, ::2], values[:, 1::2]) for name, values in real.items()}
    smallest = {name: min(part.shape[1] for part in parts) for name, parts in half.items()}
    report: dict[str, Any] = {
        "policies": {
            skill.name: {side: {name: float(part[name][row].mean()) for name in SCORES} for side, part in table.items()}
            for row, skill in enumerate(skills)
        },
        "ranks": {
            side: {name: asdict(ranks(part[name], real[name])) for name in SCORES}
            for side, part in table.items()
            if side != "real"
        },
        "long": {},
    }
    report["ranks"]["halves"] = {
        name: asdict(ranks(*(part[:, : smallest[name]] for part in parts))) for name, parts in half.items()
    }
    for side in ("model", "seen", "deaf"):
        row = {f"rank_{name}": report["ranks"][side][name]["spearman"] for name in SCORES}
        row |= {f"mmrv_{name}": report["ranks"][side][name]["mmrv"] for name in SCORES}
        report["floor" if side == "deaf" else side] = row
    return report


def reader(seen: Mapping[str, Sequence[Episode]], world: Tasked) -> dict[str, Any]:
    """How well state and success are read from the world's own pictures, the ceiling of what is read in the model."""
    episodes = [episode for part in seen.values() for episode in part]
    said, true = (np.array([getattr(episode, name) for episode in episodes]) for name in ("solved", "truly"))
    found: dict[str, Any] = {"episodes": len(episodes), "success_agrees": float((said == true).mean())}
    for name in world.parts:
        values = np.array([error for episode in episodes for error in episode.errors_m[name]])
        middle, high = np.quantile(1000 * values, [0.5, 0.95])
        found[f"{name}_mm"] = {"median": float(middle), "p95": float(high)}
    return found


def _shown(report: dict[str, Any]) -> str:
    said = []
    for name in SCORES:
        row = report["ranks"]["model"][name]
        said.append(
            f"{name}: rank correlation {row['spearman']:.2f} [{row['low']:.2f}, {row['high']:.2f}], "
            f"MMRV {row['mmrv']:.3f} (seen {report['ranks']['seen'][name]['spearman']:.2f})"
        )
    return "; ".join(said)
