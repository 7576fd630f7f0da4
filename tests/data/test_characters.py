"""Characters: what is drawn is what was meant, and the same every time."""

import io
from dataclasses import replace

import dicebear
import moderngl
import numpy as np
import pytest
import resvg_py
from PIL import Image

from data.actions import ACTION_NAMES, index
from data.characters.appearance import HAIR_KINDS, human
from data.characters.cartoon import CARTOON_STYLES, EYES, MOUTHS, UNSEEN_STYLES, _style
from data.characters.hair import build_hair
from data.characters.head import ASSET, eyes_and_lips, load_head, mouth_opening, neutral, normals
from data.characters.renderer import STYLES, Renderer, identity
from gwm.media.face import EYES_AT, MOUTH_AT


@pytest.fixture(scope="module")
def renderer() -> Renderer:
    return Renderer(64)


def acting(num_frames: int, **weights: list[float]) -> np.ndarray:
    actions = np.zeros((num_frames, len(ACTION_NAMES)), np.float32)
    for name, values in weights.items():
        actions[:, index(name)] = values
    return actions


def drawing(style: str, **options: object) -> np.ndarray:
    """A flat character straight from DiceBear, without our framing."""
    svg = dicebear.Avatar(_style(style), {"seed": "Bob", "backgroundColor": ["b6e3f4"], **options}).to_string()
    png = resvg_py.svg_to_bytes(svg_string=svg, width=384, height=384)
    return np.asarray(Image.open(io.BytesIO(bytes(png))).convert("RGB")).astype(int)


def drawn(renderer: Renderer, who, actions: np.ndarray, gaze: float = 0.0) -> np.ndarray:
    still = np.zeros((len(actions), 3))
    return renderer.render(who, actions, still, np.full((len(actions), 2), [gaze, 0.0])).astype(int)


def test_actions_are_those_of_arkit():
    assert len(ACTION_NAMES) == 52 == len(set(ACTION_NAMES)) == len(load_head().actions)


def test_asset_is_small():
    assert ASSET.stat().st_size < 2.5e6


