"""Pictures with exact motion, for the motion autoencoder: `python -m data.motion out=shards/motion`.

A pair is one performance acted by two characters. Single pictures are drawn, not clips: the autoencoder decodes every
picture by itself, so a file holds the most telling ones of a performance, many of them with a turn of the head or an
expression that no speech has. `read_pair` gives them back. Settings: configs/motion.yaml.
"""

import dataclasses
import functools
import json
import logging
import multiprocessing
import zipfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8
from omegaconf import DictConfig
from tqdm import tqdm

from configs.command.main import command
from data.actions import ACTION_NAMES, index
from data.characters.appearance import Identity
from data.characters.cartoon import CARTOON_STYLES
from data.characters.exact_flow import DEPTH_GRID, GRID, Motion, MotionRenderer
from data.characters.renderer import CENTRED, Framing, Renderer, identity
from data.characters.sketch import sketch
from data.performance import Performance, perform
from data.speech.sentences import Split
from data.synthetic import derive_seed
from gwm.files.outputs import whole_file

log = logging.getLogger(__name__)

PEOPLE = ("a", "b")
QUALITY = [cv2.IMWRITE_JPEG_QUALITY, 95, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
TURN = np.array([0.16, 0.08, 0.06])  # standard deviation of an added turn, radians: yaw to 20 degrees and over
TURN_LIMIT = np.array([0.36, 0.2, 0.15])
SKETCH_SHARE = 0.7  # of the drawn characters; the others are of published styles
WIDE_SHARE, EXPRESSION_SHARE, GLANCE_SHARE, FRAMING_SHARE = 0.4, 0.4, 0.3, 0.35  # of pictures, the last of people


@dataclass(frozen=True)
class Person:
    """One character's pictures of a pair; flow, label, visible and person as in `data.characters.exact_flow.Motion`."""

    frames: list[UInt8[np.ndarray, " _"]]  # JPEG; `picture` decodes one
    reference: UInt8[np.ndarray, " _"]
    flow: Float[np.ndarray, "f 64 64 2"]
    label: UInt8[np.ndarray, "f 64 64"]
    visible: Bool[np.ndarray, "f 64 64"]
    person: Bool[np.ndarray, "256 256"]
    pose: Float[np.ndarray, "f 3"]  # relative to the reference
    flat: bool  # a drawn character


@dataclass(frozen=True)
class Pair:
    """A performance at the moments of its pictures, and both characters."""

    actions: Float[np.ndarray, "f 52"]
    gaze: Float[np.ndarray, "f 2"]
    people: tuple[Person, Person]


def picture(jpeg: UInt8[np.ndarray, " n"]) -> UInt8[np.ndarray, "h w 3"]:
    """Decode a JPEG to RGB.

    Raises:
        ValueError: these bytes are no JPEG.
    """
    decoded = cv2.imdecode(jpeg, cv2.IMREAD_COLOR)
    if decoded is None:
        raise ValueError(f"{len(jpeg)} bytes must be a JPEG and are not: delete the pair and run data.motion again.")
    return np.asarray(cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB), np.uint8)


def read_pair(path: Path) -> Pair:
    """One file that `make` wrote.

    Raises:
        ValueError: the file is cut off or of another format.
    """
    try:
        with np.load(path) as file:
            stored = {name: file[name] for name in file.files}
        people = [_read_person(stored, name) for name in PEOPLE]
        return Pair(stored["actions"], stored["gaze"], (people[0], people[1]))
    except (KeyError, OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} cannot be read as a pair ({error}): delete it and run data.motion again.") from error


