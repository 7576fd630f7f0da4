"""Models before distillation as streams, from the folder of a stage.

They take many steps with guidance, so that a base can be looked at before it is converted.
"""

import dataclasses
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import torch
from tqdm import tqdm

from gwm.autoencoders.families import load_autoencoder
from gwm.chunks import whole_clip
from gwm.config import DiTConfig
from gwm.contract import Contract, Solver
from gwm.dit import DiT
from gwm.guidance import Guidance
from gwm.no_text import read_no_text
from gwm.rollout import Guided
from gwm.sampler import TIMES
from gwm.schedule import sigma_steps
from gwm.tf32 import allow_tf32
from gwm.weights import is_written_here, load_weights, read_header
from serve.artifact import Artifact, read_manifest
from serve.prompts import Texts

STEPS, SHIFT, TEXT_GUIDANCE = 50, 5.0, 5.0  # Wan 2.1's sample_steps, sample_shift and sample_guide_scale

SamplerName = Literal["euler", "unipc"]


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """Sampling of a model with many steps; None: as its publishers sample it, or as it was trained."""

    steps: int | None = None
    shift: float | int | None = None  # of noise levels towards 1
    guidance: float | int | None = None  # one scale for all conditions that can be left out; 1: none
    sampler: SamplerName | None = None

    def check(self) -> None:
        """Refuse values that cannot be.

        Raises:
            ValueError: steps below 1, shift or guidance that is no finite number above 0, or an unknown sampler.
        """
        if self.sampler is not None and self.sampler not in get_args(SamplerName):
            raise ValueError(f"sampler={self.sampler} must be one of {', '.join(get_args(SamplerName))}.")
        if self.steps is not None and not self.steps >= 1:
            raise ValueError(f"steps={self.steps} must be at least 1.")
        for name, value in (("shift", self.shift), ("guidance", self.guidance)):
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"{name}={value} must be a finite number above 0; 1 changes nothing.")

    def check_unused(self, folder: str) -> None:
        """Refuse all of them, for a student that has few steps of its own.

        Raises:
            ValueError: one of them is given.
        """
        for name, value in vars(self).items():
            if value is not None:
                raise ValueError(
                    f"{name}={value} must be left out: {folder} is distilled to steps of its own, without guidance. "
                    "Leave it out, or sample the teacher: artifact=runs/NAME/bidirectional/weights"
                )

    @property
    def solver(self) -> Solver:
        return "unipc" if self.sampler == "unipc" else "ode"

    def levels(self) -> tuple[float, ...]:
        """Noise levels; of UniPC as diffusers has them, whose last step begins a thousandth later."""
        end = 1 / TIMES if self.solver == "unipc" else 0.0
        return tuple(sigma_steps(self.steps or STEPS, shift=float(self.shift or SHIFT), end=end))

    def guidance_of(self, config: DiTConfig) -> Guidance:
        """One scale for every condition that training dropped now and then.

        Raises:
            ValueError: there is no such condition.
        """
        droppable = [spec for spec in config.conditions if spec.rate != "channels"]
        names = [spec.name for spec in droppable if spec.encoder == "text" or spec.drop_rate > 0]
        default = TEXT_GUIDANCE if config.width("text") else 1.0
        scale = float(self.guidance or default)
        if scale != 1 and not names:
            raise ValueError(
                f"guidance={scale:g} must be 1: the model has no condition that training left out. Leave it out."
            )
        return Guidance(**dict.fromkeys(names, scale))


def contract_at(folder: str) -> Contract:
    """The contract of weights of a stage, or of an artifact; without loading them.

    Raises:
        FileNotFoundError, ValueError: as `read_header` and `read_manifest`.
    """
    if is_written_here(Path(folder)):
        return Contract.from_json(read_header(Path(folder), kind="dit").contract)
    return Contract.from_json(read_manifest(Path(folder))["contract"])


