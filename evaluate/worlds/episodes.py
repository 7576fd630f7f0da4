"""One held-out episode under its own and under other actions, answered by all players and measured alike."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from data.shards import Clip
from data.worlds.world import Returning
from evaluate.examine import load_arrays, save_arrays
from evaluate.worlds.inverse import InverseDynamics, classes_of, edges, recall
from evaluate.worlds.players import Actions, Frames, Player, Real
from gwm.clock import FPS
from gwm.condition.spec import Control
from gwm.metrics.distance import PerceptualDistance, psnr
from gwm.metrics.frechet import STRIDE, motion_features, picture_features
from gwm.metrics.movement import motion_energy, sharpness

OPPOSITES = (("left", "right"), ("forward", "back"), ("up", "down"))
SPAN = FPS // 2  # frames before a time, over which a distance at this time is averaged
CONTROLLED = ("model", "real")  # players that are given other actions too
NEAR = FPS // 4  # frames before and after the end of a full turn, of which the nearest is compared
FEATURE_STEP = 6  # frames between those whose features are compared
TURN = "turn"  # what the frames of a full turn are kept under

Row = dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Measures:
    """What measures episodes."""

    net: InverseDynamics
    controls: Sequence[Control]
    perceptual: PerceptualDistance | None
    lengths_s: Sequence[float | int]


@dataclass(frozen=True, kw_only=True)
class Result:
    """What is stored of an episode. First keys: players; `real` is the world itself."""

    key: str
    rows: dict[str, Row]
    features: dict[str, dict[str, Float[np.ndarray, "n c"]]]  # picture, motion; empty without the backbone
    frames: dict[str, Frames]  # of each player; with /turn behind its name: of a full turn

    def save(self, path: Path) -> None:
        arrays: dict[str, np.ndarray] = {"facts": np.array(json.dumps({"key": self.key, "rows": self.rows}))}
        arrays |= {f"frames|{who}": frames for who, frames in self.frames.items()}
        arrays |= {f"features|{who}|{kind}": v for who, part in self.features.items() for kind, v in part.items()}
        save_arrays(path, arrays)


def load_result(path: Path) -> Result | None:
    """A kept result, or None where there is none that can be read."""
    arrays = load_arrays(path)
    if arrays is None:
        return None
    facts = json.loads(str(arrays["facts"]))
    frames = {name.partition("|")[2]: part for name, part in arrays.items() if name.startswith("frames|")}
    features: dict[str, dict[str, Any]] = {who: {} for who in facts["rows"]}
    for name, part in arrays.items():
        if name.startswith("features|"):
            _, who, kind = name.split("|")
            features[who][kind] = part
    return Result(key=facts["key"], rows=facts["rows"], features=features, frames=frames)


def mirrored(actions: Actions, controls: Sequence[Control]) -> Actions | None:
    """Turned around: left for right, ahead for back, up for down, and other numbers from the other end of their limits.
    None where that changes no number."""
    names = [control.name for control in controls]
    turned = np.empty_like(actions)
    for place, control in enumerate(controls):
        other = names.index(_opposite(control.name)) if _opposite(control.name) in names else place
        ends = control.minimum + control.maximum
        turned[:, place] = actions[:, other] if control.kind == "discrete" else ends - actions[:, place]
    return None if np.array_equal(turned, actions) else turned


def _opposite(name: str) -> str:
    words = {a: b for pair in OPPOSITES for a, b in (pair, pair[::-1])}
    return "_".join(words.get(word, word) for word in re.split("_", name))


def examine(clip: Clip, other: Clip, players: Mapping[str, Player], measures: Measures, *, shown: bool) -> Result:
    """Let all players answer the episode; `other` is one whose actions and pictures serve as controls.

    shown: keep the frames too.
    """
    actions, real = clip.signals["action"], players["real"]
    assert isinstance(real, Real)
    turn = real.world.around() if isinstance(real.world, Returning) else None
    rows: dict[str, Row] = {}
    features, kept = {}, {}
    for who, player in players.items():
        frames = player.play(clip, actions)
        rows[who] = distances(frames, clip.frames, measures) | pictures(frames, clip.frames)
        rows[who] |= recognitions(clip, other, frames, measures)
        if who in CONTROLLED:
            rows[who] |= under_others(player, clip, other, measures)
        features[who] = frechet_features(frames, measures.perceptual)
        kept[who] = frames
        if turn is not None:
            kept[f"{who}/{TURN}"] = seen = player.play(clip, _longer(turn))
            rows[who] |= remembers(seen, clip.reference, len(turn), measures)
    rows["elsewhere"] = distances(other.frames, clip.frames, measures)
    if turn is not None:
        rows["elsewhere"] |= remembers(real.play(other, _longer(turn)), clip.reference, len(turn), measures)
    features["elsewhere"] = {}
    return Result(key=clip.key, rows=rows, features=features, frames=kept if shown else {})


def distances(frames: Frames, truth: Frames, measures: Measures) -> Row:
    """How far from what happened under the same actions, in the half second before each of the lengths."""
    row = {}
    for length in measures.lengths_s:
        end = min(len(truth), round(length * FPS))
        part = slice(max(0, end - SPAN), end)
        row[f"psnr_{length:g}s"] = float(psnr(frames[part], truth[part]).mean())
        if measures.perceptual is not None:
            sparse = slice(part.start, part.stop, 4)
            row[f"perceptual_{length:g}s"] = float(measures.perceptual.frames(frames[sparse], truth[sparse]).mean())
    return row


def pictures(frames: Frames, truth: Frames) -> Row:
    """Sharpness and motion in units of the world's."""
    return {
        "sharpness": float(sharpness(frames).mean() / max(sharpness(truth).mean(), 1e-6)),
        "motion": motion_energy(frames) / max(motion_energy(truth), 1e-6),
    }


