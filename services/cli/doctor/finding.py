"""Findings of `relay doctor`: a fact, its level, and what to do about it."""

from typing import Literal

import msgspec

Level = Literal["ok", "note", "warning", "error"]


class Finding(msgspec.Struct, frozen=True, omit_defaults=True):
    """One result of one check.

    ``check`` names the part that was checked. ``advice`` is empty if there is nothing to do.
    """

    check: str
    level: Level
    fact: str
    advice: str = ""


class Report(msgspec.Struct, frozen=True):
    """All findings. ``ok`` is True if none of them is an error.

    An error loses events, refuses requests or exposes something.
    """

    ok: bool
    findings: list[Finding]


def report_of(findings: list[Finding]) -> Report:
    """Make the report of these findings."""
    return Report(not any(finding.level == "error" for finding in findings), findings)


def duration(seconds: int) -> str:
    """Format a duration in the largest unit of which it holds at least two, such as `3 hours`."""
    for unit, size in (("days", 86_400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit}"
    return f"{seconds} seconds"
