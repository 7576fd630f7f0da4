"""A process of engines whose chunks take their time and need none of the processor."""

import contextlib
import time
from multiprocessing.connection import Connection

from serve.bench.sessions import CHUNK_S, FRAMES
from serve.live.avatar.engines import EngineOptions
from serve.live.avatar.overlap import Measured

STEP_S = 0.015


def serve_sleeping(connection: Connection, options: EngineOptions) -> None:
    """As `serve_engines`: a chunk takes `STEP_S`. A session that was not started is refused."""
    started, answer = set[str](), None
    connection.send((None, None))
    with contextlib.suppress(EOFError, BrokenPipeError):
        while True:
            name, arguments = connection.recv()
            error = None
            match name:
                case "measure":
                    answer = Measured(
                        overlap=False, chunk_ms=1000 * CHUNK_S, sequential_ms=1000 * STEP_S, overlapped_ms=None
                    )
                case "reserve":
                    answer = arguments[0]
                case "start":
                    started.add(arguments[0])
                case "step" if arguments[0] in started:
                    time.sleep(STEP_S)
                    answer = FRAMES
                case "step":
                    error = f"KeyError: {arguments[0]}"
            connection.send((answer, error))
