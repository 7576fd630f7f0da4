"""Every command that is printed anywhere works as it stands: composed here, run in tests/test_acceptance.py."""

from typing import Any

import pytest
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.utils import instantiate
from omegaconf import DictConfig

from tests.printed import (
    DOCS,
    Command,
    check_job,
    commands_of,
    consumed,
    in_config_heads,
    inputs,
    is_there,
    made_by_make,
    outputs,
    printed_in,
    resolved,
)
from tests.test_configs import CONFIGS, check_targets, composed
from train.needs import described, needs
from train.plan import plan

# In the order in which a reader can run them: `make run` and the heads of recipes leave what README goes on from.
COMMANDS = [*made_by_make(), *in_config_heads(), *(one for path in DOCS for one in printed_in(path))]


IN_ORDER = [command.where for path in DOCS for command in printed_in(path)]


def _outputs(command: Command) -> set[str]:
    return set().union(*(outputs(command, cfg) for _, cfg in command.jobs()))


def names(command: Command) -> str:
    return f"{command.where} {command.script} {' '.join(command.arguments)}"


def another(override: Override, text: str) -> str | None:
    """The override with another value; None where it chooses a file, or nothing else of its kind."""
    key, _, value = text.partition("=")
    name = key.lstrip("+~").partition("@")[0]
    if (CONFIGS / name).is_dir():
        return None
    found: Any = override.value()
    if override.is_sweep_override() or value == "null":
        return None
    if isinstance(found, bool):
        return f"{key}={str(not found).lower()}"
    if isinstance(found, int | float):
        return f"{key}={found * 2 + 1}"
    if isinstance(found, list):
        return f"{key}={value[:-1]},{value[1:]}" if len(found) else None
    return None if isinstance(found, dict) else f"{key}={value}_other".replace("'_other", "_other'")


def distinct() -> list[Command]:
    """Each command once, where it is printed first."""
    return list({(c.script, c.arguments, c.devices): c for c in reversed(COMMANDS)}.values())


def settings() -> list[Any]:
    """Settings of all commands, each once for a program and the files that its command chooses."""
    found = {}
    for command in distinct():
        overrides = command.overrides if command.config_name else []
        others = [another(one, one.input_line or "") for one in overrides]
        files = tuple(one.input_line for one, other in zip(overrides, others, strict=True) if other is None)
        for index, override in enumerate(overrides):
            if others[index] is not None:
                place = command.script, files, override.key_or_group
                found[place] = pytest.param(
                    command, index, id=f"{command.script} {override.input_line} {command.where}"
                )
    return list(found.values())


def test_there_are_commands_to_check():
    scripts = [command.script for command in COMMANDS]
    assert scripts.count("train.py") > 30
    assert {"evaluate.py", "serve", "serve.generate", "data.characters", "data.ingest"} <= set(scripts)


@pytest.mark.parametrize("command", distinct(), ids=names)
def test_a_printed_command_composes_and_divides_its_batch(command: Command):
    if command.config_name is None:
        assert "__main__" in command.source
    for _, cfg in command.jobs():
        check_job(command, cfg)
        check_targets(consumed(command, cfg))


def test_what_a_printed_command_reads_is_made_by_an_earlier_one():
    heads = [job for command in COMMANDS if command.where not in IN_ORDER for job in _outputs(command)]
    made = set(heads)  # of which each recipe tells its own order
    for command in COMMANDS:
        for _, cfg in command.jobs():
            lost = sorted(path for path in inputs(command, cfg) if not is_there(path, made))
            assert not lost, f"{names(command)}: {lost} is made by no command before it"
            made |= outputs(command, cfg)


@pytest.mark.parametrize(("command", "index"), settings())
def test_what_a_printed_command_sets_arrives(command: Command, index: int):
    """With another value, what the entry point reads is another, beside the setting itself; and a setting below a
    `_target_` is a parameter of it, see `check_targets`."""
    texts, cfg = next(command.jobs())  # members of a multirun have the same settings
    before = consumed(command, cfg)
    other = str(another(command.overrides[index], texts[index]))
    changed = composed(str(command.config_name), [*texts[:index], other, *texts[index + 1 :]])
    assert consumed(command, changed) != before, f"{texts[index]} of {names(command)} changes nothing"


