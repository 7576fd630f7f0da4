"""docs/walk.md names files that exist, and counts them."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SECTIONS = [s for s in (ROOT / "docs" / "walk.md").read_text().split("\n## ") if re.match(r".*\d+ files", s)]


@pytest.mark.parametrize("section", SECTIONS, ids=lambda text: text[:20])
def test_the_files_of_a_walk_exist_and_are_counted(section: str):
    heading = section.splitlines()[0]
    cells = [line.split("|")[2] for line in section.splitlines() if line.startswith("|")]
    named = [path for cell in cells for path in re.findall(r"`([^`]+)`", cell)]
    assert [path for path in named if not (ROOT / path).is_file()] == []
    assert len(named) == len(set(named)) == int(re.findall(r"(\d+) files", heading)[0])
