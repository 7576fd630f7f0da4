"""A report as one HTML file that needs nothing else: tables, image strips, curves and videos inside it."""

import base64
import csv
import io
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from gwm.report.line_chart import Line, line_chart

Cell = str | int | float | bool | None

STYLE = """
:root { color-scheme: light dark; --ink: #1d2430; --soft: #667085; --rule: #e4e7ec; --card: #fff; --page: #f6f7f9;
  --good: #067647; --good-back: #ecfdf3; --bad: #b42318; --bad-back: #fef3f2;
  --line0: #2563eb; --line1: #ea580c; --line2: #059669; --line3: #9333ea; --line4: #db2777; --line5: #64748b; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ef; --soft: #98a2b3; --rule: #2b3340; --card: #171c25;
  --page: #0e1218; --good: #6ce9a6; --good-back: #053321; --bad: #fda29b; --bad-back: #4a1410;
  --line0: #60a5fa; --line1: #fb923c; --line2: #34d399; --line3: #c084fc; --line4: #f472b6; --line5: #94a3b8; } }
body { margin: 0 auto; max-width: 1060px; padding: 2rem 1rem 4rem; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; margin: 0 0 1rem; } h2 { font-size: 1.05rem; margin: 0 0 .6rem; }
section { background: var(--card); border: 1px solid var(--rule); border-radius: 10px; padding: 1rem 1.2rem;
  margin-bottom: 1rem; overflow-x: auto; }
p { margin: .3rem 0; } .note, .legend, figcaption { color: var(--soft); font-size: .85rem; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .35rem .7rem .35rem 0; border-bottom: 1px solid var(--rule); }
th { color: var(--soft); font-weight: 600; font-size: .85rem; } tr:last-child td { border-bottom: 0; }
td.number { text-align: right; padding-right: 1.4rem; } th.number { text-align: right; padding-right: 1.4rem; }
.good, .bad { border-radius: 99px; padding: .05rem .6rem; font-size: .85rem; font-weight: 600; }
.good { color: var(--good); background: var(--good-back); } .bad { color: var(--bad); background: var(--bad-back); }
figure { margin: 0 0 .7rem; } figure img { display: block; width: 100%; border-radius: 6px; }
.charts { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(min(100%, 400px), 1fr)); }
svg { display: block; width: 100%; } svg text { font-size: 11px; fill: var(--soft); }
.grid { stroke: var(--rule); } .line { fill: none; stroke-width: 1.6; stroke-linejoin: round; }
.legend span { margin-right: 1rem; white-space: nowrap; }
.legend i { display: inline-block; width: .8rem; height: .2rem; margin-right: .35rem; vertical-align: middle; }
summary { cursor: pointer; }
video { display: block; max-width: 100%; min-width: min(100%, 360px); border-radius: 6px; }
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Text:
    """Paragraphs, divided by empty lines."""

    title: str
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """Rows of cells. A bool is shown as passed or failed, None and NaN as a dash."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    note: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Images:
    """One strip a row, all of the same frames: `columns` of them, equally far apart."""

    title: str
    strips: Mapping[str, UInt8[np.ndarray, "f h w 3"]]
    columns: int = 8
    note: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Curves:
    """Charts side by side, each with one or more named lines. Folded: they are shown when their number is clicked."""

    title: str
    charts: Mapping[str, Mapping[str, Line]]
    x_label: str = ""
    note: str = ""
    folded: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Video:
    """An mp4 file, copied into the report."""

    title: str
    path: Path
    note: str = ""


Section = Text | Table | Images | Curves | Video


def write_report(path: Path, title: str, sections: Sequence[Section]) -> None:
    """Write the report; the file appears whole or not at all.

    Raises:
        FileNotFoundError: a video is not there.
    """
    body = "\n".join(f"<section><h2>{escape(part.title)}</h2>\n{_html(part)}</section>" for part in sections)
    page = (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head>\n'
        f"<body><h1>{escape(title)}</h1>\n{body}\n</body></html>\n"
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(page, encoding="utf-8")
    partial.replace(path)


def read_curves(path: Path) -> dict[str, Line]:
    """The columns of a Lightning CSV log over its steps; rows without a value of a column are left out of it."""
    points: dict[str, list[tuple[float, float]]] = defaultdict(list)
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            for name, value in row.items():
                if value and name not in ("step", "epoch"):
                    points[name].append((float(row["step"]), float(value)))
    return {name: Line(*np.array(pairs).T) for name, pairs in points.items()}


def _html(section: Section) -> str:
    match section:
        case Text():
            return "".join(f"<p>{escape(paragraph)}</p>" for paragraph in section.text.split("\n\n"))
        case Table():
            return _table(section) + _note(section.note)
        case Images():
            return "".join(_strip(label, frames) for label, frames in _picked(section)) + _note(section.note)
        case Curves():
            charts = [
                f"<figure><figcaption>{escape(name)}</figcaption>{line_chart(lines, x_label=section.x_label)}</figure>"
                for name, lines in section.charts.items()
            ]
            shown = f'<div class="charts">{"".join(charts)}</div>' + _note(section.note)
            fold = f"<details><summary>{len(charts)} charts</summary>{shown}</details>"
            return fold if section.folded else shown
        case Video():
            source = _data_uri(section.path.read_bytes(), "video/mp4")
            return f'<video controls playsinline src="{source}"></video>' + _note(section.note)


def _table(table: Table) -> str:
    numeric = [all(_is_number(row[column]) for row in table.rows) for column in range(len(table.columns))]
    kinds = [' class="number"' if right else "" for right in numeric]
    head = "".join(f"<th{kind}>{escape(name)}</th>" for kind, name in zip(kinds, table.columns, strict=True))
    rows = [
        "".join(f"<td{kind}>{_cell(cell)}</td>" for kind, cell in zip(kinds, row, strict=True)) for row in table.rows
    ]
    return f"<table><tr>{head}</tr>{''.join(f'<tr>{row}</tr>' for row in rows)}</table>"


def _is_number(cell: Cell) -> bool:
    return cell is None or (isinstance(cell, int | float) and not isinstance(cell, bool))


def _cell(cell: Cell) -> str:
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        return "-"
    if isinstance(cell, bool):
        return '<span class="good">passed</span>' if cell else '<span class="bad">failed</span>'
    return f"{cell:.4g}" if isinstance(cell, float) else escape(str(cell))


def _picked(images: Images) -> list[tuple[str, np.ndarray]]:
    shortest = min(len(frames) for frames in images.strips.values())
    columns = np.linspace(0, shortest - 1, min(images.columns, shortest)).round().astype(int)
    return [(label, frames[columns]) for label, frames in images.strips.items()]


def _strip(label: str, frames: UInt8[np.ndarray, "f h w 3"]) -> str:
    png = io.BytesIO()
    Image.fromarray(np.concatenate(list(frames), axis=1)).save(png, "PNG", optimize=True)
    source = _data_uri(png.getvalue(), "image/png")
    return f'<figure><figcaption>{escape(label)}</figcaption><img alt="{escape(label)}" src="{source}"></figure>'


def _data_uri(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _note(note: str) -> str:
    return f'<p class="note">{escape(note)}</p>' if note else ""
