import dataclasses

import numpy as np
import pytest
import torch

from data.shards import Clip, Truth
from gwm.condition.spec import in_order
from gwm.media.pixels import to_tensor
from gwm.wan.geometry import wan_conditions
from serve.artifact import Artifact
from serve.engine import Engine
from train.played import clip_batch, stream

Voices = tuple[np.ndarray, np.ndarray]


def as_clip(artifact: Artifact, portrait: np.ndarray, voices: Voices) -> Clip:
    """The clip of which a trainer's stream covers the voices: the frames that the engine adds as silence are real."""
    audio = artifact.contract.audio
    chunk = artifact.contract.chunk_pixel_frames
    num_frames = -(-len(voices[0]) // (chunk * audio.frame_samples)) * chunk
    end = (num_frames + audio.lookahead_frames) * audio.frame_samples - len(voices[0])
    agent, user = (np.pad(voice, (audio.left_frames * audio.frame_samples, end)) for voice in voices)
    total = audio.left_frames + num_frames + audio.lookahead_frames
    still, quiet = np.zeros((total, 52), np.float32), np.zeros(total, bool)
    truth = Truth(
        mouth=still[:, 0],
        actions=still,
        pose=still[:, :3],
        gaze=still[:, :2],
        agent_speaking=quiet,
        user_speaking=quiet,
    )
    frames = np.zeros((total, *portrait.shape), np.uint8)
    return Clip(key="0", frames=frames, agent=agent, user=user, reference=portrait, truth=truth, info={})


def trainer_frames(artifact: Artifact, portrait: np.ndarray, voices: Voices, *, seed: int) -> np.ndarray:
    """What a stage's gate judges: the trainer's stream, decoded as a whole clip."""
    batch, _ = clip_batch([as_clip(artifact, portrait, voices)], artifact.vae, artifact.contract)
    latents = stream(artifact.dit, artifact.contract, batch, num_frames=batch.x0.shape[1], seed=seed)
    with torch.no_grad():
        memory = artifact.vae.begin(artifact.vae.encode_reference(to_tensor(portrait)[None]))
        return artifact.vae.decode(latents, memory)[0][0].numpy()[: -(-len(voices[0]) // 1_000)]


def live_frames(engine: Engine, portrait: np.ndarray, voices: Voices, *, push: int) -> np.ndarray:
    """Frames of a conversation that arrives in pieces of `push` samples."""
    engine.start(portrait)
    frames = []
    for at in range(0, len(voices[0]), push):
        engine.push(voices[0][at : at + push], voices[1][at : at + push])
        while engine.ready:
            frames.append(engine.step())
    engine.finish()
    while engine.ready:
        frames.append(engine.step())
    return np.concatenate(frames)


def denoised(engine: Engine, portrait: np.ndarray, voices: Voices) -> torch.Tensor:
    """Latents of a whole recording."""
    engine.start(portrait)
    engine.push(*voices)
    engine.finish()
    made = []
    while engine.ready:
        made.append(engine.denoise(engine.take()))
    return torch.cat(made, dim=1)


@torch.no_grad()
def test_latents_of_the_engine_are_the_trainers_to_the_bit(artifact: Artifact, portrait: np.ndarray, voices: Voices):
    made = denoised(Engine(artifact, seed=7), portrait, voices)
    batch, _ = clip_batch([as_clip(artifact, portrait, voices)], artifact.vae, artifact.contract)
    trained = stream(artifact.dit, artifact.contract, batch, num_frames=batch.x0.shape[1], seed=7)
    assert torch.equal(made, trained)


def test_engine_shows_what_the_trainer_judged(artifact: Artifact, portrait: np.ndarray, voices: Voices):
    """Every pixel, though one decodes chunk by chunk and the other the clip as a whole."""
    frames, _ = Engine(artifact, seed=7).play(portrait, *voices)
    assert np.array_equal(frames, trainer_frames(artifact, portrait, voices, seed=7))


def test_each_voice_reaches_the_picture(artifact: Artifact, portrait: np.ndarray, voices: Voices):
    """Guards the test above: with a deaf model it would prove nothing."""
    agent, user = voices
    silence = np.zeros_like(agent)
    frames, _ = Engine(artifact, seed=7).play(portrait, agent, user)
    for other in ((silence, user), (agent, silence), (user, agent)):
        assert (Engine(artifact, seed=7).play(portrait, *other)[0] != frames).mean() > 0.1


@pytest.mark.parametrize("push", [160, 1_000, 7_919])
def test_pixels_do_not_depend_on_how_the_sound_arrives(
    artifact: Artifact, portrait: np.ndarray, voices: Voices, push: int
):
    engine = Engine(artifact, seed=7)
    whole, _ = engine.play(portrait, *voices)
    assert np.array_equal(live_frames(engine, portrait, voices, push=push)[: len(whole)], whole)


def test_a_chunk_waits_for_the_declared_lookahead_and_no_longer(
    artifact: Artifact, portrait: np.ndarray, voices: Voices
):
    engine = Engine(artifact, seed=7)
    engine.start(portrait)
    needed = 1_000 * (artifact.contract.chunk_pixel_frames + artifact.contract.audio.lookahead_frames)
    engine.push(voices[0][: needed - 1], voices[1][: needed - 1])
    assert not engine.ready
    with pytest.raises(RuntimeError, match=f"{needed - 1} samples are waiting"):
        engine.step()
    engine.push(voices[0][needed - 1 : needed], voices[1][needed - 1 : needed])
    whole, _ = Engine(artifact, seed=7).play(portrait, *voices)
    first = engine.step()
    assert np.array_equal(first, whole[: len(first)])


def test_clip_ends_with_the_frame_in_which_the_sound_ends(artifact: Artifact, portrait: np.ndarray, voices: Voices):
    frames, times = Engine(artifact, seed=0).play(portrait, *voices)
    assert len(frames) == 24  # 23.4 frames of sound
    assert len(times) == 24 // artifact.contract.chunk_pixel_frames


def test_sound_before_the_portrait_is_an_error(artifact: Artifact):
    with pytest.raises(RuntimeError, match="call start with a portrait"):
        Engine(artifact, seed=0).push(np.zeros(10, np.float32), np.zeros(10, np.float32))


def test_portrait_of_another_size_is_an_error(artifact: Artifact):
    with pytest.raises(ValueError, match="portrait of 48x32 px must be 32x48, height x width"):
        Engine(artifact, seed=0).start(np.zeros((48, 32, 3), np.uint8))


def test_voices_of_different_length_are_an_error(artifact: Artifact, portrait: np.ndarray):
    with pytest.raises(ValueError, match="agent has 10 samples and user 11"):
        Engine(artifact, seed=0).play(portrait, np.zeros(10, np.float32), np.zeros(11, np.float32))


def test_no_sound_at_all_is_an_error(artifact: Artifact, portrait: np.ndarray):
    with pytest.raises(ValueError, match="agent has 0 samples"):
        Engine(artifact, seed=0).play(portrait, np.zeros(0, np.float32), np.zeros(0, np.float32))


def test_a_model_that_takes_its_image_as_tokens_and_channels_is_refused(artifact: Artifact):
    image = wan_conditions(text=6, image=8, channels=20)
    dit = dataclasses.replace(artifact.contract.dit, conditions=in_order((*image, *artifact.contract.dit.conditions)))
    changed = dataclasses.replace(artifact, contract=artifact.contract.replace(dit=dit))
    with pytest.raises(ValueError, match=r"conditions \['image', 'given'\] must not be there"):
        Engine(changed, seed=0)
