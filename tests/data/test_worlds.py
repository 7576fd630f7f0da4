"""Worlds are recorded with each picture's own action, the same in any process, and every action often enough."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from data.shards import decode_sample, read_samples
from data.worlds import episodes
from data.worlds.__main__ import record_world
from data.worlds.episodes import EpisodePlan, make_episode
from data.worlds.maze import NAMES, ROOMS, Maze, layout
from data.worlds.policies import Policy, coverage
from data.worlds.recorded import declaration
from data.worlds.world import World, actions_of, make_world, meanings_of
from gwm.condition.spec import Control, specs_of

PLAN = EpisodePlan(key="0", seed=5, num_frames=24, env="shown", size=32, policy="random", hold_s=0.1, warmup_s=1.0)
SETTINGS: dict[str, Any] = {
    "env": "maze", "resolution": 32, "num_frames": 8, "train": 3, "val": 1, "test": 0, "seed": 0, "policy": "mixed",
    "hold_s": 0.4, "warmup_s": 0.5,
}  # fmt: skip


class Shown:
    """Its picture is as bright as the latest action says, and says how many steps there were; episodes end early."""

    names, kinds, most_pressed = ("x",), ("continuous",), 0

    def __init__(self, *, rate: float = 24.0, ends_after: int = 10_000) -> None:
        self.rate, self.ends_after = rate, ends_after

    def reset(self, *, seed: int) -> None:
        self.value, self.steps = -1.0, 0

    def step(self, numbers: np.ndarray) -> tuple[float, bool]:
        self.value, self.steps = float(numbers[0]), self.steps + 1
        return 1.0, self.steps >= self.ends_after

    def render(self) -> np.ndarray:
        level = round(255 * (self.value + 1) / 2)
        return np.full((32, 32, 3), (level, level, self.steps % 256), np.uint8)


def episode(world: Any, **changes: Any) -> Any:
    return make_episode(EpisodePlan(**{name: getattr(PLAN, name) for name in PLAN.__slots__} | changes), world)


def test_each_frame_shows_the_action_beside_it():
    """An action that is one frame early or late is seen: it is drawn anew every two or three frames."""
    clip = episode(Shown())
    shown = clip.frames[:, 0, 0, 0] / 255 * 2 - 1
    np.testing.assert_allclose(shown, clip.signals["action"][:, 0], atol=1 / 127)
    assert (np.diff(clip.signals["action"][:, 0]) != 0).sum() > 5
    assert clip.frames[0, 0, 0, 2] == clip.reference[0, 0, 2] + 1  # the reference is the picture right before


@pytest.mark.parametrize(("rate", "steps"), [(10.0, 10), (48.0, 48), (35.0, 35)])
def test_worlds_of_another_rate_keep_the_time(rate: float, steps: int):
    """A second of pictures is a second of the world; where a step lasts several pictures its action does too."""
    clip = episode(Shown(rate=rate), warmup_s=0.0)
    assert clip.frames[-1, 0, 0, 2] == steps and clip.signals["reward"].sum() == steps
    shown = clip.frames[:, 0, 0, 0] / 255 * 2 - 1
    started = clip.frames[:, 0, 0, 2] > 0
    np.testing.assert_allclose(shown[started], clip.signals["action"][started, 0], atol=1 / 127)


def test_episodes_that_end_too_early_are_refused_with_their_length():
    with pytest.raises(ValueError, match="num_frames=24 must be at most 9: in 20 episodes"):
        episode(Shown(ends_after=9), warmup_s=0.0)


def test_a_clip_of_an_end_is_the_last_of_an_episode():
    """Nothing comes after the frame that is marked."""
    clip = episode(Shown(ends_after=100), warmup_s=0.0, ends=1.0)
    assert clip.signals["ended"][:, 0].tolist() == [0.0] * 23 + [1.0]
    assert clip.frames[:, 0, 0, 2].tolist() == list(range(77, 101)) and clip.reference[0, 0, 2] == 76
    assert not episode(Shown(ends_after=100), ends=0.0).signals["ended"].any()
    with pytest.raises(ValueError, match="none lasted longer"):
        episode(Shown(ends_after=10), ends=1.0)


def test_an_episode_that_goes_on_for_ever_has_no_end_to_be_recorded(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(episodes, "LONGEST", 60)
    with pytest.raises(ValueError, match=r"num_frames=\d+ must be at most 0"):
        episode(Shown(), ends=1.0)


def test_shards_are_the_same_again_and_go_on_where_they_stopped(tmp_path: Path):
    first, second = tmp_path / "a", tmp_path / "b"
    record_world(out=str(first), workers=1, **SETTINGS)
    record_world(out=str(second), workers=2, **SETTINGS)
    tars = sorted(path.name for path in first.glob("*.tar"))
    assert tars == ["train-000000.tar", "val-000000.tar"]
    assert all((first / name).read_bytes() == (second / name).read_bytes() for name in tars)
    (second / tars[0]).unlink()
    kept = (second / tars[1]).stat().st_mtime_ns
    record_world(out=str(second), workers=1, **SETTINGS)
    assert (first / tars[0]).read_bytes() == (second / tars[0]).read_bytes()
    assert (second / tars[1]).stat().st_mtime_ns == kept
    with pytest.raises(ValueError, match=r"holds shards with other settings \(hold_s\)"):
        record_world(out=str(second), workers=1, **(SETTINGS | {"hold_s": 1.0}))


def test_the_manifest_declares_the_actions(tmp_path: Path):
    record_world(out=str(tmp_path), workers=1, **(SETTINGS | {"train": 1, "val": 0}))
    clip = decode_sample(next(read_samples(tmp_path, "train")))
    assert clip.signals["action"].shape == (8, len(NAMES)) and clip.signals["state"].shape == (8, 3)
    declared = (tmp_path / "condition.yaml").read_text()
    assert "names: [forward, back, turn_left, turn_right]" in declared and "width: 16" in declared


def test_numbers_of_a_box_stay_within_its_bounds():
    """A model has seen nothing beyond, so that a caller who asks for more is refused."""
    (spec,) = specs_of({"action": declaration(Shown.names, Shown.kinds)})
    assert spec.controls(4) == (Control("x", -1.0, 1.0),)


@pytest.mark.parametrize("policy", ["random", "mixed", "scripted"])
def test_every_key_of_the_maze_is_covered(policy: str):
    world = Maze(8)
    world.reset(seed=0)
    played = Policy(world, policy, hold_s=0.4, seed=0)
    rows = []
    for _ in range(3000):
        rows.append(played.next().copy())
        world.step(rows[-1])
    found = coverage(NAMES, world.kinds, [np.stack(rows)])
    wanted = NAMES if policy != "scripted" else ("forward", "turn_left", "turn_right")
    assert all(found.share[name] > 0.1 for name in wanted), found
    assert found.held_frames > 4
    if policy != "random":
        assert len(world.entered) >= ROOMS**2 / 2  # somebody who only presses keys stays where he is


def test_what_is_hardly_ever_pressed_is_named():
    rows = np.zeros((100, 2), np.float32)
    rows[:50, 0] = 1
    assert coverage(("a", "b"), ("discrete", "discrete"), [rows]).missing(0.02) == ["b"]


def test_turning_right_moves_the_picture_to_the_left():
    """And walking ahead leads to where one looks, but not through a wall."""
    world = Maze(64)
    world.reset(seed=1)
    before = world.render().astype(float)
    world.step(np.array([0, 0, 0, 1.0]))
    after = world.render().astype(float)
    errors = {shift: np.abs(np.roll(before, shift, 1) - after)[:, 8:-8].mean() for shift in range(-6, 7)}
    assert -6 <= min(errors, key=errors.__getitem__) <= -2
    place, angle = world.place.copy(), world.angle
    world.step(np.array([1.0, 0, 0, 0]))
    np.testing.assert_allclose(np.arctan2(*(world.place - place)), angle, atol=1e-5)
    for _ in range(500):
        world.step(np.array([1.0, 0, 0, 0]))
    assert world.grid[tuple(world.place.astype(int))] == 0


def test_nobody_turns_to_both_sides_at_once():
    """A guide that comes after keys drawn at random does not hold left and right, which would turn nothing."""
    world, rng = Maze(8), np.random.default_rng(0)
    for seed in range(60):
        world.reset(seed=seed)
        pressed = world.guide(rng, np.array([0, 0, 1, 1], np.float32))
        assert not (pressed[2] and pressed[3])


def test_every_room_of_a_maze_can_be_reached():
    for seed in range(5):
        free = layout(seed) == 0
        reached = np.zeros_like(free)
        reached[1, 1] = True
        for _ in range(free.size):
            grown = reached.copy()
            for axis in (0, 1):
                for step in (-1, 1):
                    grown |= np.roll(reached, step, axis)
            reached = grown & free
        assert (reached == free).all()


class Space:
    """As Gymnasium's spaces, of which only the class's name and these fields are read."""


def space(kind: str, **fields: Any) -> Any:
    made = type(kind, (Space,), {})()
    vars(made).update({"dtype": np.dtype(np.int64), **fields})
    return made


def test_numbers_become_actions_of_every_kind_of_space():
    keys = space("Discrete", n=3, start=0)
    named = actions_of(keys, ["NOOP", "LEFT", "RIGHT"])
    assert named.names == ("left", "right") and named.kinds == ("discrete", "discrete")
    assert [int(named.of(keys, np.array(x))) for x in ([0.0, 0], [1.0, 0], [0.0, 1])] == [0, 1, 2]
    box = space("Box", low=np.array([0.0, -1]), high=np.array([512.0, 1]), shape=(2,), dtype=np.dtype(np.float32))
    np.testing.assert_allclose(actions_of(box, None).of(box, np.array([-1.0, 0.5])), [0, 0.5])
    bits = space("MultiBinary", shape=(2,), dtype=np.dtype(np.int8))
    assert actions_of(bits, None).of(bits, np.array([0.0, 1])).tolist() == [0, 1]
    with pytest.raises(ValueError, match="must be Discrete, MultiBinary or Box"):
        actions_of(space("Text"), None)


def test_vizdooms_actions_are_called_as_their_buttons():
    """So that the page's keys find them: an action of it is a row of a table."""
    buttons = [SimpleNamespace(name="TURN_LEFT"), SimpleNamespace(name="MOVE_FORWARD")]
    game, rows = SimpleNamespace(get_available_buttons=lambda: buttons), [[0, 0], [0, 1], [1, 0]]
    keys, meanings = space("Discrete", n=3, start=0), meanings_of(SimpleNamespace(game=game, button_map=rows))
    named = actions_of(keys, meanings)
    assert named.names == ("move_forward", "turn_left")
    assert [int(named.of(keys, np.array(x))) for x in ([0.0, 0], [1.0, 0], [0.0, 1])] == [0, 1, 2]
    assert meanings_of(SimpleNamespace()) is None


