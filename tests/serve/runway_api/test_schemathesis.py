"""The server's own OpenAPI document, as a published fuzzer reads it: nothing fails, hangs, or is answered otherwise
than the document says; afterwards no task, socket or place is left."""

import asyncio
import re
import sys
from pathlib import Path

import pytest

from serve.runway_api.openapi import openapi
from tests.serve.runway_api.api_kit import running

CHECKS = "not_a_server_error,status_code_conformance,response_schema_conformance"
PHASES = ("coverage", "fuzzing")  # the limits of each field, and random requests
REQUEST_S, EXAMPLES, MAX_S = 10, 3, 120
TESTED = 0.75  # of all operations at least, in this time on a busy machine

pytestmark = pytest.mark.acceptance


async def fuzzed(folder: Path, phase: str) -> tuple[int, str]:
    async with running(folder) as one:
        words = ["run", f"http://127.0.0.1:{one.http.port}/openapi.json", "-H", f"Authorization: Bearer {one.key}"]
        words += ["--phases", phase, "--checks", CHECKS, "--seed", "1", "--max-examples", f"{EXAMPLES}"]
        words += ["--request-timeout", f"{REQUEST_S}", "--max-time", f"{MAX_S}", "--no-color"]
        pipe, joined = asyncio.subprocess.PIPE, asyncio.subprocess.STDOUT
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "schemathesis.cli", *words, cwd=folder, stdout=pipe, stderr=joined
        )
        output, _ = await process.communicate()
        return await process.wait(), output.decode()


@pytest.mark.parametrize("phase", PHASES)
def test_a_published_fuzzer_finds_no_failure_and_no_answer_that_the_document_does_not_have(phase: str, tmp_path: Path):
    status, output = asyncio.run(fuzzed(tmp_path, phase))
    assert status == 0, output[-6000:]
    operations = sum(len(each) for each in openapi()["paths"].values())
    assert int(re.search(r"Tested: +(\d+)", output)[1]) >= TESTED * operations, output[-6000:]  # pyright: ignore
