"""Windows of long streams are stretches of one and the same stream."""

import dataclasses
import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from data.batch import LatentBatch
from distill.student_forcing import RolloutRequest, StudentRollout, student_rollout
from distill.windows import FromReference, StreamingWindows, UniformWindows, Window, conversation, joined
from gwm.chunks import ChunkPattern
from gwm.clip import NoisedClip, teacher_forced_velocity
from gwm.condition.inputs import Conditions
from gwm.contract import Contract
from gwm.dit import DiT
from gwm.rollout import Rollout
from gwm.sampler import frame_noise
from serve.history import History
from tests.tiny import DIT, FAR, contract, declared, latents, speech, tiny_dit, trainable
from train.noise import gaussian_like

FRAMES, SIGMAS, SEED = 4, (1.0, 0.6), 11
PATTERN = ChunkPattern(chunk_frames=2, window_chunks=3, sink_chunks=1, first_frames=1)
RULES = contract(FRAMES, pattern=PATTERN, sigmas=SIGMAS)


@pytest.fixture(autouse=True)
def double() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def batch(step: int = 0) -> LatentBatch:
    heard = speech(FRAMES)
    assert heard["agent"] is not None and heard["user"] is not None
    return LatentBatch(x0=latents(FRAMES), reference=latents(1), conditions=heard.flat(), step=step)


def generator(seed: int = 7) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def whole(model: torch.nn.Module, reference: Tensor, condition: Conditions, source: torch.Generator) -> StudentRollout:
    """One stream over all frames of `condition`, each chunk to its last step, with every chunk's gradient."""
    assert condition["agent"] is not None
    request = RolloutRequest(1, "detach", source)
    return student_rollout(model, RULES, request, reference, condition, condition["agent"].shape[1])


def gradients(model: torch.nn.Module, x0: Tensor) -> list[Tensor]:
    target = torch.randn(x0.shape, generator=generator(3))
    made = torch.autograd.grad((x0 * target).sum(), trainable(model), retain_graph=True, allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(trainable(model), made, strict=True)]


def assert_same_gradients(model: torch.nn.Module, made: Tensor, expected: Tensor) -> None:
    for a, b in zip(gradients(model, made), gradients(model, expected), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-9)


def with_text(clips: LatentBatch, text: Tensor | None = None) -> LatentBatch:
    """text: of the batch; None: a random one."""
    text = torch.randn(2, 3, 6) if text is None else text
    return dataclasses.replace(clips, conditions={**clips.conditions, "tokens.text": text})


def test_a_uniform_window_is_a_stretch_of_the_stream_from_its_reference():
    model, given, windows = tiny_dit(), batch(), UniformWindows(stream_frames=3 * FRAMES)
    starts = set()
    for seed in range(6):
        source = generator(seed)
        start = 2 * int(
            torch.randint(5, (), generator=generator(seed + 100))
        )  # as many places of whole chunks as there are
        starts.add(start)
        condition = conversation(given.condition, start + FRAMES)
        stream = whole(model, given.reference, condition, source)
        made = windows(model, RULES, given, RolloutRequest(1, "detach", generator(seed)), generator(seed + 100))
        torch.testing.assert_close(made.x0, stream.x0[:, start:])
        torch.testing.assert_close(made.condition["agent"], condition.frames(slice(start, None))["agent"])
        assert_same_gradients(model, made.x0, stream.x0[:, start:])
    assert len(starts) > 2


def streamed(windows: StreamingWindows, model: torch.nn.Module, batches: list[LatentBatch]) -> list[Window]:
    source = generator()
    return [windows(model, RULES, given, RolloutRequest(1, "detach", source), source) for given in batches]


def test_streaming_windows_are_one_stream_under_one_batch_after_the_other():
    model, batches = tiny_dit(), [batch(step) for step in range(3)]
    made = streamed(StreamingWindows(stream_frames=8, overlap_frames=2), model, batches)
    heard = joined(
        joined(batches[0].condition, batches[1].condition.frames(slice(0, 2))),
        batches[2].condition.frames(slice(0, 2)),
    )
    stream = whole(model, batches[0].reference, heard, generator())
    for number, window in enumerate(made):
        part = slice(2 * number, 2 * number + FRAMES)
        torch.testing.assert_close(window.x0, stream.x0[:, part])
        torch.testing.assert_close(window.condition["agent"], heard.frames(part)["agent"])
        assert torch.equal(window.reference, batches[0].reference)
    assert_same_gradients(model, made[1].x0[:, 2:], stream.x0[:, 4:6])


