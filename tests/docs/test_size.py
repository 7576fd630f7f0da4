"""docs/walk.md says how large the code is, and how much of it are features that came later."""

import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("configs", "data", "distill", "evaluate", "gwm", "kernels", "serve", "train")
SECTION = next(s for s in (ROOT / "docs" / "walk.md").read_text().split("\n## ") if s.startswith("How large"))
ROWS = [[cell.strip() for cell in line.split("|")[1:-1]] for line in SECTION.splitlines() if line.startswith("| ")][1:]
BEFORE, NOW, *FEATURES, SAME = ROWS
# By which a row may be off, as the table is not edited with every change: so much of it, or so many.
SHARE, FEW_FILES, FEW_LINES = 0.05, 3, 250


def files(*paths: str) -> list[Path]:
    return [file for path in paths for file in ([ROOT / path] if path.endswith(".py") else (ROOT / path).rglob("*.py"))]


@cache
def size(*paths: str) -> tuple[int, int]:
    """Files and lines of Python code in files and folders."""
    found = files(*paths)
    return len(found), sum(len(file.read_text().splitlines()) for file in found)


def number(cell: str) -> int:
    return int(cell.replace(",", ""))


def check(row: list[str], found: tuple[int, int]) -> None:
    said, few = (number(row[2]), number(row[3])), (FEW_FILES, FEW_LINES)
    off = [abs(a - b) > max(count, SHARE * b) for a, b, count in zip(said, found, few, strict=True)]
    assert not any(off), f"docs/walk.md: {row[0]} must have {found[0]} files and {found[1]:,} lines, has {said}."


def test_the_whole_is_counted():
    check(NOW, size(*PACKAGES, "train.py", "evaluate.py"))


@pytest.mark.parametrize("row", FEATURES, ids=lambda row: row[0])
def test_a_feature_is_counted(row: list[str]):
    paths = re.findall(r"`([^`]+)`", row[1])
    assert paths and [path for path in paths if not (ROOT / path).exists()] == []
    check(row, size(*paths))


def test_no_file_is_counted_twice():
    named = [path for row in FEATURES for path in re.findall(r"`([^`]+)`", row[1])]
    assert len(set(files(*named))) == len(files(*named))


def test_the_rest_is_the_whole_without_the_features():
    for column in (2, 3):
        later = sum(number(row[column]) for row in FEATURES)
        assert number(SAME[column]) == number(NOW[column]) - later
    assert number(SAME[2]) < number(BEFORE[2])
