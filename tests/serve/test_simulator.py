"""A model of a world is an environment of Gymnasium, in which policies train unchanged."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from data.shards import Clip
from gwm.condition.spec import Control
from gwm.outcome import FOLDER, FeaturePoints, Outcome, OutcomeConfig, OutcomeHead, OutcomeStream, load_outcome
from gwm.weights import WeightsHeader, save_weights
from serve.artifact import load_artifact
from serve.engine import Engine
from tests.maze import SIDE, maze_artifact, maze_shards
from train.outcome import Outcomes, fit, judge, outcomes, train_outcome

gymnasium = pytest.importorskip("gymnasium")
simulator = pytest.importorskip("serve.simulator")
MAKE = "serve.simulator:gwm/World-v0"


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a head that was trained for a moment."""
    folder = tmp_path_factory.mktemp("world")
    made = maze_artifact(folder)
    shards = maze_shards(folder / "shards", num_frames=8)
    train_outcome(made, shards, made / FOLDER, clips=4, steps=2, batch_size=8, seed=0)
    return made


def made(artifact: Path, **options: Any) -> Any:
    return gymnasium.make(MAKE, artifact=str(artifact), **options)


def test_gymnasiums_own_checker_finds_nothing(artifact: Path, recwarn: pytest.WarningsRecorder):
    from gymnasium.utils.env_checker import check_env

    check_env(made(artifact).unwrapped, skip_render_check=True)
    assert [str(one.message) for one in recwarn if "WARN" in str(one.message)] == []


def test_a_step_is_a_chunk_of_the_model_under_one_action(artifact: Path):
    env = made(artifact)
    start, _ = env.reset(seed=3)
    action = np.array([1, 0, 0, 1], np.int8)
    shown = [env.step(action) for _ in range(3)]
    engine = Engine(load_artifact(artifact), seed=env.unwrapped.engine.seed)
    engine.start(start)
    engine.act({"forward": 1, "back": 0, "turn_left": 0, "turn_right": 1})
    for picture, _, _, _, info in shown:
        frames = engine.step()
        assert np.array_equal(info["frames"], frames) and np.array_equal(picture, frames[-1])
    assert env.metadata["render_fps"] == pytest.approx(24 / len(frames))


def test_the_seed_decides_an_episode_and_its_place(artifact: Path):
    env, starts = made(artifact), set()
    episodes = []
    for seed in (5, 5, 6, 7, 8):
        picture, _ = env.reset(seed=seed)
        starts.add(picture.tobytes())
        episodes.append([env.step(np.zeros(4, np.int8))[0] for _ in range(2)])
    assert np.array_equal(episodes[0], episodes[1]) and not np.array_equal(episodes[0], episodes[2])
    assert len(starts) == 2  # the artifact's places
    own = np.zeros((SIDE, SIDE, 3), np.uint8)
    assert np.array_equal(env.reset(options={"image": own})[0], own)
    first = []
    for seed in (5, 6):  # also what the model draws, from the same start
        env.reset(seed=seed, options={"image": own})
        first.append(env.step(np.zeros(4, np.int8))[0])
    assert not np.array_equal(*first)


def test_an_episode_is_cut_at_its_length_and_a_vector_of_environments_shares_weights(artifact: Path):
    env = made(artifact, max_episode_steps=2)
    env.reset(seed=0)
    assert [env.step(np.zeros(4, np.int8))[3] for _ in range(2)] == [False, True]
    envs = gymnasium.make_vec(MAKE, num_envs=2, vectorization_mode="sync", artifact=str(artifact))
    pictures, _ = envs.reset(seed=[1, 2])
    moved, rewards, *_ = envs.step(np.zeros((2, 4), np.int8))
    assert pictures.shape == moved.shape == (2, SIDE, SIDE, 3) and rewards.shape == (2,)
    first, second = (one.unwrapped.engine.rollout for one in envs.envs)
    assert first.model is second.model and first.cache is not second.cache
    alone = made(artifact)
    alone.reset(seed=2)
    assert np.array_equal(alone.step(np.zeros(4, np.int8))[0], moved[1])


