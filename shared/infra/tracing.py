"""Traces by OpenTelemetry.

Off, and without an import of its packages, unless OTEL_EXPORTER_OTLP_ENDPOINT is set. The instrumentation of the libraries
creates the spans of HTTP, SQL and Redis. Relay adds two: storing a group of webhooks, and folding a batch. Both belong to many
requests, so they link to these instead of being the child of one. The SDK reads its other variables (OTEL_SERVICE_NAME,
OTEL_TRACES_SAMPLER, …) itself.
"""

from collections.abc import Collection, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from shared.infra.settings import Settings
from shared.infra.version import VERSION

# The SDK keeps this many links of a span and drops the others.
MOST_LINKS = 128

_tracer: Any = None


def set_up_tracing(settings: Settings, service: str) -> bool:
    """Start tracing if the settings ask for it, and return whether they do.

    Called once, before any connection opens.
    """
    global _tracer
    if settings.otlp_endpoint is None:
        return False
    from opentelemetry import trace
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.instrumentation.asyncpg import AsyncPGInstrumentor
    from opentelemetry.instrumentation.redis import RedisInstrumentor
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    # OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES override these values.
    defaults = Resource({"service.name": f"relay-{service}", "service.version": VERSION})
    provider = TracerProvider(
        resource=defaults.merge(Resource.create()) if _named() else Resource.create(defaults.attributes)
    )
    provider.sampler = _without_orphans(provider.sampler)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
    AsyncPGInstrumentor().instrument()  # type: ignore[no-untyped-call] # its constructor has no annotations
    RedisInstrumentor().instrument()
    _tracer = trace.get_tracer("relay", VERSION)
    return True


def _named() -> bool:
    from opentelemetry.sdk.resources import OTELResourceDetector

    return "service.name" in OTELResourceDetector().detect().attributes


def _without_orphans(configured: Any) -> Any:
    """Create a sampler that drops client calls outside of any trace.

    The sweep reads sixteen streams every second. Its calls would fill a collector with useless traces.
    """
    from opentelemetry import trace
    from opentelemetry.sdk.trace.sampling import Decision, Sampler, SamplingResult

    class WithoutOrphans(Sampler):
        def should_sample(
            self,
            parent_context: Any,
            trace_id: int,
            name: str,
            kind: Any = None,
            attributes: Any = None,
            links: Any = None,
            trace_state: Any = None,
        ) -> SamplingResult:
            parent = trace.get_current_span(parent_context).get_span_context()
            if kind is trace.SpanKind.CLIENT and not parent.is_valid:
                return SamplingResult(Decision.DROP)
            result: SamplingResult = configured.should_sample(
                parent_context, trace_id, name, kind, attributes, links, trace_state
            )
            return result

        def get_description(self) -> str:
            return f"WithoutOrphans({configured.get_description()})"

    return WithoutOrphans()


def traced_app(app: Any, fixed_paths: Collection[str]) -> Any:
    """Wrap an ASGI application so that each request has a span, if tracing is on.

    ``fixed_paths``: paths that are answered without a route and contain no name.
    """
    if _tracer is None:
        return app
    from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware

    return OpenTelemetryMiddleware(
        _named_by_route(app, fixed_paths),
        default_span_details=lambda scope: (str(scope.get("method", "websocket")), {}),
        excluded_urls="healthz,readyz,metrics",
        exclude_spans=["receive", "send"],
    )


# Attributes that the instrumentation takes from the URL, by the old and the new names of OpenTelemetry's conventions.
_ADDRESSES = ("http.target", "http.url", "url.path", "url.full")
_REMOVED = ("url.query", "http.user_agent", "user_agent.original", "net.peer.ip", "client.address")


def _named_by_route(app: Any, fixed_paths: Collection[str]) -> Any:
    """Replace the URL in spans by the declared route.

    A path holds rooms and identities, or the secret of an invitation. People who read traces must not see them.
    """
    from opentelemetry import trace

    def name(scope: Any) -> None:
        span: Any = trace.get_current_span()
        if not span.is_recording():
            return
        route = scope.get("path_template") or (scope["path"] if scope["path"] in fixed_paths else "none")
        span.update_name(f"{scope['method']} {route}")
        span.set_attribute("http.route", route)
        for attribute in span.attributes.keys() & {*_ADDRESSES, *_REMOVED}:
            span.set_attribute(attribute, route if attribute in _ADDRESSES else "")

    async def named(scope: Any, receive: Any, send: Any) -> None:
        async def send_named(message: Any) -> None:
            if message["type"] == "http.response.start":  # the route is known now, and the span ends with the response
                name(scope)
            await send(message)

        if scope["type"] == "http":
            name(scope)  # for a client that disconnects before its response
        await app(scope, receive, send_named)

    return named


def current_context() -> str | None:
    """Return the W3C traceparent of the current span, or None if it is not traced."""
    if _tracer is None:
        return None
    from opentelemetry import trace

    context = trace.get_current_span().get_span_context()
    if not context.is_valid or not context.trace_flags.sampled:
        return None
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


def linked_span(name: str, contexts: Iterable[str | None], **attributes: int) -> AbstractContextManager[None]:
    """Open a root span that links to these contexts.

    Does nothing if tracing is off or none of them is traced.
    """
    if _tracer is None:
        return nullcontext()
    links = [context for context in dict.fromkeys(contexts) if context][:MOST_LINKS]
    return _span(name, links, attributes) if links else nullcontext()


@contextmanager
def _span(name: str, contexts: list[str], attributes: dict[str, int]) -> Iterator[None]:
    from opentelemetry.context import Context
    from opentelemetry.trace import Link, get_current_span
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    propagator = TraceContextTextMapPropagator()
    linked = (get_current_span(propagator.extract({"traceparent": text}, Context())) for text in contexts)
    links = [Link(span.get_span_context()) for span in linked]
    with _tracer.start_as_current_span(name, context=Context(), links=links, attributes=attributes):
        yield
