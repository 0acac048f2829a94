"""Collect every ``code`` of the API's errors from the error classes.

The OpenAPI document, docs/errors.md (a test compares them) and the tests use this list. A test fails if an answer has another
code or status.
"""

from collections.abc import Iterator
from typing import Final

from shared.errors import Code, RelayError


class InternalError(RelayError):
    """Any other exception becomes a 500 without details."""

    codes = (
        Code(
            "internal_error",
            "Relay failed.",
            "Relay failed. Find the request id in Relay's log.",
        ),
    )

    def __init__(self) -> None:
        super().__init__("Relay failed. Find the request id in Relay's log.")


def error_classes(base: type[RelayError]) -> Iterator[type[RelayError]]:
    """Yield the class and all its subclasses, parents first."""
    yield base
    for error in base.__subclasses__():
        yield from error_classes(error)


# Status and description of each code, by its name.
CODES: Final[dict[str, tuple[int, Code]]] = {
    code.name: (error.status, code) for error in error_classes(RelayError) for code in error.codes
}