@pytest.mark.parametrize("style", (*STYLES, *UNSEEN_STYLES))
def test_a_seed_draws_the_same_picture_twice_and_another_seed_another(renderer: Renderer, style: str):
    actions = acting(1)
    first, again, other = (drawn(renderer, identity(seed, style), actions) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert np.abs(first - other).mean() > 2


def test_unknown_style_is_named():
    with pytest.raises(ValueError, match="manga"):
        identity(0, "manga")


@pytest.mark.parametrize("style", (*STYLES, *UNSEEN_STYLES))
def test_true_opening_is_zero_at_rest_and_grows_with_the_jaw(renderer: Renderer, style: str):
    opening = renderer.mouth(identity(3, style), acting(5, jawOpen=[0, 0.15, 0.3, 0.5, 0.8]))
    assert opening[0] == 0
    assert np.all(np.diff(opening) >= 0)
    assert opening[-1] > 0.7


def test_true_opening_is_the_gap_that_the_mesh_has():
    """mouthClose lifts the lower lip while the jaw stays down: an opening read from jawOpen alone would be wrong."""
    face = neutral(np.zeros(len(load_head().components)))
    opened, sealed = mouth_opening(face, acting(2, jawOpen=[0.5, 0.5], mouthClose=[0, 0.5]))
    assert sealed < 0.5 * opened


@pytest.mark.parametrize("seed", [0, 5])
def test_an_open_mouth_changes_only_the_mouth(renderer: Renderer, seed: int):
    shut, opened = drawn(renderer, identity(seed, "anny"), acting(2, jawOpen=[0, 0.6]))
    change = np.square(opened - shut).sum(-1)
    assert change[32:, 8:56].sum() > 0.9 * change.sum()
    assert change.max() > 30**2


def test_gaze_moves_the_iris_and_nothing_else(renderer: Renderer):
    who = identity(5, "anny")
    ahead, aside = (drawn(renderer, who, acting(1), gaze)[0] for gaze in (0.0, 0.8))
    changed = np.abs(aside - ahead).sum(-1)
    assert changed.max() > 60
    assert changed[36:].max() == 0


def test_a_blink_covers_the_eyes(renderer: Renderer):
    shut, opened = (
        drawn(renderer, identity(5, "anny"), acting(1, eyeBlinkLeft=[v], eyeBlinkRight=[v])) for v in (1, 0)
    )
    assert np.abs(shut - opened)[0, 16:36].max() > 60


def test_mouth_truth_of_flat_characters_follows_what_is_drawn(renderer: Renderer):
    who = identity(1, "clay")
    actions = acting(2, jawOpen=[0.0, 0.55])
    shut, opened = drawn(renderer, who, actions)
    assert list(renderer.mouth(who, actions)) == [0, 1]
    assert np.abs(shut - opened).max() > 60


def test_no_data_set_holds_the_styles_of_evaluations():
    assert not set(UNSEEN_STYLES) & set(STYLES) and {*CARTOON_STYLES, *UNSEEN_STYLES} == set(MOUTHS)


@pytest.mark.parametrize("style", MOUTHS)
def test_declared_openings_of_flat_mouths_are_those_of_the_art(style: str):
    """The mouth's height is measured against the same face without one."""
    eyes = EYES[style][0][0]
    bare = drawing(style, mouthProbability=0, eyesVariant=[eyes])
    mouths = [*MOUTHS[style][0].items(), MOUTHS[style][1]]
    height = {}
    for mouth, _ in mouths:
        changed = np.abs(drawing(style, mouthVariant=[mouth], eyesVariant=[eyes]) - bare).sum(-1) > 40
        columns = np.flatnonzero(changed.any(0))
        rows = np.flatnonzero(changed[:, (columns[0] + columns[-1]) // 2])
        height[mouth] = rows[-1] - rows[0]
    shut = height[mouths[0][0]]
    span = max(height.values()) - shut
    for mouth, opening in mouths:
        assert (height[mouth] - shut) / span == pytest.approx(opening, abs=0.06)


@pytest.mark.parametrize("seed", [0, 1, 7, 59])
def test_an_open_mouth_is_dark_from_every_side(renderer: Renderer, seed: int):
    """Unlit inner cheeks and no teeth through the lips: else the mouth is bright where it should be a hole."""
    actions = acting(3, jawOpen=[0.6] * 3)
    pose = np.array([[-0.4, 0, 0], [0, 0, 0], [0.4, 0, 0]])
    frames = renderer.render(identity(seed, "anny"), actions, pose, np.zeros((3, 2))).astype(int)
    darkest = frames[:, 36:56, 16:48].mean(-1).reshape(3, -1)
    assert np.all(np.sort(darkest)[:, :12].mean(1) < 60)


def test_upper_teeth_are_single_and_as_wide_as_teeth():
    """On the average head, the bright row has dips beside the incisors, where their widths in millimetres say."""
    actions = acting(1, jawOpen=[0.3], mouthUpperUpLeft=[0.6], mouthUpperUpRight=[0.6])
    who = replace(human(0), shape=np.zeros(len(load_head().components), np.float32))
    mouth = drawn(Renderer(256), who, actions)[0, 150:215, 80:176]
    white = (mouth.min(-1) > 0.62 * mouth.max(-1)) & (mouth.max(-1) > 60)
    row = mouth[white.sum(1).argmax()].mean(-1)
    px_per_mm = 256 * (MOUTH_AT - EYES_AT) / np.subtract(*eyes_and_lips(neutral(who.shape))) / 1000
    for side in (-1, 1):
        for gap, tooth in ((6.5, 3.2), (11.5, 9.0)):
            at = round(48 + side * gap * px_per_mm)
            assert row[at - 1 : at + 2].min() < row[round(48 + side * tooth * px_per_mm)] - 12


def test_the_inside_of_the_mouth_is_behind_the_lips():
    head = load_head()
    inside = head.mean[head.cavity == 1]
    face = head.mean[(head.part == 0) & (head.cavity == 0) & (np.abs(head.mean[:, 2]) < 0.04)]
    assert np.abs(inside[:, 0]).max() < 0.045
    assert inside[:, 1].min() > face[:, 1].min() + 0.01


def test_a_missing_egl_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    def refuse(**_: str) -> None:
        raise Exception("libEGL.so not loaded")  # what moderngl raises

    monkeypatch.setattr(moderngl, "create_standalone_context", refuse)
    with pytest.raises(RuntimeError, match="apt-get install libegl1 libgl1-mesa-dri"):
        Renderer(64)


@pytest.mark.parametrize("kind", HAIR_KINDS)
def test_hair_leaves_the_face_free(kind: str):
    face = load_head().mean
    hair = build_hair(kind, face, volume=1.0)
    if kind == "bald":
        assert hair is None
        return
    assert hair is not None and hair.faces.max() < len(hair.vertices)
    x, y, z = hair.vertices.T
    in_front = (np.abs(x) < 0.05) & (z < 0.03) & (y < 0.02)
    assert not in_front.any()


def test_normals_of_a_head_point_outwards():
    head = load_head()
    skin = np.unique(head.skin_faces)
    skull = skin[(head.mean[skin, 2] > 0.05)]
    outwards = head.mean[skull] - np.array([0, 0.08, 0.0])
    assert (np.einsum("vc,vc->v", normals(head.mean)[skull], outwards) > 0).mean() > 0.95


def test_two_renderers_of_one_process_do_not_disturb_each_other():
    """Each has a context of its own, and drawing happens in the current one."""
    who, actions = identity(4, "anny"), acting(1, jawOpen=[0.4])
    first = Renderer(64)
    alone = drawn(first, who, actions)
    second = Renderer(64)
    drawn(second, identity(5, "anny"), actions)
    assert np.array_equal(drawn(first, who, actions), alone)
    assert np.array_equal(drawn(second, who, actions), alone)
