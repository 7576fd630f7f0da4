"""The two optimizers' rhythm, what the log says from the first step on, and what stops a run."""

import copy
import csv
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.strategies import DeepSpeedStrategy
from torch import Tensor

from data.batch import LatentBatch
from distill.dmd_stage import DMDStage, check_passes
from distill.gan import GAN
from distill.health import CollapseAlarm, CollapseError
from distill.windows import FromReference, StreamingWindows, Window
from tests.train.test_resume import BATCH, RULES, LatentsInMemory, network, weights
from train.learner import Learner
from train.noise import Generators
from train.throughput import Accumulation

EVERY = 3  # critic updates per student update


class Diary(DMDStage):
    """Writes down at which batches each network learns; from `sick_from` on its clips are all saturated."""

    sick_from = 10**6

    def __init__(self, **how: Any) -> None:
        super().__init__(**how)
        self.turns: dict[str, list[int]] = {"student": [], "critic": []}
        self.left: list[float] = []  # noise levels at which rollouts left
        self.now = -1

    def training_step(self, batch: LatentBatch, batch_idx: int) -> None:
        self.now = batch.step
        super().training_step(batch, batch_idx)

    def student_loss(self, window: Window, batch: LatentBatch, generator: Generators) -> Tensor:
        self.turns["student"].append(self.now)
        loss = super().student_loss(window, batch, generator)
        if self.now >= self.sick_from and self.health is not None:
            self.health["saturation"] = torch.ones(())
        return loss

    def critic_loss(self, window: Window, generator: Generators) -> Tensor:
        self.turns["critic"].append(self.now)
        self.left.append(window.sigma_exit)
        return super().critic_loss(window, generator)


def diary(folders: dict[str, str], *, alarm: CollapseAlarm | None = None, **changes: Any) -> Diary:
    torch.manual_seed(2)
    how = {
        "init": folders["causal"], "teacher": folders["bidirectional"], "sigmas": [1.0, 0.5], "solver": "renoise",
        "context": "clean", "noise": "held", "exit": "uniform", "gradient": "detach",
        "windows": FromReference(), "rules": RULES,
        "critic_per_student": EVERY, "max_steps": 64, "clip_norm": 1.0, "alarm": alarm,
        "student": network(), "critic": network(), "seed": 0,
    }  # fmt: skip
    return Diary(**(how | changes))


def fit(
    stage: Diary, *, max_steps: int, resume: Path | None = None, device_batch: int | None = None, **trainer: Any
) -> Diary:
    """Train as train.py does, without its periodic checkpoints."""
    how = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    divided = [Accumulation()]
    made = L.Trainer(
        max_steps=max_steps, max_epochs=-1, enable_checkpointing=False, callbacks=divided, **(how | trainer)
    )  # fmt: skip
    data = LatentsInMemory(shards=".", batch_size=BATCH, num_workers=0, seed=0, device_batch=device_batch)
    made.fit(stage, data, ckpt_path=resume, weights_only=False)
    return stage


def updates(stage: DMDStage) -> list[int]:
    """Steps that each optimizer has made, from its own state."""
    made: Any = stage.trainer.optimizers
    return [int(next(iter(optimizer.state.values()))["step"]) for optimizer in made]


def test_both_learning_rates_reach_zero_when_the_run_ends(tmp_path: Path):
    steps = 4 * (EVERY + 1)
    stage = fit(diary(weights(tmp_path), max_steps=steps), max_steps=steps)
    assert updates(stage) == [4, 4 * EVERY]
    schedulers: Any = stage.lr_schedulers()
    assert [scheduler.get_last_lr() for scheduler in schedulers] == [[0.0], [0.0]]


