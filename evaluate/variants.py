"""The variants that `evaluate.comparison` compares: each with its weights and the command that makes them."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from gwm.autoencoders.protocol import Autoencoder
from gwm.contract import CommitMode, Contract
from gwm.no_text import read_no_text
from gwm.schedule import sigma_steps
from serve.artifact import Artifact
from train.networks import load_dit

SHIFT = 5.0  # of many steps, as the stages are trained
VERSION = 1  # of what is measured: results of another version are measured again


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A model in the folder `run`, which has few steps of its own, or takes `many_steps`; streamed for `longest_s`.

    shift: of the levels of many steps towards 1, as the stage was trained. settings: what the command that makes the
    weights has besides, such as experiment=nano_motion.
    """

    stage: str
    run: str
    sigmas: list[float] | None = None
    many_steps: int | None = None
    shift: float = SHIFT
    settings: str = ""
    context: CommitMode = "clean"
    longest_s: int | None = None  # many steps would take hours of a CPU for minutes of stream

    def __post_init__(self) -> None:
        if (self.sigmas is None) == (self.many_steps is None):
            raise ValueError(f"run={self.run} must have either sigmas={self.sigmas} or many_steps={self.many_steps}.")

    @property
    def steps(self) -> int:
        return len(self.levels)

    @property
    def levels(self) -> tuple[float, ...]:
        return tuple(sigma_steps(self.many_steps, shift=self.shift) if self.many_steps else self.sigmas or ())

    def streamed(self, lengths_s: Sequence[int]) -> list[int]:
        """Those of the lengths that this variant is streamed for."""
        return [length for length in lengths_s if self.longest_s is None or length <= self.longest_s]

    def weights(self, runs: Path) -> Path:
        return runs / self.run / "weights"

    def command(self, runs: Path) -> str:
        """The command that makes the weights."""
        parts = [f"python train.py stage={self.stage} name={runs.name} runs={runs}"]
        if self.settings:
            parts.append(self.settings)
        if self.run != self.stage:
            parts.append(f"output={runs / self.run}")
        if self.sigmas is not None:
            parts.append(f"stage.sigmas=[{','.join(map(str, self.sigmas))}]")
        if self.context != "clean":
            parts.append(f"stage.context={self.context}")
        return " ".join(parts)

    def load(self, runs: Path, vae: Autoencoder) -> Artifact:
        """The model as it would be served.

        Raises:
            FileNotFoundError: nobody has trained it; the message has the command.
            ValueError: it was trained for other steps, or another context.
        """
        folder = self.weights(runs)
        if not (folder / "config.json").is_file():
            raise FileNotFoundError(f"{folder} is missing. Make it with: {self.command(runs)}")
        model, contract = load_dit(folder, stage=self.stage)
        return Artifact(self._served(contract), model.eval().requires_grad_(False), vae, read_no_text(folder))

    def _served(self, contract: Contract) -> Contract:
        if self.many_steps:
            return contract.replace(sigmas=self.levels)
        declared = contract.sigmas, contract.context
        if declared != (self.levels, self.context):
            raise ValueError(
                f"run={self.run} has sigmas, context {declared}, must have {(self.levels, self.context)}: train "
                "another, or change the variant."
            )
        return contract


def kept_folder(out: Path, variant: Variant, runs: Path, settings: Mapping[str, object]) -> Path:
    """Where results of these weights under these settings are kept: others never meet in a folder."""
    digest = hashlib.sha256((variant.weights(runs) / "weights.safetensors").read_bytes())
    facts = [VERSION, variant.levels, variant.context, dict(settings)]
    digest.update(json.dumps(facts, sort_keys=True, default=str).encode())
    return out / "kept" / digest.hexdigest()[:12]
