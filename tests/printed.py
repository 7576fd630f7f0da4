"""Commands as people read them: in README, docs, Makefile and heads of configuration files, composed but not run."""

import copy
import itertools
import re
import shlex
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

from data.steps import split_batch
from tests.test_configs import composed
from train.recipe import check_recipe

ROOT = Path(__file__).parents[1]
DOCS = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
MAKE_TARGETS = ("run", "run-pixels", "character", "character-256", "serve", "bench-gpu")
GIVEN = re.compile(r"^[A-Z]")  # a placeholder: a file or folder of the reader's own
# Settings that name what a command reads; whatever else is a path, it writes.
INPUTS = {
    *("init", "teacher", "vae", "speech", "student", "weights", "shards", "pairs", "sync", "base", "folder"),
    *("artifact", "baseline", "runs", "image", "audio", "user", "videos", "report", "stages"),
}


@dataclass(frozen=True)
class Command:
    """One run of an entry point of ours."""

    where: str  # file and line
    script: str  # train.py, or a module
    arguments: tuple[str, ...]  # Hydra's
    devices: int = 1

    @property
    def source(self) -> str:
        """Code of the entry point.

        Raises:
            FileNotFoundError: there is no such script or module.
        """
        stem = ROOT / self.script.removesuffix(".py").replace(".", "/")
        path = next((p for p in (stem.with_suffix(".py"), stem / "__main__.py") if p.is_file()), stem)
        return path.read_text()

    @property
    def config_name(self) -> str | None:
        """None of a program without Hydra."""
        if "--config-name" in self.arguments:
            return self.arguments[self.arguments.index("--config-name") + 1]
        found = re.search(r'config_name="(\w+)"|@command\("(\w+)"', self.source)
        return None if found is None else found[1] or found[2]

    @property
    def overrides(self) -> list[Override]:
        words = iter(self.arguments)
        texts = [w for w in words if not w.startswith("-") or (w == "--config-name" and not next(words))]
        return OverridesParser.create().parse_overrides(texts)

    def jobs(self) -> Iterator[tuple[list[str], DictConfig]]:
        """What each run of it is configured with: one, or each member of a multirun.

        Raises:
            ValueError: a list of values without -m.
        """
        name = self.config_name
        if name is None:
            return
        choices = [list(_values(one)) for one in self.overrides]
        if max(map(len, choices), default=1) > 1 and not {"-m", "--multirun"} & set(self.arguments):
            raise ValueError(f"{self.where}: {self.arguments} has a list of values, must have -m.")
        for chosen in itertools.product(*choices):
            yield list(chosen), composed(name, list(chosen))


def _values(override: Override) -> list[str]:
    if not override.is_sweep_override():
        return [override.input_line or ""]
    return [f"{override.get_key_element()}={value}" for value in override.sweep_string_iterator()]


def printed_in(path: Path) -> list[Command]:
    """Fenced and indented blocks, and code within lines."""
    commands, block, joined = [], None, ""  # block: the language of the fenced block that a line is in
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if line.startswith("```"):
            block = line.strip("` ") if block is None else None
            continue
        if block in ("", "bash", "sh") or (block is None and line.startswith("    ")):
            joined += line.strip()
            if joined.endswith("\\"):
                joined = joined[:-1]
                continue
            commands += commands_of(joined, f"{path.name}:{number}")
            joined = ""
        elif block is None:
            for code in re.findall(r"`((?:python|torchrun) [^`]+)`", line):
                commands += commands_of(code, f"{path.name}:{number}")
    return commands


def in_config_heads() -> list[Command]:
    """Comments at the beginning of configuration files; `[key=value]` there is an option."""
    commands = []
    for path in sorted((ROOT / "configs").rglob("*.yaml")):
        text = "\n".join(line[2:] for line in path.read_text().splitlines() if line.startswith("# "))
        for line in re.findall(r"^(?:python|torchrun) .*(?:(?<=\\)\n.*)*", text, re.MULTILINE):
            words = re.sub(r"\\\n\s*", " ", line).split("  ")[0].split(" : ")[0].split(": ")[0].split(" ; ")[0]
            options = re.sub(r"(?<= )\[([^\]=]+=[^\]]*)\]", r"\1", words)
            options = re.sub(r" \[[^\]=]*\]", "", options)
            if "..." not in options:
                kept = " ".join(word for word in options.split(" ") if "|" not in word)
                commands += commands_of(kept.rstrip(" .,"), str(path.relative_to(ROOT)))
    return commands


