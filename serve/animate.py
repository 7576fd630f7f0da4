"""A portrait moved by given codes, at any size: the motion autoencoder without a diffusion model before it.

python -m serve.animate image=me.jpg codes=runs/motion/eval/codes-0.npz out=talk.mp4 size=720 [whole=true]

`codes` is an npz with `code`, 57 standardised numbers a frame (`gwm.autoencoders.motion.code`), and `voice`, mono at
24 kHz.
"""

import logging
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
from jaxtyping import Float, UInt8
from omegaconf import DictConfig

from configs.command.main import command
from gwm.autoencoders.motion.code import FRAMES, WIDTH, to_latents
from gwm.autoencoders.motion.codec import load_motion
from gwm.clock import FPS, SAMPLE_RATE
from gwm.media.framing import Framing
from gwm.media.images import read_image
from gwm.media.pixels import to_tensor
from gwm.media.video import write_video
from gwm.resolution import Resolution
from serve.face_crop import framed

log = logging.getLogger(__name__)


def read_codes(path: str | Path) -> tuple[Float[torch.Tensor, "1 t 57"], Float[np.ndarray, " s"]]:
    """Whole latent frames of codes, and the voice.

    Raises:
        ValueError: the file lacks one of both, or the codes have another width.
    """
    with np.load(path) as file:
        if not {"code", "voice"} <= set(file.files):
            raise ValueError(f"{path} has {sorted(file.files)}, must have code and voice: see serve/animate.py.")
        code, voice = file["code"], file["voice"]
    if code.ndim != 2 or code.shape[1] != WIDTH or len(code) < FRAMES:
        raise ValueError(f"{path}: code of shape {code.shape} must be frames x {WIDTH}, {FRAMES} frames or more.")
    return torch.from_numpy(code[: len(code) // FRAMES * FRAMES]).float()[None], voice.astype(np.float32)


def animate(weights: str, *, image: str, codes: str, out: str, size: int, whole: bool) -> None:
    """Write the clip and log how long a latent frame took."""
    codec = load_motion(Path(weights))
    code, voice = read_codes(codes)
    framing = Framing(Resolution(size, size), codec.config.margin(size))
    picture, square = framed(read_image(image), framing, whole=whole)
    portrait = to_tensor(square.cut(picture))[None]
    memory = codec.begin(codec.encode_reference(portrait, margin=framing.margin, pasted=whole))
    times: list[float] = []

    def frames() -> Iterator[UInt8[np.ndarray, "h w 3"]]:
        for latent in to_latents(code).split(1, dim=1):
            start = perf_counter()
            made, _ = codec.decode(latent, memory)
            times.append(1000 * (perf_counter() - start))
            yield from (square.paste(frame, picture) if whole else frame for frame in made[0].numpy())

    sound = np.zeros(code.shape[1] * SAMPLE_RATE // FPS, np.float32)
    sound[: len(voice)] = voice[: len(sound)]
    write_video(out, frames(), sound, fps=FPS, sample_rate=SAMPLE_RATE)
    log.info("%s: a latent frame of %d px took %.0f ms (p95 %.0f)", out, size, *np.percentile(times, [50, 95]))


@command("animate", verbatim=("weights", "image", "codes", "out"))
def main(cfg: DictConfig) -> None:
    animate(cfg.weights, image=cfg.image, codes=cfg.codes, out=cfg.out, size=cfg.size, whole=cfg.whole)


if __name__ == "__main__":
    main()
