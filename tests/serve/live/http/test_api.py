"""Everything that can be sent to the port ends in a clear message, and leaves nothing behind."""

import asyncio
import io
from collections.abc import AsyncIterator, Awaitable, Callable

import numpy as np
import pytest
from aiohttp.test_utils import TestClient, make_mocked_request
from PIL import Image

from tests.serve.live.server_kit import Kit, offer, opened, serving


def served(script: Callable[[Kit, TestClient], Awaitable[None]], *, capacity: int = 2) -> Kit:
    async def run() -> Kit:
        async with serving(capacity=capacity) as (kit, client):
            await script(kit, client)
        return kit

    return asyncio.run(run())


def picture(size: tuple[int, int] = (300, 200), form: str = "JPEG") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, (10, 120, 200)).save(buffer, form)
    return buffer.getvalue()


def test_page_and_characters_are_served_and_nothing_from_elsewhere_is_allowed():
    async def script(kit: Kit, client: TestClient) -> None:
        page = await client.get("/")
        assert "gwm" in await page.text()
        assert "default-src 'self'" in page.headers["Content-Security-Policy"]
        listed = (await (await client.get("/v1/characters")).json())["characters"]
        assert [character["key"] for character in listed] == ["noa"]
        image = await client.get(listed[0]["image"])
        assert Image.open(io.BytesIO(await image.read())).size == (48, 32)

    served(script)


def test_200_requests_at_once_fill_the_places_and_the_rest_are_told_when_to_come_back():
    async def script(kit: Kit, client: TestClient) -> None:
        visitors = [{"X-Forwarded-For": f"192.0.2.{number}"} for number in range(200)]
        ask = (client.post("/v1/sessions", json={}, headers=visitor) for visitor in visitors)
        answers = await asyncio.gather(*ask)
        assert sorted(answer.status for answer in answers) == [201] * 2 + [429] * 198
        refused = next(answer for answer in answers if answer.status == 429)
        assert refused.headers["Retry-After"] == "30"
        assert (await refused.json())["error"] == "All 2 places are taken. Try again in 30 s."
        assert (await client.get("/ready")).status == 503

    kit = served(script)
    assert len(kit.faces) == 2 and [face.stops for face in kit.faces] == [1, 1]


@pytest.mark.parametrize(
    "sdp", ["garbage", "", "v=0\r\no=- 0 0 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\n", "m=audio 9 UDP x" * 99]
)
def test_garbage_for_an_offer_is_refused(sdp: str):
    async def script(kit: Kit, client: TestClient) -> None:
        answer = await offer(client, await opened(client), sdp)
        assert answer["status"] == "400" and "sdp " in answer["error"]
        assert not kit.admission.sessions

    served(script)


@pytest.mark.parametrize(
    ("body", "rule"),
    [
        (b"{", "must be JSON"),
        (b"[]", "JSON object"),
        (b"[" * 60_000, "must be JSON"),
        (b'{"mode": "rendrer"}', "mode='rendrer' must be one of conversation, renderer."),
        (b'{"mode": null}', "mode=None must be text."),
        (b'{"charakter": "noa"}', "field 'charakter' must be one of character, image, mode."),
        (b'{"character": ["noa"]}', "character=['noa'] must be text."),
    ],
)
def test_a_body_that_is_no_wish_is_refused(body: bytes, rule: str):
    async def script(kit: Kit, client: TestClient) -> None:
        response = await client.post("/v1/sessions", data=body)
        assert response.status == 400 and rule in (await response.json())["error"]
        assert not kit.admission.sessions

    served(script)


def test_a_key_opens_one_connection_and_no_other():
    async def script(kit: Kit, client: TestClient) -> None:
        session = await opened(client)
        for key in ("", "wrong", session["session_key"][:-1]):
            answer = await offer(client, session | {"session_key": key}, "garbage")
            assert answer["status"] == "403"
        assert (await offer(client, session, "garbage"))["status"] == "400"
        assert (await offer(client, session, "garbage"))["status"] == "404"  # it ended with the offer

    served(script)


def test_a_session_says_what_of_its_stream_can_be_changed():
    async def script(kit: Kit, client: TestClient) -> None:
        forward, left = (
            {"name": name, "minimum": -10.0, "maximum": 10.0, "default": 0.0, "kind": "continuous"}
            for name in ("forward", "left")
        )
        jaw = {"name": "jawOpen", "minimum": 0.0, "maximum": 1.0, "default": 0.0, "kind": "continuous"}
        numbers = {"actions": [forward, left], "code": [jaw]}
        controls = {"prompt": True, **numbers, "rewind_chunks": 6, "chunk_s": 1 / 6, "sound": True, "keyframes": True}
        assert (await opened(client))["controls"] == controls

    served(script)


def test_leaving_frees_the_place():
    async def script(kit: Kit, client: TestClient) -> None:
        session = await opened(client)
        path = f"/v1/sessions/{session['id']}"
        assert (await client.delete(path)).status == 403
        headers = {"Authorization": f"Bearer {session['session_key']}"}
        assert (await client.delete(path, headers=headers)).status == 204
        assert (await client.delete(path, headers=headers)).status == 404
        assert (await (await client.get("/ready")).json())["free"] == 2

    served(script)