def load_stage(
    folder: str, vae: str | None, sampling: Sampling, *, device: torch.device, dtype: torch.dtype = torch.float32
) -> Artifact:
    """The weights of a stage, as they would be served: a student's own few steps, or many.

    Raises:
        FileNotFoundError: a part is missing; the message names it.
        ValueError: weights that do not fit each other, or settings that a student does not have.
    """
    path = Path(folder)
    header = read_header(path, kind="dit")
    contract = Contract.from_json(header.contract)
    model = DiT(DiTConfig.from_json(header.config))
    load_weights(path, model)
    place = Path(vae) if vae else path.parent.parent / "autoencoder" / "weights"
    if not place.exists():
        raise FileNotFoundError(f"vae={place} does not exist: latents need their autoencoder. Name its folder: vae=DIR")
    autoencoder = load_autoencoder(place)
    if autoencoder.config != contract.vae:
        raise ValueError(
            f"vae={place} must be the autoencoder on whose latents {folder} was trained. Name another with vae=."
        )
    if contract.has_own_steps:
        sampling.check_unused(folder)
        return placed(device, Artifact(contract, model, autoencoder, read_no_text(path)), dtype)
    rules = contract.replace(sigmas=sampling.levels(), solver=sampling.solver)
    made = Artifact(rules, model, autoencoder, read_no_text(path))
    return placed(device, guided_by(made, sampling), dtype)


def sees_whole_clip(contract: Contract) -> bool:
    """Whether the model is bidirectional: one chunk is the whole clip."""
    return contract.pattern.chunk_frames == contract.horizon_frames and contract.pattern.first_frames == 1


def with_length(artifact: Artifact, num_frames: int) -> Artifact:
    """A bidirectional model on a clip of so many pixel frames; others as they are."""
    if not sees_whole_clip(artifact.contract):
        return artifact
    frames = -(-num_frames // artifact.contract.vae.temporal_stride)
    pattern = whole_clip(frames + 1, first_frames=1)
    return dataclasses.replace(artifact, contract=artifact.contract.replace(pattern=pattern, horizon_frames=frames))


def led_away(artifact: Artifact, texts: Texts, text: str) -> Artifact:
    """Guidance away from this negative prompt, in place of the empty one.

    Raises:
        FileNotFoundError: there is no text encoder.
        ValueError: there is no guidance, or none of a text.
    """
    if artifact.guided is None or not artifact.contract.dit.width("text"):
        raise ValueError(
            "negative_prompt=... must be left out: it says what guidance leads away from, and no text is guided. "
            "Leave it out, or raise guidance above 1 for a model with a text condition."
        )
    return dataclasses.replace(artifact, guided=Guided(artifact.guided.guidance, {"text": texts.tokens(text)}))


@contextmanager
def passes_shown(artifact: Artifact, *, chunks: int) -> Iterator[None]:
    """A progress bar that counts passes of the network: a chunk may take hours."""
    contract = artifact.contract
    each = len(contract.sigmas) + (contract.context == "clean")
    total = artifact.num_passes * (contract.pattern.first_frames + chunks * each)
    with tqdm(desc="generate", total=total, unit="pass") as bar:

        def count(*_: object) -> None:  # what a hook returns would take the place of the prediction
            bar.update()

        hook = artifact.dit.register_forward_hook(count)
        try:
            yield
        finally:
            hook.remove()


def guided_by(artifact: Artifact, sampling: Sampling) -> Artifact:
    guidance = sampling.guidance_of(artifact.contract.dit)
    if guidance.num_passes(artifact.contract.dit) == 1:
        return artifact
    nothing = {} if artifact.no_text is None else {"text": artifact.no_text}
    return dataclasses.replace(artifact, guided=Guided(guidance, nothing))


def placed(device: torch.device, artifact: Artifact, dtype: torch.dtype = torch.float32) -> Artifact:
    allow_tf32(False)
    artifact.dit.to(device, dtype).eval().requires_grad_(False)
    artifact.vae.to(device).compute_in(dtype)
    return artifact
