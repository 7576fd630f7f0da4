"""Two processes against one, over gloo."""

import dataclasses
import multiprocessing
import tempfile
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist

from gwm.autoencoders.haar import HaarAutoencoder
from gwm.dit import DiT
from gwm.rollout import Rollout
from serve.artifact import Artifact
from serve.engine import Engine
from serve.parallel.follow import follow
from serve.parallel.parallelize import TIMEOUT, check_division, join, rollout_of
from serve.parallel.ranks import WAYS, Order, Ranks
from tests.serve.conftest import randomised, tiny_contract
from tests.serve.test_memory import text_model
from tests.tiny import DIT, contract, declared, latents, speech, tiny_dit, with_eyelids

FP32 = 1e-5  # products of other shapes are added up in another order
CONTEXT = multiprocessing.get_context("fork")  # models and inputs are there already
NUM_CHUNKS = 5  # round the ring and beyond the horizon
Work = Callable[[Ranks], object]


class Alone(Ranks):
    """One of several processes that talks to nobody."""

    def __init__(self, size: int, way: str) -> None:
        self.device, self.way, self.rank, self.size = torch.device("cpu"), way, 0, size


def _run(work: Work, rank: int, size: int, way: str, file: str, answer: Connection) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=size, timeout=TIMEOUT)
    try:
        answer.send((work(Ranks(way=way)), None))
    except RuntimeError as error:
        answer.send((None, str(error)))
    finally:
        answer.close()


def on_ranks(work: Work, *, way: str, size: int = 2) -> list[tuple]:
    """What `work` returned and the error it ended with, for each process."""
    with tempfile.TemporaryDirectory() as folder:
        processes, answers = [], []
        for rank in range(size):
            mine, theirs = CONTEXT.Pipe(duplex=False)
            arguments = (work, rank, size, way, str(Path(folder) / "meet"), theirs)
            processes.append(CONTEXT.Process(target=_run, args=arguments))
            processes[-1].start()
            theirs.close()
            answers.append(mine)
        got = [answer.recv() for answer in answers]
        for process in processes:
            process.join()
    return got


def stream(rollout: Rollout, condition: object, reference: torch.Tensor) -> torch.Tensor:
    size = rollout.contract.pattern.chunk_frames
    rollout.start(reference, condition, seed=3)
    parts = [slice(at, at + size) for at in range(0, NUM_CHUNKS * size, size)]
    return torch.cat([rollout.step(condition.frames(part)) for part in parts], dim=1)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("chunk_frames", [1, 2])
@torch.no_grad()
def test_several_processes_make_the_stream_of_one(way: str, chunk_frames: int):
    """With text and around the reference: every path of the model is divided."""
    dit = declared(dataclasses.replace(DIT, around_reference=True), text=8)
    pattern = dataclasses.replace(contract().pattern, chunk_frames=chunk_frames)
    rules, model = contract(4, dit=dit, pattern=pattern), tiny_dit(dit)
    condition = speech(NUM_CHUNKS * chunk_frames, 1).with_tokens(text=torch.randn(1, 3, 8))
    reference = latents(1, 1)
    expected = stream(Rollout(model, rules), condition, reference)
    got = on_ranks(lambda ranks: stream(rollout_of(model, rules, ranks), condition, reference).numpy(), way=way)
    for made, error in got:
        assert error is None
        torch.testing.assert_close(torch.from_numpy(made), expected, rtol=FP32, atol=10 * FP32)


@pytest.mark.parametrize("way", WAYS)
def test_the_other_processes_follow_the_first_also_back(way: str, portrait: np.ndarray, voices: tuple):
    rules = with_eyelids(tiny_contract(chunk_frames=1))
    models = Artifact(rules, randomised(DiT(rules.dit)), randomised(HaarAutoencoder(rules.vae)))

    def play(ranks: Ranks | None) -> np.ndarray | None:
        engine = Engine(models, seed=7, undo_chunks=2, ranks=ranks)
        if ranks is not None and ranks.rank:
            return follow(engine)
        engine.start(portrait)
        engine.act({"eyeBlinkLeft": 1})
        engine.push(*voices)
        frames = [engine.step(), engine.step(), engine.step()]
        engine.rewind(2)
        while engine.ready:
            frames.append(engine.step())
        engine.seed = 8
        engine.start(portrait[::-1].copy())
        engine.push(*voices)
        frames.append(engine.step())
        engine.close()
        return np.concatenate(frames)

    (first, error), (nothing, other_error) = on_ranks(play, way=way)
    assert error is None and other_error is None and nothing is None
    assert np.abs(first.astype(int) - play(None)).max() <= 1


