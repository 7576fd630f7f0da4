"""Quality of the motion autoencoder on held-out people.

python -m evaluate.motion_autoencoder weights=runs/motion/motion/weights out=runs/motion/eval [photographs=[a.jpg]]

report.json: means over people with 95 % intervals, for exact codes decoded and for pictures encoded and decoded.
Openings and blinks are compared with the renders' own, which a correlation does not do. sheet.png: what it looks like;
drawn.png: all drawn characters, two of each of six styles, two of which no training saw (`drawn_unseen`).
codes-K.npz: code and voice of a performance, for python -m serve.animate.
"""

import itertools
import json
import logging
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from omegaconf import DictConfig
from PIL import Image
from tqdm import tqdm

from configs.command.main import command
from data.actions import index
from data.characters.cartoon import CARTOON_STYLES, UNSEEN_STYLES
from data.characters.exact_flow import Motion, MotionRenderer
from data.characters.renderer import Renderer, identity
from data.motion import reference_pose
from data.performance import Performance, perform
from data.synthetic import derive_seed
from gwm.autoencoders.motion.code import standardise, to_latents
from gwm.autoencoders.motion.codec import MotionAutoencoder, load_motion
from gwm.media.face import FaceMesh
from gwm.media.images import read_image
from gwm.media.pixels import to_tensor
from gwm.media.portraits import crop_to_face
from gwm.metrics.distance import psnr
from gwm.metrics.face_track import eye_contrast, face_track, lip_gap, seen
from gwm.metrics.identity import FaceEmbedding, identity_similarity
from gwm.metrics.lip_sync import correlation, lip_sync, moves
from gwm.metrics.statistics import bootstrap
from gwm.report.machine import processor
from gwm.resolution import Resolution
from gwm.weights import write_json

log = logging.getLogger(__name__)

SIDE = 256
DRAWN_STYLES = (*CARTOON_STYLES, *UNSEEN_STYLES)
BLINK = index("eyeBlinkLeft")
SPARSE = slice(None, None, 12)  # an identity costs 0.1 s
CHANGED = 16  # of 255, from which a drawn pixel counts as another
MOUTH = (slice(None), slice(148, 243), slice(64, 192))


@dataclass(frozen=True)
class Case:
    """A performance acted by one character."""

    act: Performance
    motion: Motion
    code: Float[torch.Tensor, "f 57"]
    opening: Float[np.ndarray, " f"]  # that was meant
    stranger: UInt8[np.ndarray, "h w 3"]  # the reference of somebody else

    @property
    def latents(self) -> Float[torch.Tensor, "1 f 57 2 2"]:
        return to_latents(self.code[None])


class Measure:
    """Face mesh and face embedding, loaded once."""

    def __init__(self) -> None:
        self.mesh = FaceMesh()
        self.embedding = FaceEmbedding(self.mesh)

    def __call__(self, frames: UInt8[np.ndarray, "f h w 3"], case: Case) -> dict[str, float]:
        """Measures of one clip, in the units of `gwm.metrics`; `_of_render` are shares of what the render itself
        has."""
        truth = case.motion.frames
        track, true_track = face_track(frames, self.mesh), face_track(truth, self.mesh)
        gap, true_gap = lip_gap(track), lip_gap(true_track)
        row = {
            "faces_found": seen(track),
            "psnr": float(psnr(frames, truth).mean()),
            "psnr_mouth": float(psnr(np.ascontiguousarray(frames[MOUTH]), np.ascontiguousarray(truth[MOUTH])).mean()),
            "identity": self.identity(frames, case.motion.reference),
        }
        if moves(case.opening):
            sync, ceiling = lip_sync(gap, case.opening), lip_sync(true_gap, case.opening)
            row |= {"lip_sync": sync.correlation, "lag_frames": float(sync.lag_frames)}
            row["lip_sync_of_render"] = sync.correlation / max(ceiling.correlation, 1e-6)
            row["opening_of_render"] = float(np.nanstd(gap) / np.nanstd(true_gap))
        if case.act.actions[:, BLINK].max() > 0.5:
            contrast, true_contrast = eye_contrast(frames, track), eye_contrast(truth, true_track)
            row["blink_follows"] = correlation(contrast, true_contrast)
            row["blink_of_render"] = float(np.nanstd(contrast) / np.nanstd(true_contrast))
        return row

    def identity(self, frames: UInt8[np.ndarray, "f h w 3"], reference: UInt8[np.ndarray, "h w 3"]) -> float:
        return float(np.nanmean(identity_similarity(frames[SPARSE], reference, self.embedding)))


