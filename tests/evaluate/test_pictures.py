"""Pictures for a README: who is in the strip, and whether the curves show what the numbers say."""

import re
from types import SimpleNamespace

import numpy as np
import pytest

from evaluate import pictures
from evaluate.pictures import draw_drift, strip, varied
from gwm.metrics.judge import Voices

pytestmark = pytest.mark.usefixtures("unchecked")  # artifact, engine and clips are stand-ins


def case(style: str, colour: int, *, speaks: bool = False) -> SimpleNamespace:
    voices = Voices(agent=np.full(8000, colour / 255, np.float32), user=np.zeros(8000), listening=np.zeros(8, bool))
    mouth = np.zeros(8) if style == "anny" else None
    reference = np.full((8, 8, 3), colour, np.uint8)
    return SimpleNamespace(style=style, drawn=mouth is None, speaks=speaks, reference=reference, voices=voices)


def test_styles_take_turns():
    styles = ["moods", "sprouts", "moods", "sprouts", "clay"]
    chosen = varied([case(style, number) for number, style in enumerate(styles)], 4)
    assert [(c.style, int(c.reference[0, 0, 0])) for c in chosen] == [
        ("moods", 0), ("sprouts", 1), ("clay", 4), ("moods", 2),
    ]  # fmt: skip


ARTIFACT = SimpleNamespace(contract=SimpleNamespace(vae=SimpleNamespace(working_side=None)))


class Playing:
    """Shows the reference's colour, brighter with time, and keeps the voice."""

    voices: list[float] = []  # noqa: RUF012

    def __init__(self, artifact, *, seed: int, size: None) -> None: ...

    def play(self, reference, agent, user):
        self.voices.append(float(agent[0]))
        return np.stack([reference + np.uint8(k) for k in range(9)]), [1.0]


def test_every_row_is_another_character_with_the_same_sentence(monkeypatch):
    monkeypatch.setattr(pictures, "Engine", Playing)
    cases = [case("anny", 10), case("anny", 20, speaks=True), case("anny", 30), case("moods", 40), case("clay", 50)]
    picture = strip(ARTIFACT, cases, people=2, drawn=2, frames=3)
    assert picture.shape == (4 * 8, 8 + pictures.GAP_PX + 3 * 8, 3)
    assert picture[::8, 0, 0].tolist() == [10, 20, 40, 50]
    assert picture[0, 8 + pictures.GAP_PX :: 8, 0].tolist() == [10, 14, 18]  # the first, middle and last of nine
    assert Playing.voices == [pytest.approx(20 / 255)] * 4
    with pytest.raises(ValueError, match="people=4"):
        strip(ARTIFACT, cases, people=4, drawn=1, frames=3)


def test_drift_is_drawn_against_the_first_minute(tmp_path, monkeypatch):
    """Both lines of a chart start at 1 and end where the measure has gone, and the band is where it was asked."""
    drawn = {}
    monkeypatch.setattr(
        pictures.Figure, "savefig", lambda self, path, **_: (path.touch(), drawn.update(charts=self.axes))
    )
    seconds = np.arange(10.0, 2401, 10)
    series = {"seconds": seconds, "minute": (seconds - 1) // 60, "identity": np.full(240, 0.7)}
    series["saturation"] = np.where(seconds <= 60, 0.5, 0.6)
    draw_drift(tmp_path / "drift.svg", series, band=0.05)
    charts = {axes.get_title(): axes for axes in drawn["charts"] if axes.get_title()}
    looks, means = (line.get_ydata() for line in charts["saturation"].lines)
    assert len(looks) == 240 and len(means) == 40
    assert (means[0], means[1], means[-1]) == (1, pytest.approx(1.2), pytest.approx(1.2))
    assert np.allclose(charts["identity"].lines[1].get_ydata(), 1)
    (band,) = charts["saturation"].patches
    assert band.get_extents().transformed(charts["saturation"].transData.inverted()).intervaly == pytest.approx(
        [0.95, 1.05]
    )


def test_losses_of_all_stages_are_in_one_svg(tmp_path):
    lines = {"train/batch_loss": pictures.Line(np.arange(500.0), np.geomspace(1, 0.01, 500))}
    pictures.draw_training(tmp_path / "t.svg", {"causal": lines, "dmd": lines})
    svg = (tmp_path / "t.svg").read_text()
    assert len(re.findall(r'id="axes_\d+"', svg)) == 2


class Lively:
    """Shows the portrait, in chunks of four frames, as bright as what it was given is lively."""

    def __init__(self, artifact, *, seed: int) -> None: ...

    def stream(self, portrait, agent, *, acts):
        for first in (0, 4):
            yield (
                np.stack([portrait + np.uint8(100 * acts[0].numbers["liveliness"] + first + k) for k in range(4)]),
                1.0,
            )


def test_a_moving_picture_has_every_second_frame_of_everybody_in_half_the_size(monkeypatch):
    monkeypatch.setattr(pictures, "Engine", Lively)
    artifact = SimpleNamespace(contract=SimpleNamespace(controls_of=lambda condition: ("liveliness",)))
    portraits = [np.full((8, 8, 3), colour, np.uint8) for colour in (10, 20)]
    frames = [np.asarray(frame) for frame in pictures.moving_picture(artifact, portraits, np.zeros(10, np.float32))]
    assert [frame.shape for frame in frames] == [(4, 8, 3)] * 4
    assert [(int(frame[0, 0, 0]), int(frame[0, -1, 0])) for frame in frames] == [
        (90 + k, 100 + k) for k in (0, 2, 4, 6)
    ]
