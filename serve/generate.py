"""A clip from an image and what the model is given: a recording, a prompt, or several at their times.

python -m serve.generate artifact=runs/nano/artifact image=me.jpg audio=speech.mp3 out=talk.mp4
python -m serve.generate artifact=A image=sea.jpg crop=false seconds=30 prompt="a calm sea" out=sea.mp4
python -m serve.generate ... prompts='[{at: 0, text: "a calm sea"}, {at: 5, text: "a storm, at night"}]'
python -m serve.generate ... size=720 whole=true        a face of 720 px moves in the whole picture
torchrun --nproc-per-node=4 -m serve.generate ...       one stream on four GPUs
"""

import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, nullcontext
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from omegaconf import DictConfig, OmegaConf
from torch import Tensor
from tqdm import tqdm

from configs.command.main import command
from gwm.media import write_video
from serve.artifact import load_artifact
from serve.driver import Driver
from serve.engine import Engine
from serve.graphs import capture_cuda
from serve.parallel.division import join
from serve.parallel.ranks import Ranks
from serve.pipeline import Pipeline, second_device
from serve.prompts import applied_at, check_prompts, encoded, text_encoder
from serve.request import ClipRequest
from serve.threads import choose_threads

log = logging.getLogger(__name__)


def generate(request: ClipRequest) -> None:
    """Write the clip and log how long it is and how fast it was made. With torchrun all processes but the first help.

    Raises:
        FileNotFoundError: there is no artifact, or no text encoder for the prompt.
        ValueError: artifact, image, sound, prompt or `out` cannot be used; the message names the setting.
        OSError: the clip cannot be written; nothing is left of it.
    """
    if request.negative_prompt is not None:
        raise ValueError(
            f"negative_prompt={request.negative_prompt!r} must be left out: {request.artifact} is distilled, and its "
            "few steps have no guidance that could lead away from a text. Leave it out."
        )
    ranks = join(request.parallel)
    if ranks is None or not ranks.rank:
        request.check_out()
    engine = _engine(request, ranks)
    if ranks is not None and ranks.rank:
        return engine.follow()
    with closing(engine):
        _write(engine, request)


def _write(engine: Engine, request: ClipRequest) -> None:
    contract = engine.contract
    voices = request.voices(contract)
    num_frames = request.num_frames(contract, voices)
    prompts, (side, _) = _prompts(engine, request, num_frames), engine.size
    picture, square = request.picture(side)
    portrait = square.cut(picture)
    choose_threads(engine)
    times: list[float] = []

    def frames() -> Iterator[UInt8[np.ndarray, "h w 3"]]:
        total = -(-num_frames // contract.chunk_pixel_frames)
        agent, user = (None, None) if voices is None else (voices.agent, voices.user)
        with _driver(engine) as driver:
            made = engine.stream(portrait, agent, user, num_frames=num_frames, prompts=prompts, driver=driver)
            for pixels, ms in (chunks := tqdm(made, desc="generate", total=total, unit="chunk")):
                times.append(ms)
                chunks.set_postfix_str(f"{ms:.0f} of {contract.chunk_ms:.0f} ms")
                yield from (square.paste(frame, picture) for frame in pixels)

    sound = None if voices is None else (voices.agent + voices.user).clip(-1, 1)
    write_video(request.out, frames(), sound, fps=contract.fps, sample_rate=contract.audio.sample_rate)
    log.info(
        "%s: %.1f s; a chunk of %.0f ms took %.0f ms (p95 %.0f ms), the first with the portrait %.0f ms",
        *(request.out, num_frames / contract.fps, contract.chunk_ms),
        *(*np.percentile(times, [50, 95]), times[0]),
    )


def _prompts(engine: Engine, request: ClipRequest, num_frames: int) -> dict[float, Float[Tensor, "1 s t"]]:
    """Tokens of all prompts by their times; the log has from when on each holds."""
    prompts, contract = request.timed_prompts(), engine.contract
    check_prompts(prompts, contract, artifact=request.artifact, num_frames=num_frames)
    if not prompts:
        return {}
    encoder = text_encoder(request.text_encoder, request.artifact)
    tokens = {one.at_s: encoded(encoder, one.text, num_tokens=engine.text_tokens) for one in prompts}
    for one in prompts:
        applied = applied_at(contract, one.at_s)
        log.info(
            "prompt %r, asked for at %.2f s, holds from chunk %d at %.2f s; recache of the chunks before: %s",
            *(one.text, one.at_s, applied.chunk, applied.media_s),
            "yes" if applied.chunk and engine.history is not None and contract.context == "clean" else "no",
        )
    return tokens


def _engine(request: ClipRequest, ranks: Ranks | None) -> Engine:
    """On the first GPU with the decoder on the second, as far as there are; of several processes, on its own."""
    if ranks is not None:
        artifact = load_artifact(request.artifact, device=ranks.device)
        return Engine(artifact, seed=request.seed, ranks=ranks, size=request.size, pasted=request.whole)
    device = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    artifact = load_artifact(request.artifact, device=device, decode_device=second_device(device))
    capture = capture_cuda if device.type == "cuda" else None
    return Engine(artifact, seed=request.seed, capture=capture, size=request.size, pasted=request.whole)


def _driver(engine: Engine) -> AbstractContextManager[Driver]:
    return Pipeline(engine) if engine.device.type == "cuda" else nullcontext(engine)


PATHS_AND_TEXTS = ("artifact", "image", "audio", "user", "out", "prompt", "negative_prompt", "text_encoder")


@command("generate", verbatim=PATHS_AND_TEXTS)
def main(cfg: DictConfig) -> None:
    values: Any = OmegaConf.to_container(cfg, resolve=True)
    generate(ClipRequest(**values))


if __name__ == "__main__":
    main()
