"""Spans by OpenTelemetry, of requests, turns and chunks. It is imported where there is an address to send them to."""

import contextlib
import os
import time
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from typing import Any

from gwm.optional import optional_module

INSTALL = "pip install opentelemetry-sdk opentelemetry-exporter-otlp-proto-http"
ADDRESSES = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")  # of the environment
Attributes = Mapping[str, str | int | float | bool]


class Traces:
    """Begins spans, and exports those that have ended in a thread of its own."""

    def __init__(self, exporter: Any) -> None:
        """exporter: a `SpanExporter`. Name, sampling and batches are those of OpenTelemetry's environment variables.

        Raises:
            MissingPackageError: OpenTelemetry is not installed.
        """
        sdk, export, resources = (
            optional_module(f"opentelemetry.sdk.{name}", INSTALL) for name in ("trace", "trace.export", "resources")
        )
        self._api, self._context = (optional_module(f"opentelemetry.{name}", INSTALL) for name in ("trace", "context"))
        carriers = optional_module("opentelemetry.trace.propagation.tracecontext", INSTALL)
        self._carrier = carriers.TraceContextTextMapPropagator()
        named = {"service.name": os.environ.get("OTEL_SERVICE_NAME", "gwm"), "process.pid": os.getpid()}
        self._provider = sdk.TracerProvider(resource=resources.Resource.create(named))
        self._provider.add_span_processor(export.BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("gwm")

    @classmethod
    def to(cls, address: str | None) -> "Traces | None":
        """To a collector that takes OTLP over HTTP, such as http://localhost:4318; None: to that of the environment, or
        no traces where it names none.

        Raises:
            MissingPackageError: OpenTelemetry is not installed.
        """
        if address is None and not any(os.environ.get(name) for name in ADDRESSES):
            return None
        http = optional_module("opentelemetry.exporter.otlp.proto.http.trace_exporter", INSTALL)
        return cls(http.OTLPSpanExporter(None if address is None else f"{address.rstrip('/')}/v1/traces"))

    def begin(
        self,
        name: str,
        *,
        parent: Any = None,
        at_s: float | None = None,
        serves: bool = False,
        attributes: Attributes | None = None,
    ) -> Any:
        """A span that begins now, or at a time in seconds since the epoch.

        Args:
            parent: the span that it belongs to, or what a carrier held of one; None: it begins a trace.
            serves: a request from elsewhere.
        """
        context = parent if isinstance(parent, dict) else self._within(parent)
        kind = self._api.SpanKind.SERVER if serves else self._api.SpanKind.INTERNAL
        start = None if at_s is None else nanoseconds(at_s)
        return self._tracer.start_span(name, context, kind, attributes=attributes, start_time=start)

    def carrier(self, span: Any) -> dict[str, str]:
        """What another process needs to go on with the trace of a span: W3C's trace context."""
        carrier: dict[str, str] = {}
        self._carrier.inject(carrier, self._within(span))
        return carrier

    def carried(self, carrier: Mapping[str, str]) -> Any:
        """The other end of `carrier`, for `parent`; headers of a request are one too."""
        return self._carrier.extract(carrier, self._context.Context())

    def _within(self, span: Any) -> Any:
        nothing = self._context.Context()
        return nothing if span is None else self._api.set_span_in_context(span, nothing)

    def failed(self, span: Any, reason: str) -> None:
        span.set_status(self._api.Status(self._api.StatusCode.ERROR, reason))

    def close(self) -> None:
        """Send what is left; waits for the collector, but not for long."""
        self._provider.shutdown()


def nanoseconds(seconds: float) -> int:
    return round(1e9 * seconds)


class ChunkSpan:
    """The span of a chunk that is asked for, for whatever happens on the way to its engine."""

    def __init__(self, traces: Traces, span: Any) -> None:
        self.traces, self.span = traces, span

    def waited(self, seconds: float) -> None:
        """A part that ends now."""
        self.traces.begin("wait", parent=self.span, at_s=time.time() - seconds).end()

    def carrier(self) -> dict[str, str]:
        return self.traces.carrier(self.span)


CHUNK: ContextVar[ChunkSpan | None] = ContextVar("chunk", default=None)  # that the current task asks for


class SessionTrace:
    """Spans of one session: each turn is a trace, with the chunks that are made until it is answered; chunks at other
    times are traces of their own."""

    def __init__(self, traces: Traces, session_id: str) -> None:
        self.traces, self.attributes = traces, {"session.id": session_id}
        self._turn: Any = None

    def begin_turn(self, at_s: float) -> None:
        """The end of speech; one that was not answered by then ends without an answer."""
        if self._turn is not None:
            self._turn.set_attribute("turn.answered", False)
            self._turn.end()
        self._turn = self.traces.begin("turn", at_s=at_s, attributes=self.attributes)

    def end_turn(self, ends_s: Mapping[str, float], begin_s: float) -> None:
        """ends_s: when each part ended, in this order."""
        if self._turn is None:
            return
        last_s = begin_s
        for name, end_s in ends_s.items():
            self.traces.begin(f"turn.{name}", parent=self._turn, at_s=last_s).end(nanoseconds(end_s))
            last_s = end_s
        self._turn.set_attribute("turn.answered", True)
        self._turn.end(nanoseconds(last_s))
        self._turn = None

    @contextlib.contextmanager
    def chunk(self) -> Iterator[Any]:
        """Asking for a chunk, until its frames are there."""
        span = self.traces.begin("chunk", parent=self._turn, attributes=self.attributes)
        token = CHUNK.set(ChunkSpan(self.traces, span))
        try:
            yield span
        except Exception as error:
            self.traces.failed(span, str(error))
            raise
        finally:
            CHUNK.reset(token)
            span.end()
