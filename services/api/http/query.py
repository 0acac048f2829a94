"""Decode the query string of a request into the struct that its handler declares as ``params``.

The struct is the only description of the parameters: names, types, limits, defaults and the text of the API reference::

    class RoomsQuery(Query):
        limit: Annotated[int, Meta(ge=1, le=1000, description="Rooms per page.")] = 100
"""

import re
from collections.abc import Iterable
from datetime import datetime
from functools import cache
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta

from services.api.http.cursors import Cursor
from services.api.http.decoding import in_words
from shared.errors import InvalidRequest

# RFC 3339, section 5.6. A plus sign that was not escaped arrives as a space.
_INSTANT = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+\- ]\d\d:\d\d)", re.ASCII)
_EPOCH = datetime.fromisoformat("1970-01-01T00:00:00+00:00")
_LONGEST_NAME = 100
# Entries per page of a listing.
DEFAULT_LIMIT, MAX_LIMIT = 50, 200


class Query(msgspec.Struct, rename="camel", kw_only=True, forbid_unknown_fields=True):
    """Base of query structs. A parameter that may be absent has the default None."""


class Instant(int):
    """A time in the query: RFC 3339 in the request, unix ms here. Truncated to milliseconds."""


def unix_ms(at: Instant | None) -> int | None:
    """Return a time of the query as a plain number, which JSON can encode."""
    return None if at is None else int(at)


# Tokens made without Relay may name people and rooms freely, so a filter accepts any text.
ExactName = Annotated[
    str, Meta(pattern=r"\A[^\x00]*\Z", min_length=1, max_length=512, description="Only entries with exactly this name.")
]


class TimeRangeQuery(Query):
    """The parameters of a listing: a time range and a page."""

    from_: Annotated[Instant, Meta(description="Start of the range: the earliest time of an entry.")] | None = (
        msgspec.field(default=None, name="from")
    )
    to: Annotated[Instant, Meta(description="End of the range, not included.")] | None = None
    limit: Annotated[int, Meta(ge=1, le=MAX_LIMIT, description="Entries per page. A page may hold fewer.")] = (
        DEFAULT_LIMIT
    )
    cursor: Cursor | None = None

    def check_range(self) -> None:
        """Raise ``InvalidRequest`` unless the range starts before it ends."""
        if self.from_ is not None and self.to is not None and self.from_ >= self.to:
            raise InvalidRequest("`from` must be before `to`.", "from")


Q = TypeVar("Q", bound=Query)


def decode_query(kind: type[Q], given: Iterable[tuple[str, str]]) -> Q:
    """Decode the parameters of a query. Raises ``InvalidRequest`` that names the parameter."""
    values: dict[str, str] = {}
    for name, value in given:
        if name in values:
            raise InvalidRequest(
                f"`{name[:_LONGEST_NAME]}` is given more than once. Send it once.", name[:_LONGEST_NAME]
            )
        values[name] = value
    try:
        query = msgspec.convert(values, kind, strict=False, dec_hook=_decode_instant)
    except msgspec.ValidationError as error:
        raise _explain(kind, str(error), values) from None
    for name in values:
        # The text "null" is not a missing parameter.
        if getattr(query, _field_names(kind)[name]) is None:
            raise InvalidRequest(f"`{name}` has the wrong form.", name)
    return query


@cache
def _field_names(kind: type[Query]) -> dict[str, str]:
    """Return the names of the fields by those of the parameters."""
    return {field.encode_name: field.name for field in msgspec.structs.fields(kind)}


def refuse_query(given: Iterable[tuple[str, str]]) -> None:
    """Refuse any parameter, for a route that takes none. Raises ``InvalidRequest``."""
    for name, _ in given:
        raise _unknown(name)


def parse_instant(text: str, name: str) -> int:
    """Parse a time in RFC 3339 as unix ms. Raises ``InvalidRequest`` for the parameter ``name``."""
    try:
        if _INSTANT.fullmatch(text) is None:
            raise ValueError
        spelled = text[:10] + "T" + text[11:].upper().replace(" ", "+")
        fraction = re.sub(r"(\.\d{1,6})\d*", lambda match: match[1].ljust(7, "0"), spelled)
        since = datetime.fromisoformat(fraction) - _EPOCH
    except (ValueError, OverflowError):
        raise _not_a_time(name) from None
    return since.days * 86_400_000 + since.seconds * 1000 + since.microseconds // 1000


def query_schema(kind: type[Query]) -> dict[str, dict[str, Any]]:
    """Return the JSON schema of each parameter, by its name in the request."""
    schema = msgspec.json.schema(kind, schema_hook=_schema_of_instant)
    properties: dict[str, dict[str, Any]] = schema["$defs"][kind.__name__]["properties"]
    return {name: _without_null(of_field) for name, of_field in properties.items()}


def _decode_instant(kind: type, value: Any) -> Any:
    if kind is not Instant:
        raise NotImplementedError
    try:
        return Instant(parse_instant(str(value), ""))
    except InvalidRequest:
        raise ValueError("not a time") from None


def _schema_of_instant(kind: type) -> dict[str, Any]:
    if kind is not Instant:
        raise NotImplementedError
    return {"type": "string", "format": "date-time", "examples": ["2026-06-18T00:00:00.000Z"]}


def _explain(kind: type[Query], message: str, values: dict[str, str]) -> InvalidRequest:
    unknown = re.match(r"Object contains unknown field `(.*)`$", message, re.DOTALL)
    if unknown is not None:
        return _unknown(unknown[1])
    where = re.match(r"(.*) - at `\$\.([^`]*)`$", message, re.DOTALL)
    if where is None:  # a struct's own check
        return InvalidRequest(message)
    text, name = where[1], where[2]
    if text == "not a time":
        return _not_a_time(name)
    choices = query_schema(kind)[name].get("enum", ())
    if choices:
        return InvalidRequest(f"`{name}` must be one of {', '.join(f'`{choice}`' for choice in choices)}.", name)
    return InvalidRequest(in_words(name, text), name)


def _not_a_time(name: str) -> InvalidRequest:
    return InvalidRequest(f"`{name}` must be a time like 2026-06-18T00:00:00Z (RFC 3339).", name)


def _unknown(name: str) -> InvalidRequest:
    shown = name[:_LONGEST_NAME]
    return InvalidRequest(f"`{shown}` is not a parameter of this request. Leave it out.", shown, "unknown_field")


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a parameter's value, without null: an absent parameter is left out instead."""
    options = [option for option in schema.get("anyOf", ()) if option != {"type": "null"}]
    kept = {key: value for key, value in schema.items() if key != "anyOf" and (key, value) != ("default", None)}
    return {**(options[0] if len(options) == 1 else {}), **kept} if "anyOf" in schema else kept
