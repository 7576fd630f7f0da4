"""Edits of films of the shipped world, whose truth is known: a box, a larger frame, and pictures between two times.

python -m evaluate.editing out=evaluate/results/editing_cpu.json

Each is compared with what no model is needed for: colours from the border of the box (Telea 2004), edges repeated, the
last picture before the gap. The JSON has means over films with 95 % intervals; the picture beside it, for each edit,
the truth, the edited film and that comparison.
"""

import json
import logging
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from jaxtyping import UInt8
from omegaconf import DictConfig
from PIL import Image
from tqdm import tqdm

from configs.command.main import command
from data.synthetic import derive_seed
from data.worlds.maze import Maze
from evaluate.dubbing import brightness
from evaluate.motion_autoencoder import summary
from gwm.clock import FPS
from gwm.media.refilm import open_film
from gwm.media.video import read_video, write_video
from gwm.report.machine import processor
from gwm.weights import write_json
from serve.artifact import load_artifact
from serve.edit import edit, written
from serve.editing.regions import Regions, pictures_of, survey_of
from serve.editing.request import EditRequest
from serve.editing.view import view_of

log = logging.getLogger(__name__)

Frames = UInt8[np.ndarray, "f h w 3"]
EDITS = ("box", "canvas", "between")
COLUMNS = 8  # of the picture
FILL_PX = 3  # reach of the comparison's colours


def walk(number: int, frames: int, side: int) -> tuple[Frames, dict[str, list[float]]]:
    """A walk through a maze that no training saw, and the keys that were pressed."""
    world, rng = Maze(side), np.random.default_rng(derive_seed("editing", "keys", number))
    world.reset(seed=derive_seed("editing", "maze", number))
    keys, pictures, pressed = np.zeros(len(world.names), np.float32), [], []
    for _ in range(frames):
        keys = world.guide(rng, keys)
        world.step(keys)
        pictures.append(world.render())
        pressed.append(keys)
    return np.stack(pictures), {name: np.stack(pressed)[:, k].tolist() for k, name in enumerate(world.names)}


def settings_of(kind: str, side: int, frames: int) -> dict[str, Any]:
    """A third of each side, all around two thirds, or a third of the time."""
    if kind == "box":
        return {"box": [side // 3] * 4}
    if kind == "canvas":
        return {"canvas": f"{side}x{side}"}
    return {"between": [frames // 3 / FPS, 2 * frames // 3 / FPS]}


def simple(kind: str, film: Frames, drawn: np.ndarray, margin: int) -> UInt8[np.ndarray, "f i j 3"]:
    """The same edit without a model."""
    if kind == "canvas":
        return np.pad(film, ((0, 0), (margin, margin), (margin, margin), (0, 0)), mode="edge")
    if kind == "between":
        before = int(np.flatnonzero(drawn.any(axis=(1, 2)))[0]) - 1
        return np.where(drawn[..., None], film[before], film)
    masks = drawn.astype(np.uint8)
    return np.stack([cv2.inpaint(a, b, FILL_PX, cv2.INPAINT_TELEA) for a, b in zip(film, masks, strict=True)])


def measure(kind: str, number: int, artifact: str, frames: int, side: int) -> tuple[dict[str, float], list[Frames]]:
    """Measures of one edit; the truth, the edited film and the comparison."""
    truth, keys = walk(number, frames, side)
    margin = side // 6 // 2 * 2 if kind == "canvas" else 0
    with tempfile.TemporaryDirectory() as folder:
        video, out = str(Path(folder) / "film.mp4"), str(Path(folder) / "out.mp4")
        write_video(video, truth[:, margin : side - margin, margin : side - margin], None)
        given = settings_of(kind, side, frames)
        request = EditRequest(video=video, out=out, artifact=artifact, act=keys, **given)
        begin = time.perf_counter()
        edit(request)
        seconds = time.perf_counter() - begin
        made, film = read_video(out)[0], read_video(video)[0]
        drawn, kept, noise = outside(request, made, Path(folder))
    other = simple(kind, film, drawn, margin)
    row = {
        "outside_kept": kept,
        "psnr_outside": noise,
        "psnr_inside": decibels(np.square(made[drawn].astype(np.float32) - truth[drawn]).mean()),
        "psnr_inside_without_model": decibels(np.square(other[drawn].astype(np.float32) - truth[drawn]).mean()),
        "seconds": seconds,
    }
    return row, [truth, made, other]


def outside(request: EditRequest, made: Frames, folder: Path) -> tuple[np.ndarray, float, float]:
    """Masks; share of the stored brightness outside of them that is equal to the bit before encoding; and its PSNR as
    it is read again, in dB."""
    survey = survey_of(request, folder)
    regions = Regions(request, survey)
    view = view_of(request, regions.size, load_artifact(request.artifact).contract.resolution)
    equal, errors, masks = list[float](), list[float](), list[np.ndarray]()
    with open_film(request.video) as film, open_film(request.video) as again, open_film(request.out) as read:
        shown = written(pictures_of(film, request), regions, view, iter(made))
        for (_, frame, drawn), (_, source, _), (_, coded) in zip(shown, pictures_of(again, request), read, strict=True):
            masks.append(drawn)
            if drawn.all():
                continue
            old, new, last = (brightness(one)[~drawn].astype(np.float32) for one in (source, frame, coded))
            equal.append(float((old == new).mean()))
            errors.append(float(np.square(last - old).mean()))
    return np.stack(masks), float(np.mean(equal)), decibels(np.mean(errors))


def decibels(square_error: Any) -> float:
    """PSNR of a mean square error."""
    return float(10 * np.log10(255**2 / max(float(square_error), 1e-9)))


@command("editing", verbatim=("artifact", "out"))
def main(cfg: DictConfig) -> None:
    start, out = time.time(), Path(cfg.out)
    side = load_artifact(cfg.artifact).contract.resolution.width
    rows: dict[str, list[dict[str, float]]] = {kind: [] for kind in EDITS}
    sheets = []
    for kind, number in tqdm([(kind, k) for kind in EDITS for k in range(cfg.films)], desc="edits", unit="film"):
        row, films = measure(kind, number, cfg.artifact, cfg.frames, side)
        rows[kind].append(row)
        if number == 0:
            picks = np.linspace(cfg.frames // 3, 2 * cfg.frames // 3 - 1, COLUMNS).round().astype(int)
            sheets += [np.concatenate(list(film[picks]), axis=1) for film in films]
    report: dict[str, Any] = {
        "command": " ".join(["python -m evaluate.editing", *sys.argv[1:]]),
        "machine": f"{processor()}, {torch.get_num_threads()} threads",
        "date": time.strftime("%Y-%m-%d"),
        **{kind: summary(found) for kind, found in rows.items()},
        "seconds": round(time.time() - start, 1),
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    write_json(out, report)
    Image.fromarray(np.concatenate(sheets)).save(out.with_suffix(".png"))
    log.info("%s: %s", out, json.dumps({kind: {k: v["mean"] for k, v in report[kind].items()} for kind in EDITS}))


if __name__ == "__main__":
    main()
