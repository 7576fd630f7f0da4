"""Requests drawn from the server's own OpenAPI document, most of them spoilt: none is answered by a failure."""

import asyncio
import json
import random
import uuid
from pathlib import Path
from typing import Any

import pytest

from serve.runway_api.openapi import openapi
from tests.serve.runway_api.api_kit import Served, running

SPOILT = (
    *(None, True, False, 0, -1, 2**63, 2**64, 1.5, 1e308, "", " ", "\x00", "\ud800", "x" * 2_000, "../../etc/passwd"),
    *("' OR 1=1 --", "<script>", "data:image/png;base64,!", "https://[", "0001-01-01", "9999-12-31T23:59:59+23:59"),
    *("2026-02-30", "runway://x", "https://127.0.0.1/", "%00", "\u202e", [], {}, [[]] * 50, {"type": "custom"}),
)
SPOILT_SHARE = 0.15  # of values; one or two in most requests
REQUEST_S = 10.0


class Draw:
    """Values of schemas."""

    def __init__(self, seed: int, known: list[str]) -> None:
        self.random, self.known, self.document = random.Random(seed), known, openapi()

    def value(self, schema: dict[str, Any]) -> Any:
        pick = self.random
        if pick.random() < SPOILT_SHARE:
            return pick.choice(SPOILT)
        if "$ref" in schema:
            return self.value(self.document["components"]["schemas"][schema["$ref"].rpartition("/")[2]])
        for several in ("anyOf", "oneOf"):
            if several in schema:
                return self.value(pick.choice(schema[several]))
        if "const" in schema:
            return schema["const"]
        if "enum" in schema:
            return pick.choice(schema["enum"])
        kind = schema.get("type", "string")
        if kind == "object":
            required, fields = schema.get("required", []), schema.get("properties", {})
            return {
                name: self.value(field) for name, field in fields.items() if name in required or pick.random() < 0.5
            }
        if kind == "array":
            return [self.value(schema.get("items", {})) for _ in range(pick.randrange(4))]
        simple = {"integer": pick.randrange(-5, 400), "number": pick.uniform(-5, 10), "boolean": True, "null": None}
        return simple[kind] if kind in simple else self.text(schema)

    def text(self, schema: dict[str, Any]) -> str:
        if "pattern" in schema or schema.get("format") == "uuid":
            return self.random.choice(
                [*self.known, str(uuid.UUID(int=self.random.getrandbits(128), version=4)), "lamp"]
            )
        if schema.get("format") == "date-time":
            return f"2026-{self.random.randrange(1, 13):02}-01T00:00:00Z"
        return self.random.choice(["Vera", "clara", "game-character", "https://example.com/a.png", "a" * 30])

    def request(self) -> tuple[str, str, dict[str, str], bytes | None]:
        path = self.random.choice(list(self.document["paths"]))
        method = self.random.choice(list(self.document["paths"][path]))
        operation = self.document["paths"][path][method]
        query = {}
        for parameter in operation["parameters"]:
            drawn = str(self.value(parameter["schema"])).encode(errors="replace").decode()
            if parameter["in"] == "path":
                path = path.replace(f"{{{parameter['name']}}}", drawn.replace("/", "") or "x")
            else:
                query[parameter["name"]] = drawn
        body = None
        if "requestBody" in operation:
            body = json.dumps(self.value(operation["requestBody"]["content"]["application/json"]["schema"])).encode()
            if self.random.random() < 0.05:
                body = body[: len(body) // 2]
        return method.upper(), path, query, body


async def fuzzed(one: Served, draw: Draw, number: int) -> set[int]:
    """Statuses of the answers."""
    statuses = set()
    for _ in range(number):
        method, path, query, body = draw.request()
        headers = {"Authorization": f"Bearer {one.key}"}
        async with asyncio.timeout(REQUEST_S):
            async with one.http.request(method, path, params=query, data=body, headers=headers) as response:
                text = await response.text()
        assert response.status < 500, (method, path, query, body, text)
        if response.status >= 400:
            assert isinstance(json.loads(text)["error"], str), (method, path, text)
        elif text.startswith("{") and "id" in json.loads(text):
            draw.known.append(json.loads(text)["id"])
        statuses.add(response.status)
    return statuses


def run(folder: Path, seed: int, number: int) -> set[int]:
    """Afterwards no task, socket or place may be left, which `running` checks."""

    async def script() -> set[int]:
        async with running(folder) as one:
            return await fuzzed(one, Draw(seed, []), number)

    return asyncio.run(script())


def test_no_request_is_answered_by_a_failure(tmp_path: Path):
    assert {200, 400, 404} <= run(tmp_path, seed=0, number=60)


@pytest.mark.acceptance
@pytest.mark.parametrize("seed", range(1, 6))
def test_no_request_of_thousands_is_answered_by_a_failure(seed: int, tmp_path: Path):
    assert {200, 204, 400, 404} <= run(tmp_path, seed=seed, number=2_000)
