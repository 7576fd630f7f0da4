"""A folder of awkward files becomes shards: what is kept is in time and upright, what is not is counted."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import data.footage.batches
import data.footage.cutting
from data.footage.ledger import LEDGER_NAME
from data.footage.takes import TakeRules
from data.ingest import REPORT_NAME, ingest
from data.manifest import read_manifest
from data.shards import Clip, decode_sample, read_samples
from gwm.resolution import Resolution
from tests.data.footage import corpus

LENGTH = 16  # frames of a clip
GAP = 4
RULES = TakeRules(
    resolution=Resolution(32, 32),
    num_frames=LENGTH,
    face="off",
    look_every_s=0.25,
    reference_gap=GAP,
    max_enlargement=2.0,
)
WHOLE = (72, 4, {"rest": 8})  # three seconds: four clips of 16 frames, and 8 frames that are left
NOTHING: dict[str, tuple[int, int, dict[str, int]]] = {
    name: (0, 0, {reason: 0})
    for name, reason in {
        "headless.mp4": "unreadable",
        "text.mp4": "unreadable",
        "empty.mp4": "unreadable",
        "sound.mp4": "no_picture",
        "misled.mp4": "bad_sidecar",
    }.items()
}
EXPECTED = NOTHING | {
    **dict.fromkeys(
        (
            "plain.mp4 silent.mp4 muted.mp4 sixty.mp4 five.webm turned.mp4 odd.mkv wide.mkv telephone.mov late.mkv "
            "flash.mp4 sub/told.mp4 cut.mp4"
        ).split(),
        WHOLE,
    ),
    "short.mp4": (12, 0, {"scene_too_short": 12}),
    "one.mp4": (1, 0, {"scene_too_short": 1}),
    "small.mkv": (72, 0, {"rest": 8, "too_small": 64}),
}
BROKEN_OFF = ("truncated.mkv", "damaged.ts")  # how much of them FFmpeg saves is its own affair
SILENT = {"silent.mp4", "muted.mp4", "turned.mp4", "odd.mkv", "wide.mkv", "cut.mp4", "flash.mp4", *BROKEN_OFF}


def run(videos: Path, out: Path, *, workers: int = 1, **changes: Any) -> dict[str, Any]:
    options = {"val": 0.1, "test": 0.1, "seed": 0, "videos_per_shard": 4} | changes
    return ingest(videos, out, RULES, workers=workers, **options)


def records(out: Path) -> dict[str, dict[str, Any]]:
    lines = (out / LEDGER_NAME).read_text().splitlines()[1:]
    return {record["path"]: record for line in lines for record in json.loads(line)["records"]}


def clips(out: Path) -> dict[str, list[Clip]]:
    """By source, in order."""
    found: dict[str, list[Clip]] = {}
    for split in read_manifest(out).splits:
        for sample in read_samples(out, split):
            clip = decode_sample(sample)
            found.setdefault(clip.info["source"], []).append(clip)
    return {source: sorted(mine, key=lambda clip: clip.key) for source, mine in found.items()}


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    corpus.make_corpus(folder)
    return folder


@pytest.fixture(scope="module")
def out(videos: Path, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("out")
    run(videos, out)
    return out


@pytest.fixture(scope="module")
def made(out: Path) -> dict[str, list[Clip]]:
    return clips(out)


def test_every_file_is_kept_or_counted_with_its_reason(out: Path):
    found = {path: (r["frames"], r["clips"], r["dropped"]) for path, r in records(out).items()}
    vfr = found.pop("vfr.mkv")
    broken_off = [found.pop(name) for name in BROKEN_OFF]
    assert found == EXPECTED
    assert vfr[1] == 4 and vfr[0] in (71, 72, 73)
    assert all(16 < frames <= 72 and num_clips for frames, num_clips, _ in broken_off)
    for frames, num_clips, dropped in [*found.values(), vfr, *broken_off]:
        assert frames == num_clips * LENGTH + sum(dropped.values())
    report = json.loads((out / REPORT_NAME).read_text())
    assert report["files"] == 26 and report["files_with_clips"] == len(EXPECTED) + 3 - 8
    assert {reason: entry["files_without_clip"] for reason, entry in report["dropped"].items()} == {
        "bad_sidecar": 1, "duplicate": 1, "no_picture": 1, "other_file": 1, "rest": 1, "scene_too_short": 2,
        "too_small": 1, "unreadable": 3,
    }  # fmt: skip
    assert {path for path, r in records(out).items() if r["silent"]} == SILENT


def test_the_manifest_counts_what_was_dropped_and_leaves_no_one_in_two_splits(out: Path, made: dict[str, list[Clip]]):
    manifest = read_manifest(out)
    assert sum(split.num_samples for split in manifest.splits.values()) == sum(map(len, made.values()))
    assert manifest.generator["dropped"]["too_small"] == 64 and set(manifest.splits) == {"train", "val", "test"}
    people = [person for split in manifest.splits.values() for person in split.identities]
    assert len(people) == len(set(people)) == len(made) and "wall" in people


def grey(frame: np.ndarray) -> float:
    return float(frame[16:].mean())  # below the black band


@pytest.mark.parametrize(
    ("name", "times_s"),
    [
        ("plain.mp4", corpus.steady(24)),
        ("sixty.mp4", corpus.steady(60)),
        ("five.webm", corpus.steady(5)),
        ("sub/told.mp4", corpus.steady(30)),
        ("vfr.mkv", corpus.irregular()),
        ("odd.mkv", corpus.steady(24)),
    ],
)
def test_every_frame_shows_what_a_player_shows_then(made: dict[str, list[Clip]], name: str, times_s: list[float]):
    """At 24 fps, in the middle of each frame; the grey level tells the time of the picture: 1.25 levels are a frame,
    6 a picture of five.webm, whose codec is off by one itself."""
    for number, clip in enumerate(made[name]):
        middles = (number * LENGTH + np.arange(LENGTH) + 0.5) / 24
        shown = np.array([max(t for t in times_s if t <= moment) for moment in middles])
        found = np.array([grey(frame) for frame in clip.frames])
        error = found - (corpus.BASE + corpus.RAMP * shown)
        assert np.abs(error).max() < 3 and abs(error.mean()) < (2 if name == "five.webm" else 1), error


@pytest.mark.parametrize("name", ["plain.mp4", "sixty.mp4", "vfr.mkv", "five.webm", "telephone.mov", "late.mkv"])
def test_sound_is_where_it_was(made: dict[str, list[Clip]], name: str):
    """A beep one second after the first picture: any rate, any number of channels, also on a track that starts late."""
    heard = np.concatenate([clip.agent for clip in made[name] if clip.agent is not None])
    assert len(heard) == 4 * LENGTH * 1000
    loud = np.flatnonzero(np.abs(heard) > 0.1)
    assert abs(loud[0] - 24_000) < 240 and abs(loud[-1] - 26_400) < 240
    assert np.abs(heard).max() == pytest.approx(0.5, abs=0.1)


def test_what_is_not_heard_is_unknown_and_not_silence(made: dict[str, list[Clip]]):
    assert {name for name, mine in made.items() if mine[0].agent is None} == SILENT
    assert all(clip.user is None and clip.truth is None for mine in made.values() for clip in mine)


def test_a_turned_telephone_is_upright(made: dict[str, list[Clip]]):
    """Turned clockwise, what was the top lies to the right."""
    frame = made["turned.mp4"][0].frames[0]
    assert frame[:, -6:].max() < 40 and frame[:, :20].min() > 40


def test_no_clip_crosses_a_cut_and_a_flash_is_none(made: dict[str, list[Clip]]):
    for clip in made["cut.mp4"]:
        levels = [grey(frame) for frame in clip.frames]
        assert max(levels) - min(levels) < 40
    assert [clip.info["start_s"] for clip in made["cut.mp4"]] == [0, 0.6667, 1.5, 2.1667]
    assert max(grey(frame) for clip in made["flash.mp4"] for frame in clip.frames) > 250


def test_the_reference_is_outside_the_clip_and_in_its_shot(made: dict[str, list[Clip]]):
    for name in ("plain.mp4", "cut.mp4", "five.webm"):
        for clip in made[name]:
            start, at = round(24 * clip.info["start_s"]), round(24 * clip.info["reference_s"])
            assert at <= start - GAP or at >= start + LENGTH - 1 + GAP
            assert name != "cut.mp4" or (at < 36) == (start < 36)
            assert name != "plain.mp4" or grey(clip.reference) == pytest.approx(60 + 30 * at / 24, abs=2.5)


def test_side_cars_tell_caption_person_facts_and_actions(made: dict[str, list[Clip]]):
    told = made["sub/told.mp4"]
    assert [clip.info["caption"] for clip in told] == ["dark", "light", "light", "light"]
    assert {clip.info["identity"] for clip in told} == {"wall"} and told[0].info["facts"] == {"licence": "CC0"}
    actions = np.concatenate([clip.signals["action"] for clip in told if clip.signals])
    assert np.array_equal(actions[:, 0], np.floor((np.arange(64) + 0.5) / 24 * 2)) and actions.shape == (64, 2)
    assert made["plain.mp4"][0].info["caption"] is None and not made["plain.mp4"][0].signals


def snapshot(out: Path) -> dict[str, tuple[int, bytes]]:
    return {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in out.glob("*.tar")}


def test_a_second_run_adds_nothing(videos: Path, out: Path, monkeypatch):
    before, manifest, report = snapshot(out), read_manifest(out), (out / REPORT_NAME).read_bytes()
    monkeypatch.setattr(data.footage.batches, "cut_source", None)  # nothing is cut again
    run(videos, out)
    assert snapshot(out) == before and read_manifest(out) == manifest and (out / REPORT_NAME).read_bytes() == report


def test_an_interrupted_run_goes_on_and_ends_in_the_same_bytes(videos: Path, out: Path, tmp_path: Path, monkeypatch):
    cut, calls = data.footage.batches.cut_source, []

    def dies(source, *rest):
        calls.append(source.path)
        if len(calls) == 10:
            raise KeyboardInterrupt
        return cut(source, *rest)

    monkeypatch.setattr(data.footage.batches, "cut_source", dies)
    with pytest.raises(KeyboardInterrupt):
        run(videos, tmp_path)
    with (tmp_path / LEDGER_NAME).open("a") as file:
        file.write('{"name": "train-0000')  # killed while it wrote
    calls = [*range(10)]
    run(videos, tmp_path)
    assert len(calls) - 10 == len(records(out)) - 8  # two shards of four were finished
    assert {name: content for name, (_, content) in snapshot(tmp_path).items()} == {
        name: content for name, (_, content) in snapshot(out).items()
    }
    assert read_manifest(tmp_path).splits == read_manifest(out).splits


def test_a_new_video_and_a_corrected_side_car_are_added_alone(videos: Path, tmp_path: Path):
    mine, out = tmp_path / "videos", tmp_path / "out"
    mine.mkdir()
    for name in ("plain.mp4", "misled.mp4", "misled.json", "five.webm", "cut.mp4"):
        shutil.copy(videos / name, mine)
    first = run(mine, out)
    before, generator = snapshot(out), read_manifest(out).generator
    shutil.copy(videos / "sixty.mp4", mine)
    (mine / "misled.json").write_text('{"caption": "now told"}')
    report = run(mine, out)
    assert report["clips"] == first["clips"] + 8 and "bad_sidecar" not in report["dropped"]
    assert before.items() <= snapshot(out).items()
    assert clips(out)["misled.mp4"][0].info["caption"] == "now told"
    assert read_manifest(out).generator != generator  # latents of the old shards are not taken for the new ones'


def test_two_workers_make_the_same_shards(videos: Path, out: Path, tmp_path: Path):
    run(videos, tmp_path, workers=2)
    assert {name: content for name, (_, content) in snapshot(tmp_path).items()} == {
        name: content for name, (_, content) in snapshot(out).items()
    }


def test_other_settings_do_not_mix(videos: Path, out: Path):
    with pytest.raises(ValueError, match=r"other settings \(val\)"):
        run(videos, out, val=0.2)


def test_a_missing_folder_is_named(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"videos=.*nowhere must be a folder"):
        run(tmp_path / "nowhere", tmp_path / "out")
    assert not (tmp_path / "out").exists()
