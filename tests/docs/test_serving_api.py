"""The page of messages and routes names what the server has."""

import re
from pathlib import Path

import yaml

from gwm.condition.spec import LIMIT
from serve.live.avatar import changes
from serve.live.http import api, conversation, receipts
from serve.live.http import renderer_session as renderer
from serve.live.room import descriptions, door
from serve.live.speech import knowledge
from serve.live.vision import pictures, sight

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "serving_api.md").read_text()
FILMS = yaml.safe_load((ROOT / "configs" / "serve.yaml").read_text())["films"]


def kinds(source: str) -> set[str]:
    """Types of messages that a module compares with."""
    return set(re.findall(r'"((?:prompt|action|stream|agent|user|session|vision|keyframe)\.\w+)"', source))


def test_every_message_and_route_of_the_server_is_on_the_page():
    modules = [Path(module.__file__ or "").read_text() for module in (api, changes, conversation, renderer, sight)]
    routes = set(re.findall(r'web\.(?:get|post|delete)\("([^"]+)"', modules[0]))
    named = set().union(*map(kinds, modules))
    assert len(routes) > 8 and len(named) > 8
    missing = sorted(name for name in routes | named if f"`{name}`" not in PAGE and f" {name}`" not in PAGE)
    assert not missing


def test_limits_on_the_page_are_those_of_the_server():
    for text in (
        f"1 to {changes.PROMPT_CHARS} characters",
        f"at most {changes.MAX_NUMBERS}",
        f"[-{LIMIT:g}, {LIMIT:g}]",
        f"At most {receipts.CHANGES} changes are taken in {receipts.WINDOW_S:g} seconds",
        f"at most {receipts.ID_CHARS} characters",
        f"at most {conversation.TEXTS_PER_MINUTE} a minute",
        f"at most {renderer.MESSAGES_PER_S} a second",
        f"at most {renderer.SPEECH_S:g} s may lie ready",
        f"signalling (protocol {descriptions.PROTOCOL})",
        f"{door.CLIENTS} clients at most",
        f"sends nothing for {descriptions.SILENT_S} s",
        f"(`{descriptions.CHARACTER}`,",
        f"passages of at most {knowledge.PASSAGE_CHARS:,} characters",
        f"({knowledge.GIVEN_CHARS:,} characters; all of the documents",
        f"at most `films.max_upload_mb=` ({FILMS['max_upload_mb']})",
        f"at most {pictures.PICTURE_BYTES / 1e3:g} kB and {pictures.MAX_PIXELS / 1e6:g} million pixels",
        f"until they are {sight.FRESH_S:g} s old",
    ):
        assert text in PAGE, text
