"""Write the answer of `GET /v1/usage` as CSV (RFC 4180).

The numbers are those of the JSON. A row is an hour, a day, a month or a group.
"""

import re
from collections.abc import Iterable
from typing import Any

import msgspec

from services.api.usage.answer import SERIES
from services.api.usage.schemas import UsageAnswer, UsageOfSpan

MEDIA_TYPE = "text/csv"
_METERED = (
    "participantMinutes", "videoMinutes", "audioMinutes", "screenShareMinutes", "observedMinutes", "inferredMinutes",
    "provisionalMinutes", "sessions",
)  # fmt: skip
_OF_DAYS = ("rooms", "identities")
_LATE = ("lateChangeAt", "lateChangeParticipantMinutes", "lateChangeVideoMinutes", "lateChangeAudioMinutes")
# A spreadsheet treats a cell that begins like this as a formula, and clients can choose any identity.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
# A cell with one of these characters is quoted: they separate cells here or in spreadsheets of other languages.
_QUOTED = re.compile(r'[,;"\t\r\n]')


def usage_csv(answer: UsageAnswer) -> bytes:
    """Return the CSV in UTF-8. With ``groupBy=kind`` a row is one kind in one hour, day or month."""
    series = SERIES[answer.granularity]
    if answer.group_by == "kind":
        groups = [msgspec.to_builtins(group) for group in answer.groups or ()]
        rows: Iterable[dict[str, Any]] = sorted(
            ({**part, "kind": group["kind"]} for group in groups for part in group[series]),
            key=lambda row: (row["date"], row["kind"]),
        )
        return _table(("date", "kind", *_METERED), rows)
    if isinstance(answer.group_by, str):
        return _table((answer.group_by, *_METERED), map(msgspec.to_builtins, answer.groups or ()))
    spans: list[UsageOfSpan] = getattr(answer, series)
    columns: tuple[str, ...] = ("date", *_METERED, "peakParticipants", "egressMinutes", "ingressMinutes")
    if answer.granularity == "day":
        columns += (*_OF_DAYS, *_LATE)
    return _table(columns, map(_flat, spans))


def _flat(span: UsageOfSpan) -> dict[str, Any]:
    row: dict[str, Any] = msgspec.to_builtins(span)
    row["egressMinutes"], row["ingressMinutes"] = span.egress.minutes, span.ingress.minutes
    late = row.get("lateChange")
    if late is not None:
        row["lateChangeAt"] = late["at"]
        for name in ("participantMinutes", "videoMinutes", "audioMinutes"):
            row[f"lateChange{name[0].upper()}{name[1:]}"] = late[name]
    return row


def _table(columns: tuple[str, ...], rows: Iterable[dict[str, Any]]) -> bytes:
    cells = [columns, *([_cell(row.get(column, "")) for column in columns] for row in rows)]
    lines = (",".join(map(_quoted, line)) for line in cells)
    return "".join(f"{line}\r\n" for line in lines).encode("utf-8", "replace")


def _quoted(cell: str) -> str:
    return '"' + cell.replace('"', '""') + '"' if _QUOTED.search(cell) else cell


def _cell(value: Any) -> str:
    if isinstance(value, float):
        # Plain decimals, because some spreadsheets cannot read 1e-06.
        return f"{value:.6f}".rstrip("0").rstrip(".")
    text = str(value)
    return f"'{text}" if text.startswith(_FORMULA) else text


def wants_csv(accept: str | None) -> bool:
    """Return whether an Accept header prefers text/csv to JSON. Every other header gets JSON."""
    if not accept:
        return False
    quality: dict[str, float] = {}
    for part in accept.lower().split(","):
        media_range, *parameters = (piece.strip() for piece in part.split(";"))
        weight = next((piece[2:] for piece in parameters if piece.startswith("q=")), "1")
        try:
            quality[media_range] = float(weight)
        except ValueError:
            quality[media_range] = 0.0
    return quality.get(MEDIA_TYPE, 0.0) > quality.get("application/json", 0.0)
