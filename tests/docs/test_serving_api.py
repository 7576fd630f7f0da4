"""The page of messages and routes names what the server has."""

import re
from pathlib import Path

from gwm.condition.spec import LIMIT
from serve.live.avatar import changes
from serve.live.http import api, conversation, receipts
from serve.live.http import renderer_session as renderer
from serve.live.room import descriptions, door

PAGE = (Path(__file__).parents[2] / "docs" / "serving_api.md").read_text()


def kinds(source: str) -> set[str]:
    """Types of messages that a module compares with."""
    return set(re.findall(r'"((?:prompt|action|stream|agent|user|session)\.\w+)"', source))


def test_every_message_and_route_of_the_server_is_on_the_page():
    modules = [Path(module.__file__ or "").read_text() for module in (api, changes, conversation, renderer)]
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
    ):
        assert text in PAGE, text