def test_a_new_prompt_recaches_the_past():
    """Against one pass over the whole stream under the second window's text, which has no cache."""
    model, windows = tiny_dit(declared(DIT, text=6)), StreamingWindows(stream_frames=8, overlap_frames=0)
    wide = contract(FAR, dit=model.config, sigmas=SIGMAS, pattern=dataclasses.replace(PATTERN, window_chunks=6))
    batches = [with_text(batch()) for _ in range(2)]
    requests = [RolloutRequest(0, "detach", generator(5)) for _ in batches]
    first, second = (windows(model, wide, *pair, generator()) for pair in zip(batches, requests, strict=True))
    heard, source = joined(first.condition, second.condition), generator(5)
    noise = torch.cat([gaussian_like(second.x0[:, part : part + 2], source) for part in (0, 2)], dim=1)
    history = torch.cat([first.x0, second.x0], dim=1).detach()
    x = torch.cat([first.x0.detach(), noise], dim=1)
    noised = NoisedClip(x, torch.ones(2, 2 * FRAMES), batches[0].reference, heard)
    velocity = teacher_forced_velocity(model, noised, wide.pattern, history=history)
    torch.testing.assert_close(second.x0, noise - velocity[:, FRAMES:])


def as_served(model: DiT, rules: Contract, reference: Tensor, conditions: list[Conditions], number: int) -> Tensor:
    """What the engine, with its own draw, plays to sample `number` of these conditions, one after the other."""
    rollout = Rollout(model, rules)
    history, chunks = History(model, rollout, 0), []
    own = [sample(condition, number) for condition in conditions]
    rollout.start(reference[number : number + 1], own[0], seed=SEED)
    history.append(rollout.reference, own[0].frames(slice(0, 0)).after_reference())
    for heard in own:
        for start in range(0, heard["agent"].shape[1], 2):
            condition = heard.frames(slice(start, start + 2))
            history.set_prompt(condition["text"])
            chunks.append(rollout.step(condition))
            history.append(chunks[-1], condition)
    return torch.cat(chunks, dim=1)


def sample(condition: Conditions, number: int) -> Conditions:
    return condition.map(lambda x: x[number : number + 1])


@pytest.fixture
def engines_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw k of the trainer is the engine's for step k of a held stream; a further draw would be another one."""
    steps = itertools.count()

    def drawn(x: Tensor, generator: object) -> Tensor:
        return frame_noise((1, *x.shape[1:]), seed=SEED, frame=0, step=next(steps)).expand(x.shape)

    monkeypatch.setattr("distill.student_forcing.gaussian_like", drawn)


@pytest.mark.usefixtures("engines_draw")
@pytest.mark.parametrize("window_chunks", [2, 3])
@torch.no_grad()
def test_streaming_windows_are_one_served_stream(window_chunks: int):
    """One draw for the whole stream, prompts that change in one sample alone, and a window that forgets chunks: with
    two chunks all but the reference and the newest."""
    model = tiny_dit(declared(DIT, text=6))
    pattern = dataclasses.replace(PATTERN, window_chunks=window_chunks)
    rules = contract(FRAMES, dit=model.config, sigmas=SIGMAS, pattern=pattern, noise="held")
    texts = [first := torch.randn(2, 3, 6), first, torch.cat([first[:1], torch.randn(1, 3, 6)])]
    batches = [with_text(batch(step), text) for step, text in enumerate(texts)]
    windows = StreamingWindows(stream_frames=3 * FRAMES, overlap_frames=0)
    request = RolloutRequest(1, "none", generator())
    made = torch.cat([windows(model, rules, given, request, generator()).x0 for given in batches], dim=1)
    for number in range(2):
        expected = as_served(model, rules, batches[0].reference, [given.condition for given in batches], number)
        torch.testing.assert_close(made[number : number + 1], expected)


@pytest.mark.usefixtures("engines_draw")
@torch.no_grad()
def test_a_uniform_window_is_a_stretch_of_a_served_stream():
    """Frames before the window have the draw of the window."""
    model = tiny_dit(declared(DIT, text=6))
    rules = contract(FRAMES, dit=model.config, sigmas=SIGMAS, pattern=PATTERN, noise="held")
    given, windows = with_text(batch()), UniformWindows(stream_frames=3 * FRAMES)
    start = 2 * int(torch.randint(5, (), generator=generator(101)))
    assert start
    made = windows(model, rules, given, RolloutRequest(1, "none", generator()), generator(101)).x0[:1]
    expected = as_served(model, rules, given.reference, [conversation(given.condition, start + FRAMES)], 0)
    torch.testing.assert_close(made, expected[:, start:])


def test_a_checkpoint_has_the_streams_draw():
    """A resumed stream goes on with it, bit for bit, and draws nothing."""
    model, rules = tiny_dit(), RULES.replace(noise="held")
    batches, windows = [batch(step) for step in range(2)], StreamingWindows(stream_frames=8, overlap_frames=2)
    windows(model, rules, batches[0], RolloutRequest(1, "none", generator()), generator())
    resumed = StreamingWindows(stream_frames=8, overlap_frames=2)
    resumed.load_state_dict(windows.state_dict())
    expected, made = (
        of(model, rules, batches[1], RolloutRequest(1, "none", generator(seed)), generator())
        for of, seed in ((windows, 8), (resumed, 9))
    )
    assert torch.equal(made.x0, expected.x0)


