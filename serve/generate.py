"""A clip from an image and what the model is given: a recording, a prompt, or several at their times.

python -m serve.generate artifact=runs/nano/artifact image=me.jpg audio=speech.mp3 out=talk.mp4
python -m serve.generate artifact=A image=sea.jpg crop=false seconds=30 prompt="a calm sea" out=sea.mp4
python -m serve.generate artifact=runs/pixels/bidirectional/weights guidance=2 ...    a model before distillation
python -m serve.generate artifact=FOLDER [image=sea.jpg] prompt="a calm sea" ...        a published model of Wan
python -m serve.generate ... prompts='[{at: 0, text: "a calm sea"}, {at: 5, text: "a storm, at night"}]'
python -m serve.generate ... size=720 whole=true        a face of 720 px moves in the whole picture
python -m serve.generate ... act='{liveliness: 0.8, joy: 0.5}'          numbers that the model names, such as a mood
python -m serve.generate ... act='[{joy: 0.5}, {at: 3, joy: null, jawOpen: [0.2, 0.5, 0.8]}]'
python -m serve.generate ... keyframes=[a.png@0,b.png@2.5]              pictures that are seen at these times
python -m serve.generate ... video=before.mp4 seconds=4                 a clip that begins with the end of another
torchrun --nproc-per-node=4 -m serve.generate ...       one stream on four GPUs
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from omegaconf import DictConfig, OmegaConf
from tqdm import tqdm

from configs.command.main import command
from gwm.contract import Contract
from gwm.media.video import write_video
from gwm.no_text import padded_text
from gwm.weights import is_written_here
from serve.acts import TimedNumbers, applied_at
from serve.artifact import Artifact, chosen_dtype, load_artifact
from serve.engine import Driver, Engine
from serve.graphs import capture_cuda
from serve.keyframes import KnownFrames
from serve.many_steps import contract_at, led_away, load_stage, passes_shown, with_length
from serve.parallel.follow import follow
from serve.parallel.parallelize import join
from serve.parallel.ranks import Ranks
from serve.pipeline import Pipeline, second_device
from serve.prompts import Texts, TimedPrompt, check_prompts
from serve.published_clip import is_published, write_published
from serve.request import ClipRequest, Voices
from serve.tuning import choose_threads, one_step

log = logging.getLogger(__name__)


def generate(request: ClipRequest) -> None:
    """Write the clip and log how long it is and how fast it was made. With torchrun all processes but the first help.

    Raises:
        FileNotFoundError: there is no model, or no text encoder for the prompt.
        ValueError: model, image, sound, prompt or `out` cannot be used; the message names the setting.
        OSError: the clip cannot be written; nothing is left of it.
    """
    ranks = join(request.parallel)
    if ranks is None or not ranks.rank:
        request.check_out()
    if not is_published(request.artifact):
        request.check_own_size()
        if request.keyframes or request.video is not None:  # an artifact's files are read whole for it
            request.check_known(contract_at(request.artifact))
    device = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    dtype = chosen_dtype(request.dtype, device if ranks is None else ranks.device)
    if ranks is not None:
        request.check_distilled()
        artifact = load_artifact(request.artifact, device=ranks.device, dtype=dtype)
        if ranks.rank:
            return follow(Engine(artifact, seed=request.seed, ranks=ranks, size=request.size, pasted=request.whole))
        return _write(artifact, request, ranks, distilled=True)
    if is_published(request.artifact):
        return write_published(request, device=device)
    if is_written_here(Path(request.artifact)):
        loaded = load_stage(request.artifact, request.vae, request.sampling, device=device, dtype=dtype)
        return _write(loaded, request, None, distilled=loaded.contract.has_own_steps)
    request.check_distilled()
    loaded = load_artifact(request.artifact, device=device, decode_device=second_device(device), dtype=dtype)
    _write(loaded, request, None, distilled=True)


def _write(artifact: Artifact, request: ClipRequest, ranks: Ranks | None, *, distilled: bool) -> None:
    voices = request.voices(artifact.contract)
    num_frames = request.num_frames(artifact.contract, voices)
    artifact, prompts = with_length(artifact, num_frames), request.timed_prompts()
    check_prompts(prompts, artifact.contract, artifact=request.artifact, num_frames=num_frames)
    acts = request.timed_numbers()
    for one in acts:
        one.check(artifact.contract, num_frames=num_frames)
    texts = Texts(request.text_encoder, request.artifact)
    if request.negative_prompt is not None:
        artifact = led_away(artifact, texts, request.negative_prompt)
    on_gpu = artifact.dit.head.weight.is_cuda and ranks is None
    capture = capture_cuda if on_gpu and distilled else None
    if not distilled:
        choose_threads(one_step(artifact), decoded=False)
    made = Engine(artifact, seed=request.seed, ranks=ranks, capture=capture, size=request.size, pasted=request.whole)
    with closing(made) as engine:
        given = {one.at_s: padded_text(texts.tokens(one.text), engine.text_tokens)[None] for one in prompts}
        end = request.video_end(engine.contract, engine.framing)
        picture, square = request.picture(engine.contract, engine.framing, end)
        portrait = picture if square is None else square.cut(picture)
        known = request.known(engine.contract, engine.framing, num_frames=num_frames, end=end)
        _log_receipts(engine, prompts, acts, known)
        chunks = -(-num_frames // engine.contract.chunk_pixel_frames)
        if distilled:
            choose_threads(engine)
        with _driver(engine) as driver, nullcontext() if distilled else passes_shown(artifact, chunks=chunks):
            agent, user = (None, None) if voices is None else (voices.agent, voices.user)
            made = engine.stream(
                portrait, agent, user, num_frames=num_frames, prompts=given, acts=acts, keyframes=known, driver=driver
            )
            bar = tqdm(made, desc="generate", total=chunks, unit="chunk", disable=not distilled)
            paste = None if square is None else partial(square.paste, picture=picture)
            _film(request, artifact.contract, bar, voices, num_frames=num_frames, paste=paste)


def _film(
    request: ClipRequest,
    contract: Contract,
    made: Any,
    voices: Voices | None,
    *,
    num_frames: int,
    paste: Callable[[UInt8[np.ndarray, "s s 3"]], UInt8[np.ndarray, "h w 3"]] | None,
) -> None:
    """Write frames and sound while they are made."""
    times: list[float] = []

    def frames() -> Iterator[UInt8[np.ndarray, "h w 3"]]:
        for pixels, ms in made:
            times.append(ms)
            made.set_postfix_str(f"{ms:.0f} of {contract.chunk_ms:.0f} ms")
            yield from pixels if paste is None else map(paste, pixels)

    sound = None if voices is None else (voices.agent + voices.user).clip(-1, 1)
    write_video(request.out, frames(), sound, fps=contract.fps, sample_rate=contract.audio.sample_rate)
    log.info(
        "%s: %.1f s; a chunk of %.0f ms took %.0f ms (p95 %.0f ms), the first with the portrait %.0f ms",
        *(request.out, num_frames / contract.fps, contract.chunk_ms),
        *(*np.percentile(times, [50, 95]), times[0]),
    )


def _log_receipts(
    engine: Engine, prompts: Sequence[TimedPrompt], acts: Sequence[TimedNumbers], known: Sequence[KnownFrames]
) -> None:
    """Log from which chunk on each prompt and number holds, and which shows each keyframe."""
    for one in known:
        frames = 1 if one.pixel_frames.ndim == 3 else len(one.pixel_frames) // engine.contract.vae.temporal_stride
        applied = engine.timeline.keyframes.place(one.at_s, frames, taken=0, end=None)
        log.info(
            "%d latent frames, known from %.2f s on, are seen from chunk %d at %.2f s; exact: %s",
            *(frames, one.at_s, applied.chunk, applied.media_s, "yes" if one.exact else "no"),
        )
    for act in acts:
        applied = applied_at(engine.contract, act.at_s)
        log.info(
            "act %s, asked for at %.2f s, holds from chunk %d at %.2f s",
            *(dict(act.numbers), act.at_s, applied.chunk, applied.media_s),
        )
    recaches = engine.history is not None and engine.contract.context == "clean"
    for one in prompts:
        applied = applied_at(engine.contract, one.at_s)
        log.info(
            "prompt %r, asked for at %.2f s, holds from chunk %d at %.2f s; recache of the chunks before: %s",
            *(one.text, one.at_s, applied.chunk, applied.media_s),
            "yes" if applied.chunk and recaches else "no",
        )


def _driver(engine: Engine) -> AbstractContextManager[Driver]:
    return Pipeline(engine) if engine.device.type == "cuda" else nullcontext(engine)


PATHS = ("artifact", "image", "audio", "user", "out", "text_encoder", "vae", "video", "keyframes")
TEXTS = ("prompt", "negative_prompt")


@command("generate", verbatim=PATHS + TEXTS)
def main(cfg: DictConfig) -> None:
    values: Any = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    generate(ClipRequest(**values))


if __name__ == "__main__":
    main()