def made_by_make() -> list[Command]:
    commands = []
    for target in MAKE_TARGETS:
        done = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True, check=True)
        for line in done.stdout.splitlines():
            if re.match(r"([A-Z_]+=\S+ )*\.venv/bin/python", line) and "pip install" not in line:
                commands += commands_of(re.sub(r"\$\([^)]*\)", "OUTPUT", line), f"make {target}")
    return commands


def commands_of(line: str, where: str) -> list[Command]:
    """Those of our entry points in a line of shell."""
    found = []
    for part in line.split(";") if "'" not in line else [line]:
        words = shlex.split(part, comments=True)
        while words and re.match(r"[A-Z_]+=", words[0]):
            words = words[1:]
        if not words or Path(words[0]).name not in ("python", "torchrun"):
            continue
        devices, rest = 1, words[1:]
        if rest[:1] == ["--nproc_per_node"]:
            devices, rest = int(rest[1]), rest[2:]
        if rest[:1] == ["-m"]:
            rest = rest[1:]
        if rest and rest[0] != "-c":  # a check of the set-up
            found.append(Command(where, rest[0], tuple(rest[1:]), devices))
    return found


def resolved(cfg: DictConfig) -> dict[str, Any]:
    """All but Hydra's own part.

    Raises:
        MissingMandatoryValue: a setting must be given and is not.
    """
    own = copy.deepcopy(cfg)
    OmegaConf.set_struct(own, False)
    own.pop("hydra")
    if "call" in own:  # nothing is trained
        own.trainer.max_steps = 0
    plain = OmegaConf.to_container(own, resolve=True, throw_on_missing=True)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def check_job(command: Command, cfg: DictConfig) -> None:
    """Raises what running the command would before its first step, as far as settings decide it."""
    resolved(cfg)
    if command.script != "train.py":
        return
    choices = HydraConfig.get().runtime.choices
    check_recipe(cfg, stage=choices["stage"], model=choices["model"])
    if "call" not in cfg:
        split_batch(cfg.data.batch_size, cfg.device_batch, cfg.planner.devices if cfg.plan else command.devices)


def consumed(command: Command, cfg: DictConfig) -> dict[str, Any]:
    """What the entry point reads of its configuration."""
    keys = set(re.findall(r"cfg\.(\w+)", command.source))
    if "cfg[" in command.source:  # by names in quotes, or by those of a class
        keys |= set(re.findall(r'"(\w+)"', command.source))
        for name in re.findall(r"in (\w+)\.__slots__", command.source):
            keys |= set(getattr(import_module(command.script), name).__slots__)
    if command.script == "train.py":
        keys = {"call"} if "call" in cfg else keys
    if re.search(r"to_container\(cfg|\*\*cfg(?!\.)|instantiate\(cfg,", command.source):
        keys = set(map(str, cfg))
    return {key: value for key, value in resolved(cfg).items() if key in keys}


def inputs(command: Command, cfg: DictConfig) -> set[str]:
    """Files and folders that a job reads."""

    def below(node: Any, key: str) -> Iterator[str]:
        if isinstance(node, dict):
            for name, value in node.items():
                yield from below(value, name)
        elif isinstance(node, list):
            for value in node:
                yield from below(value, key)
        elif isinstance(node, str) and key in INPUTS:
            yield node

    read = consumed(command, cfg)
    if command.script == "train.py":
        read = {key: value for key, value in read.items() if key in ("stage", "data", "call")}
    return set(below(read, "")) - {cfg.get("output")}


def outputs(command: Command, cfg: DictConfig) -> set[str]:
    """Files and folders that a job leaves."""
    if command.script == "train.py":
        out = cfg.call.get("out") if "call" in cfg else f"{cfg.output}/weights"
        return {str(out)}
    return {str(cfg.out)} if cfg.get("out") else set()


def is_there(path: str, made: set[str]) -> bool:
    """Whether a command finds `path`: it ships, an earlier one made it or parts of it, or it is the reader's."""
    parts = Path(path).parts
    if any(GIVEN.match(part) for part in parts) or (ROOT / path).exists():
        return True
    return any(
        Path(one).parts[: len(parts)] == parts or parts[: len(Path(one).parts)] == Path(one).parts for one in made
    )