def watched(engine: Engine) -> list[tuple[Order, int]]:
    """Its orders from now on, and how many tensors go with each."""
    orders, send = [], engine._order

    def sent(order: Order, *tensors: torch.Tensor, value: int = 0) -> None:
        orders.append((order, len(tensors)))
        send(order, *tensors, value=value)

    engine._order = sent
    return orders


@pytest.mark.parametrize("way", WAYS)
def test_the_other_processes_are_sent_a_text_once(way: str, portrait: np.ndarray, voices: tuple):
    models, text = text_model(tiny_contract(chunk_frames=1)), torch.randn(1, 4, 6)

    def play(ranks: Ranks | None) -> tuple[np.ndarray, list] | None:
        engine = Engine(models, seed=7, ranks=ranks, text_tokens=4)
        if ranks is None:
            engine.history = None  # several processes do not recache
        elif ranks.rank:
            return follow(engine)
        orders = watched(engine)
        engine.start(portrait)
        engine.push(*voices)
        frames = [engine.step()]
        engine.set_prompt(text)
        frames += [engine.step(), engine.step()]
        engine.close()
        return np.concatenate(frames), orders

    ((first, sent), error), (_, other_error) = on_ranks(play, way=way)
    assert error is None and other_error is None
    assert np.abs(first.astype(int) - play(None)[0]).max() <= 1
    chunk = (Order.CHUNK, 2)  # both voices
    assert sent[1:] == [chunk, (Order.TEXT, 1), chunk, chunk, (Order.STOP, 0)]


def test_a_process_that_dies_is_an_error_in_the_others():
    model, rules = tiny_dit(), contract(4)

    def play(ranks: Ranks) -> None:
        if ranks.rank:
            raise RuntimeError("out of memory")
        stream(rollout_of(model, rules, ranks), speech(NUM_CHUNKS, 1), latents(1, 1))

    (_, reported), (_, error) = on_ranks(play, way="ulysses")
    assert error == "out of memory" and reported is not None


def test_the_cache_is_divided_by_the_number_of_processes():
    whole = Rollout(tiny_dit(), contract()).cache.k.nbytes
    for way in WAYS:
        assert rollout_of(tiny_dit(), contract(), Alone(2, way)).cache.k.nbytes == whole // 2


def test_what_does_not_divide_is_an_error():
    for way, size, message in (
        ("ulysses", 3, "2 rows of patches must be a multiple of the 3 processes"),
        ("tensor", 3, "num_heads=2 must be a multiple of the 3 processes"),
    ):
        with pytest.raises(ValueError, match=message):
            rollout_of(tiny_dit(), contract(), Alone(size, way))


@pytest.mark.parametrize(("size", "way"), [(3, "ulysses"), (3, "tensor"), (2, "ulysses")])
def test_what_does_not_divide_is_refused_before_processes_are_started(size: int, way: str):
    """As a rollout would refuse it."""
    rules = contract()
    if size == 3:
        with pytest.raises(ValueError, match="must be a multiple of the 3 processes"):
            check_division(rules, size, way)
    else:
        check_division(rules, size, way)
    wide = dataclasses.replace(rules, dit=dataclasses.replace(rules.dit, ffn_dim=rules.dit.ffn_dim + 1))
    with pytest.raises(ValueError, match="ffn_dim="):
        check_division(wide, 2, "tensor")


def test_a_process_that_was_started_alone_is_alone(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert join("ulysses") is None
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="parallel='rows' must be one of"):
        join("rows")
