"""Each attack of docs/threat_model.md has a test, and the tests exist."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "threat_model.md").read_text()
TEST = re.compile(r"`(test_\w+)`")


def test_every_attack_names_a_test():
    rows = [line for line in PAGE.splitlines() if line.startswith("| ") and not line.startswith("| attack")]
    assert len(rows) > 20 and [row[:60] for row in rows if not TEST.search(row.rpartition(" | ")[2])] == []


def test_every_test_that_is_named_exists():
    code = "".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    assert [name for name in TEST.findall(PAGE) if f"def {name}(" not in code] == []
