"""The decorator of every command that reads its settings with Hydra."""

import difflib
import functools
import os
import re
import sys
from collections.abc import Callable, Collection, Mapping
from typing import Any

import hydra
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from configs.command.overrides import quoted
from configs.command.refusal import ROOT, refusals, report, root_cause, sentence

CONFIGS = ROOT / "configs"
UNKNOWN = re.compile(r"Could not override '(.+?)'")
SEVERAL = re.compile(r"Ambiguous value for argument '(.+?)'\n")
NEGATIVE = re.compile(r"([\w.]+)=(-[\d.]+(?:e[+-]?\d+)?)")
NO_CHOICE = re.compile(r"You must specify '(.+?)'.*Available options:\s+(.*)", re.DOTALL)
GROUP = re.compile(r"[\w/]+=\w+")
HELP = ("--help", "-h")
HYDRAS = re.compile(r"^(?:defaults|hydra):\n(?:[ -].*\n|\n)*", re.MULTILINE)  # settings of Hydra itself
KINDS = {bool: "true or false", int: "a number", float: "a number"}

Task = Callable[[DictConfig], Any]


def command(
    config: str, *, verbatim: Collection[str] = (), chain: str | None = None
) -> Callable[[Task], Callable[[], None]]:
    """Make a function of its settings the main function of a command; `configs/<config>.yaml` holds the settings.

    verbatim: settings taken to the letter, such as paths (see `configs.command.overrides.quoted`).
    chain: the setting whose values build on each other: with `-m` the first that fails ends the run. Members that vary
        other settings stand by themselves: the others go on, and the exit status is 1 in the end.
    """

    def decorate(task: Task) -> Callable[[], None]:
        @functools.wraps(task)
        def main() -> None:
            given, reported = sys.argv[1:], []
            if not set(HELP).isdisjoint(given):
                print(help_text(config, about=sys.modules[task.__module__].__doc__ or ""))
                return print("\nSettings are given as key=value. --cfg job shows those of groups too.")
            several = not {"-m", "--multirun"}.isdisjoint(given)
            arguments = quoted(given, verbatim, multirun=several)
            explain = functools.partial(explained, config=config, arguments=arguments)
            ends = not several or any(_sweeps(argument, chain) for argument in given)

            @functools.wraps(task)
            def member(cfg: DictConfig) -> Any:
                sys.argv[1:] = given  # for processes that are started with the same command line
                try:
                    return task(cfg)
                except Exception as error:
                    report(error, explain)  # now: other members may take hours
                    reported.append(root_cause(error))
                    if ends:
                        sys.exit(1)
                    raise

            os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises, and `refusals` reports
            sys.argv[1:] = arguments
            with refusals(explain, reported):
                refuse_negative(config, arguments)
                hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name=config)(member)()

        return main

    return decorate


def help_text(config: str, *, about: str) -> str:
    """What a command is about, its settings as their file has them, and the choices of the groups that it names."""
    path = CONFIGS / f"{config}.yaml"
    rows = [about.strip(), "", HYDRAS.sub("", path.read_text()).strip()]
    defaults: Any = OmegaConf.to_container(OmegaConf.load(path))
    for entry in defaults["defaults"]:
        if entry != "_self_" and isinstance(entry, str):
            rows += ["", help_text(entry, about=f"And what configs/{entry}.yaml has:")]
        for group, choice in entry.items() if isinstance(entry, dict) else ():
            choices = sorted(path.stem for path in (CONFIGS / group).glob("*.yaml"))
            rows += [f"{group}: {choice}  # one of {', '.join(choices)}"] if choices else []
    return "\n".join(rows)


def _sweeps(argument: str, key: str | None) -> bool:
    name, _, value = argument.partition("=")
    return name == key and "," in value


