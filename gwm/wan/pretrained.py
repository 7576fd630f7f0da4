"""Encoders of a diffusers pipeline that transformers builds: their files are checked before, their tensors after."""

from pathlib import Path
from typing import Any

import torch

from gwm.files.tensors import DOWNLOAD, check_file, check_finite, read_json
from gwm.optional import optional_module

COMMAND = "pip install 'gwm[wan]'"


def check_part(folder: Path) -> None:
    """Refuse a part of a pipeline in which a file is empty, truncated, a git-LFS pointer or a web page.

    Raises:
        FileNotFoundError, ValueError: as `check_file`.
    """
    for path in sorted(file for file in folder.glob("*") if file.is_file() and not file.name.startswith(".")):
        check_file(path)


def load_encoder(name: str, folder: Path, *, kinds: tuple[str, ...], dtype: torch.dtype | str) -> Any:
    """A frozen model in evaluation mode, of the class `name` of transformers.

    Args:
        kinds: what `model_type` in config.json may be.
        dtype: "auto": as the folder is stored.

    Raises:
        FileNotFoundError, ValueError: the folder holds another model, a damaged file, too few tensors, or values that
            are not finite.
    """
    transformers = optional_module("transformers", COMMAND)
    check_part(folder)
    kind = read_json(folder / "config.json").get("model_type")
    if kind not in kinds:
        raise ValueError(
            f"{folder}/config.json has model_type={kind!r}, must be one of {list(kinds)}: it is another model's "
            "encoder. Take the folder of a -Diffusers release of Wan."
        )
    model, report = getattr(transformers, name).from_pretrained(folder, dtype=dtype, output_loading_info=True)
    missing = sorted(str(key) for key in report["missing_keys"])
    if missing:  # transformers would draw them at random
        raise ValueError(f"{folder} lacks {len(missing)} tensors of {name}, such as {missing[0]}. {DOWNLOAD}")
    check_finite(model.state_dict(), source=str(folder))
    return model.eval().requires_grad_(False)
