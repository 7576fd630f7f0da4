"""Settings on a command line whose values are taken to the letter: paths, names, texts.

Hydra reads values by a grammar of its own, in which a comma, a bracket or an umlaut means something. What is quoted is
read as it is; so paths are quoted here before Hydra sees them.
"""

import re
from collections.abc import Collection, Sequence
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException
from omegaconf.errors import GrammarParseError
from omegaconf.grammar_parser import parse

OVERRIDE = re.compile(r"([+]{0,2}[\w./@:-]+)=(.*)", re.DOTALL)
SWEEP = re.compile(r"(choice|glob|shuffle|sort|tag)\(.*\)", re.DOTALL)  # an explicit sweep over paths


def quoted(arguments: Sequence[str], verbatim: Collection[str], *, multirun: bool) -> list[str]:
    """The arguments with the values of the settings named in `verbatim` quoted.

    A setting counts by the last part of its name: `init` is also `stage.init`. Of a list in brackets each item is
    quoted. Left alone are `null`, values that are quoted already, interpolations (`${runs}/x`) unless a file of that
    name exists, and with `multirun` functions such as `choice(a,b)`: a plain comma belongs to the name.
    """
    return [_quoted(argument, verbatim, multirun=multirun) for argument in arguments]


def _quoted(argument: str, verbatim: Collection[str], *, multirun: bool) -> str:
    match = OVERRIDE.fullmatch(argument)
    if match is None or re.split(r"[./]", match[1].lstrip("+"))[-1] not in verbatim:
        return argument
    key, value = match.groups()
    if value in ("", "null", "???") or (multirun and SWEEP.fullmatch(value)):
        return argument
    there = _exists(value)
    if not there and value[0] in "\"'" and value[-1] == value[0] and _is_one_string(argument):
        return argument
    if not there and value[0] == "[" and value[-1] == "]":
        return argument if _is_read(argument) else f"{key}=[{','.join(map(_literal, value[1:-1].split(',')))}]"
    return f"{key}={_literal(value, keep_interpolations=not there)}"


def _literal(value: str, *, keep_interpolations: bool = True) -> str:
    """The value as Hydra's grammar writes it."""
    if "${" in value and not (keep_interpolations and _is_interpolation(value)):
        value = re.sub(r"(\\*)\$\{", r"\1\1\\${", value)
    return QuotedString(value, Quote.single).with_quotes()


def _exists(value: str) -> bool:
    try:
        return Path(value).exists()
    except (OSError, ValueError):  # a name that no file system takes
        return False


def _is_read(argument: str) -> bool:
    try:
        OverridesParser.create().parse_override(argument)
    except HydraException:
        return False
    return True


def _is_one_string(argument: str) -> bool:
    return _is_read(argument) and isinstance(OverridesParser.create().parse_override(argument).value(), str)


def _is_interpolation(value: str) -> bool:
    try:
        parse(value)
    except GrammarParseError:
        return False
    return True
