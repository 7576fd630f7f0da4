"""Fidelity of a quantised artifact: the worst chunk of a long stream decides."""

import numpy as np
from jaxtyping import Float, UInt8

from gwm.media.video import read_audio
from gwm.metrics.distance import psnr
from serve.artifact import Artifact
from serve.engine import Engine
from serve.request import read_portrait
from serve.samples import sample_path


def worst_chunk(
    exact: Artifact,
    other: Artifact,
    portrait: UInt8[np.ndarray, "h w 3"],
    agent: Float[np.ndarray, " t"],
    user: Float[np.ndarray, " t"],
) -> dict[str, float]:
    """PSNR in dB between the chunks of two streams with the same noise and sound: of the median and the worst chunk.

    Not a mean of many clips: errors come back through the cache, and one bad chunk is seen by everybody.
    """
    frames = [Engine(artifact, seed=0).play(portrait, agent, user)[0] for artifact in (exact, other)]
    size = exact.contract.chunk_pixel_frames
    whole = len(frames[0]) // size * size
    chunks = psnr(frames[1][:whole], frames[0][:whole]).reshape(-1, size).mean(axis=1)
    return {"median_db": float(np.median(chunks)), "worst_db": float(chunks.min()), "chunks": len(chunks)}


def check_fidelity(exact: Artifact, other: Artifact, *, min_db: float, seconds: float) -> dict[str, float]:
    """`worst_chunk` of a real portrait that speaks with a real voice, over and over for `seconds`.

    Raises:
        ValueError: a chunk differs more than `min_db` allows.
    """
    speech = read_audio(sample_path("speech"))
    agent = np.resize(speech, round(seconds * exact.contract.audio.sample_rate))
    portrait = read_portrait(sample_path("portrait"), exact.contract.framing(None), crop=False)
    measured = worst_chunk(exact, other, portrait, agent, np.zeros_like(agent))
    if measured["worst_db"] < min_db:
        raise ValueError(
            f"worst_db={measured['worst_db']:.1f} must be >= min_db={min_db}: one of {measured['chunks']} chunks "
            f"differs too much, though the median has {measured['median_db']:.1f} dB. Export another recipe, or none."
        )
    return measured
