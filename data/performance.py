"""Everything that one clip's character says, hears and does, from a seed: voice, mouth, head, eyes, brows."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from data.actions import ACTION_NAMES
from data.behaviour import blinks, emphasis, energy, gaze, head, interest, nods, pitch, smooth_noise
from data.manner import Manner
from data.speech.dialogue import Dialogue, converse
from data.speech.espeak import Phoneme
from data.speech.sentences import Split
from data.speech.visemes import mouth_actions
from gwm.clock import FPS, SAMPLES_PER_FRAME

NOISY_SHARE = 0.3  # clips whose two streams carry faint noise, as a microphone's do
GAIN = (0.5, 1.0)
POSE_LIMIT = np.array([0.45, 0.35, 0.2])  # radians


@dataclass(frozen=True, slots=True)
class Performance:
    """Ground truth of one clip at 24 fps and 24 kHz. Times of phonemes are seconds from the clip's start."""

    actions: Float[np.ndarray, "f 52"]  # ARKit weights in [0, 1], in the order of ACTION_NAMES
    pose: Float[np.ndarray, "f 3"]  # yaw (> 0 to the right of the image), pitch (> 0 up), roll, in radians
    gaze: Float[np.ndarray, "f 2"]  # [-1, 1]; 1 is about 0.4 rad, relative to the camera
    agent: Float[np.ndarray, " t"]  # the character's own voice in [-1, 1], 1000 samples a frame
    user: Float[np.ndarray, " t"]  # the other side's
    agent_speaking: Bool[np.ndarray, " f"]
    user_speaking: Bool[np.ndarray, " f"]
    phonemes: list[Phoneme]  # of the agent, without gaps from 0 to the end
    sentence: str | None
    user_sentence: str | None
    voice: str
    manner: Manner | None  # None: natural


def perform(seed: int, num_frames: int, split: Split, manner: Manner | None = None) -> Performance:
    """A random stretch of dialogue, acted out; the same seed gives the same bytes.

    manner: None: natural, without a mood. The dialogue is the same in every manner.

    While the user speaks, the agent keeps its mouth shut, blinks, looks up as the user begins, and nods and raises its
    brows in answer to the user's stresses.

    Raises:
        ValueError: num_frames below 1.
    """
    if num_frames < 1:
        raise ValueError(f"num_frames={num_frames} must be at least 1: a clip has a first frame.")
    rng = np.random.default_rng(seed)
    dialogue = converse(rng, num_frames=num_frames, split=split)
    agent, user = (balance(rng, dialogue.audio(role)) for role in ("agent", "user"))
    agent_speaking, user_speaking = dialogue.speaking("agent"), dialogue.speaking("user")
    # Prosody is measured on the dry voice: neither gain nor noise of a recording moves a head.
    spoken, heard = (energy(dialogue.audio(role), samples_per_frame=SAMPLES_PER_FRAME) for role in ("agent", "user"))
    stress = emphasis(spoken, pitch(dialogue.audio("agent"), samples_per_frame=SAMPLES_PER_FRAME))
    starts = np.diff(np.stack([agent_speaking, user_speaking]).astype(int)) > 0
    listened = np.where(agent_speaking, 0, heard).astype(np.float32)
    nodding = nods(rng, listened, fps=FPS)
    pose = head(rng, spoken=spoken, stress=stress, nodding=nodding, fps=FPS)
    gain = np.ones(num_frames, np.float32) if manner is None else manner.gain
    closure = blinks(rng, num_frames, onsets=np.flatnonzero(starts.any(axis=0)).tolist(), fps=FPS)
    actions = mouth(dialogue) + expression(rng, gain * stress, closure, user_speaking)
    looks = gaze(rng, num_frames, fps=FPS, addressed=np.flatnonzero(starts[1]).tolist())
    raised = gain * interest(rng, listened, fps=FPS)
    for name, share in (("browInnerUp", 1.0), ("browOuterUpLeft", 0.7), ("browOuterUpRight", 0.7)):
        actions[:, ACTION_NAMES.index(name)] += share * raised
    if manner is not None:
        actions += manner.actions
        pose = in_manner(pose, manner)
    return Performance(
        actions=actions.clip(0, 1).astype(np.float32),
        pose=pose,
        gaze=looks,
        agent=agent,
        user=user,
        agent_speaking=agent_speaking,
        user_speaking=user_speaking,
        phonemes=clip_phonemes(dialogue),
        sentence=dialogue.text("agent"),
        user_sentence=dialogue.text("user"),
        voice=dialogue.agent_voice,
        manner=manner,
    )


