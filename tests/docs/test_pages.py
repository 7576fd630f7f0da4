"""What README and docs say exists: traps, tests, files, modules, pages."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
TRAPS = (ROOT / "docs" / "traps.md").read_text()
# Traps that cannot occur: the row says why instead.
REASONED = {9: "sizes come from tensors", 18: "nothing is compiled in training"}


def test_every_trap_names_a_test_or_says_why_it_cannot_occur():
    rows = {int(number): text for number, text in re.findall(r"^\| (\d+) \|(.*)$", TRAPS, flags=re.MULTILINE)}
    assert sorted(rows) == list(range(1, 21))
    assert {number for number, text in rows.items() if "`test_" not in text} == set(REASONED)
    assert all(reason in rows[number] for number, reason in REASONED.items())


def test_every_test_that_is_named_exists():
    """In a file of tests; a case in brackets is one of its parameters'."""
    code = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    named = [found for page in PAGES for found in re.findall(r"`(test_\w+)(?:\[([\w-]+)\])?`", page.read_text())]
    assert len(named) > 20
    assert [name for name, _ in named if f"def {name}(" not in code] == []
    for part in (part for _, case in named for part in case.split("-") if part):
        assert f'"{part}"' in code, part


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_file_module_and_page_that_is_named_exists(page: Path):
    text = page.read_text()
    files = re.findall(r"`((?:[a-z_]+/)+[\w.]+\.(?:py|yaml|json|csv|svg))`", text)
    assert [path for path in files if not path.startswith(("runs/", "shards/")) and not (ROOT / path).is_file()] == []
    links = re.findall(r"\]\(([\w/.]+)\)", text)
    assert [link for link in links if not (page.parent / link).exists()] == []
    modules = {module.replace(".", "/") for module in re.findall(r"python -m ([a-z_]+(?:\.[a-z_]+)*)", text)}
    assert [m for m in modules if not any((ROOT / f).is_file() for f in (f"{m}.py", f"{m}/__main__.py"))] == []


def test_the_toys_student_reaches_the_aim_of_paths_and_flips():
    measures = json.loads((ROOT / "docs" / "toy.json").read_text())["measures"]
    student, data = measures["DMD, 4 steps"], measures["data"]
    assert student["path_tv"] <= 0.06 and abs(student["flips"] / data["flips"] - 1) < 0.1
