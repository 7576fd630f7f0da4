import pytest
import torch

from gwm.chunks import ChunkPattern, whole_clip


def frames_of_chunks(pattern: ChunkPattern, num_chunks: int) -> list[list[int]]:
    """The definition, counted out frame by frame."""
    sizes = [pattern.chunk_frames] * num_chunks
    if pattern.first_frames:
        sizes[0] = pattern.first_frames
    ends = [sum(sizes[: i + 1]) for i in range(num_chunks)]
    return [list(range(end - size, end)) for size, end in zip(sizes, ends, strict=True)]


@pytest.mark.parametrize("chunk_frames", [1, 3])
@pytest.mark.parametrize("first_frames", [0, 1, 2])
def test_chunk_arithmetic_is_counting(chunk_frames: int, first_frames: int):
    pattern = ChunkPattern(chunk_frames=chunk_frames, first_frames=first_frames)
    chunks = frames_of_chunks(pattern, 7)
    expected = [chunk for chunk, frames in enumerate(chunks) for _ in frames]
    assert pattern.chunk_of(torch.arange(len(expected))).tolist() == expected
    assert [pattern.chunk_start(i) for i in range(7)] == [frames[0] for frames in chunks]
    assert pattern.num_chunks(len(expected)) == 7


def test_sink_and_ring_hold_the_window_of_whole_chunks():
    pattern = ChunkPattern(chunk_frames=3, window_chunks=5, sink_chunks=2, first_frames=1)
    assert pattern.sink_frames == 1 + 3
    assert pattern.ring_frames == 3 * 3


@pytest.mark.parametrize("sink_chunks", [0, 1, 2])
def test_a_chunk_sees_the_last_of_the_window_and_the_sinks(sink_chunks: int):
    pattern = ChunkPattern(window_chunks=4, sink_chunks=sink_chunks)
    index = torch.arange(10)
    sees = pattern.sees(index, index)
    for query in range(10):
        sinks = set(range(sink_chunks))
        recent = set(range(query - (4 - sink_chunks) + 1, query + 1))
        assert set(torch.where(sees[query])[0].tolist()) == {k for k in sinks | recent if 0 <= k <= query}


@pytest.mark.parametrize("first_frames", [0, 1])
def test_in_a_whole_clip_all_frames_see_all(first_frames: int):
    pattern = whole_clip(6, first_frames=first_frames)
    chunk = pattern.chunk_of(torch.arange(6))
    sees = pattern.sees(chunk, chunk)
    assert sees[first_frames:].all()
    assert not sees[:first_frames, first_frames:].any()  # the reference image sees only itself


def test_incomplete_chunk_is_an_error():
    with pytest.raises(ValueError, match="num_frames=6 must be first_frames=1 plus a multiple of chunk_frames=3"):
        ChunkPattern(chunk_frames=3, first_frames=1).num_chunks(6)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"chunk_frames": 0}, "chunk_frames=0 must be >= 1"),
        ({"first_frames": -1}, "first_frames=-1 must be >= 0"),
        ({"window_chunks": 4, "sink_chunks": 4}, r"sink_chunks=4 must be in \[0, window_chunks=4\)"),
        ({"sink_chunks": -1}, "sink_chunks=-1 must be in"),
        ({"first_frames": 2, "sink_chunks": 0}, "first_frames=2 must be <= chunk_frames=1 without sinks"),
    ],
)
def test_impossible_pattern_is_an_error(values: dict[str, int], message: str):
    with pytest.raises(ValueError, match=message):
        ChunkPattern(**values)
