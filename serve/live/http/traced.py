"""Requests as spans: method, route and status, and the id that is asked for; nothing that a client writes otherwise."""

from typing import Any

from aiohttp import web

from serve.live.traces import Traces

ROUTES = ("/v1/", "/rtc")  # not pages, nor what is looked at every few seconds


def tracing(traces: Traces | None) -> list[Any]:
    """Middlewares of an application, to stand before all others. A request belongs to its client's span, if it has one
    (`traceparent`)."""
    if traces is None:
        return []

    @web.middleware
    async def trace(request: web.Request, handler: Any) -> web.StreamResponse:
        resource = request.match_info.route.resource
        route = resource.canonical if resource is not None else ""
        if not route.startswith(ROUTES):
            return await handler(request)
        attributes = {"http.request.method": request.method, "http.route": route}
        if id := request.match_info.get("id"):
            attributes["gwm.id"] = id
        parent, name = traces.carried(request.headers), f"{request.method} {route}"
        span, status = traces.begin(name, parent=parent, serves=True, attributes=attributes), 500
        try:
            response = await handler(request)
            status = response.status
        except web.HTTPException as error:
            status = error.status
            raise
        finally:
            span.set_attribute("http.response.status_code", status)
            if status >= 500:
                traces.failed(span, f"{status}")
            span.end()
        return response

    return [trace]