def _read_person(stored: dict[str, np.ndarray], name: str) -> Person:
    jpeg, ends, flow = stored[f"jpeg_{name}"], stored[f"ends_{name}"], stored[f"flow_{name}"]
    pictures = np.split(jpeg, ends[:-1])
    bits = functools.partial(np.unpackbits, axis=-1)
    return Person(
        frames=pictures[1:],
        reference=pictures[0],
        flow=flow,
        label=stored[f"label_{name}"],
        visible=bits(stored[f"visible_{name}"]).reshape(len(flow), GRID, GRID).astype(bool),
        person=bits(stored[f"person_{name}"]).reshape(DEPTH_GRID, DEPTH_GRID).astype(bool),
        pose=stored[f"pose_{name}"],
        flat=bool(stored[f"flat_{name}"]),
    )


def telling(rng: np.random.Generator, act: Performance, count: int) -> np.ndarray:
    """Moments of a performance, drawn in favour of open mouths, round lips and blinks."""
    columns = {"jawOpen": 3.0, "eyeBlinkLeft": 1.0, "mouthFunnel": 1.0, "mouthPucker": 1.0, "mouthClose": 1.0}
    weight = 0.2 + act.actions[:, [index(name) for name in columns]] @ np.array(list(columns.values()))
    return np.sort(rng.choice(len(weight), count, replace=False, p=weight / weight.sum()))


def expressions(rng: np.random.Generator, count: int) -> Float[np.ndarray, "f 52"]:
    """Actions beyond speech for a share of pictures: one to five of any strength, mostly alike on both sides."""
    added = np.zeros((count, len(ACTION_NAMES)), np.float32)
    for row in added:
        if rng.random() >= EXPRESSION_SHARE:
            continue
        for column in rng.choice(len(row), rng.integers(1, 6), replace=False):
            row[column] = rng.random()
            name = ACTION_NAMES[column]
            twin = name.replace("Left", "?").replace("Right", "Left").replace("?", "Right")
            if twin in ACTION_NAMES and rng.random() < 0.7:
                row[ACTION_NAMES.index(twin)] = row[column]
        if rng.random() < 0.25:
            row[index("jawOpen")] = rng.uniform(0.3, 1)
    return added


def reference_pose(rng: np.random.Generator, head_motion: float) -> Float[np.ndarray, "3"]:
    return (head_motion * rng.normal(0, (0.10, 0.05, 0.03)).clip(-0.25, 0.25)).astype(np.float32)


def _character(rng: np.random.Generator, seed: int, flat_share: float) -> Any:
    if rng.random() < flat_share:
        return sketch(seed) if rng.random() < SKETCH_SHARE else identity(seed, str(rng.choice(CARTOON_STYLES)))
    who = identity(seed, "anny")
    if isinstance(who, Identity) and rng.random() < 0.6:
        who = dataclasses.replace(who, clutter=float(rng.uniform(0.2, 1)))
    return who


def _framing(rng: np.random.Generator) -> Framing:
    if rng.random() >= FRAMING_SHARE:
        return CENTRED
    right, down = rng.normal(0, 0.015, 2)
    return Framing(float(right), float(down), float(np.exp(rng.normal(0, 0.04))))


@dataclass(frozen=True, kw_only=True, slots=True)
class PairSettings:
    """What determines the pairs of a folder."""

    resolution: int
    frames: int  # pictures of each character of a pair
    seed: int
    flat_share: float  # of the characters; the others are rendered people


