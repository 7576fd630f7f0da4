import base64
import io
import re

import numpy as np
import pytest
from PIL import Image

from gwm.report.line_chart import Line, line_chart, ticks
from gwm.report.page import Curves, Images, Table, Text, Video, read_curves, write_report


@pytest.fixture
def page(tmp_path) -> str:
    (tmp_path / "talk.mp4").write_bytes(b"not really a film")
    frames = np.arange(10, dtype=np.uint8)[:, None, None, None].repeat(6, axis=1).repeat(5, axis=2).repeat(3, axis=3)
    rows = [["student <1>", 0.123456, True], ["critic", float("nan"), False], ["vae", None, "skipped: pip install x"]]
    sections = [
        Text(title="A & B", text="one\n\ntwo"),
        Table(title="gates", columns=["stage", "value", "gate"], rows=rows),
        Images(title="samples", strips={"render": frames, "student": frames[:4]}, columns=4),
        Curves(title="loss", charts={"train": {"dmd": Line(np.arange(3.0), np.array([1.0, 3.0, 2.0]))}}),
        Video(title="film", path=tmp_path / "talk.mp4"),
    ]
    write_report(tmp_path / "out" / "report.html", "gwm", sections)
    return (tmp_path / "out" / "report.html").read_text()


def test_report_needs_no_other_file(page, tmp_path):
    sources = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert len(sources) == 3
    assert all(source.startswith("data:") for source in sources)
    assert base64.b64encode(b"not really a film").decode() in page
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["report.html"]


def test_strips_show_the_same_frames_of_every_row(page):
    """Four of the four frames that both clips have: a longer clip must not run ahead of the shorter one."""
    for encoded in re.findall(r"data:image/png;base64,([^\"]*)", page):
        strip = np.asarray(Image.open(io.BytesIO(base64.b64decode(encoded))))
        assert strip.shape == (6, 20, 3)
        assert strip[0, ::5, 0].tolist() == [0, 1, 2, 3]


def test_text_is_escaped_and_cells_tell_verdicts(page):
    assert "A &amp; B" in page
    assert "student &lt;1&gt;" in page
    assert "<p>one</p><p>two</p>" in page
    cells = re.findall(r"<td[^>]*>(.*?)</td>", page)
    assert cells[1:3] == ["0.1235", '<span class="good">passed</span>']
    assert cells[4:6] == ["-", '<span class="bad">failed</span>']
    assert cells[7:9] == ["-", "skipped: pip install x"]


def test_folded_charts_are_behind_their_number(tmp_path):
    charts = {name: {"dmd": Line(np.arange(3.0), np.arange(3.0))} for name in ("a", "b")}
    for folded in (False, True):
        write_report(tmp_path / "report.html", "gwm", [Curves(title="Health", charts=charts, folded=folded)])
        page = (tmp_path / "report.html").read_text()
        assert len(re.findall(r"<details><summary>2 charts</summary>.*<svg.*</details>", page, re.DOTALL)) == folded


def test_chart_reaches_all_corners_and_breaks_at_missing_values():
    chart = line_chart({"lip": Line(np.arange(5.0), np.array([0.0, 2.0, np.nan, 1.0, 0.5]))})
    (path,) = re.findall(r'class="line"[^>]* d="([^"]*)"', chart)
    assert path == "M52.0 196.0L146.5 10.0M335.5 103.0L430.0 149.5"


def test_long_line_is_averaged_down():
    chart = line_chart({"loss": Line(np.arange(40_000.0), np.tile([0.0, 1.0], 20_000))})
    (path,) = re.findall(r'class="line"[^>]* d="([^"]*)"', chart)
    assert path.count("L") == 399


@pytest.mark.parametrize("values", [[], [np.nan, np.nan], [3.0, 3.0], [0.0]])
def test_chart_of_nothing_or_one_value_has_axes(values):
    y = np.array(values, dtype=float)
    chart = line_chart({"flat": Line(np.arange(len(y), dtype=float), y)})
    assert chart.count('text-anchor="end"') >= 2
    assert "nan" not in chart


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.0, 1.0, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (-3.0, 14.0, [0, 5, 10]),
        (0.0021, 0.0028, [0.0022, 0.0024, 0.0026, 0.0028]),
    ],
)
def test_ticks_are_round(low, high, expected):
    assert ticks(low, high) == pytest.approx(expected)


def test_curves_of_a_lightning_log(tmp_path):
    """Lightning leaves a column empty in rows of another metric."""
    (tmp_path / "metrics.csv").write_text("epoch,step,train/loss,val/psnr\n0,9,0.5,\n0,9,,21.5\n0,19,0.25,\n")
    curves = read_curves(tmp_path / "metrics.csv")
    assert curves["train/loss"].x.tolist() == [9, 19]
    assert curves["train/loss"].y.tolist() == [0.5, 0.25]
    assert (curves["val/psnr"].x.tolist(), curves["val/psnr"].y.tolist()) == ([9], [21.5])
    assert set(curves) == {"train/loss", "val/psnr"}
