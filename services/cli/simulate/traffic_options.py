"""The options of one run of `relay simulate`."""

from dataclasses import dataclass

from shared.infra.ids import Mode

# LiveKit's defaults of `max_depth` and `max_age` in `resource_url_notifier`.
QUEUE_DEPTH = 200
MAX_WAIT_S = 30.0


@dataclass(frozen=True, kw_only=True)
class TrafficOptions:
    """The options of one run.

    ``rate`` is in events a second, times are in seconds, ``loss`` and ``duplicate`` are shares from 0 to 1.
    """

    rooms: int
    people: int
    rate: float
    duration: int
    events: int | None
    loss: float
    duplicate: float
    shuffle: bool
    close_at_once: bool
    queue_depth: int
    queue_age: float
    seed: int | None
    mode: Mode
    concurrency: int
    timeout: float
