"""Requests that carry an Idempotency-Key."""

import msgspec

from shared.infra.ids import Mode


class Attempt(msgspec.Struct, frozen=True):
    """A request that must run at most once. ``endpoint``: method and path. The digests are SHA-256."""

    project_id: str
    mode: Mode
    endpoint: str
    key_digest: bytes
    request_digest: bytes


class Earlier(msgspec.Struct, frozen=True):
    """An earlier request with the same key. ``status`` None: still running.

    ``body`` None: see ``shown_once``.
    """

    request_digest: bytes
    status: int | None
    body: bytes | None
    shown_once: str | None
