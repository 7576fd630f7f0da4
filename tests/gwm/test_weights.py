import json
import resource
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from gwm.weights import WeightsHeader, check_keys, fingerprint, is_written_here, load_weights, read_header, save_weights


def model() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_weights(tmp_path, model().state_dict(), WeightsHeader(kind="toy", config={"width": 4}, gate={"psnr": 30.0}))
    return tmp_path


def test_weights_come_back_to_the_bit_and_save_to_the_same_bytes(folder: Path, tmp_path: Path):
    first, second = model(), model()
    load_weights(folder, first)
    load_weights(folder, second)
    assert all(
        torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )
    save_weights(
        tmp_path / "again", first.state_dict(), WeightsHeader(kind="toy", config={"width": 4}, gate={"psnr": 30.0})
    )
    for name in ("weights.safetensors", "config.json"):
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes()
    assert read_header(folder, kind="toy").gate == {"psnr": 30.0}


def test_of_many_keys_that_do_not_fit_the_first_are_named():
    given = {f"layer{i}": torch.zeros(1) for i in range(90)}
    with pytest.raises(ValueError, match=r"foreign keys \['layer0', .*'layer13'\] and 84 more, misshaped \[\]"):
        check_keys(given, {}, source="x")


def test_missing_foreign_and_misshaped_keys_are_named(folder: Path):
    other = nn.Sequential(nn.Linear(3, 5), nn.Linear(4, 2), nn.Linear(2, 2))
    del other[1].bias
    with pytest.raises(ValueError) as error:
        load_weights(folder, other)
    message = str(error.value)
    assert "missing keys ['2.bias', '2.weight']" in message
    assert "foreign keys ['1.bias']" in message
    assert "0.weight (4, 3) != (5, 3)" in message


@pytest.mark.parametrize("change", [{"version": 2}, {"format": "checkpoint"}])
def test_another_version_or_format_is_an_error(folder: Path, change: dict[str, object]):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match=r"must be .*'version': 1.* Export it again"):
        read_header(folder, kind="toy")


def test_another_part_is_an_error(folder: Path):
    with pytest.raises(
        ValueError, match=r"config\.json has kind='toy', must be 'autoencoder': the folder holds another part"
    ):
        read_header(folder, kind="autoencoder")


def test_missing_folder_is_an_error(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="must be a folder written by a gwm stage or export"):
        read_header(tmp_path / "nothing", kind="toy")


@pytest.mark.parametrize("kept", [0, 5, 0.5, -1])
def test_truncated_file_is_an_error(folder: Path, kept: float):
    path = folder / "weights.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content)) if 0 < kept < 1 else int(kept)])
    with pytest.raises(ValueError, match=r"weights\.safetensors is .*(empty|truncated).* run the stage that wrote it"):
        load_weights(folder, model())


def test_missing_weights_are_an_error(folder: Path):
    (folder / "weights.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"weights\.safetensors does not exist.* run the stage that wrote it"):
        load_weights(folder, model())


def test_a_damaged_config_is_an_error_with_its_file(folder: Path):
    (folder / "config.json").write_text('{"format": ')
    with pytest.raises(ValueError, match=r"config\.json must be JSON"):
        read_header(folder, kind="toy")
    with pytest.raises(ValueError, match=r"config\.json must be JSON"):
        is_written_here(folder)


def test_weights_that_are_not_finite_leave_the_old_ones(folder: Path):
    before = (folder / "weights.safetensors").read_bytes()
    weights = model().state_dict()
    weights["0.bias"][1] = float("nan")
    with pytest.raises(ValueError, match=r"kind=toy .*: 1 of 4 tensors .*0\.bias \(1 of 4 values\)"):
        save_weights(folder, weights, WeightsHeader(kind="toy", config={}))
    assert (folder / "weights.safetensors").read_bytes() == before


def test_weights_that_are_not_finite_are_not_loaded(folder: Path):
    weights = model().state_dict()
    weights["0.bias"][1] = float("nan")
    save_file(weights, folder / "weights.safetensors")
    with pytest.raises(ValueError, match=r"weights\.safetensors: 1 of 4 tensors .*0\.bias"):
        load_weights(folder, model())


def test_a_full_disk_leaves_the_old_weights(folder: Path):
    """The size limit of a process stands in for the end of the disk."""
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(OSError, match="is not written"):
            save_weights(folder, nn.Linear(100, 100).state_dict(), WeightsHeader(kind="toy", config={}))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_fingerprint_sees_names_shapes_and_values_and_not_their_order():
    weights = model().state_dict()
    first = fingerprint(weights)
    assert fingerprint(dict(reversed(weights.items()))) == first
    assert fingerprint({k + "x": v for k, v in weights.items()}) != first
    assert fingerprint(weights | {"0.weight": weights["0.weight"].reshape(3, 4)}) != first
    weights["0.weight"][0, 0] += 1e-6
    assert fingerprint(weights) != first