def test_the_overlap_carries_no_gradient():
    """It was judged in its own window; its graph is gone."""
    model = tiny_dit()
    made = streamed(StreamingWindows(stream_frames=8, overlap_frames=2), model, [batch(), batch()])[1]
    assert not any(g.any() for g in gradients(model, made.x0[:, :2]))
    assert any(g.any() for g in gradients(model, made.x0[:, 2:]))


def test_a_stream_at_its_end_gives_way_to_a_new_one():
    model, batches = tiny_dit(), [batch(step) for step in range(4)]
    made = streamed(StreamingWindows(stream_frames=8, overlap_frames=2), model, batches)
    assert torch.equal(made[2].reference, batches[0].reference)
    assert torch.equal(made[3].reference, batches[3].reference)
    torch.testing.assert_close(made[3].condition["agent"], batches[3].condition["agent"])


def test_a_stream_goes_on_after_a_checkpoint(tmp_path: Path):
    model, batches = tiny_dit(), [batch(step) for step in range(3)]
    expected = streamed(StreamingWindows(stream_frames=8, overlap_frames=2), model, batches)[2]
    source, windows = generator(), StreamingWindows(stream_frames=8, overlap_frames=2)
    for given in batches[:2]:
        windows(model, RULES, given, RolloutRequest(1, "detach", source), source)
    torch.save(windows.state_dict(), tmp_path / "state")
    resumed = StreamingWindows(stream_frames=8, overlap_frames=2)
    resumed.load_state_dict(torch.load(tmp_path / "state", weights_only=False))
    made = resumed(model, RULES, batches[2], RolloutRequest(1, "detach", source), source)
    assert torch.equal(made.x0, expected.x0)


def test_windows_from_the_reference_are_student_forcing():
    model, given = tiny_dit(), batch()
    made = FromReference()(model, RULES, given, RolloutRequest(1, "detach", generator()), generator())
    assert torch.equal(made.x0, whole(model, given.reference, given.condition, generator()).x0)


def test_a_conversation_hands_over_to_the_next_sample_of_the_batch():
    agent = torch.arange(6.0).view(3, 2, 1)
    made = conversation(Conditions(frame={"agent": agent, "user": -agent}), 5)
    expected = torch.tensor([[0, 1, 2, 3, 4], [2, 3, 4, 5, 0], [4, 5, 0, 1, 2]], dtype=agent.dtype)[..., None]
    assert torch.equal(made["agent"], expected)
    assert torch.equal(made["user"], -expected)


@pytest.mark.parametrize(
    ("windows", "message"),
    [
        (UniformWindows(stream_frames=3), "stream_frames=3 must be >= num_frames=4"),
        (StreamingWindows(stream_frames=3, overlap_frames=0), "stream_frames=3 must be >= num_frames=4"),
        (StreamingWindows(stream_frames=8, overlap_frames=4), "overlap_frames=4 must be a multiple of chunk_frames=2"),
        (StreamingWindows(stream_frames=8, overlap_frames=1), "overlap_frames=1 must be a multiple of chunk_frames=2"),
    ],
)
def test_impossible_windows_are_errors(windows: UniformWindows | StreamingWindows, message: str):
    with pytest.raises(ValueError, match=message):
        windows.check(RULES, FRAMES)


@pytest.mark.parametrize(
    "windows", [UniformWindows(stream_frames=8), StreamingWindows(stream_frames=8, overlap_frames=0)]
)
def test_streams_of_an_image_to_video_model_are_an_error(windows: UniformWindows | StreamingWindows):
    rules = RULES.replace(dit=declared(DIT, given=20))
    with pytest.raises(ValueError, match=r"must have no conditions \['given'\].*stage/windows=reference"):
        windows.check(rules, FRAMES)


def test_a_recommitted_window_stops_at_the_window_before():
    """Streams outlive an update: the graph of the window before is gone, and must not be asked for."""
    model, windows, source = tiny_dit(), StreamingWindows(stream_frames=8, overlap_frames=2), generator()
    for given in (batch(), batch()):
        made = windows(model, RULES, given, RolloutRequest(1, "recommit", source), source)
        made.x0.square().sum().backward()
        kept = windows.state_dict()["stream"].past.chunks.chunks
        assert not any(tensor.requires_grad for chunk in kept for layer in chunk for tensor in layer)


def test_an_unchanged_prompt_costs_no_pass(monkeypatch: pytest.MonkeyPatch):
    model = tiny_dit(declared(DIT, text=6))
    given = with_text(batch())
    rules, windows = RULES.replace(dit=model.config), StreamingWindows(stream_frames=8, overlap_frames=0)
    passes = []
    monkeypatch.setattr("distill.student_forcing.recache", lambda *_, **__: passes.append(1))
    text = given.conditions["tokens.text"]
    for same in (text, text.clone()):
        again = with_text(given, same)
        windows(model, rules, again, RolloutRequest(0, "none", generator()), generator())
    assert passes == []
