"""A recording of both voices as a live engine gets it, and as one that knows all of it from the start."""

import numpy as np

from serve.artifact import Artifact
from serve.engine import Engine

CHUNK = LOOKAHEAD = 4_000

Voices = tuple[np.ndarray, np.ndarray]


def chunks(voices: Voices) -> list[Voices]:
    """A chunk of the agent's voice with its lookahead, and a chunk of the user's, as `Face.step` takes them."""
    agent, user = (voice[: len(voice) // CHUNK * CHUNK] for voice in voices)
    agent = np.pad(agent, (0, LOOKAHEAD))
    return [(agent[at : at + CHUNK + LOOKAHEAD], user[at : at + CHUNK]) for at in range(0, len(user), CHUNK)]


def played(artifact: Artifact, portrait: np.ndarray, voices: Voices, *, seed: int) -> np.ndarray:
    """Frames of whole chunks; the user is heard later by the lookahead."""
    agent, user = (voice[: len(voice) // CHUNK * CHUNK] for voice in voices)
    both = np.pad(agent, (0, LOOKAHEAD)), np.pad(user, (LOOKAHEAD, 0))
    return Engine(artifact, seed=seed).play(portrait, *both, num_frames=len(agent) // 1_000)[0]
