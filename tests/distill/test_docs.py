"""What the page on distillation says exists: twenty traps, the tests that close them, files and commands."""

import json
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
TOY = json.loads((ROOT / "docs" / "toy.json").read_text())["measures"]
PAGE = (ROOT / "docs" / "distillation.md").read_text()
# Traps that cannot occur: the row says why instead.
REASONED = {9: "sizes come from tensors", 18: "nothing is compiled in training"}


def test_every_trap_names_a_test_or_says_why_it_cannot_occur():
    rows = {int(number): text for number, text in re.findall(r"^\| (\d+) \|(.*)$", PAGE, flags=re.MULTILINE)}
    assert sorted(rows) == list(range(1, 21))
    assert {number for number, text in rows.items() if "`test_" not in text} == set(REASONED)
    assert all(reason in rows[number] for number, reason in REASONED.items())


def test_every_test_that_is_named_exists():
    """In a file of tests; a case in brackets is one of its parameters'."""
    code = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    named = re.findall(r"`(test_\w+)(?:\[([\w-]+)\])?`", PAGE)
    assert len(named) > 20
    assert [name for name, _ in named if f"def {name}(" not in code] == []
    for part in (part for _, case in named for part in case.split("-") if part):
        assert f'"{part}"' in code, part


def test_every_file_and_module_that_is_named_exists():
    files = re.findall(r"`((?:[a-z_]+/)+\w+\.(?:py|yaml|json|svg))`|\]\((\w+\.svg)\)", PAGE)
    assert len(files) >= 4
    assert [path for path, picture in files if path and not (ROOT / path).is_file()] == []
    assert [picture for _, picture in files if picture and not (ROOT / "docs" / picture).is_file()] == []
    modules = set(re.findall(r"python -m ([a-z_]+\.[a-z_]+)", PAGE))
    assert modules and all((ROOT / f"{module.replace('.', '/')}.py").is_file() for module in modules)


def test_every_choice_in_a_command_is_a_configuration():
    chosen = set(re.findall(r"\b(stage|experiment|sweep|stage/gan|stage/reward|stage/windows)=([a-z_0-9,]+)", PAGE))
    assert {name for name, _ in chosen} == {
        "stage",
        "experiment",
        "sweep",
        "stage/gan",
        "stage/reward",
        "stage/windows",
    }
    for group, values in chosen:
        for value in values.split(","):
            assert (ROOT / "configs" / group / f"{value}.yaml").is_file(), f"{group}={value}"


def test_the_toys_table_is_what_was_measured():
    columns = ("path_tv", "emission_tv", "flips", "spread")
    section = PAGE.split("## The toy")[1].split("\n## ")[0]
    rows = re.findall(r"^\| ([^|]+?) \|" + 4 * r" \**([\d.]+)\** \|" + "$", section, flags=re.MULTILINE)
    table = {re.sub(r"\*\*| \(.*\)", "", name): numbers for name, *numbers in rows}
    assert table == {name: [f"{found[column]:.3f}" for column in columns] for name, found in TOY.items()}


def test_the_toys_student_reaches_the_aim_of_paths_and_flips():
    student, data = TOY["DMD, 4 steps"], TOY["data"]
    assert student["path_tv"] <= 0.06 and abs(student["flips"] / data["flips"] - 1) < 0.1