@pytest.mark.parametrize(
    ("kinds", "one_key", "action", "numbers"),
    [
        (["discrete"] * 2, False, np.array([0, 1], np.int8), {"a": 0, "b": 1}),
        (["discrete"] * 2, True, np.int64(0), {"a": 0, "b": 0}),
        (["discrete"] * 2, True, np.int64(2), {"a": 0, "b": 1}),
        (["continuous"] * 2, False, np.array([-1, 0.5], np.float32), {"a": -1, "b": 0.5}),
        (
            ["discrete", "continuous"],
            False,
            {"keys": np.array([1], np.int8), "numbers": np.array([0.25], np.float32)},
            {"a": 1, "b": 0.25},
        ),
    ],
)
def test_kinds_of_actions_are_spaces(kinds: list[Any], one_key: bool, action: Any, numbers: dict[str, float]):
    limits = {"discrete": (0.0, 1.0), "continuous": (-1.0, 1.0)}
    controls = [Control(name, *limits[kind], kind=kind) for name, kind in zip("ab", kinds, strict=True)]
    assert simulator.action_space(controls, one_key=one_key).contains(action)
    assert simulator.numbers_of(action, controls, one_key=one_key) == numbers


def test_what_cannot_be_a_world_is_refused(artifact: Path, tmp_path: Path):
    with pytest.raises(ValueError, match="must be in MultiBinary"):
        env = made(artifact).unwrapped
        env.reset(seed=0)
        env.step(np.array([2, 0, 0, 0], np.int8))
    with pytest.raises(FileNotFoundError, match=r"outcome=elsewhere must be .* python -m train\.outcome"):
        made(artifact, outcome="elsewhere")
    env = made(artifact, outcome=None)
    env.reset(seed=0)
    assert env.step(np.zeros(4, np.int8))[1:4] == (0.0, False, False)
    with pytest.raises(ValueError, match="with 64 channels, must be of 8"):
        load_outcome(artifact / FOLDER, latent_channels=8)


class Shown:
    """An autoencoder whose latents are the means of four frames."""

    class config:
        temporal_stride, latent_channels = 4, 3

    def encode_reference(self, image: torch.Tensor) -> Any:
        class Reference:
            latent = image.movedim(-1, 1)[:, None].float() / 255

        return Reference

    def encode(self, frames: torch.Tensor, reference: Any) -> torch.Tensor:
        return frames.unflatten(1, (-1, 4)).float().mean(2).movedim(-1, 2) / 255


def clips(count: int, *, seed: int) -> list[Clip]:
    """The picture flashes for four frames now and then, for which there is a reward; green ends the episode; the state
    is how red it is."""
    rng, found = np.random.default_rng(seed), []
    for number in range(count):
        flash, red, over = rng.random(12) < 0.2, rng.random(12), rng.random(12) < 0.2
        colours = np.stack([red, over, flash], axis=1).repeat(4, axis=0)
        frames = np.broadcast_to((colours * 255).astype(np.uint8)[:, None, None], (48, 4, 4, 3)).copy()
        signals = {
            "action": np.zeros((48, 1), np.float32),
            "reward": (flash / 4).repeat(4)[:, None].astype(np.float32),
            "ended": over.repeat(4)[:, None].astype(np.float32),
            "state": red.repeat(4)[:, None].astype(np.float32),
        }
        info = {"identity": str(number)}
        found.append(
            Clip(
                key=str(number), frames=frames, agent=None, user=None, reference=frames[0], truth=None, info=info,
                signals=signals,
            )
        )  # fmt: skip
    return found


