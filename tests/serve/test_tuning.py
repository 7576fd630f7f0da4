"""Threads are those with which a chunk is fastest at the time; the decoder computes in what decodes faster."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from serve.artifact import Artifact
from serve.bench.compare import variants
from serve.engine import Engine
from serve.tuning import choose_decode_precision, choose_products, choose_threads, fastest, one_step
from tests.gwm.autoencoders.kit import tiny_motion
from tests.tiny import contract, tiny_dit


@pytest.fixture(autouse=True)
def as_before():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize(
    "ms, max_threads, chosen",
    [
        ({1: 33, 2: 672}, 2, 1),  # the cores are shared with others
        ({1: 33, 2: 18}, 2, 2),
        ({1: 33, 2: 32}, 2, 1),  # not worth a core
        ({1: 80, 2: 41, 4: 22, 6: 17}, 6, 6),
        ({1: 80, 2: 41, 4: 60, 8: 1}, 8, 2),  # what is beyond is not tried
    ],
)
def test_the_fastest_number_of_threads_is_set(ms: dict[int, float], max_threads: int, chosen: int):
    clock, used = [0.0], set()

    def step() -> None:
        used.add(torch.get_num_threads())
        clock[0] += ms[torch.get_num_threads()]

    assert fastest(step, max_threads=max_threads, now=lambda: clock[0]) == chosen == torch.get_num_threads()
    assert used <= set(ms)


@pytest.mark.parametrize("decoded", [True, False])
def test_decoding_counts_where_it_is_not_left_out(artifact: Artifact, monkeypatch: pytest.MonkeyPatch, decoded: bool):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    steps, decodes = list[int](), list[int]()
    for name, calls in (("denoise", steps), ("decode", decodes)):
        own = getattr(Engine, name)
        monkeypatch.setattr(Engine, name, lambda *values, own=own, calls=calls: calls.append(1) or own(*values))
    choose_threads(one_step(artifact), decoded=decoded)
    assert len(steps) >= 4 and len(decodes) == (len(steps) if decoded else 0)


def engine_with(vae: Any, ms: dict[bool, float], clock: list[float]) -> Any:
    """A stand-in whose chunks take so long, by whether they are decoded in bfloat16."""

    def decode(_: torch.Tensor) -> None:
        clock[0] += ms[vae.bf16]

    picture = SimpleNamespace(picture_shape=(1, 1, 57, 2, 2))
    return SimpleNamespace(
        device=torch.device("cpu"), size=(64, 64), vae=vae, rollout=picture, start=lambda _: None, decode=decode
    )


@pytest.mark.usefixtures("unchecked")  # the engine is a stand-in
@pytest.mark.parametrize(
    "wish, ms, chosen",
    [
        ("auto", {False: 60, True: 40}, torch.bfloat16),
        ("auto", {False: 60, True: 59}, torch.float32),  # not worth a bit
        ("auto", {False: 60, True: 200}, torch.float32),  # a CPU that emulates it
        ("bfloat16", {False: 60, True: 200}, torch.bfloat16),
        ("float32", {False: 60, True: 40}, torch.float32),
    ],
)
def test_the_decoder_computes_in_what_is_faster_here_or_was_wished(wish, ms, chosen):
    clock, vae = [0.0], tiny_motion()
    found = choose_decode_precision(engine_with(vae, ms, clock), wish, now=lambda: clock[0])
    assert found == chosen and vae.bf16 is (chosen == torch.bfloat16)


@pytest.mark.usefixtures("unchecked")
def test_other_autoencoders_keep_their_precision():
    vae = SimpleNamespace(dtype=torch.float32, bf16=False)
    assert choose_decode_precision(engine_with(vae, {}, [0.0]), "bfloat16") == torch.float32


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    "ms, chosen, ordered, attention",
    [
        ((60, 40, 30), "onednn, attention too", True, True),
        ((60, 40, 41), "onednn", True, False),
        ((60, 59, 58), "pytorch", False, False),  # not worth a bit
        ((60, 90, 90), "pytorch", False, False),
    ],
)
def test_products_are_by_what_is_faster_here(ms: tuple[int, ...], chosen: str, ordered: bool, attention: bool):
    dit, clock = tiny_dit(), [0.0]

    def way() -> tuple[bool, bool]:
        block: Any = dit.blocks[0]
        return "forward" in vars(block.attention.q), block.attention.by_products

    def denoise(_: object) -> None:
        clock[0] += ms[sum(way())] if clock[0] else 1000  # what is first warms up

    rollout = SimpleNamespace(model=dit, cache=SimpleNamespace(patches=6))
    engine: Any = SimpleNamespace(
        device=torch.device("cpu"), ranks=None, size=(64, 64), rollout=rollout, contract=contract(), denoise=denoise,
        lookahead_samples=0, chunk_samples=1, push_silence=lambda _: None, start=lambda _: None, take=lambda: None,
    )  # fmt: skip
    assert choose_products(engine, now=lambda: clock[0]) == chosen and way() == (ordered, attention)
    engine.rollout = SimpleNamespace(model=object())  # compiled, or another device's
    assert choose_products(engine) == "pytorch"


@pytest.mark.usefixtures("unchecked")
def test_a_pytorch_without_onednn_is_not_asked_for_its_products(monkeypatch: pytest.MonkeyPatch):
    """Nothing is timed, as nothing could be computed."""
    monkeypatch.setattr("kernels.linear.BY_ONEDNN", False)
    engine: Any = SimpleNamespace(
        device=torch.device("cpu"), ranks=None, rollout=SimpleNamespace(model=tiny_dit()), contract=None
    )
    assert choose_products(engine) == "pytorch"
    assert "ring + oneDNN" not in variants(torch.device("cpu"), compile=False)
