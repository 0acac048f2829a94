"""The metrics of a process for Prometheus.

Every process serves its own numbers, and Prometheus adds them up. This module has one registry and no files shared between
processes (``PROMETHEUS_MULTIPROC_DIR``). Those files need a writable disk, keep the gauges of dead processes, and cost the hot
paths more than an integer (docs/decisions/0011).

The names are a contract with docs/operations (dashboard, alert rules), and a test compares the two. No label may hold a value
that clients choose: rooms, identities and project ids are personal, and their number has no bound.
"""

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, generate_latest
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.gc_collector import GCCollector
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
REGISTRY = CollectorRegistry()
ProcessCollector(registry=REGISTRY)
GCCollector(registry=REGISTRY)

_ROUND_TRIP_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)
_DELAY_S = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600)
_BATCH = (1, 2, 5, 10, 25, 50, 100, 250, 500, 1000, 2000, 4000)


class Tally:
    """A counter for the hot paths, for use by one thread only.

    ``tally.count += 1`` costs a twentieth of the library's counter, which locks.
    """

    __slots__ = ("count",)

    def __init__(self) -> None:
        self.count = 0


class Tallies(Collector):
    """The tallies of a metric with one label, by the value of that label."""

    def __init__(self, name: str, documentation: str, label: str) -> None:
        self._name, self._documentation, self._label = name, documentation, label
        self._tallies: dict[str, Tally] = {}
        REGISTRY.register(self)

    def __getitem__(self, value: str) -> Tally:
        tally = self._tallies.get(value)
        if tally is None:
            tally = self._tallies[value] = Tally()
        return tally

    def counts(self) -> dict[str, int]:
        """Return the counts by value of the label, since this process started."""
        return {value: tally.count for value, tally in self._tallies.items()}

    def describe(self) -> list[Metric]:
        return [CounterMetricFamily(self._name, self._documentation, labels=[self._label])]

    def collect(self) -> Iterator[Metric]:
        family = CounterMetricFamily(self._name, self._documentation, labels=[self._label])
        for value, tally in list(self._tallies.items()):
            family.add_metric([value], tally.count)
        yield family


# --- the API
tokens = Tallies("relay_tokens", "Access tokens minted, by the mode of the key.", "mode")
webhooks = Tallies(
    "relay_webhooks",
    "Webhooks by verdict: kept, inbox (kept by Postgres, because Redis was away), not_kept, probe (from `relay doctor`), or the"
    " reason of a refusal.",
    "verdict",
)
key_lookups = Tallies(
    "relay_key_lookups",
    "API keys looked up in: cache, database, or outage (the last known state, because Postgres was away).",
    "source",
)
problems = Counter("relay_problems", "Error responses by their code.", ["code"], registry=REGISTRY)
request_seconds = Histogram(
    "relay_http_request_seconds",
    "Time to answer a request, in seconds. Tokens and webhooks have separate metrics.",
    ["method", "route", "status"],
    buckets=_ROUND_TRIP_S,
    registry=REGISTRY,
)
intake_group_events = Histogram(
    "relay_intake_group_events", "Webhooks in one append to Redis.", buckets=_BATCH, registry=REGISTRY
)
intake_seconds = Histogram(
    "relay_intake_seconds", "Time to store one group of webhooks, in seconds.", buckets=_ROUND_TRIP_S, registry=REGISTRY
)
intake_waiting = Gauge("relay_intake_waiting", "Webhooks that are verified but not yet stored.", registry=REGISTRY)
rate_limits = Counter(
    "relay_rate_limits",
    "Requests by verdict of the rate limits: limited, or unchecked (only this process counted it, because Redis was away).",
    ["verdict"],
    registry=REGISTRY,
)

