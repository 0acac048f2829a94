"""Traces by OpenTelemetry: off, and nothing of it imported, unless OTEL_EXPORTER_OTLP_ENDPOINT is set.

The libraries' own instrumentation makes the spans of HTTP, SQL and Redis; ours are two: keeping a group of webhooks, and
folding a batch. Both stand for many requests at once, so they link to them instead of being children of one. The SDK reads its
other variables (OTEL_SERVICE_NAME, OTEL_TRACES_SAMPLER, …) itself.
"""

from collections.abc import Collection, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from shared.infra.settings import Settings
from shared.infra.version import VERSION

# The SDK keeps this many links of a span and drops the rest.
MOST_LINKS = 128

_tracer: Any = None


def set_up_tracing(settings: Settings, service: str) -> bool:
    """Starts tracing in this process if it is wanted; whether it is. Called once, before anything connects."""
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

    # OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES win over what is given here.
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
    """A sampler that drops the calls nobody asked for: a sweep that looks at sixteen streams every second would fill a
    collector with traces of nothing."""
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
    """The ASGI application with a span for each request, where tracing is on. ``fixed_paths``: those that hold no name and are
    answered without a route."""
    if _tracer is None:
        return app
    from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware

    return OpenTelemetryMiddleware(
        _named_by_route(app, fixed_paths),
        default_span_details=lambda scope: (str(scope.get("method", "websocket")), {}),
        excluded_urls="healthz,readyz,metrics",
        exclude_spans=["receive", "send"],
    )


# What the instrumentation takes from the address, in the old and the new names of OpenTelemetry's conventions.
_ADDRESSES = ("http.target", "http.url", "url.path", "url.full")
_REMOVED = ("url.query", "http.user_agent", "user_agent.original", "net.peer.ip", "client.address")


def _named_by_route(app: Any, fixed_paths: Collection[str]) -> Any:
    """Puts the route as it is declared in the place of the address. A path holds rooms and identities, or an invitation's
    secret, and whoever may look at traces should not come to know them."""
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
            if message["type"] == "http.response.start":  # the route is known by now, and the span ends with the answer
                name(scope)
            await send(message)

        if scope["type"] == "http":
            name(scope)  # a client that goes away before its answer leaves a span as well
        await app(scope, receive, send_named)

    return named


def current_context() -> str | None:
    """The W3C traceparent of what is being done, if it is being traced."""
    if _tracer is None:
        return None
    from opentelemetry import trace

    context = trace.get_current_span().get_span_context()
    if not context.is_valid or not context.trace_flags.sampled:
        return None
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


def linked_span(name: str, contexts: Iterable[str | None], **attributes: int) -> AbstractContextManager[None]:
    """A span of its own that links to these contexts. Nothing, where tracing is off or none of them is traced."""
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