def test_a_features_point_is_where_it_is_highest():
    """A peak in one cell of one map, of two equal cells in the other: (-1, -1) is the first cell, (1, 1) the last."""
    features = torch.zeros(1, 2, 4, 5)
    features[0, 0, 3, 1] = features[0, 1, 0, 0] = features[0, 1, 2, 4] = 50
    right, down, pooled = FeaturePoints()(features)[0].split([2, 2, 32])
    torch.testing.assert_close(right, torch.tensor([-0.5, 0.0]))
    torch.testing.assert_close(down, torch.tensor([1.0, -1 / 3]))
    assert pooled.max() == 25  # of two cells of which one has the peak


@pytest.mark.usefixtures("unchecked")
def test_rewards_ends_and_states_are_read_from_latents():
    train, test = (outcomes(clips(count, seed=seed), Shown(), 4) for count, seed in ((60, 0), (20, 1)))  # type: ignore[arg-type]
    torch.testing.assert_close(train.reward.unique(), torch.tensor([0.0, 1.0]))
    head = OutcomeHead(OutcomeConfig(latent_channels=3, state=1, width=16, learned_end=True))
    before = judge(head, test)
    fit(head, train, steps=300, batch_size=64, seed=0)
    gate = judge(head, test)
    assert gate["reward_auc"] > 0.99 and gate["end_auc"] > 0.99 and gate["state_explained"][0] > 0.7
    assert gate["reward_of_true"] == pytest.approx(1, abs=0.25)  # though rewarded frames are drawn more often
    assert before["reward_auc"] < 0.9
    shuffled = Outcomes(test.latents, test.reward.flip(0), test.ended, test.state)
    assert abs(judge(head, shuffled)["reward_auc"] - 0.5) < 0.2


def test_an_end_that_was_never_shown_is_never_seen():
    x = torch.randn(2, 4, 3, 4, 4)
    head = OutcomeHead(OutcomeConfig(latent_channels=3, state=0, width=8))
    assert isinstance(head(x), Outcome) and not head(x).ended.any()
    taught = OutcomeHead(OutcomeConfig(latent_channels=3, state=0, width=8, learned_end=True))
    assert taught(x).ended.all()


def test_a_stream_sees_the_latent_frames_that_training_saw():
    """The reference before the first, then the latest ones in order."""
    head = OutcomeHead(OutcomeConfig(latent_channels=3, width=8, frames=3))
    latents, reference = torch.randn(1, 4, 3, 4, 4), torch.randn(1, 1, 3, 4, 4)
    stream = OutcomeStream(head)
    stream.start(reference)
    found = [float(one.reward) for part in latents.split(2, dim=1) for one in stream(part)]
    padded = torch.cat([reference, reference, latents], dim=1)
    expected = [float(head(padded[:, k : k + 3]).reward) for k in range(4)]
    assert found == pytest.approx(expected, abs=1e-6)


def test_an_episode_ends_when_the_head_says_so(artifact: Path, tmp_path: Path):
    config = OutcomeConfig(latent_channels=64, learned_end=True)
    head = OutcomeHead(config)
    with torch.no_grad():
        head.head.weight.zero_()
        head.head.bias.copy_(torch.tensor([0.25, 5.0]))
    save_weights(tmp_path / "o", head.state_dict(), WeightsHeader(kind="outcome", config=config.to_json()))
    env = made(artifact, outcome=str(tmp_path / "o"))
    env.reset(seed=0)
    _, reward, ended, cut, info = env.step(np.zeros(4, np.int8))
    assert (reward, ended, cut) == (pytest.approx(0.25), True, False) and "state" not in info


@pytest.mark.slow
def test_a_policy_of_stable_baselines_trains_in_it_unchanged(artifact: Path):
    baselines = pytest.importorskip("stable_baselines3")
    env = made(artifact, max_episode_steps=20)
    policy = baselines.PPO("MlpPolicy", env, n_steps=64, batch_size=32, n_epochs=1, seed=0, device="cpu")
    before = [weight.clone() for weight in policy.policy.parameters()]
    policy.learn(256)
    assert policy.num_timesteps == 256 and len(policy.ep_info_buffer) == 12
    after = list(policy.policy.parameters())
    assert any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
