"""From a folder in the hub's layout to an artifact, by the commands that docs/wan.md prints; only sizes are smaller."""

import re
import runpy
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from data.manifest import Manifest, SplitManifest, write_manifest
from gwm.resolution import Resolution
from serve.artifact import load_artifact
from tests.printed import ROOT, Command, printed_in
from tests.test_configs import composed
from tests.train.test_wan import shard
from tests.wan import TEXT, published_folder

FAMILIES = {  # recipe: family of its published folder
    "wan2_1_t2v_1_3b": "wan2_1_1_3b",
    "wan2_1_t2v_14b": "wan2_1_14b",
    "wan2_1_i2v_14b": "wan2_1_i2v_14b",
    "wan2_2_ti2v_5b": "wan2_2_ti2v_5b",
    "wan2_1_t2v_1_3b_text": "wan2_1_1_3b",
}
FRAMES, SIZE = 20, Resolution(32, 64)  # of `shard`
run_train = runpy.run_path(str(ROOT / "train.py"))["run"]
PAGE = ROOT / "docs" / "wan.md"
# Two layers less wide, a second of video, two updates: nothing of this is in a recipe but its size.
REDUCED = [
    *(
        "model.dim=256",
        "model.num_heads=2",
        "model.num_layers=1",
        "model.ffn_dim=64",
        f"model.conditions.text.width={TEXT}",
    ),
    *("num_frames=3", "data.batch_size=2", "trainer.max_steps=2", "trainer.accelerator=cpu"),
]
OF_STAGE = {
    "long": ["stage.windows.stream_frames=6", "stage.windows.overlap_frames=0"],
    "ode_pairs": ["call.num_steps=4", "call.num_shards=2", "call.device=cpu"],
}


def recipe_of(command: Command) -> str:
    return next((a.removeprefix("experiment=") for a in command.arguments if a.startswith("experiment=")), "")


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A second of footage, of which nobody is held out."""
    folder = tmp_path_factory.mktemp("shards")
    splits = {"train": SplitManifest(shards=[shard(folder)], identities=[], sentences=[])}
    write_manifest(
        folder,
        Manifest(
            kind="pixels", fps=24, sample_rate=24_000, resolution=SIZE, num_frames=FRAMES, splits=splits, seed=0,
            command="", generator={},
        ),
    )  # fmt: skip
    return folder


def chain(recipe: str) -> list[Command]:
    """The commands of the page for a recipe, up to its first export and without what comes after it."""
    commands = [one for one in printed_in(PAGE) if one.script == "train.py" and recipe_of(one) == recipe]
    last = next(i for i, one in enumerate(commands) if "stage=export" in one.arguments)
    return commands[: last + 1]


def run_smaller(command: Command, places: dict[str, str]) -> None:
    """As `python train.py` does, in this process, with the reader's own folders in the places of capitals."""
    given = [re.sub(r"\b[A-Z][A-Z0-9]+\b", lambda word: places[word[0]], text) for text in command.arguments]
    stage = given[0].removeprefix("stage=")
    smaller = [*REDUCED, f"runs={places['RUNS']}", f"resolution={SIZE}", *OF_STAGE.get(stage, [])]
    if stage == "export":
        smaller = [*smaller, "call.dtype=float32"]
    if recipe_of(command) == "wan2_1_i2v_14b":
        smaller.append(f"model.conditions.image.width={TEXT}")
    if recipe_of(command) == "wan2_2_ti2v_5b" and stage in ("dmd", "long"):
        smaller += ["published.lora.student.rank=2", "published.lora.critic.rank=2"]
    run_train(composed("train", [text.replace("runs/tiny", places["RUNS"]) for text in [*given, *smaller]]))


def check_recipe_runs(recipe: str, shards: Path, folder: Path) -> None:
    hub = published_folder(folder / "hub", FAMILIES[recipe])
    runs = folder / "runs"
    names = {"DIR": str(hub), "SHARDS": str(shards), "SHARDS704": str(shards), "NAME": "tiny", "RUNS": str(runs)}
    commands = chain(recipe)
    for command in commands:
        run_smaller(command, names)
        assert torch.backends.cudnn.allow_tf32  # as `tf32` of configs/train.yaml says
    artifact = load_artifact(runs / "artifact")
    assert artifact.contract.sigmas == (1.0, 0.9375, 0.8333, 0.625)
    assert artifact.contract.pattern.chunk_frames == 3
    assert bool(artifact.contract.dit.speech_width) == (recipe != "wan2_1_t2v_1_3b_text")
    stages = [command.arguments[0].removeprefix("stage=") for command in commands]
    for before, after in pairwise(stages[:-1]):
        first, second = (load_file(runs / stage / "weights" / "weights.safetensors") for stage in (before, after))
        assert first.keys() == second.keys()
        assert any(not torch.equal(first[name], second[name]) for name in first), f"{after} left what {before} had"


@pytest.mark.slow
def test_a_text_recipe_runs_from_the_hubs_folder_to_an_artifact(shards: Path, tmp_path: Path):
    check_recipe_runs("wan2_1_t2v_1_3b_text", shards, tmp_path)


@pytest.mark.acceptance
@pytest.mark.parametrize("recipe", [name for name in FAMILIES if name != "wan2_1_t2v_1_3b_text"])
def test_a_recipe_runs_from_the_hubs_folder_to_an_artifact(recipe: str, shards: Path, tmp_path: Path):
    check_recipe_runs(recipe, shards, tmp_path)


def test_every_recipe_has_its_chain_on_the_page():
    for recipe in FAMILIES:
        stages = [one.arguments[0].removeprefix("stage=") for one in chain(recipe)]
        wanted = ["bidirectional", "causal", "consistency", "dmd", "long", "export"]
        if recipe in ("wan2_1_i2v_14b", "wan2_1_t2v_1_3b_text"):
            wanted.remove("long")
        assert stages == wanted
