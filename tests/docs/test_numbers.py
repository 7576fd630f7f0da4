"""Every number in README and docs is one that a committed file holds."""

import csv
import json
import re
from pathlib import Path
from typing import Any

import pytest

from gwm.clock import FPS

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SCALE = {"s": 1e-3, "%": 1.0}  # of a value in a file, by the unit on the page; JSON has milliseconds
FRACTION = re.compile(r"\**[-+]?\d+\.\d+\**( (ms|s|dB|GB|MB|%))?")
Row = tuple[str, ...]


def cells(line: str) -> Row:
    return tuple(cell.strip() for cell in line.strip().strip("|").split("|"))


def tables(page: str) -> list[tuple[str, list[Row]]]:
    """Every table with the last line of text before it; rows without the rule below the heading."""
    found, before, lines = [], "", page.splitlines()
    while lines:
        line = lines.pop(0)
        if not line.startswith("|"):
            before = line.strip() or before
            continue
        rows = [line]
        while lines and lines[0].startswith("|"):
            rows.append(lines.pop(0))
        found.append((before, [cells(row) for row in (rows[0], *rows[2:])]))
    return found


def entry(file: str, path: str) -> Any:
    value = json.loads((ROOT / file).read_text())
    for part in path.split("/"):
        value = value[int(part)] if isinstance(value, list) else value[part]
    return value


def measured(source: str) -> float:
    """The entry, or the ratio of two entries, that a cell such as `` `file` `path over path` `` names."""
    file, path = re.fullmatch(r"`([^`]+)` `([^`]+)`", source).groups()  # type: ignore[union-attr]
    values = [entry(file, part) for part in path.split(" over ")]
    numbers = [float(value if not isinstance(value, list) else len(value)) for value in values]
    return numbers[0] if len(numbers) == 1 else numbers[0] / numbers[1]


def shown(value: float, like: str) -> str:
    """`value` with the decimals and in the unit of `like`."""
    number, unit = re.match(r"([-+]?[\d.,]+(?:e-?\d+)?)\s*(\S*)", like).groups()  # type: ignore[union-attr]
    value *= SCALE.get(unit, 1.0)
    if "e" in number:
        return f"{value:.{len(number.split('e')[0].split('.')[1])}e}"
    decimals = len(number.split(".")[1]) if "." in number else 0
    sign = "+" if number.startswith("+") else ""
    return f"{value:{sign}.{decimals}f}"


RESULTS = [
    row
    for _, (heading, *rows) in tables((ROOT / "docs" / "results.md").read_text())
    if heading == ("claim", "value", "required", "source")
    for row in rows
]


@pytest.mark.parametrize("row", RESULTS, ids=lambda row: row[0])
def test_a_claim_is_what_its_file_holds(row: Row):
    _, value, _, source = row
    number = re.match(r"[-+]?[\d.]+(?:e-?\d+)?", value)
    assert number is not None, value
    assert shown(measured(source), value) == number[0]


def test_the_readmes_numbers_are_rows_of_the_results():
    rows = [
        row for _, (heading, *rows) in tables(PAGES[0].read_text()) if heading[:2] == ("claim", "value") for row in rows
    ]
    assert rows
    known = {row[:2] for row in RESULTS}
    assert [row for row in rows if row[:2] not in known] == []


SOURCED = [
    (page.name, before, rows)
    for page in PAGES
    for before, rows in tables(page.read_text())
    if before.startswith("Source:")
]


@pytest.mark.parametrize(("name", "source", "rows"), SOURCED, ids=lambda value: value if isinstance(value, str) else "")
def test_a_table_is_its_source(name: str, source: str, rows: list[Row]):
    path = ROOT / re.search(r"`(.+)`", source)[1]  # type: ignore[index]
    if path.suffix == ".csv":
        with path.open(newline="") as stream:
            expected = [tuple(cell.strip() for cell in row) for row in csv.reader(stream)]
    else:
        columns = ("path_tv", "emission_tv", "flips", "spread")
        measures = json.loads(path.read_text())["measures"]
        expected = [rows[0]] + [(k, *(f"{found[c]:.3f}" for c in columns)) for k, found in measures.items()]
    assert rows == expected


def test_every_table_of_measurements_names_its_source():
    """A table with three decimal fractions or more is one of measurements."""
    unsourced = [
        (page.name, rows[0])
        for page in PAGES
        for before, rows in tables(page.read_text())
        if not before.startswith("Source:")
        and rows[0][:2] not in (("claim", "value"), ("recipe", "stage"))  # the latter: tests/train/test_plans.py
        and sum(
            bool(re.fullmatch(r"\**[-+]?\d+\.\d+\**( (ms|s|dB|GB|MB|%))?", cell)) for row in rows[1:] for cell in row
        )
        >= 3
    ]
    assert unsourced == []


def test_every_source_is_shown_in_some_page():
    named = {re.search(r"`(.+)`", source)[1] for _, source, _ in SOURCED}  # type: ignore[index]
    files = {str(path.relative_to(ROOT)) for path in (ROOT / "docs" / "experiments").glob("*.csv")}
    assert files <= named


# Numbers in sentences that define something, with where they come from.
DEFINED = {
    "80 GB": True,  # memory of an H100, after the data sheet
    "141 GB": True,  # of an H200
    "24 frames per second": FPS == 24,
    "24 fps": FPS == 24,
}


def sentences(page: str) -> str:
    """What is neither table, code, picture nor link target; arXiv numbers and versions left out."""
    page = re.sub(r"```.*?```", "", page, flags=re.DOTALL)
    page = re.sub(r"^(\||    |Source:|Command).*$", "", page, flags=re.MULTILINE)
    page = re.sub(r"`[^`]*`|\]\([^)]*\)", "", page)
    page = re.sub(
        r"\(?(arXiv:)?\d{4}\.\d{5}\)?|(Wan|Python >=|Apache-|GPL-) ?[\d.]+( [\d.]+B)?|^#.*$",
        "",
        page,
        flags=re.MULTILINE,
    )
    return page


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_number_in_a_sentence_is_in_a_table_too_or_defined(page: Path):
    text = sentences(page.read_text())
    for phrase, holds in DEFINED.items():
        assert holds
        text = text.replace(phrase, "")
    known = {
        number.lstrip("+-")
        for other in PAGES
        for _, rows in tables(other.read_text())
        for row in rows
        for cell in row
        for number in re.findall(r"\d+(?:\.\d+)?", cell)
    }
    said = re.findall(r"\d+\.\d+|\d+(?= (?:ms|s|dB|GB|MB|kB|%|times|min|minutes|hours|px)\b)", text)
    assert [number for number in said if number not in known] == []


def test_the_minutes_of_make_run_are_those_measured():
    (minutes,) = re.findall(
        r"^make run +# about (\d+) minutes on 2 cores", (ROOT / "README.md").read_text(), re.MULTILINE
    )
    assert int(minutes) == round(entry("evaluate/results/run_nano_cpu.json", "wall_ms") / 60_000)
