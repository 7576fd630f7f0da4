"""Quality of dubbing on held-out people, with the truth: a render that says the new sentence with the same head.

python -m evaluate.dubbing out=evaluate/results/dubbing_cpu.json

The JSON has means over people with 95 % intervals; the picture beside it the film, the truth and the dubbed film.
"""

import json
import logging
import sys
import tempfile
import time
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from omegaconf import DictConfig
from PIL import Image
from tqdm import tqdm

from configs.command.main import command
from data.actions import ACTION_NAMES
from data.characters.renderer import Renderer, identity
from data.performance import perform
from data.synthetic import derive_seed
from evaluate.motion_autoencoder import SPARSE, summary
from gwm.autoencoders.motion.code import NAMES
from gwm.clock import FPS, SAMPLE_RATE
from gwm.media.face import FaceMesh
from gwm.media.refilm import open_film
from gwm.media.video import read_video, write_video
from gwm.metrics.face_track import face_track, lip_gap, seen
from gwm.metrics.identity import FaceEmbedding, identity_similarity
from gwm.metrics.lip_sync import lip_sync, moves
from gwm.report.machine import processor
from gwm.weights import write_json
from serve.artifact import Artifact, load_artifact
from serve.dub import DubRequest, chosen_faces, dub, dubbed
from serve.dubbing.voice import MOUTH, MouthCodes

log = logging.getLogger(__name__)

ACTED = [ACTION_NAMES.index(NAMES[k]) for k in MOUTH]  # actions of the mouth
RING = (0.02, 0.5)  # of the mask: its border
Frames = UInt8[np.ndarray, "f h w 3"]


@dataclass(frozen=True)
class Case:
    """A person who says one sentence in a film, and the same film with another sentence."""

    film: Frames
    truth: Frames
    old_opening: Float[np.ndarray, " f"]
    new_opening: Float[np.ndarray, " f"]
    old_voice: Float[np.ndarray, " t"]
    new_voice: Float[np.ndarray, " t"]


def make_cases(renderer: Renderer, people: int, *, frames: int, head_motion: float) -> list[Case]:
    """Of test performances in which somebody speaks; the same numbers give the same."""
    cases = list[Case]()
    for number in count():
        old, new = (perform(derive_seed(78, "test", "dub", name, number), frames, "test") for name in ("old", "new"))
        who = identity(derive_seed(78, "test", "identity", number), "anny")
        openings = [renderer.mouth(who, act.actions) for act in (old, new)]
        if not all(map(moves, openings)):
            continue
        both = old.actions.copy()
        both[:, ACTED] = new.actions[:, ACTED]
        pose = np.float32(head_motion) * old.pose
        film, truth = (renderer.render(who, actions, pose, old.gaze) for actions in (old.actions, both))
        cases.append(Case(film, truth, openings[0], openings[1], old.agent, new.agent))
        if len(cases) == people:
            break
    return cases


def measure(
    case: Case, artifact: Artifact, name: str, mesh: FaceMesh, embed: FaceEmbedding
) -> tuple[dict[str, float], Frames]:
    """Measures of one film, and the dubbed film."""
    with tempfile.TemporaryDirectory() as folder:
        video, audio, out = (str(Path(folder) / file) for file in ("film.mp4", "new.wav", "dubbed.mp4"))
        write_video(video, case.film, case.old_voice, fps=FPS, sample_rate=SAMPLE_RATE)
        write_video(audio + ".mp4", case.film[:, :2, :2], case.new_voice, fps=FPS, sample_rate=SAMPLE_RATE)
        request = DubRequest(video=video, audio=audio + ".mp4", out=out, artifact=name)
        dub(request)
        made, _ = read_video(out)
        write_video(video + ".mp4", case.truth, None)
        truth, _ = read_video(video + ".mp4")  # coded, as the film is
        kept, masks = outside(request, artifact, Path(folder))
        noise = coding_error(video, out, masks)
    gap, true_gap = (lip_gap(face_track(frames, mesh)) for frames in (made, truth))
    own, ceiling = lip_sync(gap, case.new_opening), lip_sync(true_gap, case.new_opening)
    first = case.film[0]
    row = {
        "lip_sync": own.correlation,
        "ceiling": ceiling.correlation,
        "lip_sync_of_ceiling": own.correlation / max(ceiling.correlation, 1e-6),
        "lip_sync_with_old": lip_sync(gap, case.old_opening).correlation,
        "truth_with_old": lip_sync(true_gap, case.old_opening).correlation,
        "lag_frames": float(own.lag_frames),
        "opening_of_render": float(np.nanstd(gap) / np.nanstd(true_gap)),
        "identity": float(np.nanmean(identity_similarity(made[SPARSE], first, embed))),
        "identity_of_render": float(np.nanmean(identity_similarity(truth[SPARSE], first, embed))),
        "border_flicker": flicker(made, masks) / flicker(truth, masks),
        "faces_found": seen(face_track(made[SPARSE], mesh)),
        "outside_kept": kept,
        "psnr_outside": noise,
    }
    return row, made


