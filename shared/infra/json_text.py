"""Indent JSON for people to read, iteratively and within bounds, for any depth and size."""

import re

import msgspec

_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*+"?|[{}\[\],:]|[^\s"{}\[\],:]+', re.DOTALL)
_INDENT = 2
# Deeper levels are not indented further: the spaces of 10,000 levels would take 100 MB.
MAX_INDENTED_DEPTH = 24
# Only the start of a body is read: this many bytes for each character of the result. LiveKit sends JSON without white space.
_BYTES_READ = 4


def indented(body: bytes, longest: int) -> tuple[str, bool]:
    """Return the start of a body, at most ``longest`` characters, and whether it was cut.

    JSON is indented. Anything else is returned as it is.
    """
    start = body[: longest * _BYTES_READ]
    text, is_cut = start.decode("utf-8", "replace"), len(start) < len(body)
    if _is_json(body):
        text, stopped = _indent(text, longest)
        return text[:longest], is_cut or stopped or len(text) > longest
    return text[:longest], is_cut or len(text) > longest


def _is_json(body: bytes) -> bool:
    try:
        msgspec.json.decode(body, type=msgspec.Raw)
    except RecursionError:
        return True  # valid as far as it was read, and nested deeper than msgspec follows
    except (msgspec.DecodeError, UnicodeDecodeError):
        return False
    return True


def _indent(text: str, longest: int) -> tuple[str, bool]:
    pieces: list[str] = []
    size = depth = 0
    opened = False  # the previous part opened an object or an array
    for found in _TOKEN.finditer(text):
        part = found[0]
        if part in "}]":
            depth -= 1
            piece = part if opened else _line(depth) + part
        elif part == ":":
            piece = ": "
        elif part == ",":
            piece = "," + _line(depth)
        else:
            piece = (_line(depth) if opened else "") + part
        opened = part in "{["
        depth += opened
        pieces.append(piece)
        size += len(piece)
        if size > longest:
            return "".join(pieces), True
    return "".join(pieces), False


def _line(depth: int) -> str:
    return "\n" + " " * (_INDENT * min(max(depth, 0), MAX_INDENTED_DEPTH))
