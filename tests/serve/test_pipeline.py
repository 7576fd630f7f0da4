import threading
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from serve.artifact import Artifact, load_artifact
from serve.engine import Engine
from serve.graphs import capture_cuda
from serve.pipeline import Pipeline, second_device

Voices = tuple[np.ndarray, np.ndarray]
TIMEOUT_S = 120


def begun(engine: Engine, portrait: np.ndarray, voices: Voices) -> Pipeline:
    pipeline = Pipeline(engine)
    pipeline.start(portrait)
    engine.push(*voices)
    engine.finish()
    return pipeline


def all_steps(pipeline: Pipeline) -> list[Future]:
    steps = []
    while pipeline.engine.ready:
        steps.append(pipeline.step())
    return steps


def test_pipelined_pixels_are_those_of_the_engine(artifact: Artifact, portrait: np.ndarray, voices: Voices):
    expected, _ = Engine(artifact, seed=7).play(portrait, *voices)
    with begun(Engine(artifact, seed=7), portrait, voices) as pipeline:
        made = np.concatenate([step.result(TIMEOUT_S) for step in all_steps(pipeline)])
        assert np.array_equal(made[: len(expected)], expected)


def test_a_recording_through_the_pipeline_is_that_of_the_engine(
    artifact: Artifact, portrait: np.ndarray, voices: Voices
):
    engine = Engine(artifact, seed=7)
    expected, _ = engine.play(portrait, *voices)
    with Pipeline(engine) as pipeline:
        made = np.concatenate([frames for frames, _ in engine.stream(portrait, *voices, driver=pipeline)])
        assert len(pipeline._decoded) == 2  # it was the pipeline that worked
    assert np.array_equal(made, expected)


@pytest.mark.gpu
def test_two_graphs_at_a_time_make_the_eager_engines_recording(folder: Path, portrait: np.ndarray, voices: Voices):
    """One graph decodes while the other denoises, in streams of their own, and on two GPUs where there are two."""
    device = torch.device("cuda", 0)
    artifact = load_artifact(folder, device=device, decode_device=second_device(device))
    expected, _ = Engine(artifact, seed=7).play(portrait, *voices)
    engine = Engine(artifact, seed=7, capture=capture_cuda)
    assert engine.chunk.replay is not None and engine.decoder.replay is not None
    with Pipeline(engine) as pipeline:
        made = np.concatenate([frames for frames, _ in engine.stream(portrait, *voices, driver=pipeline)])
    assert np.abs(made.astype(int) - expected).max() <= 1


def test_a_new_stream_in_the_same_pipeline_forgets_the_old_one(
    artifact: Artifact, portrait: np.ndarray, voices: Voices
):
    expected, _ = Engine(artifact, seed=7).play(portrait, *voices)
    with begun(Engine(artifact, seed=7), portrait, (voices[1], voices[0])) as pipeline:
        all_steps(pipeline)
        pipeline.start(portrait)
        pipeline.engine.push(*voices)
        pipeline.engine.finish()
        made = np.concatenate([step.result(TIMEOUT_S) for step in all_steps(pipeline)])
        assert np.array_equal(made[: len(expected)], expected)


def test_frames_leave_before_their_chunk_is_fixed(
    artifact: Artifact, portrait: np.ndarray, voices: Voices, monkeypatch: pytest.MonkeyPatch
):
    """The last pass waits here for the decoder."""
    engine, decoded = Engine(artifact, seed=7), threading.Event()
    advance, decode = engine.rollout.cache.advance, engine.decode

    def late(num_frames: int) -> None:
        assert decoded.wait(TIMEOUT_S)
        advance(num_frames)

    def recorded(latents: object) -> object:
        frames = decode(latents)
        decoded.set()
        return frames

    with begun(engine, portrait, voices) as pipeline:
        monkeypatch.setattr(engine.rollout.cache, "advance", late)
        monkeypatch.setattr(engine, "decode", recorded)
        pipeline.step().result()
        pipeline.drain()
        assert pipeline._fixed.exception() is None


def test_the_next_chunk_is_denoised_while_one_is_decoded(
    artifact: Artifact, portrait: np.ndarray, voices: Voices, monkeypatch: pytest.MonkeyPatch
):
    """The decoder waits here for the denoiser."""
    engine, second = Engine(artifact, seed=7), threading.Event()
    decode, denoise, calls = engine.decode, engine.denoise, []

    def late(latents: object) -> object:
        assert second.wait(TIMEOUT_S)
        return decode(latents)

    def recorded(condition: object, emit: object) -> object:
        calls.append(condition)
        if len(calls) == 2:
            second.set()
        return denoise(condition, emit)

    with begun(engine, portrait, voices) as pipeline:
        monkeypatch.setattr(engine, "decode", late)
        monkeypatch.setattr(engine, "denoise", recorded)
        for step in [pipeline.step(), pipeline.step()]:
            step.result()


