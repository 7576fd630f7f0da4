"""File names with any character reach a command as they are."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.utils import instantiate
from omegaconf import OmegaConf

from configs.command.main import CONFIGS
from configs.command.overrides import quoted

NAMES = [
    "é.jpg", "漢字.jpg", "me (1).jpg", "a=b.jpg", "a,b.jpg", "a#b.jpg", "a & b.jpg", "it's.jpg", 'say "hi".jpg',
    "{a}.jpg", "{a: b}", "[a].jpg", "[a, b]", "12:30.jpg", " both ends ", "$HOME.jpg", "price$.jpg",
    "a${b}.jpg", "a${b.jpg", "\\${b}", "back\\slash.jpg", "ends in\\", "\\'.jpg", "'.jpg", '"', "''",
    "choice(a,b)", "null.jpg", "true", "123", "1e5", "-x.wav", "--multirun", "http:x", "concat:a|b", "@x", "~x",
    "+x", "a;b", "*?.jpg", "%d.jpg", "!x", "a\tb", "x" * 200, "😀.png", "a\nb.jpg",
]  # fmt: skip
# The setting, and one that is made of it.
SETTINGS = [("generate", "image", "image", ""), ("evaluate", "artifact", "out", ""), ("train", "name", "runs", "runs/")]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("config, setting, made, before", SETTINGS)
def test_a_file_of_any_name_reaches_the_command(config: str, setting: str, made: str, before: str):
    needed = ["stage=causal"] if config == "train" else []
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        for name in NAMES:
            Path(name).touch()
            cfg = compose(config, overrides=[*needed, *quoted([f"{setting}={name}"], [setting], multirun=False)])
            OmegaConf.set_struct(cfg, False)
            assert (cfg[setting], cfg[made]) == (name, before + name)
            if "${" not in name:  # OmegaConf resolves what it has resolved once more: no stage may be called so
                cfg.made = {"_target_": "builtins.dict", "path": f"${{{made}}}"}
                assert instantiate(cfg.made, _convert_="all") == {"path": before + name}


@pytest.mark.parametrize("name", [n for n in NAMES if n not in ("''", "[a, b]", "a${b}.jpg", "\\${b}")])
def test_a_file_that_is_still_to_be_written_may_have_any_name(name: str):
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        assert compose("generate", overrides=quoted([f"out={name}"], ["out"], multirun=False)).out == name


@pytest.mark.parametrize(
    "value, given", [('"a b"', "a b"), ("'a=b'", "a=b"), ("null", None), ("${image}.mp4", "é.mp4")]
)
def test_values_that_hydra_reads_already_keep_their_meaning(value: str, given: str | None):
    overrides = quoted([f"out={value}", "image=é"], ["out", "image"], multirun=False)
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        assert compose("generate", overrides=overrides).out == given


def test_a_list_of_paths_is_quoted_item_by_item():
    arguments = quoted(["stages=[runs/é,runs/a b]"], ["stages"], multirun=False)
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        assert list(compose("health", overrides=arguments).stages) == ["runs/é", "runs/a b"]


def test_a_comma_in_a_path_is_no_sweep_and_one_elsewhere_is():
    arguments = ["name=a,b", "stage=causal,dmd", "shards=choice(x,y)", "stage.init=p,q"]
    parse = OverridesParser.create().parse_override
    sweeps = [parse(argument).is_sweep_override() for argument in quoted(arguments, PATHS, multirun=True)]
    assert sweeps == [False, True, True, False]


PATHS = ("name", "shards", "init")


def test_other_settings_are_left_as_they_are():
    arguments = ["-m", "seed=3", "stage.network.optimizer.betas=[0.9,0.99]", "~stage.gan", "+sweep=critic", "x"]
    assert quoted(arguments, PATHS, multirun=True) == arguments
