"""A model of a world as an environment of Gymnasium, in which a policy can be trained.

env = gymnasium.make("serve.simulator:gwm/World-v0", artifact="runs/maze/artifact")
envs = gymnasium.make_vec("serve.simulator:gwm/World-v0", num_envs=4, artifact="runs/maze/artifact")

One step is one chunk of the model: its action is held for all of the chunk's pixel frames, its reward is their sum, and
what is observed is the last of them.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from gwm.condition.spec import Control
from gwm.contract import Contract
from gwm.optional import optional_module
from gwm.outcome import FOLDER, OutcomeHead, OutcomeStream, load_outcome
from serve.artifact import PLACES, Artifact, chosen_dtype, load_artifact
from serve.engine import Engine
from serve.graphs import capture_on
from serve.request import read_portrait

gymnasium: Any = optional_module("gymnasium", "pip install gymnasium")
spaces: Any = gymnasium.spaces

ID = "gwm/World-v0"
LENGTH = 96  # steps of an episode, unless max_episode_steps says otherwise: 16 s with chunks of a sixth
ENDS = 0.5  # chance from which on an episode has ended
CONDITION = "action"  # the name under which worlds are recorded
KEYS, NUMBERS = "keys", "numbers"  # parts of an action that has both


def action_space(controls: Sequence[Control], *, one_key: bool) -> Any:
    """The space of a world's actions: MultiBinary for keys, or with `one_key` Discrete, whose 0 presses none; Box for
    other numbers; a Dict of both where a world has both."""
    keys = [control for control in controls if control.kind == "discrete"]
    others = [control for control in controls if control.kind != "discrete"]
    found = {}
    if keys:
        found[KEYS] = spaces.Discrete(len(keys) + 1) if one_key else spaces.MultiBinary(len(keys))
    if others:
        low, high = (np.array([getattr(c, end) for c in others], np.float32) for end in ("minimum", "maximum"))
        found[NUMBERS] = spaces.Box(low, high, dtype=np.float32)
    return spaces.Dict(found) if len(found) > 1 else next(iter(found.values()))


def numbers_of(action: Any, controls: Sequence[Control], *, one_key: bool) -> dict[str, float]:
    """What `Engine.act` is given for an action of `action_space`."""
    keys = [control.name for control in controls if control.kind == "discrete"]
    others = [control.name for control in controls if control.kind != "discrete"]
    parts = action if isinstance(action, Mapping) else {KEYS if keys else NUMBERS: action}
    found: dict[str, float] = {}
    if keys:
        pressed = np.asarray(parts[KEYS])
        found |= {name: float(pressed == place + 1 if one_key else pressed[place]) for place, name in enumerate(keys)}
    if others:
        found |= dict(zip(others, np.asarray(parts[NUMBERS], np.float64).ravel().tolist(), strict=True))
    return found


@cache
def shared(folder: str, device: str | None) -> Artifact:
    """The artifact, once for all environments of a process: each has a cache of its own, and the weights are the
    same."""
    return load_artifact(folder, device=device, dtype=chosen_dtype("auto", device))


@cache
def shared_outcome(folder: str, latent_channels: int) -> OutcomeHead:
    return load_outcome(Path(folder), latent_channels=latent_channels)


class WorldEnv(gymnasium.Env):
    """Observations are pictures, `height width 3`, uint8. `info` has the chunk's `frames` and, where it was recorded,
    the `state` that is read from the latents.

    `reset` begins at one of the artifact's places, which the seed chooses; options={"image": picture or path} begins at
    another one. The same seed and actions give the same episode.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 6}  # noqa: RUF012  # Gymnasium's own form

    def __init__(
        self,
        artifact: str,
        *,
        outcome: str | None = FOLDER,
        one_key: bool = False,
        render_mode: str | None = None,
        device: str | None = None,
    ) -> None:
        """outcome: folder of what reads rewards, from the artifact or the working directory; None: every reward is 0,
            and no episode ends by itself.
        one_key: at most one key at a time, as in environments whose actions are Discrete.
        render_mode: rgb_array or None; device: as `load_artifact`.

        Raises:
            FileNotFoundError: there is no artifact, or nothing that reads rewards.
            ValueError: the artifact takes no actions.
        """
        folder = Path(artifact)
        loaded = shared(str(folder), device)
        contract = loaded.contract
        self.controls = contract.controls_of(CONDITION)
        check_world(contract, folder)
        weight = loaded.dit.head.weight
        self.engine = Engine(loaded, seed=0, capture=capture_on(weight.device))
        self.outcome = None
        if outcome is not None:
            head = shared_outcome(str(_outcome_folder(folder, outcome)), contract.vae.latent_channels)
            self.outcome = OutcomeStream(head.to(weight.device))
        self.places = sorted((folder / PLACES).glob("*.png"))
        self.one_key, self.render_mode = one_key, render_mode
        self.metadata = self.metadata | {"render_fps": 1000 / contract.chunk_ms}
        self.action_space = action_space(self.controls, one_key=one_key)
        self.observation_space = spaces.Box(0, 255, (*self.engine.size, 3), np.uint8)
        self.picture: UInt8[np.ndarray, "h w 3"] | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[UInt8[np.ndarray, "h w 3"], dict[str, Any]]:
        """
        Raises:
            ValueError: the artifact has no places and no image is given, or the image cannot be used.
        """
        super().reset(seed=seed)
        picture = self.picture = self._start((options or {}).get("image"))
        self.engine.seed = int(self.np_random.integers(2**31))
        self.engine.start(picture)
        if self.outcome is not None:
            self.outcome.start(self.engine.rollout.reference)
        return picture.copy(), {}

    def step(self, action: Any) -> tuple[UInt8[np.ndarray, "h w 3"], float, bool, bool, dict[str, Any]]:
        """
        Raises:
            ValueError: the action is not in the space.
        """
        if not self.action_space.contains(action):
            raise ValueError(f"action={action!r} must be in {self.action_space}.")
        self.engine.act(numbers_of(action, self.controls, one_key=self.one_key))
        latents = self.engine.denoise(self.engine.take())
        frames = self.engine.decode(latents)
        picture, self.picture = frames[-1].copy(), frames[-1].copy()
        info: dict[str, Any] = {"frames": frames.copy()}
        if self.outcome is None:
            return picture, 0.0, False, False, info
        found = self.outcome(latents)
        if self.outcome.head.config.state:
            info["state"] = found[-1].state[0].cpu().numpy()
        reward = sum(float(one.reward) for one in found)
        ended = any(float(one.ended) > ENDS for one in found)
        return picture, reward, ended, False, info

    def render(self) -> UInt8[np.ndarray, "h w 3"] | None:
        return None if self.render_mode is None or self.picture is None else self.picture.copy()

    def _start(self, image: Any) -> UInt8[np.ndarray, "h w 3"]:
        if image is None and not self.places:
            raise ValueError(
                f"options must have an image: the artifact has no {PLACES}/ to begin at. Export it with call.places=..."
            )
        if isinstance(image, np.ndarray):
            return image
        chosen = self.places[int(self.np_random.integers(len(self.places)))] if image is None else image
        return read_portrait(chosen, self.engine.framing, crop=False)


def check_world(contract: Contract, folder: Path) -> None:
    """Refuse a model that nobody can act in.

    Raises:
        ValueError: it takes sound, or no actions.
    """
    if contract.takes_sound or not contract.controls_of(CONDITION):
        raise ValueError(
            f"artifact={folder} must be of a world: it takes sound, or has no condition named {CONDITION!r}. Train "
            "one as docs/worlds.md says."
        )


def _outcome_folder(artifact: Path, outcome: str) -> Path:
    for folder in (artifact / outcome, Path(outcome)):
        if (folder / "config.json").is_file():
            return folder
    raise FileNotFoundError(
        f"outcome={outcome} must be a folder that train.outcome wrote, in {artifact} or here. Make it with: "
        f"python -m train.outcome artifact={artifact} shards=... ; or pass outcome=None, for rewards of 0."
    )


gymnasium.register(id=ID, entry_point="serve.simulator:WorldEnv", max_episode_steps=LENGTH)
