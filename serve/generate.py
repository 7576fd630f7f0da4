"""A talking clip from one image and one recording.

python -m serve.generate artifact=runs/nano/artifact image=me.jpg audio=speech.mp3 out=talk.mp4
torchrun --nproc-per-node=4 -m serve.generate ...       one stream on four GPUs
"""

import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, nullcontext
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from omegaconf import DictConfig
from tqdm import tqdm

from configs.command.main import command
from gwm.face import FaceMesh
from gwm.images import read_image
from gwm.media import container_of, read_audio, write_video
from gwm.outputs import check_output
from gwm.portraits import crop_to_centre, crop_to_face
from gwm.resolution import Resolution
from serve.artifact import load_artifact
from serve.driver import Driver
from serve.engine import Engine
from serve.graphs import capture_cuda
from serve.parallel.division import join
from serve.parallel.ranks import Ranks
from serve.pipeline import Pipeline, second_device
from serve.threads import choose_threads

log = logging.getLogger(__name__)


def read_portrait(path: str | Path, resolution: Resolution, *, crop: bool) -> UInt8[np.ndarray, "h w 3"]:
    """The part around the face of an image (`gwm.portraits.crop_to_face`), or around its centre without `crop`.

    Raises:
        ValueError: the file is no image, or shows no face that could be cut out.
    """
    image = read_image(path)
    if not crop:
        return crop_to_centre(image, resolution, f"{path}")
    try:
        return crop_to_face(image, resolution, FaceMesh())
    except ValueError as error:
        raise ValueError(f"{path}: {error} Or take its centre as it is: crop=false.") from error


def read_voices(audio: str | Path, user: str | Path | None) -> tuple[Float[np.ndarray, " t"], Float[np.ndarray, " t"]]:
    """Both sides of a conversation, the shorter one continued with silence; without `user` the other side is silent."""
    agent = read_audio(audio)
    other = np.zeros_like(agent) if user is None else read_audio(user)
    length = max(len(agent), len(other))
    return np.pad(agent, (0, length - len(agent))), np.pad(other, (0, length - len(other)))


def generate(
    artifact: str,
    *,
    image: str,
    audio: str,
    out: str,
    user: str | None = None,
    seed: int = 0,
    crop: bool = True,
    parallel: str = "ulysses",
) -> None:
    """Write the clip and log how long it is and how fast it was made. With torchrun all processes but the first help.

    Raises:
        FileNotFoundError: there is no artifact.
        ValueError: artifact, image, sound or `out` cannot be used; the message names the file.
        OSError: the clip cannot be written; nothing is left of it.
    """
    ranks = join(parallel)
    if ranks is None or not ranks.rank:
        container_of(out)
        check_output(Path(out))
    engine = _engine(artifact, ranks, seed=seed)
    if ranks is not None and ranks.rank:
        return engine.follow()
    choose_threads(engine)
    contract = engine.contract
    agent, other = read_voices(audio, user)
    portrait = read_portrait(image, contract.resolution, crop=crop)
    times: list[float] = []

    def frames() -> Iterator[UInt8[np.ndarray, "h w 3"]]:
        total = -(-len(agent) // engine.chunk_samples)
        with _driver(engine) as driver:
            made = engine.stream(portrait, agent, other, driver=driver)
            for pixels, ms in (chunks := tqdm(made, desc="generate", total=total, unit="chunk")):
                times.append(ms)
                chunks.set_postfix_str(f"{ms:.0f} of {contract.chunk_ms:.0f} ms")
                yield from pixels

    sound = (agent + other).clip(-1, 1)
    with closing(engine):
        write_video(out, frames(), sound, fps=contract.fps, sample_rate=contract.audio.sample_rate)
    log.info(
        "%s: %.1f s; a chunk of %.0f ms took %.0f ms (p95 %.0f ms), the first with the portrait %.0f ms",
        *(out, len(agent) / contract.audio.sample_rate, contract.chunk_ms),
        *(*np.percentile(times, [50, 95]), times[0]),
    )


def _engine(artifact: str, ranks: Ranks | None, *, seed: int) -> Engine:
    """On the first GPU with the decoder on the second, as far as there are; of several processes, on its own."""
    if ranks is not None:
        return Engine(load_artifact(artifact, device=ranks.device), seed=seed, ranks=ranks)
    device = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    loaded = load_artifact(artifact, device=device, decode_device=second_device(device))
    return Engine(loaded, seed=seed, capture=capture_cuda if device.type == "cuda" else None)


def _driver(engine: Engine) -> AbstractContextManager[Driver]:
    return Pipeline(engine) if engine.device.type == "cuda" else nullcontext(engine)


@command("generate", verbatim=("artifact", "image", "audio", "user", "out"))
def main(cfg: DictConfig) -> None:
    names = ("image", "audio", "out", "user", "seed", "crop", "parallel")
    generate(cfg.artifact, **{name: cfg[name] for name in names})


if __name__ == "__main__":
    main()
