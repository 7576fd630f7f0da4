"""A live stream: two voices in, pixels out, chunk by chunk, with the same sampler as in training."""

import time
from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from gwm.condition.inputs import Conditions
from gwm.no_text import padded_text
from gwm.pixels import to_float
from gwm.rollout import Emit, keep
from serve.artifact import Artifact
from serve.compiled import Compiled
from serve.decoder import StreamDecoder
from serve.driver import Driver
from serve.graphs import Capture, GraphedChunk
from serve.hearing import Hearing
from serve.history import History
from serve.memory import check_memory
from serve.parallel.division import rollout_of
from serve.parallel.ranks import Order, Ranks, tensors_of, with_tensors
from serve.undo import UndoLog


class Engine:
    """`start` with a portrait, then `push` sound as it comes and `step` while `ready`; `finish` at the end.

    A chunk is ready when the sound of its own frames and of the declared lookahead is there. Before the stream there
    is silence. Pixels depend on artifact, seed, portrait, sound and actions, and not on how the sound was cut into
    pushes. Eyelids that the artifact can be told close by themselves, at times that the seed decides (`act`).
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
    ) -> None:
        """capture: how denoiser and decoder become CUDA graphs, as `serve.graphs.capture_cuda`; None: they run eagerly.
        undo_chunks: how far `rewind` can go back; each costs memory for a chunk's keys and values.
        ranks: processes that denoise together. The first has the engine that is driven; in all others `follow`.
        text_tokens: of every text, for models with a text condition (`set_prompt`); 512 in Wan.
        compile: let torch.compile generate the network's code, for minutes, at the first chunk.

        Raises:
            RuntimeError: the stream does not fit into memory; the message has its bytes.
            ValueError: the artifact has a text condition and no tokens of the empty prompt.
        """
        if ranks is None:  # else each has a part of the cache
            check_memory(artifact, slots=1, undo_chunks=undo_chunks, text_tokens=text_tokens)
        self.contract, self.vae, self.seed, self.ranks = artifact.contract, artifact.vae, seed, ranks
        self.rollout = rollout_of(artifact.dit, artifact.contract, ranks)
        if compile:
            self.rollout.model = Compiled(self.rollout.model)  # type: ignore[assignment]  # called like the network
        self.no_text = self._padded(artifact.no_text, text_tokens)
        self.text = self.no_text
        self.hearing = Hearing(self.contract, like=self.rollout.cache.k, depth=undo_chunks)
        self.chunk_samples, self.lookahead_samples = self.hearing.chunk_samples, self.hearing.lookahead_samples
        self.chunk = GraphedChunk(self.rollout, self._silent_chunk(), capture=capture)
        self.decoder = StreamDecoder(artifact.vae, self.rollout.picture_shape, capture=capture)
        self.undo = UndoLog(self.rollout, self.decoder.state, undo_chunks)
        alone = self.text is not None and ranks is None  # of several processes each has a part of the memory
        self.history = History(artifact.dit, self.rollout, undo_chunks) if alone else None

    @torch.no_grad()
    def start(self, portrait: UInt8[np.ndarray, "h w 3"], text: Float[Tensor, "1 s t"] | None = None) -> None:
        """Forget everything and show this face; a model with a text condition has the empty prompt without `text`.

        Raises:
            ValueError: the portrait has not the artifact's resolution, or as `set_prompt`.
        """
        if portrait.shape[:2] != self.contract.resolution.shape:
            raise ValueError(
                f"portrait of {portrait.shape[0]}x{portrait.shape[1]} px must be {self.contract.resolution}, height x "
                "width, as the artifact was trained. Cut it out with gwm.portraits.crop_to_face or crop_to_centre."
            )
        if self.history is not None:
            self.history.clear()
        if text is not None:
            self.set_prompt(text)
        elif self.text is not None:
            self.text = self.no_text
        reference = self.vae.encode_image(to_float(portrait)[None].to(self.vae.mean))
        self.hearing.start(seed=self.seed)
        # Before the copy below: where the decoder has a device of its own, who reads that copy has waited for this too.
        self.decoder.start(reference)
        self._begin(reference.to(self.device))

    def push(self, agent: Float[np.ndarray, " t"], user: Float[np.ndarray, " t_user"]) -> None:
        """Append what the character says and what it hears: any number of samples, the same of both.

        Raises:
            ValueError: the streams differ in length.
            RuntimeError: the engine was not started.
        """
        if not self.rollout.frame:
            raise RuntimeError("the engine must be started before sound is pushed: call start with a portrait.")
        self.hearing.push(agent, user)

    @property
    def waiting_samples(self) -> int:
        """Samples of each voice that were pushed and not shown yet."""
        return self.hearing.waiting_samples

    @property
    def ready(self) -> bool:
        return self.hearing.ready

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
        """What the next chunk hears and does; the stream of sound moves on by a chunk.

        Raises:
            RuntimeError: the engine is not `ready`.
        """
        return self._with_prompt(self.hearing.take())

    def denoise(self, condition: Conditions, emit: Emit = keep) -> Float[Tensor, "1 f c h w"]:
        """The next chunk's latents, fixed in the cache; `emit` gets them as soon as they are final."""
        if not self.rollout.has_prompt(condition):
            self._tell(Order.TEXT, *tensors_of(condition.only_tokens()))
        self._tell(Order.CHUNK, *tensors_of(condition.of_chunk()))
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

    def set_prompt(self, text: Float[Tensor, "1 s t"]) -> None:
        """The prompt from the next chunk on that is taken. The visible past is computed again under it (recache), in
        one pass for each chunk, as in training; not with a noisy context, nor where several processes denoise.

        Raises:
            ValueError: the model has no text condition, or takes texts of another shape.
        """
        expected = None if self.text is None else tuple(self.text.shape)
        if tuple(text.shape) != expected:
            raise ValueError(
                f"text of shape {tuple(text.shape)} must be {expected}, as the model and the engine's text_tokens say. "
                "Pad the text, or make an engine with other text_tokens."
            )
        self.text = text.to(self.device, self.dtype, copy=True)  # by which tensor it is, others know that it is new

    def hush(self) -> None:
        """Let the character fall silent at once: what it had still to say becomes silence, what it hears stays."""
        self.hearing.hush()

    def act(self, action: Float[np.ndarray, "t k"] | None) -> None:
        """Decide what the character does, from the next chunk on that is taken: the numbers that the model is told of
        each pixel frame, in one row for all of them or one row for each of a chunk, again in every chunk. None: lids
        close by themselves again, and other actions are not given.

        Raises:
            ValueError: another number of rows or columns, or the model is told no actions.
        """
        self.hearing.act(action)

    def rewind(self, chunks: int) -> None:
        """Go back by the latest `chunks`, as if they had never been; their sound waits again.

        Raises:
            ValueError: more chunks than are kept, or than there were since `start`.
        """
        self.undo.check(chunks)
        self._tell(Order.REWIND, value=chunks)
        self.undo.rewind_latents(chunks)
        if self.history is not None:
            self.history.rewind(chunks)
        self.undo.rewind_decoder(chunks)
        self.hearing.rewind(chunks)

    def follow(self) -> None:
        """Every process but the first: do with the latents what the first one's engine does, until it is closed."""
        assert self.ranks is not None, "follow is for one of several processes"
        chunk = self._silent_chunk().of_chunk()
        reference = self.rollout.reference.new_empty(1, 1, *self.rollout.picture_shape[2:])
        while (order := self.ranks.hear())[0] is not Order.STOP:
            if order[0] is Order.START:
                told, *text = self.ranks.receive([reference, *tensors_of(self._with_prompt(Conditions()))])
                self.seed, self.text = order[1], text[0] if text else None
                self._begin(told)
            elif order[0] is Order.TEXT:
                (self.text,) = self.ranks.receive(tensors_of(self._with_prompt(Conditions())))
            elif order[0] is Order.CHUNK:
                heard = with_tensors(chunk, self.ranks.receive(tensors_of(chunk)))
                self.denoise(self._with_prompt(heard))
            else:
                self.undo.rewind_latents(order[1])

    def close(self) -> None:
        """Let the processes that follow this one go."""
        self._tell(Order.STOP)

    def finish(self) -> None:
        """End the sound with the silence that makes every pushed sample part of a ready chunk."""
        self.hearing.finish()

    def stream(
        self,
        portrait: UInt8[np.ndarray, "h w 3"],
        agent: Float[np.ndarray, " t"],
        user: Float[np.ndarray, " t_user"],
        *,
        driver: Driver | None = None,
    ) -> Iterator[tuple[UInt8[np.ndarray, "f h w 3"], float]]:
        """Frames of a whole recording chunk by chunk, with the milliseconds each took; the portrait counts in the
        first. The last chunk ends with the frame in which the sound ends.

        driver: what works through the chunks, as `serve.pipeline.Pipeline`; None: the engine itself, one by one.

        Raises:
            ValueError: there is no sound, or as `start` and `push` do.
        """
        if not len(agent):
            raise ValueError("agent has 0 samples, must have at least one: without sound there is nothing to show.")
        left = -(-len(agent) // self.contract.audio.frame_samples)
        begin, driver = time.perf_counter(), driver or self
        driver.start(portrait)
        self.push(agent, user)
        self.finish()
        for frames in driver.chunks():
            yield frames[:left], 1000 * (time.perf_counter() - begin)
            left -= len(frames)
            begin = time.perf_counter()

    def play(
        self, portrait: UInt8[np.ndarray, "h w 3"], agent: Float[np.ndarray, " t"], user: Float[np.ndarray, " t_user"]
    ) -> tuple[UInt8[np.ndarray, "f h w 3"], list[float]]:
        """All frames of `stream`, and the milliseconds of its chunks."""
        frames, times = zip(*self.stream(portrait, agent, user), strict=True)
        return np.concatenate(frames), list(times)

    @property
    def device(self) -> torch.device:
        return self.rollout.cache.k.device

    @property
    def dtype(self) -> torch.dtype:
        """Of latents and conditions."""
        return self.rollout.cache.k.dtype

    def _padded(self, no_text: Float[Tensor, "q t"] | None, tokens: int) -> Float[Tensor, "1 s t"] | None:
        """The empty prompt in as many tokens as every text has; None for a model without a text condition."""
        if not self.contract.dit.width("text"):
            return None
        if no_text is None:
            raise ValueError(
                f"no_text is None, must be the empty prompt's tokens of width {self.contract.dit.width('text')}: a "
                "stream without a prompt is generated under them, as in training. Export the artifact again."
            )
        return padded_text(no_text, tokens)[None].to(self.device, self.dtype)

    def _begin(self, reference: Float[Tensor, "1 1 c _ _"]) -> None:
        self._tell(Order.START, reference, *tensors_of(self._with_prompt(Conditions())), value=self.seed)
        self.undo.clear()
        silent = self._silent_chunk()
        self.rollout.start(reference, silent, seed=self.seed)
        if self.history is not None:
            self.history.append(self.rollout.reference, silent.frames(slice(0, 0)).after_reference())

    def _tell(self, order: Order, *tensors: Tensor, value: int = 0) -> None:
        if self.ranks is not None:
            self.ranks.tell(order, *tensors, value=value)

    def _silent_chunk(self) -> Conditions:
        """Conditions in the shape of a chunk's."""
        return self._with_prompt(self.hearing.nothing())

    def _with_prompt(self, condition: Conditions) -> Conditions:
        """`condition` and the current prompt, of a model with a text condition."""
        return condition if self.text is None else condition.with_tokens(text=self.text)