def outside(request: DubRequest, artifact: Artifact, folder: Path) -> tuple[float, Float[np.ndarray, "f h w"]]:
    """Share of the stored brightness outside of the mask that is equal to the bit before it is encoded; the masks."""
    equal, masks = list[float](), list[np.ndarray]()
    _, people = chosen_faces(request, folder)
    with open_film(request.video) as film, open_film(request.video) as again:
        made = dubbed(film, iter(film), people, artifact, request)
        for (_, frame, mask), (_, source) in zip(made, again, strict=True):
            masks.append(np.zeros((frame.height, frame.width), np.float32) if mask is None else mask)
            equal.append(float((brightness(frame) == brightness(source))[masks[-1] == 0].mean()))
    return float(np.mean(equal)), np.stack(masks)


def brightness(frame: Any) -> UInt8[np.ndarray, "h w"]:
    """The first plane, as it is stored; of 8 bits."""
    plane = frame.planes[0]
    return np.frombuffer(memoryview(plane), np.uint8).reshape(plane.height, -1)[:, : plane.width].copy()


def coding_error(video: str, out: str, masks: Float[np.ndarray, "f h w"]) -> float:
    """PSNR of the brightness outside of the mask, from the film to the dubbed one as it is read again, in dB."""
    with open_film(video) as film, open_film(out) as made:
        errors = [
            np.square(brightness(a).astype(np.float32) - brightness(b))[mask == 0].mean()
            for (_, a), (_, b), mask in zip(film, made, masks, strict=True)
        ]
    return float(10 * np.log10(255**2 / max(np.mean(errors), 1e-9)))


def flicker(frames: Frames, masks: Float[np.ndarray, "f h w"]) -> float:
    """How much brightness changes back and forth at the mask's border: mean absolute second difference in time."""
    grey = frames.astype(np.float32).mean(axis=-1)
    ring = (masks > RING[0]) & (masks < RING[1])
    return float(np.abs(grey[:-2] - 2 * grey[1:-1] + grey[2:])[ring[1:-1]].mean())


def sheet(case: Case, made: Frames, columns: int) -> np.ndarray:
    """Film, truth and dubbed film, at moments equally far apart and that of the widest new mouth."""
    picks = np.linspace(2, len(made) - 3, columns).round().astype(int)
    picks[columns // 2] = int(case.new_opening.argmax())
    top = made.shape[1] // 3
    return np.concatenate([np.concatenate(list(f[picks][:, top:]), axis=1) for f in (case.film, case.truth, made)])


@command("dubbing", verbatim=("artifact", "out"))
def main(cfg: DictConfig) -> None:
    start, out = time.time(), Path(cfg.out)
    artifact, mesh = load_artifact(cfg.artifact), FaceMesh()
    embed = FaceEmbedding(mesh)
    MouthCodes(artifact, iter(()), seed=0).at(0.0)  # loads Triton, which breaks where Mesa has loaded its LLVM before
    cases = make_cases(Renderer(cfg.side), cfg.people, frames=cfg.frames, head_motion=cfg.head_motion)
    found = [measure(case, artifact, cfg.artifact, mesh, embed) for case in tqdm(cases, desc="people", unit="film")]
    report: dict[str, Any] = {
        "command": " ".join(["python -m evaluate.dubbing", *sys.argv[1:]]),
        "machine": f"{processor()}, {torch.get_num_threads()} threads",
        "date": time.strftime("%Y-%m-%d"),
        "people": summary([row for row, _ in found]),
        "seconds": round(time.time() - start, 1),
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    write_json(out, report)
    rows = [sheet(case, made, cfg.columns) for case, (_, made) in zip(cases, found, strict=True)]
    Image.fromarray(np.concatenate(rows)).save(out.with_suffix(".png"))
    log.info("%s: %s", out, json.dumps({name: value["mean"] for name, value in report["people"].items()}))


if __name__ == "__main__":
    main()
