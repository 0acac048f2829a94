"""A webhook as Relay received it, before anything is decoded."""

import msgspec


class Received(msgspec.Struct, frozen=True, gc=False):
    """A webhook body and the time Relay received it (unix ms).

    ``trace``: the request's traceparent, if it is traced.
    """

    received_ms: int
    body: bytes
    trace: str | None = None
