"""Listening behaviour: the mouth is shut while the other side speaks; blinks, nods, and nods in answer to speech."""

import numpy as np
from jaxtyping import Bool, Float

from gwm.clock import FPS
from gwm.metrics.lip_sync import correlation

SHUT = 0.015  # lip gap above the closed mouth's; 99 % of shut mouths of renders at 128 px lie below, 95 % of open above
LIDS_DOWN = 0.82  # of the contrast inside the open eyes before and after
DIP_FRAMES = 6  # on either side in which the eyes are open: a blink has 5 at most
NOD_RADIANS = 0.06  # down, and most of it up again
NOD_RETURN = 0.6
ANSWER_FRAMES = (
    12  # from a stressed syllable to the lowest point of the nod that answers it: 0.2 to 0.4 s and half a nod
)
MIN_FRAMES = 24  # of listening, below which correlations and rates mean nothing

Track = Float[np.ndarray, " f"]


def false_mouth(gap: Track, closed: float, listening: Bool[np.ndarray, " f"]) -> float:
    """Share of the frames of `listening` in which the mouth is seen open; NaN where there are none.

    gap: lip gap by `face_track.lip_gap`; closed: that of the same face with its mouth shut.
    """
    judged = listening & np.isfinite(gap)
    return float((gap[judged] - closed > SHUT).mean()) if judged.any() else float("nan")


def num_blinks(contrast: Track) -> int:
    """How often the lids come down and up again. contrast: by `face_track.eye_contrast`; faces not seen count as open
    eyes.

    Of 21 blinks in 35 unseen renders of 2 s, 20 are counted, and no other. A head that turns away is no blink: the
    contrast of a blink is high on both sides.
    """
    seen = np.isfinite(contrast)
    if not seen.any():
        return 0
    known = np.where(seen, contrast, np.nanmedian(contrast))
    before, after = _highest(known), _highest(known[::-1])[::-1]
    down = known < LIDS_DOWN * np.minimum(before, after)
    return int(down[0]) + int((down[1:] & ~down[:-1]).sum())


def num_nods(pitch: Track) -> int:
    """How often the head goes down by NOD_RADIANS and returns. pitch: by `face_track.head_pitch`, upwards positive."""
    count, top, bottom = 0, -np.inf, np.inf
    for angle in smooth(pitch[np.isfinite(pitch)]):
        if bottom == np.inf:
            top = max(top, angle)
            bottom = angle if top - angle >= NOD_RADIANS else np.inf
        else:
            bottom = min(bottom, angle)
            if angle - bottom >= NOD_RETURN * NOD_RADIANS:
                count, top, bottom = count + 1, angle, np.inf
    return count


def per_minute(count: int, num_frames: int) -> float:
    return count * 60 * FPS / num_frames


def loudness(samples: Float[np.ndarray, " t"], num_frames: int) -> Track:
    """RMS of a voice in each of the frames it accompanies, smoothed over three."""
    frames = samples[: len(samples) // num_frames * num_frames].reshape(num_frames, -1)
    return smooth(np.sqrt(np.square(frames).mean(axis=1)))


def can_answer(listening: Bool[np.ndarray, " f"]) -> bool:
    """Whether enough is listened to for a `response`."""
    return int(listening[ANSWER_FRAMES:].sum()) >= MIN_FRAMES


def response(pitch: Track, user: Float[np.ndarray, " t"], listening: Bool[np.ndarray, " f"]) -> float:
    """Correlation of the head's way down with the user's loudness half a second before; about 0 for a head that does
    not listen, or that heard another voice. NaN where too little is listened to.

    The data's own nods reach 0.35: heads sway, and not every stress is answered.
    """
    late, early = -smooth(pitch)[ANSWER_FRAMES:], loudness(user, len(pitch))[:-ANSWER_FRAMES]
    judged = listening[ANSWER_FRAMES:] & np.isfinite(late)
    return correlation(late[judged], early[judged]) if can_answer(listening) else float("nan")


def smooth(track: Track) -> Track:
    """Weighted mean of three neighbours; the ends are repeated."""
    if not len(track):
        return track
    padded = np.pad(track, 1, mode="edge")
    return 0.25 * padded[:-2] + 0.5 * padded[1:-1] + 0.25 * padded[2:]


def _highest(track: Track) -> Track:
    """The highest value of each frame and the DIP_FRAMES before it."""
    return np.array([track[max(0, t - DIP_FRAMES) : t + 1].max() for t in range(len(track))])
