"""The OpenAPI document of the routes, made from the types that check requests and answers."""

import functools
import re
from typing import Any

from pydantic import TypeAdapter
from pydantic.json_schema import models_json_schema

from serve.runway_api.call import Stored
from serve.runway_api.requests import NoQuery
from serve.runway_api.routes import ROUTES, Route

REFERENCE = "#/components/schemas/{model}"
NAME_CHARS = 100
ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {"error": {"type": "string"}, "issues": {"type": "array", "items": {"type": "object"}}},
}


@functools.cache
def openapi() -> dict[str, Any]:
    models = [(route.body, "validation") for route in ROUTES if route.body is not None]
    _, shared = models_json_schema(models, ref_template=REFERENCE)  # pyright: ignore[reportArgumentType]
    schemas: dict[str, Any] = {"Error": ERROR, **shared.get("$defs", {})}
    paths: dict[str, dict[str, Any]] = {}
    for route in ROUTES:
        paths.setdefault(f"/v1{route.path}", {})[route.method.lower()] = _operation(route, schemas)
    keys = {"type": "http", "scheme": "bearer", "description": "An API key; for consume the session's key."}
    return {
        "openapi": "3.1.0",
        "info": {"title": "gwm: avatars in the shapes of Runway's public API", "version": "2024-11-06"},
        "paths": paths,
        "components": {"schemas": schemas, "securitySchemes": {"key": keys}},
    }


def _operation(route: Route, schemas: dict[str, Any]) -> dict[str, Any]:
    doc = (route.work.__doc__ or "").strip().split("\n\n")[0]
    module = route.work.__module__.rpartition(".")[2]
    operation: dict[str, Any] = {
        "operationId": f"{module}_{route.work.__name__}",
        "parameters": [*_parameters(route)],
        "responses": {**_success(route, schemas), "default": _content({"$ref": REFERENCE.format(model="Error")})},
    }
    operation["responses"]["default"]["description"] = "Why the request is refused."
    if doc and not doc.startswith("Raises"):
        operation["summary"] = " ".join(doc.split())
    if route.access != "open":
        operation["security"] = [{"key": []}]
    if route.body is not None:
        reference = REFERENCE.format(model=route.body.__name__)
        operation["requestBody"] = {"required": True, **_content({"$ref": reference})}
    return operation


def _parameters(route: Route):
    for name in re.findall(r"{(\w+)}", route.path):
        schema = {"type": "string"} | (
            {"format": "uuid"} if name == "id" else {"minLength": 1, "maxLength": NAME_CHARS}
        )
        yield {"name": name, "in": "path", "required": True, "schema": schema}
    if route.query is NoQuery:
        return
    schema = route.query.model_json_schema()
    for name, field in schema["properties"].items():
        yield {"name": name, "in": "query", "required": name in schema.get("required", []), "schema": field}


def _success(route: Route, schemas: dict[str, Any]) -> dict[str, Any]:
    if route.answer is None:
        return {"204": {"description": "Done."}}
    if route.answer is Stored:
        content = {"content": {"*/*": {"schema": {"type": "string"}}}}
        return {"200": {"description": "The file.", **content}, "206": {"description": "A range of it.", **content}}
    schema = TypeAdapter(route.answer).json_schema(ref_template=REFERENCE, mode="serialization")
    schemas.update(schema.pop("$defs", {}))
    return {"200": {"description": "The answer.", **_content(schema)}}


def _content(schema: dict[str, Any]) -> dict[str, Any]:
    return {"content": {"application/json": {"schema": schema}}}
