"""Describe a stored row that differs from its correct value."""

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
    """One stored row that is wrong.

    ``key`` names the row, with times in RFC 3339. ``fields`` holds (stored value, correct value) by column or by register of
    the state. A value is None if there is no row or should be none.
    """

    table: Table
    project_id: str | None
    mode: str | None
    key: str
    fields: dict[str, tuple[object, object]]


class Found(msgspec.Struct):
    """A difference, with what is needed to repair it.

    For a state: the stored one and the one that the events prove (None: it should not exist). For a rollup: the instant (unix
    ms) whose rollups are wrong. If both states are None, only the derived columns are wrong.
    """

    difference: Difference
    scope: AuditScope
    stored: State | None = None
    proven: State | None = None
    sid: str = ""
    at_ms: int = 0


def differing(stored: Mapping[str, object], expected: Mapping[str, object]) -> dict[str, tuple[object, object]]:
    """Return the fields in which two rows differ. A missing row has no fields."""
    names = [*stored, *(name for name in expected if name not in stored)]
    return {name: (stored.get(name), expected.get(name)) for name in names if stored.get(name) != expected.get(name)}


def registers(state: State | None) -> dict[str, object]:
    """Return the registers of a state as plain values, without the empty ones."""
    return {} if state is None else {k: v for k, v in msgspec.to_builtins(state).items() if v not in (None, [], {}, ())}
