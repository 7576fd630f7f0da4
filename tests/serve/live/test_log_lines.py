"""What an operator reads: every line with the session that it belongs to."""

import asyncio
import json
import logging
from collections.abc import Iterator

import pytest
from loguru import logger as pipecat_logger

from serve.live.log_lines import SESSION, log_to_stdout

log = logging.getLogger("serve.test")


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level
    pipecat_logger.remove()


async def two_sessions() -> None:
    async def one(name: str) -> None:
        SESSION.set(name)
        await asyncio.create_task(later())

    async def later() -> None:
        await asyncio.sleep(0)
        log.info("answered after %d ms", 900, extra={"latency": {"stt_ms": 400}})

    await asyncio.gather(one("a"), one("b"))


def test_a_line_is_json_and_names_the_session_whose_task_wrote_it(capsys: pytest.CaptureFixture[str]):
    log_to_stdout(as_json=True)
    asyncio.run(two_sessions())
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["session"] for line in lines] == ["a", "b"]
    assert {"message", "level", "time", "logger"} <= set(lines[0])
    assert lines[0]["message"] == "answered after 900 ms" and lines[0]["latency"] == {"stt_ms": 400}


def test_lines_for_a_person_have_it_too_and_an_error_its_traceback_in_json(capsys: pytest.CaptureFixture[str]):
    log_to_stdout(as_json=False)
    asyncio.run(two_sessions())
    assert " INFO b serve.test: answered after 900 ms" in capsys.readouterr().out
    log_to_stdout(as_json=True)
    try:
        raise ValueError("no such thing")
    except ValueError:
        log.exception("it failed")
    assert "ValueError: no such thing" in json.loads(capsys.readouterr().out)["error"]


def test_warnings_of_pipecat_are_ours_and_its_chatter_is_left_out(capsys: pytest.CaptureFixture[str]):
    log_to_stdout(as_json=True)
    pipecat_logger.debug("linking processors")
    pipecat_logger.warning("a queue is full")
    (line,) = map(json.loads, capsys.readouterr().out.splitlines())
    assert line["message"] == "a queue is full" and line["logger"] == "pipecat"
