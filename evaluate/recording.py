"""Judge any clip with sound, for which there is no truth: a real recording, or what serve.generate wrote.

python -m evaluate.recording video=talk.mp4
"""

import logging
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from omegaconf import DictConfig

from configs.command.main import command
from gwm.clock import FPS
from gwm.files.json_text import json_text
from gwm.media.face import FaceMesh
from gwm.media.video import read_audio, read_video
from gwm.metrics.face_track import eye_contrast, face_track, mouth_crops, seen
from gwm.metrics.judge import MIN_SEEN
from gwm.metrics.listening import num_blinks, per_minute
from gwm.metrics.movement import exposure, motion_energy, saturation, sharpness
from gwm.metrics.sync_net import CROP_PX, SyncNet, load_sync_net, sync_score

log = logging.getLogger(__name__)


def at_24_fps(frames: UInt8[np.ndarray, "f h w 3"], fps: float) -> UInt8[np.ndarray, "g h w 3"]:
    """The frame that is shown in the middle of each 24th of a second."""
    middles = (np.arange(int(len(frames) * FPS / fps)) + 0.5) / FPS
    return frames[np.minimum((middles * fps).astype(int), len(frames) - 1)]


def judge_recording(
    frames: UInt8[np.ndarray, "f h w 3"], voice: Float[np.ndarray, " t"], mesh: FaceMesh, net: SyncNet
) -> dict[str, float]:
    """Lip-sync by the network, blinks, and the state of the picture, of frames at 24 fps.

    Raises:
        ValueError: too few frames show a face, or the clip is too short.
    """
    track = face_track(frames, mesh)
    if seen(track) < MIN_SEEN:
        raise ValueError(
            f"a face is seen in {seen(track):.0%} of the frames, must be in {MIN_SEEN:.0%}: use a clip of one person "
            "who looks at the camera."
        )
    score = sync_score(net, mouth_crops(frames, track, CROP_PX), voice)
    return {
        "sync_confidence": score.confidence,
        "sync_distance": score.distance,
        "sync_lag_frames": float(score.lag_frames),
        "blinks_per_minute": per_minute(num_blinks(eye_contrast(frames, track)), len(frames)),
        "saturation": float(saturation(frames).mean()),
        "exposure": float(exposure(frames).mean()),
        "sharpness": float(sharpness(frames).mean()),
        "motion": motion_energy(frames),
    }


@command("recording", verbatim=("video", "sync"))
def main(cfg: DictConfig) -> None:
    frames, fps = read_video(cfg.video)
    net = load_sync_net(Path(cfg.sync))
    log.info(json_text(judge_recording(at_24_fps(frames, fps), read_audio(cfg.video), FaceMesh(), net), indent=1))


if __name__ == "__main__":
    main()
