"""A LiveKit API key with its secret."""

from typing import NamedTuple


class KeyPair(NamedTuple):
    """One of the pairs in LiveKit's own configuration (``keys:``)."""

    api_key: str
    api_secret: str

    def __repr__(self) -> str:
        return "KeyPair(...)"
