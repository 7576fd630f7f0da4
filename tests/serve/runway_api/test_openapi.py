"""The document at /openapi.json describes every route by types that exist."""

import asyncio
import json
import re
from pathlib import Path

from jsonschema import Draft202012Validator

from serve.runway_api.openapi import openapi
from serve.runway_api.routes import ROUTES
from tests.serve.runway_api.api_kit import AVATAR, Served, running

PAGE = Path(__file__).parents[3] / "docs" / "serving_api.md"


def test_every_reference_leads_to_a_schema():
    document = openapi()
    names = set(re.findall(r'"#/components/schemas/(\w+)"', json.dumps(document)))
    assert len(names) > 30 and names <= set(document["components"]["schemas"])


def test_every_route_is_described_and_no_other():
    described = {(method.upper(), path) for path, each in openapi()["paths"].items() for method in each}
    assert described == {(route.method, f"/v1{route.path}") for route in ROUTES}


def test_a_file_is_described_whole_and_by_a_range():
    responses = openapi()["paths"]["/v1/files/{id}"]["get"]["responses"]
    assert responses["200"]["content"] == responses["206"]["content"] == {"*/*": {"schema": {"type": "string"}}}


def test_every_route_is_on_the_page_of_the_api():
    rows = re.findall(r"^\| .*$", PAGE.read_text(), flags=re.MULTILINE)
    told = {(method, path) for row in rows for method, path in named(row)}
    assert {(route.method, f"/v1{route.path}") for route in ROUTES} <= told


def named(row: str) -> list[tuple[str, str]]:
    """Methods and paths of a row of the table, as in `GET` `DELETE` `/path`."""
    found: list[tuple[str, str]] = []
    methods: list[str] = []
    for word in re.findall(r"`([^`]+)`", row.split("|")[1]):
        if word.startswith("/"):
            found += [(method, word) for method in methods]
            methods = []
        else:
            methods.append(word)
    return found


def test_an_answer_of_the_server_fits_the_document(tmp_path: Path):
    async def run() -> tuple[dict, dict]:
        async with running(tmp_path) as one:
            async with one.http.get("/openapi.json") as answer:
                document = await answer.json()
            return document, await ready(one)

    document, avatar = asyncio.run(run())
    schema = document["paths"]["/v1/avatars/{id}"]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
    validator = Draft202012Validator(schema | {"components": document["components"]})
    validator.validate(avatar)
    assert not validator.is_valid(avatar | {"status": "DONE"})


async def ready(one: Served) -> dict:
    made = await one.ask("POST", "/avatars", AVATAR)
    return await one.until(f"/avatars/{made['id']}", "READY")