def explained(error: Exception, *, config: str, arguments: list[str]) -> str | None:
    """A sentence about settings that are unknown, missing, of another kind or no choice; None for other errors."""
    file = f"configs/{config}.yaml"
    if isinstance(error, MissingConfigException) and error.missing_cfg_file and error.options:
        group, _, choice = error.missing_cfg_file.rpartition("/")
        return f"{group}={choice} must be one of {', '.join(error.options)}.{_nearest(choice, error.options)}"
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        return f"--config-name {error.missing_cfg_file} must be the name of a file configs/*.yaml, and there is none."
    if match := SEVERAL.match(str(error)):
        return f"{match[1]} is several values. As a list: key=[a,b]. As one text: 'key=\"a,b\"'. A run for each: -m."
    if isinstance(error, MissingMandatoryValue) and error.full_key:
        return f"{error.full_key}=... must be given: {file} says what it is."
    if isinstance(error, ConfigCompositionException) and (match := NO_CHOICE.match(str(error))):
        return f"{match[1]}=... must be given, one of: {', '.join(match[2].split())}."
    if isinstance(error, ConfigCompositionException) and (match := UNKNOWN.match(str(error))):
        near = _nearest(match[1], list(_keys(defaults(config, arguments))))
        return f"{match[1]} is no setting of this command.{near} {file} names all of them, and so does --help."
    return None if sentence(error) else _of_another_kind(_keys(defaults(config, arguments)), arguments)


def _nearest(name: str, names: Collection[str]) -> str:
    """ " Did you mean ...?" where one of the names, or the last part of one, is near."""
    last = [other for other in names if other.rpartition(".")[2] == name]
    found = difflib.get_close_matches(name, names, 1) or last[:1] or difflib.get_close_matches(name, names, 1, 0.5)
    return f" Did you mean {found[0]}?" if found else ""


def _of_another_kind(known: Mapping[str, Any], arguments: list[str]) -> str | None:
    """A sentence about an argument that is text where a number or a truth value is expected; None where there is none.
    Asked before an error is taken for a bug."""
    for argument in arguments:
        key, _, value = argument.partition("=")
        if type(default := known.get(key)) in KINDS and isinstance(yaml_value(value), str) and "${" not in value:
            return f"{argument} must be {KINDS[type(default)]}, such as {key}={str(default).lower()}."
    return None


def refuse_negative(config: str, arguments: list[str]) -> None:
    """Refuse counts, sizes, seconds and rates below 0, where the default is not below 0.

    Raises:
        ValueError: one of them is given as a negative number.
    """
    below = [match.groups() for argument in arguments if (match := NEGATIVE.fullmatch(argument))]
    known = _keys(defaults(config, arguments)) if below else {}
    for key, value in below:
        default = known.get(key)
        if isinstance(default, int | float) and default >= 0:
            raise ValueError(f"{key}={value} must be at least 0, such as {key}={default}.")


def yaml_value(text: str) -> Any:
    return OmegaConf.create(f"value: {text}").value


def defaults(config: str, arguments: list[str]) -> DictConfig:
    """Settings of a command with the groups that its arguments choose; empty where these cannot be composed."""
    groups = [argument for argument in arguments if GROUP.fullmatch(argument)]
    chosen = [group for group in groups if (CONFIGS / group.partition("=")[0]).is_dir()]
    there = GlobalHydra.instance()
    under_way, there.hydra = there.hydra, None  # of the member that failed
    try:
        with initialize_config_dir(str(CONFIGS), version_base="1.3"):
            return compose(config, overrides=chosen)
    except (HydraException, OmegaConfBaseException):
        return OmegaConf.create()
    finally:
        there.hydra = under_way


def _keys(node: Any, path: str = "") -> dict[str, Any]:
    """Every setting below a node, by its name with dots."""
    node = OmegaConf.to_container(node, resolve=False) if isinstance(node, DictConfig) else node
    found = {}
    for name, value in node.items() if isinstance(node, dict) else ():
        found |= {f"{path}{name}": value, **_keys(value, f"{path}{name}.")}
    return found
