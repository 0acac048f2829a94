"""Which rows of the rollups a session, an egress or a run of an ingress adds to, and how much."""

from collections.abc import Mapping
from operator import add

from shared.clock import DAY_MS, floor_to
from shared.metering.state import MediaRun, Session
from shared.metering.usage import RunUsage, Usage, kind_of, usage_of_run
from shared.models.rollups import Dimension, GroupKey, GroupUsage, MediaKey, RollupKey


def usage_rows(session: Session, usage: Mapping[int, Usage]) -> list[tuple[RollupKey, Usage]]:
    """What a session's ``usage_of`` adds to the rollup, by hour."""
    if session.project_id is None or session.mode is None:
        return []
    kind = kind_of(session)
    return [(RollupKey(session.project_id, session.mode, hour, kind), amounts) for hour, amounts in usage.items()]


def group_rows(session: Session, usage: Mapping[int, Usage]) -> list[tuple[GroupKey, GroupUsage]]:
    """What a session's ``usage_of`` adds to the rollups of its room and of its identity, by day."""
    if session.project_id is None or session.mode is None:
        return []
    days: dict[int, Usage] = {}
    for hour_ms, amounts in usage.items():
        day_ms = floor_to(hour_ms, DAY_MS)
        days[day_ms] = Usage(*map(add, days[day_ms], amounts)) if day_ms in days else amounts
    names: dict[Dimension, str] = {"room": session.room or "", "identity": session.identity or ""}
    return [
        (GroupKey(session.project_id, session.mode, dimension, day_ms, name), GroupUsage(amounts, 1))
        for dimension, name in names.items()
        for day_ms, amounts in days.items()
    ]


def run_rows(run: MediaRun) -> list[tuple[MediaKey, RunUsage]]:
    """What a run adds to its rollup, by hour."""
    if run.project_id is None or run.mode is None:
        return []
    kind = run.type or "other"
    return [
        (MediaKey(run.project_id, run.mode, hour, run.meter, kind), usage) for hour, usage in usage_of_run(run).items()
    ]
