"""The commands of README.md one after the other, as a reader types them, in a folder without runs and shards.

Only numbers are smaller: two steps a stage, a few clips. Servers, benchmarks and commands that need somebody's own data
are not among them.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from serve.samples import sample_path
from tests.printed import GIVEN, ROOT, Command, printed_in

GENERATED = ("runs", "shards", "outputs", ".git")  # what a fresh copy does not have
SAMPLES = {"PORTRAIT.jpg": "portrait", "SPEECH.mp3": "speech"}
SMALLER = {
    "data.characters": ["test=2", "workers=1", "anny_share=1"],
    "train.py": ["trainer.max_steps=2"],
    "evaluate.py": ["clips=1", "listeners=0", "drawn=0", "seeds=1", "speed_runs=1"],
    "serve.generate": [],
}


OF_PIXELS = {"data.characters": ["train=3", "val=2"]}
OF_MOTION = {"train.py": ["finish.people=2"], "evaluate.py": ["shown=1"]}


def smaller(command: Command) -> list[str]:
    """What keeps a command short; people for the chain of motion latents are rendered for its evaluation alone."""
    of_motion = {"experiment=nano_motion", "train=0", "runs=runs/nano"} & set(command.arguments)
    return SMALLER[command.script] + (OF_MOTION if of_motion else OF_PIXELS).get(command.script, [])


def for_one_reader() -> list[Command]:
    """Those that need nothing but the repository and one machine, in the order of the page."""
    commands = [one for one in printed_in(ROOT / "README.md") if one.script in SMALLER and one.devices == 1]
    return [one for one in commands if not _needs_own_data(one)]


def _needs_own_data(command: Command) -> bool:
    values = [word.partition("=")[2] for word in command.arguments]
    return any(GIVEN.match(value) and value not in SAMPLES for value in values)


def copy_of_the_repository(folder: Path) -> Path:
    for path in ROOT.iterdir():
        if path.name not in GENERATED:
            (folder / path.name).symlink_to(path)
    return folder


def run(command: Command, folder: Path) -> None:
    words = [command.script] if command.script.endswith(".py") else ["-m", command.script]
    for word in command.arguments:
        key, _, value = word.partition("=")
        words.append(f"{key}={sample_path(SAMPLES[value])}" if value in SAMPLES else word)
    words += smaller(command)
    environment = os.environ | {"WANDB_MODE": "offline", "GWM_TRACEBACK": "1"}
    done = subprocess.run([sys.executable, *words], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{command.where}: {words}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"


def test_most_of_the_page_is_run():
    commands = for_one_reader()
    assert {command.script for command in commands} == set(SMALLER) and len(commands) >= 5


@pytest.mark.acceptance
@pytest.mark.timeout(3600)  # minutes on a quiet machine, a quarter of an hour on a busy one
def test_the_commands_of_the_readme_run_one_after_the_other(tmp_path: Path):
    """What one leaves, the next one finds."""
    folder = copy_of_the_repository(tmp_path)
    for command in for_one_reader():
        run(command, folder)
    assert (folder / "talk.mp4").stat().st_size > 1000
