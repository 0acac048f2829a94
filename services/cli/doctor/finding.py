"""What the doctor says: a fact, how bad it is, and what to do about it."""

from typing import Literal

import msgspec

Level = Literal["ok", "note", "warning", "error"]


class Finding(msgspec.Struct, frozen=True, omit_defaults=True):
    """``check`` names the part that was looked at; ``advice`` is empty where there is nothing to do."""

    check: str
    level: Level
    fact: str
    advice: str = ""


class Report(msgspec.Struct, frozen=True):
    """``ok``: nothing was found that loses events, refuses requests or leaks."""

    ok: bool
    findings: list[Finding]


def report_of(findings: list[Finding]) -> Report:
    """All of them, and the verdict."""
    return Report(not any(finding.level == "error" for finding in findings), findings)


def duration(seconds: int) -> str:
    """In the largest unit of which there are at least two."""
    for unit, size in (("days", 86_400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit}"
    return f"{seconds} seconds"
