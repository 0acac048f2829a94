"""The state of workers, jobs and waiting work, as stored in Postgres."""

from datetime import datetime
from typing import NamedTuple


class WorkerRow(NamedTuple):
    """The last heartbeat of one worker process. ``stopped_at`` is set only by an orderly stop."""

    id: str
    host: str
    pid: int
    version: str
    started_at: datetime
    seen_at: datetime
    stopped_at: datetime | None


class WaitingWork(NamedTuple):
    """Events in the Postgres inbox, events set aside, and workers alive."""

    inbox: int
    set_aside: int
    workers: int


class MachineState(NamedTuple):
    """``webhook_ms``: receipt of the newest counted webhook (unix ms).

    ``worker_seen_at``: the last heartbeat of any worker.
    """

    inbox: int
    set_aside: int
    workers: int
    worker_seen_at: datetime | None
    webhook_ms: int | None


class JobRun(NamedTuple):
    """The last run of a job, by any worker (unix ms).

    ``finished_ms`` is None while it runs, and after it was killed.
    """

    name: str
    started_ms: int
    finished_ms: int | None
    error: str | None


class Pass(NamedTuple):
    """One pass of reconciliation (unix ms).

    ``error``: why it failed. ``finished_ms`` is None while it runs, and after it was killed. ``unproven``: participants that
    LiveKit lists but no node confirms.
    """

    started_ms: int
    finished_ms: int | None = None
    error: str | None = None
    rooms: int = 0
    rooms_failed: int = 0
    participants: int = 0
    confirmed: int = 0
    unproven: int = 0
    opened: int = 0
    corrected: int = 0
    closed: int = 0