def make_case(drawer: MotionRenderer, number: int, *, style: str, frames: int, head_motion: float) -> Case:
    """The `number`-th held-out performance; the same number gives the same."""
    act = perform(derive_seed(77, "test", "clip", number), frames, "test")
    who, other = (identity(derive_seed(77, "test", "identity", style, number, k), style) for k in range(2))
    own = reference_pose(np.random.default_rng(derive_seed(77, "reference", number)), head_motion)
    pose = np.float32(head_motion) * act.pose
    motion = drawer.render(who, act.actions, pose, act.gaze, own)
    rest = np.zeros((1, act.actions.shape[1]), np.float32)
    stranger = drawer.renderer.render(other, rest, own[None], np.zeros((1, 2), np.float32))[0]
    code = standardise(*(torch.from_numpy(x) for x in (act.actions, pose - own, act.gaze)))
    return Case(act, motion, code, drawer.renderer.mouth(who, act.actions), stranger)


def drawn_cases(drawer: MotionRenderer, count: int, *, frames: int) -> list[Case]:
    """Drawn characters, one style after the other, whose drawn mouths move: some performances only listen. Their heads
    stay still: only then is a change around the mouth that of the mouth."""
    cases: list[Case] = []
    numbers = itertools.count()
    while len(cases) < count:
        style = DRAWN_STYLES[len(cases) % len(DRAWN_STYLES)]
        case = make_case(drawer, next(numbers), style=style, frames=frames, head_motion=0.0)
        if moves(case.opening):
            cases.append(case)
    return cases


def decode(codec: MotionAutoencoder, reference: UInt8[np.ndarray, "s s 3"], latents: torch.Tensor) -> np.ndarray:
    frames, _ = codec.decode(latents, codec.begin(codec.encode_reference(to_tensor(reference)[None])))
    return frames[0].numpy()


def measure_people(codec: MotionAutoencoder, cases: list[Case], measure: Measure) -> dict[str, Any]:
    """Means and intervals by person, for both ways to codes, beside the renders' own."""
    rows: dict[str, list[dict[str, float]]] = {"exact": [], "encoded": [], "render": []}
    for case in tqdm(cases, desc="people", unit="clip"):
        reference = codec.encode_reference(to_tensor(case.motion.reference)[None])
        read = codec.encode(to_tensor(case.motion.frames)[None], reference)
        floor = measure.identity(case.motion.frames, case.stranger)
        own = measure(case.motion.frames, case)
        for name, latents in (("exact", case.latents), ("encoded", read)):
            row = measure(decode(codec, case.motion.reference, latents), case)
            row["identity_share"] = (row["identity"] - floor) / (own["identity"] - floor)
            rows[name].append(row)
        rows["render"].append(own | {"identity_floor": floor})
    return {name: summary(of) for name, of in rows.items()}


def summary(rows: list[dict[str, float]]) -> dict[str, dict[str, float]]:
    """Mean, interval and count of every measure."""
    names = dict.fromkeys(name for row in rows for name in row)
    table = {}
    for name in names:
        values = [row[name] for row in rows if name in row]
        interval = bootstrap(np.array(values), [str(person) for person in range(len(values))])  # one clip a person
        table[name] = {k: round(getattr(interval, k), 4) for k in ("mean", "low", "high", "count")}
    return table


def measure_drawn(codec: MotionAutoencoder, cases: list[Case]) -> dict[str, Any]:
    """Drawn characters: whether the mouth's pixels leave rest when the drawn mouth opens, and how far."""
    rows = []
    for case in cases:
        made = decode(codec, case.motion.reference, case.latents)
        row = {"psnr": float(psnr(made, case.motion.frames).mean())}
        drawn = drawn_mouth(case)
        if moves(case.opening) and drawn.any():  # some styles draw a mouth that no opening changes
            changes = [mouth_change(frames, case.motion.reference, drawn) for frames in (made, case.motion.frames)]
            row |= {
                "mouth_follows": correlation(changes[0], case.opening),
                "mouth_ceiling": correlation(changes[1], case.opening),
                "mouth_of_render": float(changes[0].std() / changes[1].std()),
            }
        rows.append(row)
    return summary(rows)


def drawn_mouth(case: Case) -> Bool[np.ndarray, "h w"]:
    """Pixels that differ between the widest and the narrowest mouth of the drawing, both with open eyes."""
    awake = np.flatnonzero(case.act.actions[:, BLINK] == case.act.actions[:, BLINK].min())
    order = awake[case.opening[awake].argsort()]
    shut, wide = case.motion.frames[[order[0], order[-1]]].astype(np.int16)
    return np.abs(wide - shut).max(axis=-1) > CHANGED


def mouth_change(
    frames: UInt8[np.ndarray, "f h w 3"], reference: UInt8[np.ndarray, "h w 3"], mouth: Bool[np.ndarray, "h w"]
) -> Float[np.ndarray, " f"]:
    """Mean distance of the mouth's pixels from the reference's."""
    return np.abs(frames[:, mouth].astype(np.float32) - reference[mouth]).mean((1, 2))


