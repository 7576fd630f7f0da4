"""Characters: what is drawn is what was meant, and the same every time."""

import numpy as np
import pytest

from data.actions import ACTION_NAMES, index
from data.characters.appearance import HAIR_KINDS
from data.characters.hair import build_hair
from data.characters.head import ASSET, load_head, mouth_opening, neutral, normals
from data.characters.renderer import STYLES, Renderer, identity


@pytest.fixture(scope="module")
def renderer() -> Renderer:
    return Renderer(64)


def acting(num_frames: int, **weights: list[float]) -> np.ndarray:
    actions = np.zeros((num_frames, len(ACTION_NAMES)), np.float32)
    for name, values in weights.items():
        actions[:, index(name)] = values
    return actions


def drawn(renderer: Renderer, who, actions: np.ndarray, gaze: float = 0.0) -> np.ndarray:
    still = np.zeros((len(actions), 3))
    return renderer.render(who, actions, still, np.full((len(actions), 2), [gaze, 0.0])).astype(int)


def test_actions_are_those_of_arkit():
    assert len(ACTION_NAMES) == 52 == len(set(ACTION_NAMES)) == len(load_head().actions)


def test_asset_is_small():
    assert ASSET.stat().st_size < 2.5e6


@pytest.mark.parametrize("style", STYLES)
def test_a_seed_draws_the_same_picture_twice_and_another_seed_another(renderer: Renderer, style: str):
    actions = acting(1)
    first, again, other = (drawn(renderer, identity(seed, style), actions) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert np.abs(first - other).mean() > 2


def test_unknown_style_is_named():
    with pytest.raises(ValueError, match="manga"):
        identity(0, "manga")


@pytest.mark.parametrize("style", STYLES)
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
