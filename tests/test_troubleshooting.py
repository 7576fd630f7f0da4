"""Every message that docs/troubleshooting.md explains is one that the source can say."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOREIGN = {"Interpolation key '...' not found"}  # OmegaConf's own
VALUE = "\0"  # what a string is filled with


def messages() -> list[str]:
    """The first cell of every row, without its backticks."""
    rows = re.findall(r"^\| `(.+?)` \|", (ROOT / "docs" / "troubleshooting.md").read_text(), re.MULTILINE)
    return [row for row in rows if row not in FOREIGN]


def sentences() -> list[str]:
    """All strings of the source with values left open, and the page's script."""
    folders = ("configs", "data", "distill", "evaluate", "gwm", "kernels", "serve", "train")
    files = [*ROOT.glob("*.py"), *(path for name in folders for path in (ROOT / name).rglob("*.py"))]
    found = []
    for path in files:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = (part.value if isinstance(part, ast.Constant) else VALUE for part in node.values)
                found.append("".join(map(str, parts)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(re.sub(r"%[\d.]*[sdfg]", VALUE, node.value))
    return found + [
        path.read_text(encoding="utf-8") for path in (ROOT / "serve" / "live" / "http" / "web").glob("*.js")
    ]


def test_every_message_that_is_explained_exists():
    said, explained = sentences(), messages()
    assert len(explained) > 20
    unknown = []
    for message in explained:
        pattern = re.compile(".*?".join(re.escape(part) for part in message.split("...")), re.DOTALL)
        literal = max(message.split("..."), key=len)
        if len(literal.strip(" :=,.")) < 7 or not any(literal in text and pattern.search(text) for text in said):
            unknown.append(message)
    assert unknown == []
