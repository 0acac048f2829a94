"""A complete Relay with every part as a separate process, and the checks after a fault."""

import asyncio
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec

from faults import parts
from faults.parts import ROOT, Part
from services.cli.simulate.totals import DayExpected, expected
from services.cli.simulate.traffic import Stay
from shared.infra.clock import DAY_MS, rfc3339
from shared.infra.migrations.migrate import migrate
from shared.infra.postgres.pool import connect
from shared.infra.redis import event_stream
from shared.infra.settings import DatabaseUrl, inherited_environment, parse_database_url
from shared.models.projects import CreatedProject
from tests.ports import free_port

API_KEY, API_SECRET = "devkey", "a-secret-of-the-fault-harness-alone"
_DRAINED_WITHIN_S = 180.0


class FaultStack:
    """Postgres, Redis, one api, and the workers that were started."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.postgres, database_url = parts.postgres(home)
        self.redis, self.redis_url = parts.redis(home)
        self.database: DatabaseUrl = parse_database_url(database_url)
        self.url = f"http://127.0.0.1:{free_port()}"
        self.environment = {
            "DATABASE_URL": database_url,
            "REDIS_URL": self.redis_url,
            "LIVEKIT_URL": "ws://127.0.0.1:9",
            "LIVEKIT_API_KEY": API_KEY,
            "LIVEKIT_API_SECRET": API_SECRET,
            "AUTH_SECRET": "f" * 32,
            "RELAY_API_URL": self.url,
            "PORT": self.url.rpartition(":")[2],
            "RELAY_HOST": "127.0.0.1",
            "RECONCILE_INTERVAL_SECONDS": "0",
        }
        self.api = parts.service("api", "services.api.main", self.environment, home, f"{self.url}/healthz")
        self.workers: list[Part] = []

    def add_worker(self, module: str = "services.worker.main") -> Part:
        port = free_port()
        env = {**self.environment, "WORKER_PORT": str(port)}
        name = f"worker{len(self.workers) + 1}"
        worker = parts.service(name, module, env, self.home, f"http://127.0.0.1:{port}/healthz")
        worker.start()
        self.workers.append(worker)
        return worker

    def stop(self) -> None:
        import signal

        for part in (*self.workers, self.api, self.redis):
            part.stop()
        self.postgres.stop(signal.SIGINT)

    async def drained(self) -> float:
        """Wait until all events are folded. Return the time that this took, in seconds."""
        started, redis = time.monotonic(), event_stream.connect_redis(self.redis_url)
        try:
            while True:
                conn = await connect(self.database)
                try:
                    inbox = await conn.fetchval("SELECT count(*) FROM webhook_inbox")
                finally:
                    await conn.close()
                if not inbox and await event_stream.oldest_unfolded_ms(redis) is None:
                    return time.monotonic() - started
                if time.monotonic() - started > _DRAINED_WITHIN_S:
                    raise RuntimeError(f"events still wait after {_DRAINED_WITHIN_S:g} s")
                await asyncio.sleep(0.05)
        finally:
            await redis.aclose()

    async def stored_ids(self, projects: Sequence[CreatedProject]) -> set[str]:
        conn = await connect(self.database)
        try:
            ids = [project.project_id for project in projects]
            rows = await conn.fetch("SELECT id FROM event WHERE project_id = ANY ($1::text[])", ids)
            aside = await conn.fetchval("SELECT count(*) FROM set_aside_event")
        finally:
            await conn.close()
        if aside:
            raise RuntimeError(f"{aside} events were set aside")
        return {row["id"] for row in rows}

    async def sums(self, projects: Sequence[CreatedProject]) -> list[DayExpected]:
        """Return the stored rollups in the form of the simulator's totals."""
        conn, found = await connect(self.database), []
        try:
            for project in projects:
                level = 0
                for day, change, peak, participant_ms, video_ms in await conn.fetch(
                    "SELECT start_ms, change, peak, coalesce(participant_ms, 0), coalesce(video_ms, 0) FROM concurrency"
                    " LEFT JOIN (SELECT day, sum(participant_ms)::bigint AS participant_ms, sum(video_ms)::bigint AS video_ms"
                    " FROM usage_day WHERE project_id = $1 AND mode = 'live' GROUP BY day) AS sums ON day = start_ms"
                    " WHERE project_id = $1 AND mode = 'live' AND length_ms = $2 ORDER BY start_ms",
                    project.project_id,
                    DAY_MS,
                ):
                    shown = (participant_ms, video_ms, participant_ms - video_ms, level + peak)
                    found.append(DayExpected(project.project_id, "live", rfc3339(day)[:10], *shown))
                    level += change
        finally:
            await conn.close()
        return sorted(found, key=lambda day: (day.project_id, day.mode, day.date))

    def verify(self) -> str:
        """Run `relay usage verify`. Return its output if it finds a difference, else an empty text."""
        answer = subprocess.run(
            [sys.executable, "-m", "services.cli.main", "usage", "verify"],
            cwd=ROOT,
            env=inherited_environment(self.environment),
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        return "" if answer.returncode == 0 else f"{answer.stdout}{answer.stderr}"[-2000:]


async def faults_found(
    stack: FaultStack, projects: Sequence[CreatedProject], acknowledged: Sequence[bytes], stays: list[Stay]
) -> list[str]:
    """Return what is wrong after a fault.

    Every acknowledged event must be stored and no other. The sums must be those of the plan, and `relay usage verify` must
    find no difference.
    """
    found = []
    sent = {msgspec.json.decode(body)["id"] for body in acknowledged}
    stored = await stack.stored_ids(projects)
    if sent - stored:
        found.append(f"{len(sent - stored)} acknowledged events are not stored")
    if stored - sent:
        found.append(f"{len(stored - sent)} events are stored that nobody acknowledged")
    if await stack.sums(projects) != expected(stays):
        found.append("the rollups are not what the meetings add up to")
    if said := await asyncio.to_thread(stack.verify):
        found.append(f"relay usage verify: {said}")
    return found


@contextmanager
def running(below: Path | None = None) -> Iterator[FaultStack]:
    """Start everything with one worker, in a new directory below ``below``, else on a disk.

    Remove it afterwards.
    """
    with tempfile.TemporaryDirectory(prefix="relay-faults-", dir=below, ignore_cleanup_errors=True) as directory:
        home = Path(directory)
        home.chmod(0o711)
        stack = FaultStack(home)
        try:
            for part in (stack.postgres, stack.redis):
                part.start()
            migrate(stack.database)
            stack.api.start()
            stack.add_worker()
            yield stack
        finally:
            stack.stop()
