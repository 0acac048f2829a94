"""An event that LiveKit signed and the meter could not use."""

from datetime import datetime

import msgspec


class SetAsideEvent(msgspec.Struct, frozen=True, kw_only=True):
    """``reason`` is snake_case and stable (docs/metering.md), ``detail`` a sentence; ``body`` as LiveKit sent it."""

    id: int
    received_at: datetime
    reason: str
    detail: str
    body: bytes
