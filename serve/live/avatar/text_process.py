"""The text encoder in a process of its own: it is larger than everything else, and sound must not wait for it."""

import asyncio
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

import numpy as np
from jaxtyping import Float

from serve.live.avatar.changes import ChangeRefusedError
from serve.live.low_priority import NICENESS

_texts = None  # of the process, once the first prompt has come


def _tokens(text: str, folder: str | None, artifact: str) -> Float[np.ndarray, "s t"]:
    global _texts
    from serve.prompts import Texts  # here: the parent process never needs it

    if _texts is None:
        os.nice(NICENESS)
        _texts = Texts(folder, artifact)
    return _texts.tokens(text).numpy()


class TextProcess:
    """The process begins with the first prompt, which waits until the encoder is loaded."""

    def __init__(self, folder: str | None, artifact: str) -> None:
        """folder: as `serve.prompts.Texts`."""
        self.folder, self.artifact = folder, artifact
        self._pool = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))

    async def tokens(self, text: str) -> Float[np.ndarray, "s t"]:
        """Encode one prompt.

        Raises:
            ChangeRefusedError: there is no text encoder, or it does not fit.
        """
        work = self._pool.submit(_tokens, text, self.folder, self.artifact)
        try:
            return await asyncio.wrap_future(work)
        except (ValueError, OSError, RuntimeError, ImportError, BrokenProcessPool) as error:
            raise ChangeRefusedError(f"the prompt cannot be encoded: {error}") from error

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
