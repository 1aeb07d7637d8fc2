"""Traces of calls (OpenTelemetry), for who wants them: receive → admit → forward. Otherwise nothing happens here.

A client says which trace its call belongs to with the header `traceparent` (W3C Trace Context) or, in MCP 2026-07-28,
with `_meta.traceparent`; servers of that revision are told in the same way, if the client said so.
"""

from __future__ import annotations

import re
from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar
from importlib import import_module
from typing import Any

from jitaccess import env
from jitaccess.kernel.errors import Invalid
from jitaccess.kernel.strictjson import Json, JsonObject

_TRACEPARENT = re.compile(r"[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(?:-.{0,200})?")
# What the client of this request said, if it makes sense.
_carried: ContextVar[str] = ContextVar("traceparent", default="")
_nothing: AbstractContextManager[None] = nullcontext()
_tracer: Any = None


def trace_id(traceparent: str) -> str:
    """The trace that a traceparent names (W3C Trace Context 1, 3.2.2), "" when it is none."""
    found = _TRACEPARENT.fullmatch(traceparent)
    return found[1] if found else ""


def set_up() -> None:
    """Export to OTEL_EXPORTER_OTLP_ENDPOINT, when that is set. Raises Invalid when the extra is not installed."""
    global _tracer  # noqa: PLW0603 - of this process, like the SDK's own provider
    if not env.text("OTEL_EXPORTER_OTLP_ENDPOINT"):
        return
    try:
        # By name: the extra is not there for whoever checks types.
        otlp = import_module("opentelemetry.exporter.otlp.proto.http.trace_exporter")
        sdk, export = import_module("opentelemetry.sdk.trace"), import_module("opentelemetry.sdk.trace.export")
        resources = import_module("opentelemetry.sdk.resources")
    except ImportError as error:
        raise Invalid(
            "otel.missing", "OTEL_EXPORTER_OTLP_ENDPOINT is set, but traces need: pip install 'jitaccess[otel]'."
        ) from error
    provider = sdk.TracerProvider(resource=resources.Resource.create({"service.name": "jitaccess"}))
    provider.add_span_processor(export.BatchSpanProcessor(otlp.OTLPSpanExporter()))
    _tracer = provider.get_tracer("jitaccess")


def on() -> bool:
    """Whether anybody wants traces."""
    return _tracer is not None


def carry(header: str | None, meta: JsonObject) -> None:
    """Remember for this request what its client said; `_meta` is nearer to the call than the header."""
    for said in (meta.get("traceparent"), header):
        if isinstance(said, str) and trace_id(said):
            _carried.set(said)
            return


def receive(name: str) -> AbstractContextManager[Any]:
    """The span of a request, in the client's trace."""
    if _tracer is None:
        return _nothing
    from opentelemetry.trace import SpanKind
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    parent = TraceContextTextMapPropagator().extract({"traceparent": _carried.get()})
    span: AbstractContextManager[Any] = _tracer.start_as_current_span(name, context=parent, kind=SpanKind.SERVER)
    return span


def span(name: str, **attributes: str) -> AbstractContextManager[Any]:
    """A part of it. Attributes name servers and outcomes, never agents or arguments."""
    if _tracer is None:
        return _nothing
    part: AbstractContextManager[Any] = _tracer.start_as_current_span(name, attributes=attributes)
    return part


def onward(*, modern: bool) -> dict[str, Json]:
    """Members of `_meta` for the server behind us: the client's trace, by way of our span where there is one."""
    if not modern or not _carried.get():
        return {}
    headers = {"traceparent": _carried.get()}
    if _tracer is not None:
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        TraceContextTextMapPropagator().inject(headers)
    return dict(headers)
