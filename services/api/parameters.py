"""Reads query parameters and says in plain words which one is wrong."""

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TypeVar

from shared.errors import InvalidRequest

T = TypeVar("T", bound=str)
# RFC 3339, section 5.6. A plus sign that was not escaped arrives as a space.
_INSTANT = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+\- ]\d\d:\d\d)", re.ASCII)
_EPOCH = datetime.fromisoformat("1970-01-01T00:00:00+00:00")


def only_known(params: Mapping[str, list[str]], known: Sequence[str]) -> dict[str, str]:
    """The value of each parameter. Raises ``InvalidRequest`` for one that is unknown, or given twice."""
    for name, values in params.items():
        if name not in known:
            raise InvalidRequest(f"{name[:100]} is not a parameter of this request", name[:100], "unknown_field")
        if len(values) > 1:
            raise InvalidRequest(f"{name} is given {len(values)} times", name)
    return {name: values[0] for name, values in params.items()}


def choice(given: Mapping[str, str], name: str, known: Sequence[T]) -> T | None:
    """The one of ``known`` that is given; None if the parameter is not there."""
    found = next((one for one in known if one == given.get(name)), None)
    if found is None and name in given:
        raise InvalidRequest(f"{name} must be one of {', '.join(known)}", name)
    return found


def whole_number(given: Mapping[str, str], name: str, least: int, greatest: int, default: int) -> int:
    if name not in given:
        return default
    text = given[name]
    if not re.fullmatch(r"[0-9]{1,9}", text, re.ASCII) or not least <= int(text) <= greatest:
        raise InvalidRequest(f"{name} must be a whole number from {least} to {greatest}", name)
    return int(text)


def instant(given: Mapping[str, str], name: str) -> int:
    """A time in RFC 3339 as unix ms; a fraction below the millisecond is cut off."""
    text = given[name]
    try:
        if _INSTANT.fullmatch(text) is None:
            raise ValueError
        spelled = text[:10] + "T" + text[11:].upper().replace(" ", "+")
        fraction = re.sub(r"(\.\d{1,6})\d*", lambda match: match[1].ljust(7, "0"), spelled)
        since = datetime.fromisoformat(fraction) - _EPOCH
    except (ValueError, OverflowError):
        raise InvalidRequest(f"{name} must be a time like 2026-06-18T00:00:00Z (RFC 3339)", name) from None
    return since.days * 86_400_000 + since.seconds * 1000 + since.microseconds // 1000


def name_like(given: Mapping[str, str], name: str) -> str | None:
    """A name of somebody or something, to look for; None if it is not given."""
    value = given.get(name)
    if value is not None and (not value or len(value) > 512 or "\0" in value):
        raise InvalidRequest(f"{name} must be 1 to 512 characters", name)
    return value
