"""All metrics of one clip at once; every gate and every report consists of them."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, UInt8

from gwm.media.face import FaceMesh
from gwm.metrics.distance import PerceptualDistance, psnr, ssim
from gwm.metrics.face_track import (
    Track,
    eye_contrast,
    face_track,
    head_pitch,
    head_place,
    lip_gap,
    mouth_crops,
    seen,
    speed,
)
from gwm.metrics.identity import FaceEmbedding, identity_similarity
from gwm.metrics.lip_sync import lip_sync, moves
from gwm.metrics.listening import MIN_FRAMES, false_mouth, num_blinks, num_nods, per_minute, response
from gwm.metrics.movement import border_flicker, exposure, motion_energy, saturation, sharpness
from gwm.metrics.sync_net import CROP_PX, MAX_LAG, WINDOW_FRAMES, SyncNet, load_sync_net, sync_score
from gwm.optional import MissingPackageError

SPARSE = slice(None, None, 12)  # identity and perceptual distance cost 0.1 s a frame, and change slowly
MIN_SOUND = 1e-3  # root mean square of a voice, below which nobody speaks
MIN_SYNC_FRAMES = MAX_LAG + WINDOW_FRAMES + 2
MIN_SEEN = 0.9  # share of frames with a face, below which what is read from faces means nothing


@dataclass(frozen=True, kw_only=True, slots=True)
class Voices:
    """What sounds during a clip, and when the character has to listen."""

    agent: Float[np.ndarray, " t"]
    user: Float[np.ndarray, " t"]
    listening: Bool[np.ndarray, " f"]  # the user speaks, the character does not and has its mouth shut


class Judge:
    """Metrics that need a package which is not installed are in `skipped`, with the command that installs it.

    thorough: also what takes longer: SSIM, perceptual distance.
    sync: folder of the network of lip-sync; without it that is not measured.
    """

    def __init__(self, *, thorough: bool, sync: Path | None = None) -> None:
        self.mesh = FaceMesh()
        self.thorough = thorough
        self.skipped: dict[str, str] = {}
        self.embedding = self._optional("identity", lambda: FaceEmbedding(self.mesh))
        self.perceptual = self._optional("perceptual", PerceptualDistance) if thorough else None
        self.sync_net: SyncNet | None = None
        if sync is not None:
            self.sync_net = self._optional("sync_confidence", lambda: load_sync_net(sync))

    def _optional(self, metric: str, make: Callable[[], Any]) -> Any:
        try:
            return make()
        except MissingPackageError as error:
            self.skipped[metric] = error.command
            return None

    def __call__(
        self,
        frames: UInt8[np.ndarray, "f h w 3"],
        *,
        render: UInt8[np.ndarray, "f h w 3"],
        mouth: Float[np.ndarray, " f"] | None,
        reference: UInt8[np.ndarray, "h w 3"],
        chunk_frames: int,
        voices: Voices | None = None,
        footage: bool = False,
    ) -> tuple[dict[str, float], Float[np.ndarray, " f"]]:
        """Numbers of one clip, and the lip opening that was measured.

        mouth: the opening that was meant; None where nobody knows it. Of `footage` everything else about the face is
        measured then; of a drawn character, whose face the mesh does not see, nothing, and the opening is NaN.

        lip_sync: correlation at lag 0; lag_frames: > 0 when the mouth is late; opening: deviation of the lips' gap in
        face heights; head_motion: in face heights a second; psnr in dB; motion: in units of the render's;
        border_flicker: 1 is seamless; identity: 1 - distance to the reference; perceptual: 0 is equal. For what
        `voices` adds see `gwm.metrics.listening` and `gwm.metrics.sync_net`.
        """
        row = self.pictures(frames, render, chunk_frames=chunk_frames)
        if mouth is None and not footage:
            return row, np.full(len(frames), np.nan)
        track = face_track(frames, self.mesh)
        row["faces_found"] = seen(track)
        opening = lip_gap(track)
        if mouth is not None and moves(mouth):
            sync = lip_sync(opening, mouth)
            row |= {"lip_sync": sync.correlation, "lag_frames": float(sync.lag_frames)}
        # A recording may show its person from behind, in the reference too.
        if self.embedding is not None and not (footage and self.embedding(reference) is None):
            alike = identity_similarity(frames[SPARSE], reference, self.embedding)
            if np.isfinite(alike).any():
                row["identity"] = float(np.nanmean(alike))
        if row["faces_found"] >= MIN_SEEN:
            if mouth is None or moves(mouth):
                row["opening"] = float(np.nanstd(opening))
            row["head_motion"] = speed(head_place(track))
        if voices is not None and row["faces_found"] >= MIN_SEEN:
            row |= self.conversation(frames, track, voices, reference)
            speaks = np.square(voices.agent).mean() ** 0.5 > MIN_SOUND if mouth is None else moves(mouth)
            if self.sync_net is not None and speaks and len(frames) >= MIN_SYNC_FRAMES:
                row |= synchrony(self.sync_net, frames, track, voices)
        return row, opening

    def pictures(
        self, frames: UInt8[np.ndarray, "f h w 3"], render: UInt8[np.ndarray, "f h w 3"], *, chunk_frames: int
    ) -> dict[str, float]:
        """Metrics of pixels, whatever the pictures show."""
        row = {
            "psnr": float(psnr(frames, render).mean()),
            "motion": motion_energy(frames) / max(motion_energy(render), 1e-6),
            "saturation": float(saturation(frames).mean()),
            "exposure": float(exposure(frames).mean()),
            "sharpness": float(sharpness(frames).mean() / max(sharpness(render).mean(), 1e-6)),
            "border_flicker": border_flicker(frames, chunk_frames=chunk_frames),
        }
        if self.thorough:
            row["ssim"] = float(ssim(frames, render).mean())
        if self.perceptual is not None:
            row["perceptual"] = float(self.perceptual.frames(frames[SPARSE], render[SPARSE]).mean())
        return row

    def conversation(
        self, frames: UInt8[np.ndarray, "f h w 3"], track: Track, voices: Voices, reference: UInt8[np.ndarray, "h w 3"]
    ) -> dict[str, float]:
        """Blinks of the whole clip; of its listening frames whether the mouth is shut, and whether the head nods."""
        row = {"blinks_per_minute": per_minute(num_blinks(eye_contrast(frames, track)), len(frames))}
        listening, pitch = voices.listening, head_pitch(track)
        shut = float(lip_gap(face_track(reference[None], self.mesh))[0])
        measured = {
            "false_mouth": false_mouth(lip_gap(track), shut, listening),
            "user_response": response(pitch, voices.user, listening),
        }
        if listening.sum() >= MIN_FRAMES:
            measured["nods_per_minute"] = per_minute(num_nods(pitch[listening]), int(listening.sum()))
        return row | {name: value for name, value in measured.items() if np.isfinite(value)}

    def answer(
        self,
        frames: UInt8[np.ndarray, "f h w 3"],
        user: Float[np.ndarray, " t"],
        listening: Bool[np.ndarray, " f"],
    ) -> float:
        """`listening.response` of these frames to any user's voice: about 0 for the voice of another conversation."""
        return response(head_pitch(face_track(frames, self.mesh)), user, listening)


def synchrony(net: SyncNet, frames: UInt8[np.ndarray, "f h w 3"], track: Track, voices: Voices) -> dict[str, float]:
    """Lip-sync as a network sees it that is given pixels and sound alone."""
    score = sync_score(net, mouth_crops(frames, track, CROP_PX), voices.agent)
    names = ("sync_confidence", "sync_distance", "sync_lag_frames")
    return dict(zip(names, (score.confidence, score.distance, float(score.lag_frames)), strict=True))


def means(rows: list[dict[str, float]]) -> dict[str, float]:
    """Mean of every metric over the clips in which it was measured; without any, it is left out."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    values = {name: np.array([row.get(name) for row in rows], float) for name in names}  # None becomes NaN
    return {name: float(np.nanmean(found)) for name, found in values.items() if np.isfinite(found).any()}
