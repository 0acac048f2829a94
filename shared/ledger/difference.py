"""Something stored that is not what it should be."""

from collections.abc import Mapping
from typing import Literal

import msgspec

from shared.metering.state import MediaRun, Room, Session
from shared.models.scope import AuditScope
from shared.models.wire import Wire

Table = Literal[
    "session",
    "room",
    "media_run",
    "usage_hour",
    "usage_day",
    "usage_group",
    "usage_group_count",
    "media_hour",
    "concurrency",
]
State = Session | Room | MediaRun


class Difference(Wire):
    """One row. ``key`` names it, times in RFC 3339; ``fields`` holds what is stored and what it should be, by column or by
    register of the state, with nulls where there should be no row or is none."""

    table: Table
    project_id: str | None
    mode: str | None
    key: str
    fields: dict[str, tuple[object, object]]


class Found(msgspec.Struct):
    """A difference, and what it takes to mend it: the state as it is and as the events prove it (None: should not be there), or
    the instant (unix ms) whose rollups are wrong. Both states None: only columns beside the state are wrong."""

    difference: Difference
    scope: AuditScope
    stored: State | None = None
    proven: State | None = None
    sid: str = ""
    at_ms: int = 0


def differing(stored: Mapping[str, object], right: Mapping[str, object]) -> dict[str, tuple[object, object]]:
    """The fields in which two rows differ; a row that is not there has none."""
    names = [*stored, *(name for name in right if name not in stored)]
    return {name: (stored.get(name), right.get(name)) for name in names if stored.get(name) != right.get(name)}


def registers(state: State | None) -> dict[str, object]:
    """A state's registers, as they are shown; those that never saw anything are left out."""
    return {} if state is None else {k: v for k, v in msgspec.to_builtins(state).items() if v not in (None, [], {}, ())}
