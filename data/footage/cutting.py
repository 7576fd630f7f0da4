"""One video to clips in a shard: survey it, plan the takes, play it again and cut them."""

import functools
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int16, UInt8

from data.footage.sidecar import SideCar, read_sidecar
from data.footage.sources import Source
from data.footage.survey import Survey, survey_video
from data.footage.takes import Take, TakeRules, plan_takes
from data.footage.video_file import UnusableError, as_floats, opened, picture_stream, sound_track
from data.shards import CONTINUES, Clip, encode_sample
from gwm.clock import FPS, SAMPLES_PER_FRAME
from gwm.media.decoding import Damage
from gwm.media.face import FaceMesh
from gwm.media.framing import Box, cut, cut_exactly
from gwm.media.video_frames import RgbReader, pictures, pixel_aspect

STYLE = "footage"
BLANK_CONTRAST = 2.0  # standard deviation over a picture, of 255 levels; codecs make noise of about 1 on black


@dataclass(slots=True)
class Record:
    """The result of one source; frames are counted at 24 fps, from the first to the last picture."""

    path: str
    digest: str
    key: str
    person: str
    frames: int = 0
    clips: int = 0
    dropped: dict[str, int] = field(default_factory=dict)  # frames by reason; a file dropped whole may have 0
    detail: str = ""  # of a file dropped whole
    silent: bool = False
    faceless: int = 0  # clips that show the middle because no face is seen
    notes: list[str] = field(default_factory=list)  # what was lost or chosen while it was read


@functools.cache
def face_mesh() -> FaceMesh:
    """This process's face mesh."""
    return FaceMesh()


def cut_source(source: Source, folder: Path, rules: TakeRules, record: Record) -> Iterator[dict[str, Any]]:
    """Encoded samples of one video; `record` is filled in on the way. Raises nothing for a bad file."""
    path = folder / source.path
    try:
        side = read_sidecar(path)
        if rules.actions:
            if side.actions is None:
                raise UnusableError("no_actions", f"{path.with_suffix('.csv').name} is not there")
            side = replace(side, actions=side.actions.named(rules.actions))
        mesh = None if rules.face == "off" else face_mesh()
        survey = survey_video(path, look_every_s=rules.look_every_s, mesh=mesh)
        record.notes = [f"picture: {note}" for note in survey.damage.notes]
        check_unchanged(source, path)
        if not len(survey.shown):
            raise UnusableError("unreadable", "no picture in it can be decoded")
        takes, dropped = plan_takes(survey, rules, FPS)
        record.frames, record.dropped = len(survey.shown), dict(dropped)
        if takes:
            yield from _samples(source, path, survey, takes, rules, side, record)
    except UnusableError as error:
        record.dropped = dict(Counter(record.dropped) + Counter({error.reason: record.frames - _used(record, rules)}))
        record.dropped.setdefault(error.reason, 0)
        record.detail = error.detail


def check_unchanged(source: Source, path: Path) -> None:
    """Refuse a file whose size has changed since it was listed.

    Raises:
        UnusableError: the file is not the one that was found: somebody still writes it, or has replaced it.
    """
    if path.stat().st_size != source.size_bytes:
        raise UnusableError("changed", f"it had {source.size_bytes} bytes when it was found, has {path.stat().st_size}")


def _used(record: Record, rules: TakeRules) -> int:
    return record.clips * rules.num_frames + sum(record.dropped.values())


def _samples(
    source: Source, path: Path, survey: Survey, takes: list[Take], rules: TakeRules, side: SideCar, record: Record
) -> Iterator[dict[str, Any]]:
    track = None  # a world has no sound
    if not rules.actions:
        track, notes = sound_track(path, start_s=survey.start_s, num_samples=len(survey.shown) * SAMPLES_PER_FRAME)
        record.notes += [f"sound: {note}" for note in notes]
        record.silent = track is None
    for take, frames, reference in cut_takes(path, survey, takes, rules):
        if is_blank(frames) or is_blank(reference[None]):
            record.dropped["blank"] = record.dropped.get("blank", 0) + rules.num_frames
            continue
        record.clips += 1
        record.faceless += rules.face == "prefer" and not take.with_face
        yield encode_sample(_clip(source, survey, take, frames, reference, track, side, rules))


