"""Log lines that a person or a machine reads, each with the session it belongs to."""

import logging
import sys
from contextvars import ContextVar

from loguru import logger as pipecat_logger

from gwm.files.json_text import json_text

# Tasks inherit it from the task that starts them, so everything that a session does carries its id.
SESSION: ContextVar[str] = ContextVar("session", default="-")
STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime"}


class _WithSession(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        record.session = SESSION.get()
        return True


class _JsonLines(logging.Formatter):
    """One object a line: time, level, logger, session, message, and whatever the call gave as `extra`."""

    def format(self, record: logging.LogRecord) -> str:
        fields = {"time": self.formatTime(record), "level": record.levelname, "logger": record.name}
        extra = {name: value for name, value in record.__dict__.items() if name not in STANDARD}
        fields |= {"message": record.getMessage(), **extra}
        if record.exc_info:
            fields["error"] = self.formatException(record.exc_info)
        return json_text(fields, default=str)


def log_to_stdout(*, as_json: bool) -> None:
    """Everything from INFO on, pipecat's own logger from WARNING on."""
    handler = logging.StreamHandler(sys.stdout)
    handler.addFilter(_WithSession())
    plain = logging.Formatter("%(asctime)s %(levelname)s %(session)s %(name)s: %(message)s")
    handler.setFormatter(_JsonLines() if as_json else plain)
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    for name in ("aioice", "aiohttp.access"):  # a line for every candidate, or request
        logging.getLogger(name).setLevel(logging.WARNING)
    pipecat_logger.remove()
    pipecat_logger.add(_pass_on, level="WARNING", format="{message}")


def _pass_on(message: object) -> None:
    logging.getLogger("pipecat").warning("%s", str(message).rstrip())