def test_any_environment_of_gymnasium_is_recorded():
    pytest.importorskip("gymnasium")
    from gymnasium import register
    from gymnasium.spaces import Discrete

    class Counts:
        """The smallest environment: it draws its latest action."""

        metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 24}  # noqa: RUF012

    import gymnasium

    class Environment(gymnasium.Env):
        metadata = Counts.metadata
        action_space, observation_space = Discrete(3), Discrete(3)
        latest = 0

        def __init__(self, render_mode: str | None = None) -> None:
            self.render_mode = render_mode

        def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
            super().reset(seed=seed)
            self.latest = 0
            return 0, {}

        def step(self, action: Any) -> Any:
            self.latest = int(action)
            return self.latest, 1.0, False, False, {}

        def render(self) -> Any:
            return np.full((40, 60, 3), 100 * self.latest, np.uint8)

    register("gwm/Counts-v0", Environment)
    world = cast(World, make_world("gym:gwm/Counts-v0", 32))
    assert world.names == ("action0", "action1", "action2") and world.rate == 24
    clip = make_episode(PLAN, world)
    assert clip.frames.shape == (24, 32, 32, 3)
    assert (clip.frames[:, 0, 0, 0] // 100 == (clip.signals["action"] @ np.arange(3))).all()
    with pytest.raises(ValueError, match="env=gym:gwm/Nowhere-v0 cannot be made"):
        make_world("gym:gwm/Nowhere-v0", 32)


def test_worlds_and_policies_that_do_not_exist_are_refused():
    with pytest.raises(ValueError, match="env='doom' must be maze"):
        make_world("doom", 32)
    with pytest.raises(ValueError, match="policy='best' must be one of random, scripted, mixed"):
        Policy(Maze(8), "best", hold_s=0.4, seed=0)
    with pytest.raises(ValueError, match="policy=scripted must be random"):
        Policy(cast(World, Shown()), "scripted", hold_s=0.4, seed=0)
