"""A real photograph and a real human voice that ship inside installed packages: input that no generator here made.

python -m serve.samples portrait     prints the path of the photograph
python -m serve.samples speech       prints the path of the recording
"""

import sys
from pathlib import Path

from configs.command.refusal import refusals
from gwm.optional import optional_folder

# Grace Hopper, U.S. Navy, public domain; ships with matplotlib.
PORTRAIT = ("matplotlib", "pip install matplotlib", "mpl-data/sample_data/grace_hopper.jpg")
# Ten seconds of read speech, 16 kHz mono.
SPEECH = ("moonshine_onnx", "pip install --no-deps useful-moonshine-onnx==20251121", "assets/beckett.wav")
SAMPLES = {"portrait": PORTRAIT, "speech": SPEECH}


def sample_path(name: str) -> Path:
    """Path of a sample.

    Raises:
        ValueError: there is no such sample.
        MissingPackageError: the package that carries it is not installed.
    """
    if name not in SAMPLES:
        raise ValueError(f"sample {name!r} must be one of {sorted(SAMPLES)}.")
    module, command, file = SAMPLES[name]
    return optional_folder(module, command) / file


if __name__ == "__main__":
    with refusals():
        sys.stdout.write(f"{sample_path(' '.join(sys.argv[1:]))}\n")