def test_an_upload_becomes_pixels_of_the_models_resolution_and_nothing_else_of_it_survives():
    async def script(kit: Kit, client: TestClient) -> None:
        secret = picture() + b"<script>secret</script>"
        uploaded = await (await client.post("/v1/images", data=secret)).json()
        assert uploaded["note"] == "No face was found, so the middle of the picture is used."
        shown = await (await client.get(uploaded["image"])).read()
        assert b"secret" not in shown and Image.open(io.BytesIO(shown)).size == (48, 32)
        response = await client.post("/v1/sessions", json={"character": "noa", "image": uploaded["key"]})
        assert response.status == 201
        (session,) = kit.admission.sessions.values()
        assert np.abs(session.character.portrait.astype(int) - (10, 120, 200)).max() < 6

    served(script)


@pytest.mark.parametrize(
    ("data", "status", "message"),
    [
        (b"not a picture", 400, "not a picture that can be read"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", 400, "not a picture that can be read"),
        (picture(form="GIF"), 400, "Send a JPEG, PNG or WebP"),
        (picture()[:200], 400, "not a picture that can be read"),
        (b"\xff" * 10_000_000, 413, "At most 5 MB"),
        (picture((9_000, 9_000), "PNG"), 400, "at most 40 million"),
    ],
    ids=["text", "svg", "gif", "cut", "10 MB", "enormous"],
)
def test_what_is_no_picture_of_a_bearable_size_is_refused(data: bytes, status: int, message: str):
    async def script(kit: Kit, client: TestClient) -> None:
        response = await client.post("/v1/images", data=data)
        assert response.status == status and message in (await response.json())["error"]

    served(script)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Host": "rebound.example"}, 403),
        ({"Origin": "https://friend.example"}, 201),
        ({}, 201),
    ],
)
def test_pages_of_other_sites_are_refused_unless_they_are_on_the_list(headers: dict[str, str], status: int):
    async def script(kit: Kit, client: TestClient) -> None:
        assert (await client.post("/v1/sessions", json={}, headers=headers)).status == status

    served(script)


@pytest.mark.parametrize(
    "path", ["/v1/images/..%2f..%2fetc%2fpasswd", "/v1/characters/x/image", "/..%2fapi.py", "/nothing"]
)
def test_no_path_leads_to_a_file(path: str):
    async def script(kit: Kit, client: TestClient) -> None:
        response = await client.get(path)
        assert response.status == 404 and set(await response.json()) == {"error"}

    served(script)


def test_metrics_count_sessions_and_refusals():
    async def script(kit: Kit, client: TestClient) -> None:
        await opened(client)
        await client.post("/v1/sessions", json={})
        text = await (await client.get("/metrics")).text()
        assert "gwm_sessions 1.0" in text and "gwm_capacity 1.0" in text
        assert 'gwm_refused_total{reason="full"} 1.0' in text
        assert (await client.get("/health")).status == 200

    served(script, capacity=1)


def test_a_body_in_two_pieces_is_read_whole_and_one_that_is_too_long_is_refused():
    """Offers are longer than a packet of most networks."""

    async def script(kit: Kit, client: TestClient) -> None:
        async def pieces() -> AsyncIterator[bytes]:
            yield b'{"character": '
            await asyncio.sleep(0.05)
            yield b'"noa"}'

        assert (await client.post("/v1/sessions", data=pieces())).status == 201
        response = await client.post("/v1/sessions", data=b" " * 70_000)
        assert response.status == 413 and (await response.json())["error"] == "At most 0.064 MB can be sent here."

    served(script)


def test_a_body_that_does_not_end_is_not_waited_for(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("serve.live.http.bodies.BODY_S", 0.2)

    async def script(kit: Kit, client: TestClient) -> None:
        async def pieces() -> AsyncIterator[bytes]:
            yield b"{"
            await asyncio.sleep(5)

        response = await client.post("/v1/sessions", data=pieces())
        assert response.status == 408 and not kit.admission.sessions

    served(script)


def test_a_request_for_the_renderer_that_is_no_websocket_spends_no_key():
    async def script(kit: Kit, client: TestClient) -> None:
        session = await (await client.post("/v1/sessions", json={"mode": "renderer"})).json()
        path = f"/v1/sessions/{session['id']}/renderer"
        headers = {"Authorization": f"Bearer {session['session_key']}"}
        response = await client.get(path, headers=headers)
        assert response.status == 400 and "Upgrade: websocket" in (await response.json())["error"]
        async with client.ws_connect(path, headers=headers) as socket:
            assert (await socket.receive_json(timeout=5))["type"] == "session.ready"

    served(script)


def test_answers_with_keys_are_not_stored_anywhere():
    async def script(kit: Kit, client: TestClient) -> None:
        response = await client.post("/v1/sessions", json={})
        assert response.headers["Cache-Control"] == "no-store"
        assert response.headers["Cross-Origin-Resource-Policy"] == "same-origin"

    served(script)


def test_only_a_trusted_proxy_says_who_the_visitor_is():
    async def script(kit: Kit, client: TestClient) -> None:
        request = make_mocked_request("GET", "/", headers={"X-Forwarded-For": "203.0.113.9, 198.51.100.7, 127.0.0.1"})
        for remote, visitor in (("127.0.0.1", "198.51.100.7"), ("192.0.2.1", "192.0.2.1")):
            assert kit.api.visitor(request.clone(remote=remote)) == visitor

    served(script)
