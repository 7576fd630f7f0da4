import itertools
from pathlib import Path

import pytest
import torch
from torch import Tensor

from data.batch import LatentBatch
from data.latents import write_no_text
from distill.ode_pairs import read_pairs_manifest, read_shard, shard_name, solve, solver_sigmas
from gwm.cache import PastChunks
from gwm.guidance import Guidance, guided
from tests.distill.pairs import FRAMES, PATTERN, SIGMAS, TEACHER, ClipsInMemory, save_teacher, write
from tests.tiny import latents, speech, tiny_dit

GUIDANCE = 2.0


def test_the_solver_stops_at_every_level_of_the_student():
    levels = solver_sigmas(SIGMAS, 7, shift=2.0)
    assert set(SIGMAS) <= set(levels)
    assert levels == sorted(levels, reverse=True) and levels[0] == 1 and levels[-1] == 0
    assert min(a - b for a, b in itertools.pairwise(levels)) > 1e-3
    assert len(levels) == 7 + 2 + 1  # the teacher's, two more of the student's, and 0


@torch.no_grad()
def test_pairs_are_what_the_teacher_streams_behind_clean_data():
    """Each chunk by the sampler, with a cache that has committed the data before it; states are its way stations."""
    teacher, condition, levels = tiny_dit(), speech(FRAMES), solver_sigmas(SIGMAS, 5, shift=2.0)
    x0, reference = latents(FRAMES), latents(1)
    assert condition["agent"] is not None and condition["user"] is not None
    batch = LatentBatch(x0, reference, condition.flat(), step=0)
    made = solve(
        teacher, TEACHER, batch, sigmas=SIGMAS, levels=levels, guidance=Guidance(agent=GUIDANCE),
        generator=torch.Generator().manual_seed(5),
    )  # fmt: skip
    noise = torch.randn(x0.shape, generator=torch.Generator().manual_seed(5))
    past, unheard = PastChunks(PATTERN, FRAMES), PastChunks(PATTERN, FRAMES)
    for start in (-1, *range(0, FRAMES, 2)):
        part = slice(start, start + 2)
        clean = reference if start < 0 else x0[:, part]
        heard = condition.frames(slice(0, 0)).after_reference() if start < 0 else condition.frames(part)
        silent = heard.dropped("agent")
        at = torch.arange(clean.shape[1]) + 1 + start

        if start >= 0:

            def velocity(
                x: Tensor, sigma: Tensor, heard=heard, silent=silent, at=at, past=past, unheard=unheard
            ) -> Tensor:
                with_voice = teacher(x, sigma, heard, positions=at, context=past).velocity
                return guided(with_voice, teacher(x, sigma, silent, positions=at, context=unheard).velocity, GUIDANCE)

            for number, sigma in enumerate([*SIGMAS, 0.0]):
                steps = [level for level in levels if level > sigma]
                x = noise[:, part]
                for s, below in zip(steps, [*steps[1:], sigma]):
                    x = x + (below - s) * velocity(x, x.new_full(x.shape[:2], s))
                found = made["states"][:, number, part] if sigma else made["end"][:, part]
                torch.testing.assert_close(found, x, rtol=1e-4, atol=1e-4)
        zero = clean.new_zeros(clean.shape[:2])
        past = past.commit(teacher(clean, zero, heard, positions=at, context=past).keys_values)
        unheard = unheard.commit(teacher(clean, zero, silent, positions=at, context=unheard).keys_values)


def shards(folder: Path) -> list[dict[str, Tensor]]:
    return [read_shard(folder / shard_name(number)) for number in range(3)]


def assert_same_shards(made: Path, expected: Path) -> None:
    for a, b in zip(shards(made), shards(expected), strict=True):
        assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_parts_and_resumed_runs_make_the_same_pairs(tmp_path: Path):
    teacher = save_teacher(tmp_path / "teacher" / "weights")
    whole = write(tmp_path / "whole", teacher)
    parts = write(tmp_path / "parts", teacher, part=1, parts=2)
    assert not (parts / shard_name(0)).exists() and not (parts / "manifest.json").exists()
    write(parts, teacher, part=0, parts=2)
    assert read_pairs_manifest(parts, sigmas=SIGMAS)["num_shards"] == 3
    assert_same_shards(parts, whole)
    kept = (whole / shard_name(0)).stat().st_mtime_ns
    (whole / shard_name(2)).unlink()
    write(whole, teacher)
    assert_same_shards(whole, parts)
    assert (whole / shard_name(0)).stat().st_mtime_ns == kept, "a finished shard was made again"


def test_a_folder_of_other_pairs_is_an_error(tmp_path: Path):
    teacher = save_teacher(tmp_path / "teacher" / "weights")
    folder = write(tmp_path / "pairs", teacher)
    with pytest.raises(ValueError, match=r"made with other settings: num_steps, guidance must be as in settings\.json"):
        write(folder, teacher, num_steps=6, guidance=Guidance())
    with pytest.raises(ValueError, match=r"sigmas=\[1.0\] must be those of the pairs"):
        read_pairs_manifest(folder, sigmas=[1.0])


def test_a_part_that_is_not_there_is_an_error(tmp_path: Path):
    with pytest.raises(ValueError, match=r"part=2 must be in \[0, parts=2\)"):
        write(tmp_path, "nothing", part=2, parts=2)


def test_missing_pairs_name_the_command(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"python train\.py stage=ode_pairs name=mine"):
        read_pairs_manifest(tmp_path / "mine" / "ode_pairs" / "pairs", sigmas=SIGMAS)


def test_a_damaged_shard_says_what_to_do(tmp_path: Path):
    (tmp_path / "torn").write_bytes(b"\x10\x00\x00")
    with pytest.raises(ValueError, match="Delete it and run stage=ode_pairs again"):
        read_shard(tmp_path / "torn")


def test_pairs_keep_the_empty_captions_tokens(tmp_path: Path):
    """Without them neither the pairs nor a student that learns from them could drop a text."""
    write_no_text(tmp_path, torch.full((1, 6), 0.5))
    folder = write(tmp_path / "pairs", save_teacher(tmp_path / "teacher"), data=ClipsInMemory(tmp_path))
    assert torch.equal(read_shard(folder / shard_name(0))["nothing.text"], torch.full((1, 6), 0.5))
