"""What training decides and the server must obey; stored in every manifest."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from gwm.autoencoders.families import autoencoder_config
from gwm.autoencoders.protocol import AutoencoderConfig
from gwm.chunks import ChunkPattern
from gwm.clock import FPS
from gwm.condition.spec import Control
from gwm.config import AudioConfig, DiTConfig
from gwm.files.json_text import JsonConfig
from gwm.media.framing import Framing
from gwm.resolution import Resolution
from gwm.schedule import check_sigmas

Solver = Literal["ode", "renoise", "unipc"]
CommitMode = Literal["clean", "noisy"]
NoiseMode = Literal["fresh", "held"]
MIN_SIZE, MAX_SIZE = 64, 2160  # px along a side of what is shown
SHOWN_SIDE = 512  # px, unless another size is asked for: sharp in a browser, and in time on two cores


@dataclass(frozen=True, kw_only=True, slots=True)
class Contract(JsonConfig):
    """How a stream of chunks is generated, from first noise to last pixel."""

    dit: DiTConfig
    vae: AutoencoderConfig
    audio: AudioConfig
    pattern: ChunkPattern
    resolution: Resolution  # pixels; square in the shipped character
    sigmas: tuple[float, ...]  # final noise levels of a chunk's steps, from 1 downwards
    # ode: Euler steps; renoise: predict x0, add fresh noise (consistency and DMD students); unipc: two steps remembered
    solver: Solver
    context: CommitMode  # clean: one more pass at sigma 0 fixes a chunk; noisy: its last step's keys and values stay
    horizon_frames: int  # last latent frame of a training clip; the reference image counts as frame 0
    fps: int = FPS
    noise: NoiseMode = "fresh"  # held: every frame of a stream starts from the same noise, so that less of it flickers
    distilled: bool = False  # sampled in the steps of its training alone; with solver=renoise a model always is
    sink_ahead_frames: int = 0  # sinks seem to come so many frames after the chunk that looks; 0: they lie behind it

    def __post_init__(self) -> None:
        check_sigmas(self.sigmas)
        for name, value, allowed in (
            ("solver", self.solver, get_args(Solver)),
            ("context", self.context, get_args(CommitMode)),
            ("noise", self.noise, get_args(NoiseMode)),
        ):
            if value not in allowed:
                raise ValueError(f"{name}={value!r} must be one of {allowed}.")
        if self.sink_ahead_frames < 0 or (self.sink_ahead_frames and not self.pattern.sink_chunks):
            raise ValueError(
                f"sink_ahead_frames={self.sink_ahead_frames} must be >= 0, and 0 where there is no sink: "
                f"sink_chunks={self.pattern.sink_chunks}. Set it to 0, or train a causal model with a sink."
            )
        if self.fps * self.audio.frame_samples != self.audio.sample_rate:
            raise ValueError(
                f"fps={self.fps} * frame_samples={self.audio.frame_samples} must be sample_rate="
                f"{self.audio.sample_rate}: picture and sound share one clock."
            )
        self._check_size()
        self._check_conditions()
        self.pattern.num_chunks(self.horizon_frames + 1)

    def _check_size(self) -> None:
        multiple = self.vae.spatial_stride * self.dit.patch
        self.resolution.check_multiple(multiple, of="VAE stride * patch")
        side = self.vae.working_side
        if side is not None and self.resolution.shape != (side, side):
            raise ValueError(
                f"resolution={self.resolution} must be {side} with family={self.vae.family}: its latents are of "
                "pictures of that size. Frames of another size are asked for with size=."
            )
        if self.dit.place_grid not in ((), self.resolution.cells(multiple)):
            raise ValueError(
                f"place_grid={list(self.dit.place_grid)} must be the rows and columns of patches, "
                f"{list(self.resolution.cells(multiple))} of resolution={self.resolution}, or [] for none. Set "
                "model.place_grid."
            )

    def _check_conditions(self) -> None:
        window, heard = self.audio.window_features(self.vae.temporal_stride), self.dit.speech_width
        if heard and (heard, self.dit.speech_mels) != (window, self.audio.num_mels):
            raise ValueError(
                f"speech conditions of width={heard}, speech_mels={self.dit.speech_mels} must be the audio window's "
                f"{window} numbers, {self.audio.num_mels} per hop; or declare no condition with encoder=speech."
            )
        if self.dit.in_channels != self.vae.latent_channels:
            raise ValueError(
                f"in_channels={self.dit.in_channels} must be the autoencoder's latent_channels="
                f"{self.vae.latent_channels}: the model was made for other latents. Choose another of the two."
            )
        known = self.dit.keyframes
        if known is not None and known.width != self.dit.in_channels + 1:
            raise ValueError(
                f"condition {known.name}: width={known.width} must be {self.dit.in_channels + 1}, the latents of a "
                "known frame and how near it is. Leave width out: it follows from the autoencoder."
            )
        for spec in self.dit.conditions:
            numbers = self.vae.temporal_stride * len(spec.names)
            if spec.names and spec.width != numbers:
                raise ValueError(
                    f"condition {spec.name}: width={spec.width} must be {numbers}, one of each of "
                    f"names={list(spec.names)} for each of a latent frame's {self.vae.temporal_stride} pixel frames."
                )
        names = [control.name for control in self.controls]
        if len(set(names)) < len(names):
            twice = sorted({name for name in names if names.count(name) > 1})
            raise ValueError(
                f"names={twice} must be of one condition each, and not of the latents' codes: callers set numbers by "
                "name. Rename those of the condition."
            )

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Contract":
        parts = {
            "dit": DiTConfig.from_json,
            "vae": autoencoder_config,
            "audio": AudioConfig.from_json,
            "pattern": ChunkPattern.from_json,
            "resolution": Resolution.parse,
        }
        # The literal name: zero-argument super() does not survive slots=True.
        return JsonConfig.from_json.__func__(  # type: ignore[attr-defined]
            cls, {k: parts[k](v) if k in parts else v for k, v in values.items()}
        )

    @property
    def latent_grid(self) -> tuple[int, int]:
        """Rows and columns of latent cells."""
        return self.resolution.cells(self.vae.spatial_stride)

    @property
    def num_patches(self) -> int:
        """Tokens per latent frame."""
        rows, columns = self.resolution.cells(self.vae.spatial_stride * self.dit.patch)
        return rows * columns

    def picture_size(self, size: int | None) -> tuple[int, int]:
        """Height and width of reference image and frames, where `size` px are asked for along each side. None: the
        contract's resolution, or `SHOWN_SIDE` where the autoencoder draws in any.

        Raises:
            ValueError: pictures of this contract have one size, and it is another.
        """
        if size is None:
            return self.resolution.shape if self.vae.working_side is None else (SHOWN_SIDE, SHOWN_SIDE)
        if self.vae.working_side is None and (size, size) != self.resolution.shape:
            raise ValueError(
                f"size={size} must be {self.resolution}, or null: a {self.vae.family} autoencoder shows pictures "
                "in the size of its training. An artifact with a motion autoencoder shows any."
            )
        if self.vae.working_side is not None and (not MIN_SIZE <= size <= MAX_SIZE or size % 2):
            raise ValueError(f"size={size} must be an even number in [{MIN_SIZE}, {MAX_SIZE}] px, as films want it.")
        return size, size

    def framing(self, size: int | None) -> Framing:
        """How portraits are cut for frames of this size.

        Raises:
            ValueError: as `picture_size`.
        """
        frame = Resolution(*self.picture_size(size))
        return Framing(frame, self.vae.margin(frame.width))

    def controls_of(self, condition: str) -> tuple[Control, ...]:
        """What callers may set of a condition's numbers for a pixel frame; () where they set none."""
        spec = self.dit.condition(condition)
        return () if spec is None else spec.controls(self.vae.temporal_stride)

    @property
    def controls(self) -> tuple[Control, ...]:
        """All that callers may set: numbers of conditions, and of codes in place of generated ones."""
        given = [control for spec in self.dit.conditions for control in self.controls_of(spec.name)]
        return (*given, *self.codes)

    @property
    def codes(self) -> tuple[Control, ...]:
        """Numbers of motion codes that callers may decide; () where latents are no codes, or where a noisy context
        remembers what the model made."""
        return self.vae.controls if self.context == "clean" else ()

    @property
    def sink_distance(self) -> int:
        """Latent frames from the first sink to a chunk's last frame, at most. Negative: the sinks are always so many
        frames ahead."""
        return -self.sink_ahead_frames or self.horizon_frames

    @property
    def has_own_steps(self) -> bool:
        """Whether the model is a distilled student, which is sampled in the steps of its training and in no others."""
        return self.distilled or self.solver == "renoise"

    @property
    def takes_sound(self) -> bool:
        """Whether a condition comes from sound. Where none does, a stream needs no sound, not even silence."""
        return self.dit.speech_width > 0

    @property
    def lookahead_samples(self) -> int:
        """Sound after a chunk that must be known before the chunk is generated."""
        return self.audio.lookahead_frames * self.audio.frame_samples if self.takes_sound else 0

    @property
    def chunk_pixel_frames(self) -> int:
        return self.pattern.chunk_frames * self.vae.temporal_stride

    @property
    def chunk_ms(self) -> float:
        """Playing time of a chunk: generating it must take less."""
        return 1000 * self.chunk_pixel_frames / self.fps

    def replace(self, **changes: Any) -> "Contract":
        return dataclasses.replace(self, **changes)