def is_blank(frames: UInt8[np.ndarray, "f h w 3"]) -> bool:
    """Whether every picture is of one colour."""
    return bool(frames.std(axis=(1, 2)).max() < BLANK_CONTRAST)


def cut_takes(
    path: Path, survey: Survey, takes: list[Take], rules: TakeRules
) -> Iterator[tuple[Take, UInt8[np.ndarray, "f h w 3"], UInt8[np.ndarray, "h w 3"]]]:
    """Pictures of every take, as soon as it is complete; one pass through the file."""
    orders = _orders(survey, takes, rules.num_frames)
    length = rules.num_frames
    open_takes: dict[int, tuple[np.ndarray, np.ndarray, list[int]]] = {}
    with opened(path) as container:
        stream = picture_stream(container)
        to_rgb = RgbReader(pixel_aspect(stream))
        for index, (_, frame) in enumerate(pictures(container, stream, Damage())):
            wanted = orders.pop(index, None)
            if wanted is None:
                continue
            rgb = to_rgb(frame)
            for number, slots, box in wanted:
                if number not in open_takes:
                    new = np.empty((length + 1, *rules.resolution.shape, 3), np.uint8)  # the last one is the reference
                    open_takes[number] = new, np.zeros(length + 1, bool), []
                store, there, _ = open_takes[number]
                store[slots] = (cut_exactly if rules.follow else cut)(rgb, box, rules.resolution)
                there[slots] = True
                if there.all():
                    del open_takes[number]
                    yield takes[number], store[:length], store[length]
    if open_takes or orders:
        raise UnusableError("unreadable", "it played shorter the second time")


Order = tuple[int, list[int], Box]  # number of the take, its frames that show the picture, the crop


def _orders(survey: Survey, takes: list[Take], num_frames: int) -> dict[int, list[Order]]:
    """The frames that are to be cut from each picture. Frame `num_frames` of a take is its reference."""
    orders: dict[int, list[Order]] = {}
    for number, take in enumerate(takes):
        shown = survey.shown[take.start : take.start + num_frames]
        for picture in np.unique(shown).tolist():
            slots = np.flatnonzero(shown == picture).tolist()
            orders.setdefault(picture, []).append((number, slots, take.boxes[slots[0]]))
        reference = int(survey.shown[take.reference])
        orders.setdefault(reference, []).append((number, [num_frames], take.reference_box))
    return orders


def _clip(
    source: Source,
    survey: Survey,
    take: Take,
    frames: UInt8[np.ndarray, "f h w 3"],
    reference: UInt8[np.ndarray, "h w 3"],
    track: Int16[np.ndarray, " t"] | None,
    side: SideCar,
    rules: TakeRules,
) -> Clip:
    stop = take.start + len(frames)
    moments = (np.arange(take.start, stop) + 0.5) / FPS
    part = slice(take.start * SAMPLES_PER_FRAME, stop * SAMPLES_PER_FRAME)
    agent: Float[np.ndarray, " t"] | None = None if track is None else as_floats(track[part])
    return Clip(
        key=f"{source.digest}-{take.start:08d}",
        frames=frames,
        agent=agent,
        user=None,
        reference=reference,
        truth=None,
        signals={} if side.actions is None else {"action": side.actions.at(moments - rules.lag_s)},
        info={
            "identity": source.person,
            "style": STYLE,
            "caption": side.caption_of(take.start / FPS, stop / FPS),
            "source": source.path,
            "source_fps": survey.source_fps,
            "start_s": round(take.start / FPS, 4),
            "reference_s": round(take.reference / FPS, 4),
            "facts": side.facts,
        }
        | ({CONTINUES: True} if rules.actions else {})
        | _crops(take),
    )


def _crops(take: Take) -> dict[str, Any]:
    """Where in the picture the frames lie, so that they can be pasted back: one box, or one for each frame."""
    if len(set(take.boxes)) > 1:
        return {"crops": [[round(v, 3) for v in (box.x, box.y, box.width, box.angle)] for box in take.boxes]}
    box = take.boxes[0]
    return {"crop": [round(px) for px in (box.x, box.y, box.width, box.height)]}
