"""Compute the usage of an egress or a run of an ingress by UTC hour. Times are unix milliseconds."""

from typing import NamedTuple

from shared.infra.clock import HOUR_MS, floor_to
from shared.metering.hours import MAX_SESSION_MS, cut_at_edges
from shared.metering.state import MediaRun


class RunInterval(NamedTuple):
    """When a run was active, half-open. ``inferred``: no event reported its end."""

    start_ms: int
    end_ms: int | None
    inferred: bool


def interval_of_run(run: MediaRun) -> RunInterval | None:
    """Return when a run was active, cut to ``MAX_SESSION_MS``.

    None for a run that never became active: LiveKit gives it no start time.
    """
    if run.started_ms is None:
        return None
    latest_ms = run.started_ms + MAX_SESSION_MS
    if run.ended_ms is not None:
        return RunInterval(run.started_ms, min(max(run.started_ms, run.ended_ms), latest_ms), False)
    last_sign_ms = max(run.started_ms, run.sighted_ms or 0)
    if run.gone_ms is not None and run.gone_ms > last_sign_ms:
        return RunInterval(run.started_ms, min(last_sign_ms, latest_ms), True)
    return RunInterval(run.started_ms, None, False)


class RunUsage(NamedTuple):
    """Milliseconds of one hour. ``runs`` counts the runs that began in it."""

    active_ms: int
    inferred_ms: int
    runs: int


class RunBill(NamedTuple):
    """The usage of one run: the hours in which it begins and ends, and the range of whole hours between."""

    usage: dict[int, RunUsage]
    whole_from_ms: int = 0
    whole_to_ms: int = 0
    whole: RunUsage = RunUsage(0, 0, 0)

    def by_hour(self) -> dict[int, RunUsage]:
        """Return the usage of every single hour."""
        between = dict.fromkeys(range(self.whole_from_ms, self.whole_to_ms, HOUR_MS), self.whole)
        return dict(sorted((self.usage | between).items()))


def run_bill_of(run: MediaRun, now_ms: int | None = None) -> RunBill:
    """Return the bill of a run. An open run counts up to ``now_ms``, or nothing without it."""
    interval = interval_of_run(run) if run.project_id is not None else None
    if interval is None:
        return RunBill({})
    start_ms = interval.start_ms
    end_ms = interval.end_ms if interval.end_ms is not None else now_ms
    if end_ms is None:
        return RunBill({})
    end_ms = min(end_ms, start_ms + MAX_SESSION_MS)
    first_ms = floor_to(start_ms, HOUR_MS)
    usage = {first_ms: RunUsage(0, 0, 1)}
    whole_from_ms = whole_to_ms = 0
    for begin, end in cut_at_edges(start_ms, end_ms, ()):
        if end - begin > HOUR_MS:
            whole_from_ms, whole_to_ms = begin, end
            continue
        hour_ms, length = floor_to(begin, HOUR_MS), end - begin
        runs = 1 if hour_ms == first_ms else 0
        usage[hour_ms] = RunUsage(length, length if interval.inferred else 0, runs)
    return RunBill(usage, whole_from_ms, whole_to_ms, RunUsage(HOUR_MS, HOUR_MS if interval.inferred else 0, 0))


def usage_of_run(run: MediaRun, now_ms: int | None = None) -> dict[int, RunUsage]:
    """Return the usage of a run by UTC hour. An open run counts up to ``now_ms``, or nothing without it."""
    return run_bill_of(run, now_ms).by_hour()