def make_pair(drawer: MotionRenderer, split: Split, number: int, settings: PairSettings) -> dict[str, Any]:
    """The stored arrays of a pair; the same arguments give the same."""
    seed, frames = settings.seed, settings.frames
    rng = np.random.default_rng(derive_seed(seed, split, "pair", number))
    act = perform(derive_seed(seed, split, "clip", number), 6 * frames, split)
    chosen = telling(rng, act, frames)
    actions = np.maximum(act.actions[chosen], expressions(rng, frames))
    wide = (rng.random(frames) < WIDE_SHARE)[:, None]
    pose = rng.uniform(0.2, 1) * act.pose[chosen] + wide * rng.normal(0, TURN, (frames, 3))
    pose = pose.clip(-TURN_LIMIT, TURN_LIMIT).astype(np.float32)
    glance = (rng.random(frames) < GLANCE_SHARE)[:, None]
    gaze = np.where(glance, rng.uniform(-1, 1, (frames, 2)), act.gaze[chosen]).astype(np.float32)
    stored: dict[str, Any] = {"actions": actions, "gaze": gaze}
    for place, name in enumerate(PEOPLE):
        who = _character(rng, derive_seed(seed, split, "identity", 2 * number + place), settings.flat_share)
        drawer.renderer.framing = _framing(rng)
        own = reference_pose(rng, float(rng.uniform(0.2, 1)))
        motion = drawer.render(who, actions, pose, gaze, own)
        flat = not isinstance(who, Identity)
        stored |= _stored(motion, name) | {f"pose_{name}": pose - own, f"flat_{name}": flat}
    return stored


def _stored(motion: Motion, name: str) -> dict[str, np.ndarray]:
    jpegs = [
        cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), QUALITY)[1].ravel()
        for image in (motion.reference, *motion.frames)
    ]
    return {
        f"jpeg_{name}": np.concatenate(jpegs),
        f"ends_{name}": np.cumsum([len(jpeg) for jpeg in jpegs]),
        f"flow_{name}": motion.flow,
        f"label_{name}": motion.label,
        f"visible_{name}": np.packbits(motion.visible.reshape(len(motion.flow), -1), axis=-1),
        f"person_{name}": np.packbits(motion.person.reshape(-1)),
    }


@functools.cache
def _drawer(resolution: int) -> MotionRenderer:
    """This process's renderer: an EGL context is made once."""
    return MotionRenderer(Renderer(resolution))


def write_pair(job: tuple[Split, int], *, out: str, settings: PairSettings) -> None:
    split, number = job
    with whole_file(pair_path(Path(out), split, number)) as partial:
        np.savez(partial, **make_pair(_drawer(settings.resolution), split, number, settings))


def pair_path(folder: Path, split: str, number: int) -> Path:
    return folder / f"{split}-{number:06d}.npz"


def pair_files(folder: Path, split: str) -> list[Path]:
    """All pairs of a split, in order.

    Raises:
        FileNotFoundError: there is none.
    """
    files = sorted(folder.glob(f"{split}-*.npz"))
    if not files:
        raise FileNotFoundError(
            f"{folder} has no {split}-*.npz, must hold pairs with exact motion: python -m data.motion out={folder}"
        )
    return files


def make(settings: PairSettings, *, out: str, train: int, val: int, workers: int) -> None:
    """Write every pair that is not there yet.

    Raises:
        ValueError: the folder holds pairs of other settings.
    """
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    kept = folder / "settings.json"
    if kept.is_file() and json.loads(kept.read_text()) != asdict(settings):
        raise ValueError(
            f"out={out} holds pairs of {kept.read_text()}, must be those of {asdict(settings)}: choose another out."
        )
    kept.write_text(json.dumps(asdict(settings)))
    plan: list[tuple[Split, int]] = [*(("val", n) for n in range(val)), *(("train", n) for n in range(train))]
    jobs = [job for job in plan if not pair_path(folder, *job).is_file()]
    draw = functools.partial(write_pair, out=out, settings=settings)
    for _ in tqdm(_run(draw, jobs, workers), total=len(jobs), unit="pair", desc=out):
        pass


def _run(draw: functools.partial, jobs: list[tuple[Split, int]], workers: int) -> Iterator[None]:
    if workers == 1:
        yield from map(draw, jobs)
        return
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(draw, jobs)


@command("motion", verbatim=("out",))
def main(cfg: DictConfig) -> None:
    settings = PairSettings(resolution=cfg.resolution, frames=cfg.frames, seed=cfg.seed, flat_share=cfg.flat_share)
    make(settings, out=cfg.out, train=cfg.train, val=cfg.val, workers=cfg.workers)


if __name__ == "__main__":
    main()