def test_a_setting_that_nobody_reads_would_be_found():
    """Else the test above would prove nothing."""
    for script, words in {"train.py": ("stage=dmd",), "evaluate.py": ("artifact=A", "shards=S")}.items():
        command = Command("here", script, (*words, "+nobody=1"))
        (_, plain), (_, other) = (next(c.jobs()) for c in (Command("here", script, words), command))
        assert consumed(command, plain) == consumed(command, other)
        assert "seed" in consumed(command, plain)


# stage=motion_export reads the checkpoint of its own run
@pytest.mark.parametrize(
    "stage", sorted(path.stem for path in (CONFIGS / "stage").glob("*.yaml") if path.stem != "motion_export")
)
def test_init_is_obeyed_by_every_stage_or_refused_by_name(stage: str):
    command = Command("here", "train.py", (f"stage={stage}", "init=DIR"))
    ((_, cfg),) = command.jobs()
    if stage in ("speech", "sync"):
        with pytest.raises(ValueError, match=rf"init=DIR must be left out: stage={stage}"):
            check_job(command, cfg)
    else:
        check_job(command, cfg)
        assert "DIR" in inputs(command, cfg)


@pytest.mark.parametrize(
    ("line", "rule"),
    [
        (
            "torchrun --nproc_per_node 8 train.py stage=causal trainer=fsdp device_batch=4",
            "batch_size=2 must be a mult",
        ),
        ("python train.py stage=causal plan=true planner.devices=8 trainer=fsdp", "batch_size=2 must be"),
        ("python train.py stage=causal model=wan2_1_1_3b init=DIR", "experiment=wan2_1_t2v_1_3b or experiment="),
        ("python train.py stage=dmd model=wan2_1_14b experiment=wan2_1_t2v_1_3b base=DIR", "experiment=wan2_1_t2v_14b"),
        ("python train.py stage=long experiment=wan2_1_i2v_14b base=DIR", "stage=long must be one of"),
        ("python train.py stage=dmd,long", "must have -m"),
    ],
)
def test_what_cannot_run_is_refused_before_anything_is_loaded(line: str, rule: str):
    (command,) = commands_of(line, "here")
    with pytest.raises(ValueError, match=rule):
        for _, cfg in command.jobs():
            check_job(command, cfg)


def test_a_key_that_does_not_exist_is_an_error():
    (command,) = commands_of("python train.py stage=causal stage.forcign=teacher", "here")
    with pytest.raises(HydraException, match="forcign"):
        list(command.jobs())


def planned() -> dict[str, tuple[DictConfig, str]]:
    """Configurations of all printed stages that can be planned, each once, with shallow networks and short clips."""
    found = {}
    for command in COMMANDS:
        for texts, cfg in command.jobs() if command.script == "train.py" else []:
            if "call" in cfg or not cfg.planned:
                continue
            small = ["planner.device_flops=1e12", f"num_frames={2 * cfg.pattern.chunk_frames}", *_shallow(cfg)]
            cfg = composed("train", [*texts, *small])
            plain = resolved(cfg)
            found[str((plain["stage"], plain["planner"]))] = cfg, names(command)
    return found


def _shallow(cfg: DictConfig) -> list[str]:
    layers = 1 + max(cfg.stage.gan.layers) if "gan" in cfg.stage and cfg.stage.gan else 2
    return [f"model.num_layers={layers}"]


@pytest.mark.acceptance
def test_every_printed_stage_can_be_planned():
    for cfg, name in planned().values():
        (build, num_layers), run = described(cfg), instantiate(cfg.planner)
        assert plan(run, needs(build, run, num_layers=num_layers)).flops_per_step > 0, name
