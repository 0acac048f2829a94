"""Decodes request bodies and says in plain words which field is wrong."""

import re
from typing import TypeVar

import msgspec

from shared.errors import InvalidRequest

T = TypeVar("T")
_PATH = re.compile(r"^(.*?)(?: - at `(?:key in )?\$\.?([^`]*)`)?$", re.DOTALL)
_NAMED = re.compile(r"^Object (contains unknown|missing required) field `([^`]*)`$")
_PLAIN = {
    "room": "room must be 1 to 128 letters, digits, `.`, `_`, `-` or `:`",
    "identity": "identity must be 1 to 128 letters, digits, `.`, `_`, `-`, `:` or `@`",
}


def decode_request(decoder: "msgspec.json.Decoder[T]", body: bytes) -> T:
    """The decoded body. Raises ``InvalidRequest`` with the dotted path of the field."""
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise _explain(str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequest(f"the body is not valid JSON: {error}", code="invalid_json") from None


def _explain(message: str) -> InvalidRequest:
    match = _PATH.match(message)
    text, path = (match[1], match[2] or "") if match else (message, "")
    named = _NAMED.match(text)
    if named is not None:
        param = f"{path}.{named[2]}" if path else named[2]
        if named[1] == "missing required":
            return InvalidRequest(f"{param} is required", param, "missing_field")
        return InvalidRequest(f"{param} is not a field of this request", param, "unknown_field")
    if path in _PLAIN and "matching regex" in text:
        return InvalidRequest(_PLAIN[path], path)
    if not path:
        return InvalidRequest(f"the body must be a JSON object: {text}")
    return InvalidRequest(f"{path}: {text[:1].lower()}{text[1:]}", path)
