"""Base structs of requests and answers. Their JSON names are camelCase."""

import msgspec


class Wire(msgspec.Struct, rename="camel", kw_only=True):
    """Base of answers and of what LiveKit sends; unknown fields are ignored when read."""


class Request(msgspec.Struct, rename="camel", kw_only=True, forbid_unknown_fields=True):
    """Base of what clients send.

    An unknown field is an error: a mistyped ``canPubish: false`` must not grant publishing.
    """
