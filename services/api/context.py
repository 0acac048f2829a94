"""What the handlers are given: opened by the application, shared by all requests of the process."""

from typing import NamedTuple

from services.api.auth import KeyStore
from shared.backlog import Backlog
from shared.clock import Clock
from shared.event_stream import Redis
from shared.postgres import Pool


class Context(NamedTuple):
    keys: KeyStore
    pool: Pool
    redis: Redis
    clock: Clock
    backlog: Backlog
