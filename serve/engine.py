"""A live stream: conditions in, pixels out, chunk by chunk, with the same sampler as in training."""

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from gwm.autoencoders.protocol import Reference
from gwm.condition.inputs import Conditions
from gwm.media.pixels import to_tensor
from gwm.rollout import Emit, keep
from serve.acts import Applied, Numbers, TimedNumbers
from serve.artifact import Artifact
from serve.compiled import Compiled
from serve.decoder import StreamDecoder
from serve.graphs import Capture, GraphedChunk
from serve.history import History, UndoLog
from serve.keyframes import KnownFrames, check_keyframes
from serve.memory import check_memory
from serve.parallel.parallelize import rollout_of
from serve.parallel.ranks import Order, Ranks, tensors_of
from serve.prompts import Prompt
from serve.timeline import Timeline, check_conditions


@runtime_checkable
class Driver(Protocol):
    """Starts a stream and makes the chunks that are ready: an engine, or a pipeline around one."""

    def start(self, portrait: UInt8[np.ndarray, "h w 3"], text: Float[Tensor, "1 s t"] | None = None) -> None: ...

    def chunks(self) -> Iterator[UInt8[np.ndarray, "f h w 3"]]: ...


class Engine:
    """`start` with a portrait, then `push` sound as it comes and `step` while `ready`; `finish` at the end.

    A chunk is ready when the sound of its own frames and of the declared lookahead is there; of a model that takes
    no sound, always. Before the stream there is silence. Pixels depend on artifact, seed, portrait, sound, prompts and
    numbers that are set (`act`), and not on how the sound was cut into pushes. Eyelids that the model
    has a condition for close by themselves, at times that the seed decides.
    """

    def __init__(
        self,
        artifact: Artifact,
        *,
        seed: int,
        capture: Capture | None = None,
        undo_chunks: int = 0,
        ranks: Ranks | None = None,
        text_tokens: int = 512,
        compile: bool = False,
        size: int | None = None,
        pasted: bool = False,
    ) -> None:
        """capture: how denoiser and decoder become CUDA graphs, as `serve.graphs.capture_cuda`; None: they run eagerly.
        undo_chunks: how far `rewind` can go back; each costs memory for a chunk's keys and values.
        ranks: processes that denoise together. The first has the engine that is driven; others `follow` it.
        text_tokens: of every text, for models with a text condition (`set_prompt`); 512 in Wan.
        size: px along each side of portraits and frames; None: as `Contract.picture_size`.
        pasted: frames will be part of a larger picture: they are shown with the margin, whose border stays.
        compile: let torch.compile generate the network's code, for minutes, at the first chunk.

        Raises:
            RuntimeError: the stream does not fit into memory; the message has its bytes.
            ValueError: the artifact has a text condition and no tokens of the empty prompt, or as `check_conditions`
                and `Contract.picture_size`.
        """
        check_conditions(artifact.contract)
        self.framing, self.pasted = artifact.contract.framing(size), pasted
        if ranks is None:  # else each has a part of the cache
            slots = artifact.num_passes
            check_memory(artifact, slots=slots, undo_chunks=undo_chunks, text_tokens=text_tokens, size=size)
        self.contract, self.vae, self.seed, self.ranks = artifact.contract, artifact.vae, seed, ranks
        self.rollout = rollout_of(artifact.dit, artifact.contract, ranks, artifact.guided)
        if compile:
            self.rollout.model = Compiled(self.rollout.model)  # type: ignore[assignment]  # called like the network
        self.text_tokens = text_tokens
        self.prompt = Prompt(self.contract, artifact.no_text, num_tokens=text_tokens, like=self.rollout.cache.k)
        self.timeline = Timeline(self.contract, like=self.rollout.cache.k, depth=undo_chunks)
        self.chunk_samples, self.lookahead_samples = self.timeline.chunk_samples, self.timeline.lookahead_samples
        self.chunk = GraphedChunk(self.rollout, self.nothing_given(), capture=capture)
        self.decoder = StreamDecoder(
            artifact.vae, self.rollout.picture_shape, framing=self.framing, capture=capture, pasted=pasted
        )
        self.undo = UndoLog(self.rollout, self.decoder.memory.moving, undo_chunks)
        alone = self.prompt.text is not None and ranks is None  # of several processes each has a part of the memory
        self.history = History(artifact.dit, self.rollout, undo_chunks) if alone else None
        self.reference: Reference | None = None

    @torch.no_grad()
    def start(self, portrait: UInt8[np.ndarray, "height width 3"], text: Float[Tensor, "1 s t"] | None = None) -> None:
        """Forget everything and show this face; a model with a text condition has the empty prompt without `text`.

        portrait: of the engine's `size`, or with the margin that `framing` has: where a head moves, what was around it
            comes into view. A margin that is not given is made up.

        Raises:
            ValueError: the portrait has another size, or as `set_prompt`.
        """
        margin = self.framing.margin_of(portrait)
        if self.history is not None:
            self.history.clear()
        self.prompt.start()
        if text is not None:
            self.prompt.set(text)
        reference = self.vae.encode_reference(to_tensor(portrait)[None], margin=margin, pasted=self.pasted)
        self.timeline.start(seed=self.seed)
        self.reference = None if self.contract.dit.keyframes is None else reference  # keyframes are relative to it
        # Before the copy below: where the decoder has a device of its own, who reads that copy has waited for this too.
        self.decoder.start(reference)
        self.begin(reference.latent.to(self.rollout.cache.k))

    def push(self, agent: Float[np.ndarray, " t"], user: Float[np.ndarray, " t_user"]) -> None:
        """Append both voices, the character's and the other's: any number of samples, the same of both.

        Raises:
            ValueError: the streams differ in length, or the model takes no sound.
            RuntimeError: the engine was not started.
        """
        if not self.rollout.frame:
            raise RuntimeError("the engine must be started before sound is pushed: call start with a portrait.")
        self.timeline.push(agent, user)

    def push_silence(self, samples: int) -> None:
        """Append silence, where the model takes sound."""
        if self.contract.takes_sound:
            silence = np.zeros(samples, np.float32)
            self.push(silence, silence)

    @property
    def ready(self) -> bool:
        return self.timeline.ready

    def step(self) -> UInt8[np.ndarray, "f h w 3"]:
        """The next chunk's pixel frames.

        Raises:
            RuntimeError: the engine is not `ready`.
        """
        return self.decode(self.denoise(self.take()))

    def chunks(self) -> Iterator[UInt8[np.ndarray, "f h w 3"]]:
        """`step` while `ready`."""
        while self.ready:
            yield self.step()

    def take(self) -> Conditions:
        """Conditions of the next chunk; the media clock moves on by a chunk.

        Raises:
            RuntimeError: the engine is not `ready`.
        """
        if self.ready:
            self.prompt.reach(self.timeline.num_chunks)
        return self.prompt.beside(self.timeline.take())

    def denoise(self, condition: Conditions, emit: Emit = keep) -> Float[Tensor, "1 f c h w"]:
        """The next chunk's latents, fixed in the cache; `emit` gets them as soon as they are final."""
        if not self.rollout.has_prompt(condition):
            self._order(Order.TEXT, *tensors_of(condition.only_tokens()))
        self._order(Order.CHUNK, *tensors_of(condition.of_chunk()))
        self.undo.keep_keys()
        if self.history is not None and "text" in condition.tokens:
            self.history.set_prompt(condition["text"])
        latents = self.chunk.step(condition, emit)
        if self.history is not None:
            self.history.append(latents, condition)
        return latents

    def decode(self, latents: Float[Tensor, "1 f c _ _"]) -> UInt8[np.ndarray, "t h w 3"]:
        """Pixel frames of the chunk after the last decoded one."""
        self.undo.keep_decoder()
        return self.decoder(latents)

    def set_prompt(self, text: Float[Tensor, "1 s t"], *, at_s: float | None = None) -> Applied:
        """The prompt from the next chunk on that is taken, or from the first that does not begin before `at_s`. The
        visible past is computed again under it (recache), in one pass for each chunk, as in training; not with a noisy
        context, nor where several processes denoise.

        Raises:
            ValueError: the model has no text condition, or takes texts of another shape; or the chunk at `at_s` has
                been taken, or has a prompt already.
        """
        applied = self.timeline.next_chunk(at_s)
        self.prompt.set(text, chunk=None if at_s is None else applied.chunk)
        return applied

    def say(self, voice: Float[np.ndarray, " t"]) -> None:
        """Let the character say this from the next chunk on, in the place of what was pushed of its own sound and not
        taken: silence behind it, and nothing where so much was not pushed. The other voice stays."""
        self.timeline.say(voice)

    def silence(self) -> None:
        """Let the character fall silent at once."""
        self.say(np.zeros(0, np.float32))

    def act(self, numbers: Numbers | None, *, at_s: float | None = None) -> Applied:
        """Set numbers by their names (`Contract.controls`), from the next chunk on that is taken or from the first that
        does not begin before `at_s`: each stays until it is changed or released, by None. A sequence has a value for
        each pixel frame from there on, and its last one stays. None in place of all releases all of them. Numbers of a
        motion code take the place of the model's own, in what is shown and in the past that it goes on from.

        Raises:
            ValueError: a name that the model does not have, a value outside of its limits, or the chunk at `at_s` has
                been taken.
        """
        applied = self.timeline.next_chunk(at_s)
        self.timeline.acts.set(numbers, chunk=applied.chunk, now=self.timeline.num_chunks)
        return applied

    @torch.no_grad()
    def keyframe(self, pixel_frames: UInt8[np.ndarray, "*t h w 3"], *, at_s: float, exact: bool = False) -> Applied:
        """A picture that the stream should show at a media time, and that it goes towards before: of one latent frame,
        in which it stands still. With more pixel frames, those of the latent frames from then on. The chunk that shows
        it, and the media time at which that latent frame begins.

        exact: what is shown and remembered then are its latents; else what the model makes of them.

        Raises:
            ValueError: the model takes no keyframes, the time is over or known already, or the pictures have another
                size or number.
            RuntimeError: the engine was not started.
        """
        check_keyframes(self.contract, exact=exact)
        if self.reference is None:
            raise RuntimeError("the engine must be started before a keyframe is set: call start with a portrait.")
        stride, is_picture = self.vae.config.temporal_stride, pixel_frames.ndim == 3
        frames = np.stack([pixel_frames] * 2 * stride) if is_picture else pixel_frames  # the first half leads in
        if self.framing.margin_of(frames[0]):
            frames = np.stack([self.framing.shown(frame) for frame in frames])
        if not len(frames) or len(frames) % stride:
            raise ValueError(f"pixel_frames has {len(frames)} pictures, must be one, or a multiple of {stride}.")
        count = 1 if is_picture else len(frames) // stride
        place = self.timeline.keyframes.place
        applied = place(at_s, count, taken=self.timeline.num_chunks, end=self.timeline.end_chunk)
        latents = self.vae.encode(to_tensor(frames)[None].to(self.vae.device), self.reference)[0, -count:]
        self.timeline.keyframes.put(latents, at_s=at_s, exact=exact)
        return applied

    def rewind(self, chunks: int, *, keep_sound: bool = True) -> Applied:
        """Go back by the latest `chunks`, as if they had never been. Their sound waits again, or is lost; prompts stay.

        Raises:
            ValueError: more chunks than are kept, or than there were since `start`.
        """
        self.undo.check(chunks)
        self._order(Order.REWIND, value=chunks)
        self.undo.rewind_latents(chunks)
        if self.history is not None:
            self.history.rewind(chunks)
        self.undo.rewind_decoder(chunks)
        self.timeline.rewind(chunks, keep_sound=keep_sound)
        return self.timeline.next_chunk()

    def redo(self, numbers: Mapping[str, float | int], *, frame: int) -> tuple[Applied, UInt8[np.ndarray, "f h w 3"]]:
        """Make the latest chunk again as it is when `numbers` hold from its pixel frame `frame` on: for a key that is
        pressed while the chunk is shown. All its frames, of which the first `frame` may differ from those before.

        Raises:
            ValueError: as `act` and `rewind`, or numbers of a motion code; then nothing has changed.
        """
        self.undo.check(1)
        chunk = self.timeline.num_chunks - 1
        self.timeline.acts.set_within(numbers, chunk=chunk, frame=frame)
        self.rewind(1)
        return Applied(chunk, (chunk * self.contract.chunk_pixel_frames + frame) / self.contract.fps), self.step()

    def close(self) -> None:
        """Let the processes that follow this one go."""
        self._order(Order.STOP)

    def finish(self, num_frames: int | None = None) -> None:
        """End the stream with the chunk of its last pixel frame; as `Timeline.finish`."""
        self.timeline.finish(num_frames)

    def stream(
        self,
        portrait: UInt8[np.ndarray, "height width 3"],
        agent: Float[np.ndarray, " t"] | None = None,
        user: Float[np.ndarray, " t_user"] | None = None,
        *,
        num_frames: int | None = None,
        prompts: Mapping[float, Float[Tensor, "1 s t"]] | None = None,
        acts: Sequence[TimedNumbers] = (),
        keyframes: Sequence[KnownFrames] = (),
        driver: Driver | None = None,
    ) -> Iterator[tuple[UInt8[np.ndarray, "f h w 3"], float]]:
        """Frames of a whole stream chunk by chunk, with the milliseconds each took; the portrait counts in the first.

        agent, user: a recording of both sides; None: silence. A model that takes no sound takes its length alone.
        num_frames: pixel frames of the stream; None: up to the frame in which the sound ends.
        prompts, acts: what is set from a media time on: tokens of texts as `set_prompt`, numbers as `act`.
        keyframes: pictures at their times, as `keyframe`.
        driver: what works through the chunks, as `serve.pipeline.Pipeline`; None: the engine itself, one by one.

        Raises:
            ValueError: there is neither sound nor `num_frames`, or as `start`, `push` and `set_prompt` do.
        """
        if num_frames is None:
            num_frames = -(-(0 if agent is None else len(agent)) // self.contract.audio.frame_samples)
        if num_frames < 1:
            raise ValueError("agent has 0 samples, must have at least one: without sound there is nothing to show.")
        begin, driver, left, texts = time.perf_counter(), driver or self, num_frames, dict(prompts or {})
        driver.start(portrait, texts.pop(0.0, None))
        for at_s, text in texts.items():
            self.set_prompt(text, at_s=at_s)
        for one in acts:
            self.act(one.numbers, at_s=one.at_s)
        for known in keyframes:
            self.keyframe(known.pixel_frames, at_s=known.at_s, exact=known.exact)
        if agent is not None and self.contract.takes_sound:
            self.push(agent, np.zeros_like(agent) if user is None else user)
        self.finish(num_frames)
        for frames in driver.chunks():
            yield frames[:left], 1000 * (time.perf_counter() - begin)
            left -= len(frames)
            begin = time.perf_counter()

    def play(
        self,
        portrait: UInt8[np.ndarray, "height width 3"],
        agent: Float[np.ndarray, " t"] | None = None,
        user: Float[np.ndarray, " t_user"] | None = None,
        *,
        num_frames: int | None = None,
    ) -> tuple[UInt8[np.ndarray, "f h w 3"], list[float]]:
        """All frames of `stream`, and the milliseconds of its chunks."""
        frames, times = zip(*self.stream(portrait, agent, user, num_frames=num_frames), strict=True)
        return np.concatenate(frames), list(times)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of frames, without the margin."""
        return self.framing.frame.shape

    @property
    def device(self) -> torch.device:
        return self.rollout.cache.k.device

    def begin(self, reference: Float[Tensor, "1 1 c _ _"]) -> None:
        """A new stream from the reference's latent, in all processes."""
        self._order(Order.START, reference, *tensors_of(self.prompt.beside(Conditions())), value=self.seed)
        self.undo.clear()
        silent = self.nothing_given()
        self.rollout.start(reference, silent, seed=self.seed)
        if self.history is not None:
            self.history.append(self.rollout.reference, silent.frames(slice(0, 0)).after_reference())

    def _order(self, order: Order, *tensors: Tensor, value: int = 0) -> None:
        if self.ranks is not None:
            self.ranks.send_order(order, *tensors, value=value)

    def nothing_given(self) -> Conditions:
        """Conditions in the shape of a chunk's, of which only the prompt is given."""
        return self.prompt.beside(self.timeline.nothing())