def recognitions(clip: Clip, other: Clip, frames: Frames, measures: Measures) -> Row:
    """Share of the given actions that are recognised in the answers to them; and, which must be chance or less, of
    another episode's actions, and of the given ones turned around."""
    against = {"obeys": clip.signals["action"], "obeys_control": other.signals["action"]}
    turned = mirrored(clip.signals["action"], measures.controls)
    if turned is not None:
        against["mirrored_control"] = turned
    return _recognised(lambda _: frames, clip, against, measures)


def under_others(player: Player, clip: Clip, other: Clip, measures: Measures) -> Row:
    """Share of actions that are recognised where other ones are given: another episode's, and the own turned around."""
    given = {"obeys_shuffled": other.signals["action"]}
    turned = mirrored(clip.signals["action"], measures.controls)
    if turned is not None:
        given["obeys_mirrored"] = turned
    return _recognised(lambda actions: player.play(clip, actions), clip, given, measures)


def _recognised(
    answer: Callable[[Actions], Frames], clip: Clip, rows: Mapping[str, Actions], measures: Measures
) -> Row:
    found = {name: recognised(answer(actions), clip.reference, actions, measures) for name, actions in rows.items()}
    return {name: value for name, value in found.items() if np.isfinite(value)}


def recognised(frames: Frames, reference: UInt8[np.ndarray, "h w 3"], actions: Actions, measures: Measures) -> float:
    """Mean over the numbers of `recall`; NaN where no number changes."""
    truth = classes_of(actions, measures.controls)[edges(len(frames))]
    rows = recall(measures.net.read(reference, frames), truth, measures.net.config.classes)
    return float(np.nanmean(rows)) if np.isfinite(rows).any() else float("nan")


def _longer(turn: Actions) -> Float[np.ndarray, "g k"]:
    return np.concatenate([turn, turn[:NEAR]])


def remembers(frames: Frames, start: UInt8[np.ndarray, "h w 3"], length: int, measures: Measures) -> Row:
    """How near the start is seen again after a full turn of `length` frames: the nearest frame around its end; and by
    how much nearer it is than half-way, where something else is seen (`remembers_db`, 0 of a still picture)."""
    end = frames[length - NEAR : length + NEAR]
    starts = np.broadcast_to(start, end.shape)
    near = psnr(end, starts)
    away = float(psnr(frames[length // 2][None], start[None])[0])
    row = {"return_psnr": float(near.max()), "remembers_db": float(near.max()) - away}
    if measures.perceptual is not None:
        best = int(near.argmax())
        row["return_perceptual"] = float(measures.perceptual.frames(end[best : best + 1], starts[:1].copy())[0])
    return row


def frechet_features(frames: Frames, network: PerceptualDistance | None) -> dict[str, Float[np.ndarray, "n c"]]:
    if network is None:
        return {}
    starts = range(0, len(frames) - STRIDE, FEATURE_STEP)
    return {
        "picture": picture_features(frames[::FEATURE_STEP], network),
        "motion": motion_features(frames, network, starts),
    }
