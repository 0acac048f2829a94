"""Decode request bodies, with error messages that name the wrong field."""

import re
from typing import TypeVar

import msgspec

from shared.errors import InvalidRequest
from shared.models.names import IN_WORDS

T = TypeVar("T")
NO_BODY = "The body is empty. Send a JSON object."
_PATH = re.compile(r"^(.*?)(?: - at `(?:key in )?\$\.?([^`]*)`)?$", re.DOTALL)
_NAMED = re.compile(r"^Object (contains unknown|missing required) field `([^`]*)`$")


def decode_request(decoder: "msgspec.json.Decoder[T]", body: bytes) -> T:
    """Decode a request body. Raises ``InvalidRequest`` with the dotted path of the field."""
    if not body:
        raise InvalidRequest(NO_BODY, code="invalid_json")
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise _explain(str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequest(f"The body is not valid JSON: {_sentence(error)}", code="invalid_json") from None


def is_required(param: str) -> InvalidRequest:
    """Return the error for a missing field or parameter."""
    return InvalidRequest(f"`{param}` is required.", param, "missing_field")


def _explain(message: str) -> InvalidRequest:
    match = _PATH.match(message)
    text, path = (match[1], match[2] or "") if match else (message, "")
    named = _NAMED.match(text)
    if named is not None:
        param = f"{path}.{named[2]}" if path else named[2]
        if named[1] == "missing required":
            return is_required(param)
        return InvalidRequest(f"`{param}` is not a field of this request. Leave it out.", param, "unknown_field")
    if not path:
        return InvalidRequest(f"The body must be a JSON object: {_sentence(text)}")
    return InvalidRequest(in_words(path, text), path)


def in_words(param: str, text: str) -> str:
    """Return what is wrong with ``param`` as a sentence. ``text``: msgspec's message without its path."""
    if "matching regex" in text:
        words = next((words for pattern, words in IN_WORDS.items() if text.endswith(repr(pattern))), None)
        return f"`{param}` has the wrong form." if words is None else f"`{param}` must be {words}."
    return f"`{param}`: {_sentence(text)}"


def _sentence(text: object) -> str:
    """Return msgspec's message as the second part of a sentence."""
    words = str(text).rstrip(".")
    return f"{words[:1].lower()}{words[1:]}."
