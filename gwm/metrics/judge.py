"""All metrics of one clip at once: what every gate and every report is made of."""

from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from gwm.face import FaceMesh
from gwm.metrics.distance import PerceptualDistance, psnr, ssim
from gwm.metrics.identity import FaceEmbedding, identity_similarity
from gwm.metrics.lip_sync import lip_opening, lip_sync
from gwm.metrics.motion import border_flicker, motion_energy, saturation
from gwm.optional import MissingPackageError

SPARSE = slice(None, None, 12)  # identity and perceptual distance cost 0.1 s a frame, and change slowly


class Judge:
    """Metrics that need a package which is not installed are in `skipped`, with the command that installs it.

    thorough: also what takes longer: SSIM and perceptual distance.
    """

    def __init__(self, *, thorough: bool) -> None:
        self.mesh = FaceMesh()
        self.thorough = thorough
        self.skipped: dict[str, str] = {}
        self.embedding = self._optional("identity", lambda: FaceEmbedding(self.mesh))
        self.perceptual = self._optional("perceptual", PerceptualDistance) if thorough else None

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
        mouth: Float[np.ndarray, " f"],
        reference: UInt8[np.ndarray, "h w 3"],
        chunk_frames: int,
    ) -> tuple[dict[str, float], Float[np.ndarray, " f"]]:
        """Numbers of one clip, and the lip opening that was measured; `mouth` is the opening that was meant.

        lip_sync: correlation at lag 0; lag_frames: > 0 when the mouth is late; psnr in dB; motion: in units of the
        render's; border_flicker: 1 is seamless; identity: 1 - distance to the reference; perceptual: 0 is equal.
        """
        opening = lip_opening(frames, self.mesh)
        sync = lip_sync(opening, mouth)
        row = {
            "lip_sync": sync.correlation,
            "lag_frames": float(sync.lag_frames),
            "faces_found": sync.detected,
            "psnr": float(psnr(frames, render).mean()),
            "motion": motion_energy(frames) / max(motion_energy(render), 1e-6),
            "saturation": float(saturation(frames).mean()),
            "border_flicker": border_flicker(frames, chunk_frames=chunk_frames),
        }
        if self.embedding is not None:
            alike = identity_similarity(frames[SPARSE], reference, self.embedding)
            if np.isfinite(alike).any():
                row["identity"] = float(np.nanmean(alike))
        if self.thorough:
            row["ssim"] = float(ssim(frames, render).mean())
        if self.perceptual is not None:
            row["perceptual"] = float(self.perceptual.frames(frames[SPARSE], render[SPARSE]).mean())
        return row, opening


def means(rows: list[dict[str, float]]) -> dict[str, float]:
    """Mean of every metric over the clips that have it."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    return {name: float(np.mean([row[name] for row in rows if name in row])) for name in names}