def mouth(dialogue: Dialogue) -> Float[np.ndarray, "f 52"]:
    """Mouth actions of the clip's frames, coarticulated with the speech before and after the clip."""
    end = dialogue.first_frame + dialogue.num_frames
    return mouth_actions(dialogue.phonemes("agent"), num_frames=end, fps=FPS)[dialogue.first_frame :]


def in_manner(pose: Float[np.ndarray, "f 3"], manner: Manner) -> Float[np.ndarray, "f 3"]:
    """Movements scaled by liveliness about the head's mean pose, and the pose shifted by the mood."""
    middle = pose.mean(axis=0)
    moved = middle + manner.gain[:, None] * (pose - middle)
    moved[:, 1] += manner.pitch
    return moved.clip(-POSE_LIMIT, POSE_LIMIT).astype(np.float32)


def expression(
    rng: np.random.Generator,
    stress: Float[np.ndarray, " f"],
    closure: Float[np.ndarray, " f"],
    listening: Bool[np.ndarray, " f"],
) -> Float[np.ndarray, "f 52"]:
    """Lids, brows and smile: brows rise on stress, the smile is the clip's own and a little wider while listening."""
    num_frames = len(stress)
    actions = np.zeros((num_frames, len(ACTION_NAMES)), np.float32)
    mood = max(0.0, rng.normal(0.06, 0.08))
    ease = np.convolve(listening, np.full(9, 1 / 9), mode="same")[:num_frames]
    brows = 0.9 * stress + 0.08 * smooth_noise(rng, num_frames, cutoff_hz=0.4, fps=FPS) + max(0, rng.normal(0, 0.08))
    tracks = {
        "eyeBlink": closure,
        "mouthSmile": mood + 0.06 * ease + 0.02 * smooth_noise(rng, num_frames, cutoff_hz=0.3, fps=FPS),
        "browOuterUp": 0.7 * brows,
        "cheekSquint": np.full(num_frames, 0.4 * mood),
    }
    for name, track in tracks.items():
        for side in ("Left", "Right"):
            actions[:, ACTION_NAMES.index(name + side)] = track.clip(0, 1)
    actions[:, ACTION_NAMES.index("browInnerUp")] = brows.clip(0, 1)
    return actions


def balance(rng: np.random.Generator, samples: Float[np.ndarray, " t"]) -> Float[np.ndarray, " t"]:
    """The voice at another level and, in some clips, with noise between -65 and -45 dB of full scale."""
    gain, noisy, noise_db = rng.uniform(*GAIN), rng.random() < NOISY_SHARE, rng.uniform(-65, -45)
    noise = rng.standard_normal(len(samples)) * 10 ** (noise_db / 20) if noisy else 0.0
    return (gain * samples + noise).clip(-1, 1).astype(np.float32)


def clip_phonemes(dialogue: Dialogue) -> list[Phoneme]:
    """The agent's phonemes in the clip, cut at its edges, in seconds from its start."""
    start_s, length_s = dialogue.start_s, dialogue.num_frames / FPS
    moved = [(ipa, max(a - start_s, 0.0), min(b - start_s, length_s)) for ipa, a, b in dialogue.phonemes("agent")]
    return [(ipa, a, b) for ipa, a, b in moved if b > a]
