"""What lies where weights should lie is read whole, or named in one sentence with its file and the remedy."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from gwm.files.tensors import check_finite, read_json, read_pickle, read_tensor_file

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 5676070424\n"
WEIGHTS = {"a.weight": torch.arange(6.0).view(2, 3), "a.bias": torch.ones(2)}


def test_no_other_file_reads_weights():
    """What reads them by itself would miss the checks. Names alone are read in gwm/wan/files.py."""
    root = Path(__file__).parents[3]
    packages = ("gwm", "data", "train", "distill", "evaluate", "serve", "kernels")
    sources = [*root.glob("*.py"), *(path for package in packages for path in (root / package).rglob("*.py"))]
    assert len(sources) > 100
    reading = re.compile(r"torch\.load\(|\bload_file\(|\bsafe_open\(|\.from_pretrained\(")
    found = {str(path.relative_to(root)) for path in sources if reading.search(path.read_text())}
    assert found == {"gwm/files/tensors.py", "gwm/wan/files.py", "gwm/wan/encoders.py"}


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".bin"])
@pytest.mark.parametrize("write", [save_file, torch.save])
def test_the_format_is_told_by_the_bytes_and_not_by_the_name(tmp_path: Path, write: Callable, suffix: str):
    write(WEIGHTS, tmp_path / f"x{suffix}")
    read = read_tensor_file(tmp_path / f"x{suffix}")
    assert read.keys() == WEIGHTS.keys() and all(torch.equal(read[k], WEIGHTS[k]) for k in read)


@pytest.mark.parametrize("padding", range(0, 256, 8))
def test_every_length_of_a_header_is_told_from_other_formats(tmp_path: Path, padding: int):
    """A safetensors file begins with that length: its first byte may be that of a pickle, of JSON or a space."""
    save_file({"a" * (1 + padding): torch.ones(1)}, tmp_path / "x.bin")
    assert len(read_tensor_file(tmp_path / "x.bin")) == 1


def test_a_file_of_the_old_torch_save_is_read(tmp_path: Path):
    torch.save(WEIGHTS, tmp_path / "x.pth", _use_new_zipfile_serialization=False)
    assert read_tensor_file(tmp_path / "x.pth").keys() == WEIGHTS.keys()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty: 0 bytes. Fetch it"),
        (POINTER, "a git-LFS pointer and not the file. Run `git lfs pull`"),
        (b"\n<!DOCTYPE html><html>Sign in", "a web page, .* logged in"),
        (b"<html>", "a web page"),
        (b'<?xml version="1.0"?><Error><Code>AccessDenied', "a web page"),
        (b"GGUF\x03\0\0\0", "a GGUF file, so quantised"),
        (b"RIFFxxxxWAVE", "must be safetensors or written by torch.save; it begins with b'RIFF"),
    ],
)
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_what_is_no_file_of_tensors_is_named(tmp_path: Path, content: bytes, message: str, suffix: str):
    path = tmp_path / f"x{suffix}"
    path.write_bytes(content)
    if content.startswith(b"RIFF") and suffix == ".safetensors":
        message = "is no whole safetensors file"
    with pytest.raises(ValueError, match=rf"{path}.* {message}") as error:
        read_tensor_file(path, remedy="Fetch it.")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kept", [5, 9, 0.5, 0.9, -1])
@pytest.mark.parametrize("write", [save_file, torch.save])
def test_a_truncated_file_is_an_error_in_one_line(tmp_path: Path, write: Callable, kept: float):
    path = tmp_path / ("x.safetensors" if write is save_file else "x.pth")
    write({"a": torch.randn(500)}, path)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content)) if 0 < kept < 1 else int(kept)])
    with pytest.raises(ValueError, match=rf"{path} .*truncated.*Fetch it\.") as error:
        read_tensor_file(path, remedy="Fetch it.")
    assert "\n" not in str(error.value)


def test_a_truncated_file_of_the_old_torch_save_is_an_error(tmp_path: Path):
    path = tmp_path / "x.pth"
    torch.save({"a": torch.randn(500)}, path, _use_new_zipfile_serialization=False)
    path.write_bytes(path.read_bytes()[:-99])
    with pytest.raises(ValueError, match=rf"{path} cannot be .*truncated"):
        read_tensor_file(path)


def test_a_missing_file_is_an_error(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"x\.pth does not exist\. Download it again\."):
        read_tensor_file(tmp_path / "x.pth")


class Harmful:
    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("harm"),)


def test_a_pickle_with_code_is_refused_and_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"model": WEIGHTS, "args": Harmful()}, tmp_path / "x.pt")
    with pytest.raises(ValueError, match=r"x\.pt holds Python objects besides tensors.*safetensors"):
        read_tensor_file(tmp_path / "x.pt")
    assert not Path("harm").exists()
    read_pickle(tmp_path / "x.pt", remedy="", trusted=True)
    assert Path("harm").exists(), "the file was harmless: the test proves nothing"


@pytest.mark.parametrize(
    "wrapped",
    [
        {"model": WEIGHTS, "step": 3},
        {"state_dict": WEIGHTS, "epoch": 1, "optimizer": [1.0]},
        {"generator": WEIGHTS, "critic": {"a": torch.zeros(1)}},
        {"generator_ema": WEIGHTS, "generator": {"a": torch.zeros(1)}},
        {"ema": WEIGHTS, "model": {"a": torch.zeros(1)}},
        {"model": {"state_dict": WEIGHTS}, "step": torch.tensor(3)},
    ],
    ids=lambda wrapped: "-".join(wrapped),
)
def test_known_wrappers_are_opened_and_averages_preferred(tmp_path: Path, wrapped: dict[str, Any]):
    torch.save(wrapped, tmp_path / "x.pt")
    assert read_tensor_file(tmp_path / "x.pt").keys() == WEIGHTS.keys()


def test_a_choice_between_two_models_of_a_file_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    torch.save({"generator": WEIGHTS, "generator_ema": WEIGHTS}, tmp_path / "x.pt")
    read_tensor_file(tmp_path / "x.pt")
    assert "x.pt has generator_ema, generator: generator_ema is read." in caplog.text


@pytest.mark.parametrize("found", [[1, 2], {"critic": WEIGHTS, "step": torch.tensor(1)}, {"epoch": 3}], ids=str)
def test_an_unknown_wrapper_is_an_error_that_says_what_was_seen(tmp_path: Path, found: Any):
    torch.save(found, tmp_path / "x.pt")
    seen = "list" if isinstance(found, list) else next(iter(found))
    with pytest.raises(ValueError, match=rf"x\.pt holds .*{seen}.*must hold tensors by name"):
        read_tensor_file(tmp_path / "x.pt")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_values_that_are_not_finite_are_refused_by_name_and_count(value: float, dtype: torch.dtype):
    weights: dict[str, Tensor] = {f"w{i}": torch.ones(4, 5, dtype=dtype) for i in range(3)}
    check_finite(weights | {"counter": torch.tensor(3), "nothing": torch.empty(0)}, source="x")
    weights["w1"][2, 1:4] = value
    with pytest.raises(ValueError, match=r"x: 1 of 3 tensors .*w1 \(3 of 20 values\)"):
        check_finite(weights, source="x")


def test_a_diverged_model_is_named_by_few_tensors():
    weights = {f"w{i}": torch.full((2,), float("nan")) for i in range(90)}
    with pytest.raises(ValueError, match=r"90 of 90 tensors.*w2 \(2 of 2 values\) and 87 more"):
        check_finite(weights, source="x")


def test_a_file_with_values_that_are_not_finite_is_an_error(tmp_path: Path):
    save_file({"a": torch.tensor([1.0, float("nan")])}, tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match=r"x\.safetensors: 1 of 1 tensors .* a \(1 of 2 values\)"):
        read_tensor_file(tmp_path / "x.safetensors")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (POINTER, "git-LFS"),
        (b'{"a": 1', "must be JSON"),
        (b"[1]", "holds a list"),
        (b"\xff", "JSON"),
    ],
)
def test_json_that_cannot_be_read_is_an_error_with_its_file(tmp_path: Path, content: bytes, message: str):
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(ValueError, match=rf"config\.json.*{message}"):
        read_json(tmp_path / "config.json")
