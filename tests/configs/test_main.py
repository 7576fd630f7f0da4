"""Commands as they are typed: what is unknown, missing or misspelt is reported in one sentence."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from configs.command.main import command

ROOT = Path(__file__).parents[2]


def typed(task: Callable[[DictConfig], object], line: list[str], monkeypatch: pytest.MonkeyPatch, **how) -> object:
    """Exit status of a command with settings of configs/generate.yaml, or of those that `how` names."""
    monkeypatch.setattr(sys, "argv", ["command", *line])
    monkeypatch.setenv("HYDRA_FULL_ERROR", "")
    GlobalHydra.instance().clear()
    try:
        command(**{"config": "generate", "verbatim": ("image", "audio", "out"), **how})(task)()
    except SystemExit as stop:
        return stop.code
    finally:
        HydraConfig.instance().cfg = None
    return 0


@pytest.mark.parametrize("asked", ["--help", "-h"])
def test_help_begins_with_what_a_command_is_about(asked: str, monkeypatch: pytest.MonkeyPatch, capsys):
    """Then come its settings with their comments, and the choices of its groups; nothing is run."""

    def task(cfg: DictConfig) -> None:
        raise AssertionError

    assert typed(task, ["image=a", asked], monkeypatch, config="evaluate") == 0
    text = capsys.readouterr().out
    assert text.startswith((__doc__ or "").strip())
    about, suite, runs = (
        text.index(part) for part in ("# python evaluate.py", "suite: quick  # one of ", "runs: null  #")
    )
    assert about < runs < suite and "hydra" not in text and "defaults" not in text


def test_help_has_settings_that_another_file_holds(monkeypatch: pytest.MonkeyPatch, capsys):
    assert typed(print, ["--help"], monkeypatch, config="bench_gpu") == 0
    text = capsys.readouterr().out
    assert text.index("dtype: bfloat16") < text.index("And what configs/bench.yaml has:") < text.index("rounds: 30")


@pytest.mark.parametrize(
    "line, message",
    [
        (["imge=x"], "imge is no setting of this command. Did you mean image? "),
        (["image=[", "se"], "se cannot be read: "),
        (["seed=[3"], "seed=[3 cannot be read: "),
        (["seed=7,8"], "seed=7,8 is several values. "),
        (["--config-name", "genrate"], "--config-name genrate must be the name of a file configs/*.yaml, "),
        ([], "out=... must be given: configs/generate.yaml says what it is."),
        (["image=a", "seed=-1"], "seed=-1 must be at least 0, such as seed=0."),
        (["image=a", "seed=ten"], "seed=ten must be a number, such as seed=0."),
        (["image=a", "whole=maybe"], "whole=maybe must be true or false, such as whole=false."),
    ],
)
def test_a_setting_that_cannot_be_is_reported_in_one_sentence(line, message, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert typed(lambda cfg: [cfg.seed + 1, not cfg.whole, cfg.whole & 1, cfg.out], line, monkeypatch) == 1
    err = capsys.readouterr().err
    assert err.startswith(message) and err.count("\n") == 1
    assert "Hydra" not in err and "HYDRA" not in err


def test_a_bug_is_no_matter_of_settings(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert typed(lambda cfg: cfg.seed + "1", ["seed=3"], monkeypatch) == 1
    assert capsys.readouterr().err.startswith("Traceback")


@pytest.mark.parametrize(
    "line, message",
    [
        ([], "stage=... must be given, one of: autoencoder, bidirectional, causal, "),
        (["stage=cusal"], "stage=cusal must be one of autoencoder, bidirectional, causal, "),
        (["stage=causal", "lr=1"], "lr is no setting of this command. Did you mean stage.network.optimizer.lr? "),
    ],
)
def test_a_stage_that_is_misspelt_is_reported_with_its_neighbours(line, message, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert typed(lambda cfg: None, line, monkeypatch, config="train") == 1
    assert capsys.readouterr().err.startswith(message)


def test_a_path_with_a_comma_is_one_run_and_the_command_line_stays_as_typed(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    seen = []
    line = ["-m", "seed=1,2", "image=a, b (1).jpg", "hydra.sweep.dir=."]
    task = lambda cfg: seen.append((cfg.seed, cfg.image, sys.argv[1:]))  # noqa: E731
    assert typed(task, line, monkeypatch) == 0
    assert seen == [(1, "a, b (1).jpg", line), (2, "a, b (1).jpg", line)]


def refuse(cfg: DictConfig) -> None:
    ran.append(cfg.seed)
    if cfg.seed == 1:
        raise FileNotFoundError("x must be there.")


ran: list[int] = []
refuse.__code__ = refuse.__code__.replace(co_filename=str(ROOT / "train.py"))  # as ours


@pytest.mark.parametrize("chain, members", [("seed", [1]), (None, [1, 2])])
def test_what_builds_on_a_failed_member_is_not_run(chain, members, capsys, monkeypatch, tmp_path):
    """Stages build on each other; members of a sweep do not. A failure is reported once and is the status."""
    monkeypatch.chdir(tmp_path)
    ran.clear()
    assert typed(refuse, ["-m", "seed=1,2", "hydra.sweep.dir=."], monkeypatch, chain=chain) == 1
    assert ran == members
    assert capsys.readouterr().err.count("x must be there.\n") == 1


def test_every_command_is_wrapped():
    """Hydra's own decorator shows tracebacks, and a bare main does too."""
    files = [
        path for path in ROOT.rglob("*.py") if not {".venv", "tests", "command"} & set(path.relative_to(ROOT).parts)
    ]
    mains = [path for path in files if '__name__ == "__main__"' in path.read_text()]
    assert len(mains) > 15
    for path in mains:
        assert re.search(r"^@command\(|with refusals\(", path.read_text(), re.MULTILINE), path
    assert not [path for path in files if "hydra.main" in path.read_text()]


def test_a_real_command_refuses_in_one_sentence(tmp_path: Path):
    call = [sys.executable, "-m", "data.ingest", "videos=é (1), {b}", f"out={tmp_path}"]
    done = subprocess.run(call, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert done.returncode == 1 and not done.stdout
    assert (
        done.stderr.startswith("videos=é (1), {b} must be a folder, and there is none") and done.stderr.count("\n") == 1
    )
