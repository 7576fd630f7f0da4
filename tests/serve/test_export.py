import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from gwm.autoencoders.haar import HaarAutoencoder
from gwm.condition.inputs import Conditions
from gwm.contract import Contract
from gwm.dit import DiT
from gwm.rollout import Rollout
from serve import export as export_module
from serve.artifact import Artifact, describe, load_artifact
from serve.export import export
from serve.quantise import packed, unpacked

CONDITION_FRAMES = 6


def sample(dit: DiT, vae: HaarAutoencoder, contract: Contract) -> torch.Tensor:
    """Pixels of the training side's sampler; past the window, so that the ring has turned."""
    generator = torch.Generator().manual_seed(3)
    shape = (1, CONDITION_FRAMES, contract.dit.speech_width)
    agent, user = torch.randn(shape, generator=generator), torch.randn(shape, generator=generator)
    image = torch.randint(0, 256, (1, 32, 48, 3), dtype=torch.uint8, generator=generator)
    reference = vae.encode_reference(image)
    condition, size = Conditions(frame={"agent": agent, "user": user}), contract.pattern.chunk_frames
    rollout = Rollout(dit, contract)
    rollout.start(reference.latent, condition, seed=5)
    parts = [condition.frames(slice(at, at + size)) for at in range(0, CONDITION_FRAMES, size)]
    return vae.decode(torch.cat([rollout.step(part) for part in parts], dim=1), vae.begin(reference))[0]


def edit_manifest(folder: Path, change: Callable[[dict], object]) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    change(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))


def edit_weights(folder: Path, change: Callable[[dict], object]) -> None:
    """Change tensors and make the manifest agree: only the model can notice."""
    path = folder / "dit.safetensors"
    weights = load_file(path)
    change(weights)
    save_file(weights, path)
    edit_manifest(folder, lambda manifest: manifest["files"].update({path.name: describe(path)}))


def test_artifact_samples_what_the_trainer_samples(
    trained: tuple[DiT, HaarAutoencoder], contract: Contract, artifact: Artifact
):
    assert torch.equal(sample(artifact.dit, artifact.vae, artifact.contract), sample(*trained, contract))


def test_manifest_keeps_contract_and_gates(folder: Path, contract: Contract):
    manifest = json.loads((folder / "manifest.json").read_text())
    assert Contract.from_json(manifest["contract"]) == contract
    assert manifest["gates"] == {"dit": {"lip_sync": 0.5}, "vae": {"lip_sync": 0.9}}


def test_bfloat16_is_rounded_once_and_half_the_size(trained: tuple[DiT, HaarAutoencoder], run: Path, folder: Path):
    weights = [str(run / stage / "weights") for stage in ("dmd", "autoencoder")]
    export(*weights, str(run / "small"), dtype="bfloat16")
    small = load_artifact(run / "small", device="cpu").dit.state_dict()
    for name, weight in trained[0].state_dict().items():
        assert torch.equal(small[name], weight.bfloat16().float())
    sizes = [(run / out / "dit.safetensors").stat().st_size for out in ("small", "artifact")]
    assert sizes[0] < 0.6 * sizes[1]


def test_unknown_dtype_is_an_error(run: Path):
    with pytest.raises(ValueError, match="dtype='int4' must be one of"):
        export(str(run / "dmd/weights"), str(run / "autoencoder/weights"), str(run / "out"), dtype="int4")
    with pytest.raises(ValueError, match=r"nowhere must hold at least one \.png"):
        export(str(run / "dmd/weights"), str(run / "autoencoder/weights"), str(run / "out"), places="nowhere")
    assert not (run / "out").exists()


def test_int8_is_packed_and_computes_as_what_is_unpacked(trained: tuple[DiT, HaarAutoencoder], run: Path):
    export(str(run / "dmd/weights"), str(run / "autoencoder/weights"), str(run / "packed"), dtype="int8")
    weights = load_artifact(run / "packed", device="cpu").dit.state_dict()
    expected = unpacked(packed(trained[0].state_dict()))
    assert all(torch.equal(weights[name], value.float()) for name, value in expected.items())
    stored = load_file(run / "packed/dit.safetensors")
    assert {value.itemsize for name, value in stored.items() if name.endswith("ffn.0.weight")} == {1}


def test_an_artifact_has_an_autoencoder_that_a_run_can_take(run: Path, folder: Path):
    """Its own, with its gate: models of its latents need no other file."""
    export(str(run / "dmd/weights"), str(folder), str(run / "second"))
    first, second = (load_file(each / "vae.safetensors") for each in (folder, run / "second"))
    assert all(torch.equal(first[name], second[name]) for name in first)
    manifests = [json.loads((each / "manifest.json").read_text()) for each in (folder, run / "second")]
    assert manifests[0]["gates"]["vae"] == manifests[1]["gates"]["vae"] == {"lip_sync": 0.9}