def measure_photographs(
    codec: MotionAutoencoder, photographs: dict[str, np.ndarray], case: Case, measure: Measure
) -> dict[str, dict[str, float]]:
    """Photographs driven by a performance: lips against the opening that was meant, and identity."""
    return {
        name: measure_photograph(
            decode(codec, photograph, case.latents), photograph, case.opening, measure.mesh, measure.embedding
        )
        for name, photograph in photographs.items()
    }


def measure_photograph(
    frames: UInt8[np.ndarray, "f h w 3"],
    photograph: UInt8[np.ndarray, "h w 3"],
    opening: Float[np.ndarray, " f"],
    mesh: FaceMesh,
    embedding: FaceEmbedding | None,
) -> dict[str, float]:
    """Lips of a photograph that speaks against the opening that was meant; its identity, where that can be measured."""
    track = face_track(frames, mesh)
    gap = lip_gap(track)
    row = {
        "lip_sync": lip_sync(gap, opening).correlation,
        "opening": float(np.nanstd(gap)),
        "faces_found": seen(track),
    }
    if embedding is not None:
        row["identity"] = float(np.nanmean(identity_similarity(frames[SPARSE], photograph, embedding)))
    return row


def sheet(codec: MotionAutoencoder, cases: list[Case], photographs: dict[str, np.ndarray], columns: int) -> Image.Image:
    """Renders above what is decoded from their codes; then photographs that are driven by the first of them."""
    strips = []
    for case in cases:
        picks = telling(case, columns)
        made = decode(codec, case.motion.reference, case.latents)
        for frames in (case.motion.frames, made):
            strips.append(np.concatenate([case.motion.reference, *frames[picks]], axis=1))
    picks = telling(cases[0], columns)
    for photograph in photographs.values():
        made = decode(codec, photograph, cases[0].latents)
        strips.append(np.concatenate([photograph, *made[picks]], axis=1))
    return Image.fromarray(np.concatenate(strips))


def telling(case: Case, count: int) -> np.ndarray:
    """The moments with the widest mouth and the deepest blink, and others equally far apart."""
    spread = np.linspace(0, len(case.opening) - 1, count).round().astype(int)
    spread[1], spread[-1] = int(case.opening.argmax()), int(case.act.actions[:, BLINK].argmax())
    return spread


def read_photographs(paths: list[str], mesh: FaceMesh) -> dict[str, np.ndarray]:
    return {Path(path).stem: crop_to_face(read_image(path), Resolution(SIDE, SIDE), mesh) for path in paths}


@command("autoencoder", verbatim=("weights", "out"))
def main(cfg: DictConfig) -> None:
    out, start = Path(cfg.out), time.time()
    out.mkdir(parents=True, exist_ok=True)
    codec, drawer, measure = load_motion(Path(cfg.weights)), MotionRenderer(Renderer(SIDE)), Measure()
    moving, frames = cfg.head_motion, cfg.frames
    people = [make_case(drawer, k, style="anny", frames=frames, head_motion=moving) for k in range(cfg.people)]
    drawn = drawn_cases(drawer, cfg.drawn, frames=frames)
    unseen = [case for k, case in enumerate(drawn) if DRAWN_STYLES[k % len(DRAWN_STYLES)] in UNSEEN_STYLES]
    photographs = read_photographs(list(cfg.photographs), measure.mesh)
    speaking = [case for case in people if moves(case.opening)]
    report: dict[str, Any] = {
        "command": " ".join(["python -m evaluate.motion_autoencoder", *sys.argv[1:]]),
        "machine": f"{processor()}, {torch.get_num_threads()} threads",
        "date": time.strftime("%Y-%m-%d"),
        "people": measure_people(codec, people, measure),
        "drawn": measure_drawn(codec, drawn),
        "drawn_unseen": measure_drawn(codec, unseen),
        "photographs": measure_photographs(codec, photographs, speaking[0], measure),
    }
    report["seconds"] = round(time.time() - start, 1)
    write_json(out / "report.json", report)
    sheet(codec, speaking[: cfg.shown], photographs, cfg.columns).save(out / "sheet.png")
    if drawn:
        sheet(codec, drawn, {}, cfg.columns).save(out / "drawn.png")
    for number, case in enumerate(speaking[: cfg.shown]):
        np.savez(out / f"codes-{number}.npz", code=case.code.numpy(), voice=case.act.agent)
    log.info("%s: %s", out, json.dumps({k: v["mean"] for k, v in report["people"]["exact"].items()}))


if __name__ == "__main__":
    main()