# --- the fold
fold_events = Counter(
    "relay_fold_events", "Events by result: folded, known, unattributed, set_aside.", ["result"], registry=REGISTRY
)
fold_batch_events = Histogram(
    "relay_fold_batch_events", "Events in one transaction of the fold.", buckets=_BATCH, registry=REGISTRY
)
fold_batch_seconds = Histogram(
    "relay_fold_batch_seconds",
    "Time to fold and commit one batch, in seconds.",
    buckets=_ROUND_TRIP_S,
    registry=REGISTRY,
)
fold_lag_seconds = Histogram(
    "relay_fold_lag_seconds",
    "Time from receiving the oldest event of a batch to its commit, in seconds.",
    buckets=_DELAY_S,
    registry=REGISTRY,
)
fold_failures = Counter(
    "relay_fold_failures", "Batches that failed and will be repeated.", ["cause"], registry=REGISTRY
)

# --- waiting work, measured on request (shared/operations/backlog.py); every process reports the same, so take the maximum
stream_events = Gauge("relay_stream_events", "Events in the Redis streams that wait for the fold.", registry=REGISTRY)
stream_oldest_seconds = Gauge(
    "relay_stream_oldest_seconds", "Age of the oldest waiting event, in seconds.", registry=REGISTRY
)
inbox_events = Gauge("relay_inbox_events", "Events in the Postgres inbox that wait for the fold.", registry=REGISTRY)
set_aside_events = Gauge("relay_set_aside_events", "Events that are set aside and not replayed.", registry=REGISTRY)
dead_messages = Gauge("relay_dead_messages", "Dramatiq messages that failed for good.", registry=REGISTRY)
workers = Gauge("relay_workers", "Workers whose heartbeat was seen in the last 30 seconds.", registry=REGISTRY)
backlog_unknown = Gauge(
    "relay_backlog_unknown",
    "1 while Redis or Postgres does not answer, so that its numbers above are old.",
    ["of"],
    registry=REGISTRY,
)

# --- LiveKit and reconciliation
livekit_seconds = Histogram(
    "relay_livekit_request_seconds",
    "Calls of LiveKit's room service by outcome (ok, or the kind of failure), in seconds.",
    ["operation", "outcome"],
    buckets=_ROUND_TRIP_S,
    registry=REGISTRY,
)
reconcile_passes = Counter(
    "relay_reconcile_passes",
    "Reconciliation passes by outcome: complete, partial, failed.",
    ["outcome"],
    registry=REGISTRY,
)
reconcile_changes = Counter(
    "relay_reconcile_changes",
    "Sessions that reconciliation opened, corrected or closed: the drift between webhooks and LiveKit.",
    ["change"],
    registry=REGISTRY,
)
reconcile_seconds = Histogram(
    "relay_reconcile_seconds", "Duration of a reconciliation pass, in seconds.", buckets=_DELAY_S, registry=REGISTRY
)
reconcile_last_success = Gauge(
    "relay_reconcile_last_success_timestamp_seconds",
    "Time of the last successful reconciliation pass, in unix seconds.",
    registry=REGISTRY,
)
livekit_delay_seconds = Histogram(
    "relay_webhook_delay_seconds",
    "Time from LiveKit's timestamp of the newest event in a batch (whole seconds) to receiving it, in seconds.",
    buckets=_DELAY_S,
    registry=REGISTRY,
)

# --- connections
_pool = Gauge("relay_pool_connections", "Connections of the Postgres pool by state.", ["state"], registry=REGISTRY)
_build = Info("relay_build", "Service and version of this process.", registry=REGISTRY)


def watch_pool(size: Callable[[], int], idle: Callable[[], int], limit: int) -> None:
    """Report a pool from now on. The functions are called whenever the metrics are read."""
    _pool.labels("used").set_function(lambda: size() - idle())
    _pool.labels("idle").set_function(idle)
    _pool.labels("limit").set(limit)


def describe_build(service: str, version: str) -> None:
    """Set the service and its version in ``relay_build_info``."""
    _build.info({"service": service, "version": version})


def rendered() -> bytes:
    """Render all metrics of this process in Prometheus' text format."""
    return generate_latest(REGISTRY)