@pytest.mark.parametrize("stage", ["dmd", "autoencoder"])
def test_missing_stage_names_its_command(run: Path, stage: str):
    shutil.rmtree(run / stage)
    with pytest.raises(FileNotFoundError, match=f"python train.py stage={stage} name=nano"):
        export(str(run / "dmd/weights"), str(run / "autoencoder/weights"), str(run / "out"))


def test_another_autoencoder_than_the_students_is_an_error(run: Path):
    path = run / "autoencoder" / "weights" / "config.json"
    header = json.loads(path.read_text())
    header["config"]["latents_std"][3] = 0.25
    path.write_text(json.dumps(header))
    with pytest.raises(ValueError, match="must be the autoencoder on whose latents"):
        export(str(run / "dmd/weights"), str(run / "autoencoder/weights"), str(run / "out"))


def test_full_disk_leaves_the_old_artifact(run: Path, folder: Path, monkeypatch: pytest.MonkeyPatch):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    written = []

    def save_until_full(tensors: dict, path: Path) -> None:
        if written:
            path.write_bytes(b"half")
            raise OSError(28, "No space left on device")
        written.append(path)
        save_file({name: torch.zeros_like(tensor) for name, tensor in tensors.items()}, path)

    monkeypatch.setattr(export_module, "save_file", save_until_full)
    with pytest.raises(OSError, match="No space left"):
        export(str(run / "dmd/weights"), str(run / "autoencoder/weights"), str(folder))
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_weights_that_are_not_finite_are_neither_exported_nor_served(run: Path, folder: Path, contract: Contract):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    path = run / "dmd" / "weights" / "weights.safetensors"
    weights = load_file(path)
    weights["head.weight"][0] = float("nan")
    save_file(weights, path)
    with pytest.raises(ValueError, match=r"weights\.safetensors: 1 of .*head\.weight"):
        export(str(run / "dmd/weights"), str(run / "autoencoder/weights"), str(folder))
    with pytest.raises(ValueError, match=r"dit of .*: 1 of .*head\.weight"):
        export_module.write_artifact(folder, {"dit": weights}, contract, gates={}, quantised=None)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    edit_weights(folder, lambda tensors: tensors["head.weight"].fill_(float("inf")))
    with pytest.raises(ValueError, match=r"dit\.safetensors: 1 of .*head\.weight"):
        load_artifact(folder, device="cpu")


def test_no_artifact_names_the_command(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"python train\.py stage=export"):
        load_artifact(tmp_path / "nothing")


MANIFEST_FAULTS = {
    "other_version": (lambda m: m.update(version=2), r"must be \('gwm-artifact', 1\)"),
    "other_format": (lambda m: m.update(format="gwm-weights"), "must be a folder that stage=export wrote"),
    "missing_key": (lambda m: m.pop("gates"), r"missing keys \['gates'\]"),
    "foreign_key": (lambda m: m.update(speed=1), r"foreign keys \['speed'\]"),
    "missing_file": (lambda m: m["files"].pop("vae.safetensors"), r"missing keys \['vae.safetensors'\]"),
    "foreign_contract_key": (lambda m: m["contract"].update(shift=2), r"Contract: unknown keys \['shift'\]"),
}


@pytest.mark.parametrize("fault", MANIFEST_FAULTS)
def test_faulty_manifest_is_an_error(folder: Path, fault: str):
    change, message = MANIFEST_FAULTS[fault]
    edit_manifest(folder, change)
    with pytest.raises(ValueError, match=message):
        load_artifact(folder)


def test_damaged_manifest_is_an_error(folder: Path):
    (folder / "manifest.json").write_text('{"format": "gwm-art')
    with pytest.raises(ValueError, match="must be JSON"):
        load_artifact(folder)


def test_missing_weights_are_an_error(folder: Path):
    (folder / "vae.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"vae\.safetensors is not there"):
        load_artifact(folder)


def test_truncated_weights_are_an_error(folder: Path):
    path = folder / "dit.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match="truncated"):
        load_artifact(folder)


def test_one_changed_byte_is_an_error(folder: Path):
    path = folder / "dit.safetensors"
    data = np.frombuffer(path.read_bytes(), np.uint8).copy()
    data[-1] ^= 1
    path.write_bytes(data.tobytes())
    with pytest.raises(ValueError, match="sha256"):
        load_artifact(folder)


WEIGHT_FAULTS = {
    "missing": (lambda w: w.pop("head.bias"), r"missing keys \['head.bias'\]"),
    "foreign": (lambda w: w.update(tail=torch.zeros(1)), r"foreign keys \['tail'\]"),
    "misshaped": (lambda w: w.update({"head.bias": torch.zeros(1)}), r"misshaped \['head.bias \(1,\)"),
}


@pytest.mark.parametrize("fault", WEIGHT_FAULTS)
def test_tensors_that_do_not_fit_are_an_error(folder: Path, fault: str):
    change, message = WEIGHT_FAULTS[fault]
    edit_weights(folder, change)
    with pytest.raises(ValueError, match=message):
        load_artifact(folder)