@pytest.mark.parametrize("worker", ["denoise", "decode"])
def test_an_error_of_either_worker_reaches_the_caller_and_nothing_hangs(
    artifact: Artifact, portrait: np.ndarray, voices: Voices, monkeypatch: pytest.MonkeyPatch, worker: str
):
    engine = Engine(artifact, seed=7)
    with begun(engine, portrait, voices) as pipeline:
        pipeline.step().result(TIMEOUT_S)

        def fail(*_: object) -> None:
            raise FloatingPointError("broken")

        monkeypatch.setattr(engine, worker, fail)
        later = all_steps(pipeline)
        assert len(later) > 1
        for step in later:
            with pytest.raises(FloatingPointError, match="broken"):
                step.result(TIMEOUT_S)
        monkeypatch.undo()
        pipeline.start(portrait)  # a new stream works
        engine.push(*voices)
        assert len(pipeline.step().result(TIMEOUT_S)) == artifact.contract.chunk_pixel_frames


def test_an_error_of_the_last_pass_reaches_the_next_chunk(
    artifact: Artifact, portrait: np.ndarray, voices: Voices, monkeypatch: pytest.MonkeyPatch
):
    """Its own frames are out by then."""
    engine = Engine(artifact, seed=7)
    with begun(engine, portrait, voices) as pipeline:

        def fail(num_frames: int) -> None:
            raise FloatingPointError("broken")

        monkeypatch.setattr(engine.rollout.cache, "advance", fail)
        first, second = pipeline.step(), pipeline.step()
        assert len(first.result(TIMEOUT_S)) == artifact.contract.chunk_pixel_frames
        with pytest.raises(FloatingPointError, match="broken"):
            second.result(TIMEOUT_S)


def test_at_most_one_chunk_waits_between_the_workers(
    artifact: Artifact, portrait: np.ndarray, voices: Voices, monkeypatch: pytest.MonkeyPatch
):
    engine, go, both = Engine(artifact, seed=7), threading.Event(), threading.Event()
    decode, denoise, denoised = engine.decode, engine.denoise, []

    def slow(latents: object) -> object:
        assert go.wait(TIMEOUT_S)
        return decode(latents)

    def counted(condition: object, emit: object) -> object:
        denoised.append(condition)
        if len(denoised) == 2:
            both.set()
        return denoise(condition, emit)

    with begun(engine, portrait, voices) as pipeline:
        monkeypatch.setattr(engine, "decode", slow)
        monkeypatch.setattr(engine, "denoise", counted)
        steps = all_steps(pipeline)[:3]
        assert both.wait(TIMEOUT_S)
        with pytest.raises(TimeoutError):
            steps[0].result(0.3)  # time for a third, which must not be
        assert len(denoised) == 2  # one is being decoded, one waits
        go.set()
        steps[-1].result(TIMEOUT_S)
        assert len(denoised) >= 3


def test_the_decoder_gets_a_second_gpu_if_there_is_one(monkeypatch: pytest.MonkeyPatch):
    assert second_device(torch.device("cpu")) == torch.device("cpu")
    for count, index in ((1, 0), (2, 1), (3, 1)):
        monkeypatch.setattr(torch.cuda, "device_count", lambda count=count: count)
        assert second_device(torch.device("cuda", 0)) == torch.device("cuda", index)
    assert second_device(torch.device("cuda", 2)) == torch.device("cuda", 0)


def test_a_rewind_waits_for_what_is_under_way(
    artifact: Artifact, portrait: np.ndarray, voices: Voices, monkeypatch: pytest.MonkeyPatch
):
    """Latents of the second chunk that are decoded after the rewind would move the decoder's memory on."""
    engine, go = Engine(artifact, seed=7, undo_chunks=2), threading.Event()
    decode = engine.decode

    def late(latents: object) -> object:
        assert go.wait(TIMEOUT_S)
        return decode(latents)

    monkeypatch.setattr(engine, "decode", late)
    with begun(engine, portrait, voices) as pipeline, ThreadPoolExecutor(1) as caller:
        _, second = pipeline.step(), pipeline.step()
        rewound = caller.submit(pipeline.rewind, 1)
        with pytest.raises(TimeoutError):
            rewound.result(0.2)
        go.set()
        assert rewound.result(TIMEOUT_S).chunk == 1
        assert np.array_equal(pipeline.step().result(TIMEOUT_S), second.result())