def test_the_student_moves_at_every_third_step_of_the_critic_also_across_a_resume(tmp_path: Path):
    """30 batches, killed after the 14th, in the middle of a round: 10 and 30 updates, each at its own batch."""
    folders = weights(tmp_path)
    first = fit(diary(folders), max_steps=14 + 5)
    first.trainer.save_checkpoint(tmp_path / "killed.ckpt")
    second = fit(diary(folders), max_steps=30 + 10, resume=tmp_path / "killed.ckpt")
    assert first.turns["student"] + second.turns["student"] == list(range(0, 30, EVERY))
    assert first.turns["critic"] + second.turns["critic"] == list(range(30))
    assert updates(second) == [10, 30]
    left = first.left + second.left
    assert second.exit_counts.tolist() == [left.count(sigma) for sigma in (1.0, 0.5)] and min(second.exit_counts) > 0


@pytest.mark.parametrize("accelerator", ["cpu", pytest.param("gpu", marks=pytest.mark.gpu)])
def test_a_resumed_run_goes_on_in_the_middle_of_its_streams(tmp_path: Path, accelerator: str):
    """The second window follows on what was generated before the kill, which no batch brings back."""
    folders = weights(tmp_path)

    def streaming() -> Diary:
        return diary(folders, windows=StreamingWindows(stream_frames=9, overlap_frames=1))

    here: dict[str, Any] = {"accelerator": accelerator, "devices": 1}
    whole = fit(streaming(), max_steps=6, **here).state_dict()
    fit(streaming(), max_steps=3, **here).trainer.save_checkpoint(tmp_path / "killed.ckpt")
    resumed = fit(streaming(), max_steps=6, resume=tmp_path / "killed.ckpt", **here).state_dict()
    assert [name for name, value in whole.items() if not torch.equal(value, resumed[name])] == []


def watched(stage: Diary, networks: dict[str, torch.nn.Module]) -> list[set[str]]:
    """Fills with the names of the networks that each update moves."""
    moved: list[set[str]] = []
    update = stage._update

    def watch(*arguments: Any) -> None:
        before = {name: [p.detach().clone() for p in network.parameters()] for name, network in networks.items()}
        update(*arguments)
        same = {n: all(map(torch.equal, before[n], network.parameters())) for n, network in networks.items()}
        moved.append({name for name in networks if not same[name]})

    stage._update = watch  # type: ignore[method-assign]
    return moved


def test_an_update_moves_its_own_network_and_no_other(tmp_path: Path):
    stage = diary(weights(tmp_path))
    moved = watched(stage, {"student": stage.network.model, "critic": stage.critic.model, "teacher": stage.teacher})
    fit(stage, max_steps=3)
    assert moved == [{"student"}, {"critic"}, {"critic"}]


def test_the_discriminator_moves_after_the_critic_and_its_updates_are_not_counted(tmp_path: Path):
    """max_steps=3 are two batches with and without it, so that the two runs can be compared."""
    gan = partial(GAN, layers=[1], width=4, weight=0.1, head=network())
    stage = diary(weights(tmp_path), gan=gan)
    assert stage.gan is not None
    moved = watched(stage, {"student": stage.network.model, "critic": stage.critic.model, "head": stage.gan})
    fit(stage, max_steps=3)
    assert moved == [{"student"}, {"critic"}, {"head"}, {"critic"}, {"head"}]
    assert updates(stage) == [1, 2, 2]


def logged(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def test_health_is_in_the_log_from_the_first_step(tmp_path: Path):
    stage, logger = diary(weights(tmp_path)), CSVLogger(tmp_path / "log", name="", version="")
    fit(stage, max_steps=4, logger=logger, log_every_n_steps=1)
    first = logged(tmp_path / "log")[0]
    wanted = ["critic_lag", "dmd_norm", "dmd_scale", "std_of_data", "motion_of_data", "saturation"]
    wanted += [f"{what}_chunk{number}" for what in ("mean", "std") for number in range(3)]
    assert all(float(first[f"health/{name}"]) == pytest.approx(float(first[f"health/{name}"])) for name in wanted)
    assert float(first["health/exit0"]) + float(first["health/exit1"]) == 1
    assert float(first["health/critic_lag"]) == pytest.approx(1, rel=1e-3)  # the critic begins as the teacher


def test_the_alarm_stops_a_collapse_and_keeps_the_state_from_before(tmp_path: Path):
    folders = weights(tmp_path)
    limits = {"saturation": (0.0, 0.9)}
    alarm = CollapseAlarm(folder=str(tmp_path), limits=limits, stop_after_updates=2, save_every_updates=1)
    stage = diary(folders, alarm=alarm)
    stage.sick_from = 6
    with pytest.raises(CollapseError, match=r"saturation=1 must be in \[0, 0.9\].*of step 3, is .*good.ckpt"):
        fit(stage, max_steps=40)
    assert stage.turns["student"] == [0, 3, 6, 9]
    good = torch.load(alarm.good, weights_only=False)["state_dict"]
    # Four batches, of which the first and the last were the student's: 4 + 2 optimizer steps.
    healthy = fit(diary(folders), max_steps=6).state_dict()
    assert [name for name, value in healthy.items() if not torch.equal(value, good[name])] == []


@pytest.mark.parametrize(
    "choice", [{"context": "noisy"}, {"noise": "fresh"}, {"solver": "ode"}, {"sink_ahead_frames": 2}], ids=str
)
def test_a_choice_of_training_is_in_the_contract_that_the_server_obeys(tmp_path: Path, choice: dict[str, Any]):
    folders = weights(tmp_path)
    assert diary(folders, **choice).contract == diary(folders).contract.replace(**choice) != diary(folders).contract
    assert diary(folders, **choice).contract.has_own_steps


def test_deepspeed_is_refused_with_the_alternative(tmp_path: Path):
    stage = diary(weights(tmp_path))
    stage._trainer = SimpleNamespace(strategy=DeepSpeedStrategy.__new__(DeepSpeedStrategy))  # type: ignore[assignment]
    with pytest.raises(ValueError, match=r"trainer=deepspeed must be .* DMD.*trainer=fsdp"):
        stage.configure_callbacks()


@pytest.mark.parametrize("windows", [FromReference(), StreamingWindows(stream_frames=7, overlap_frames=1)])
def test_a_batch_in_two_passes_is_a_batch_in_one(tmp_path: Path, windows: Any):
    """Both losses, at both rhythms; streams go on with their own samples. By plain gradient descent: Adam divides by
    numbers that are as small as the rounding of sums in another order."""
    descent = {"optimizer": partial(torch.optim.SGD, lr=0.01), "schedule_steps": 8, "warmup_steps": 2, "ema_decay": 0.9}
    folders, states = weights(tmp_path), []
    for at_once in (BATCH, BATCH // 2):
        learner = partial(Learner, **descent)
        stage = diary(folders, windows=copy.deepcopy(windows), student=learner, critic=learner)
        fit(stage, max_steps=6, device_batch=at_once)
        passes = BATCH // at_once
        assert stage.turns == {"student": sorted([0, 3] * passes), "critic": sorted([0, 1, 2, 3] * passes)}
        states.append(stage.state_dict())
    for key, value in states[0].items():
        if key != "exit_counts":  # of passes
            torch.testing.assert_close(states[1][key], value, rtol=1e-5, atol=1e-5, msg=key)


@pytest.mark.parametrize("option", ["gan", "reward"])
def test_what_needs_the_whole_batch_is_refused_in_passes(option: str):
    check_passes(1, gan=True, reward=True)
    with pytest.raises(ValueError, match=f"stage.{option} must be null where an update has 2 passes"):
        check_passes(2, **{"gan": False, "reward": False, option: True})


def test_a_ratio_below_one_is_an_error(tmp_path: Path):
    with pytest.raises(ValueError, match="critic_per_student=0 must be >= 1"):
        diary(weights(tmp_path), critic_per_student=0)
