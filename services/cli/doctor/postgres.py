"""Postgres, and what its tables tell of workers, webhooks and what waits."""

from collections.abc import Iterator

import asyncpg

from services.cli.doctor.finding import Finding, duration
from shared.infra.migrations.queries import missing_migrations
from shared.infra.migrations.schema import known_migrations
from shared.infra.postgres.errors import DatabaseUnusable
from shared.infra.postgres.pool import UNAVAILABLE, Connection, connect
from shared.infra.settings import Settings
from shared.models.operations import MachineState
from shared.operations.queries import workers as queries

OLDEST_POSTGRES = 15


async def check_postgres(settings: Settings, now_ms: int) -> list[Finding]:
    """Reachable, new enough, migrated; then what its tables tell of the rest."""
    try:
        conn = await connect(settings.database, "relay doctor")
    except DatabaseUnusable as problem:
        return [Finding("postgres", "error", str(problem), "correct DATABASE_URL, or the server that it leads to")]
    try:
        return await _look_into(conn, now_ms)
    except (*UNAVAILABLE, asyncpg.PostgresError) as error:
        fact = f"Postgres answers, but not what it is asked: {error or type(error).__name__}"
        return [
            Finding(
                "postgres", "error", fact, "DATABASE_URL must be of a user who may read and write all of Relay's tables"
            )
        ]
    finally:
        conn.terminate()  # which does not wait for one that hangs


async def _look_into(conn: Connection, now_ms: int) -> list[Finding]:
    version = await queries.server_version(conn)
    old = int(version.partition(".")[0]) < OLDEST_POSTGRES
    findings = [
        Finding(
            "postgres",
            "warning" if old else "ok",
            f"Postgres {version} answers",
            f"Relay is tested with {OLDEST_POSTGRES} and later" if old else "",
        )
    ]
    missing = await missing_migrations(conn, known_migrations())
    if missing:
        fact = f"{len(missing)} migrations are not applied, {missing[0]} first"
        return [*findings, Finding("migrations", "error", fact, "run `relay migrate`")]
    findings.append(Finding("migrations", "ok", "all migrations are applied"))
    state = await queries.machine_state(conn, now_ms)
    findings += _workers(state)
    findings += _webhooks(state, now_ms)
    if state.inbox:
        findings.append(
            Finding(
                "backlog",
                "warning",
                f"{state.inbox} events wait in the inbox: Redis did not take them when they came",
                "a worker folds them within seconds once it runs; look why Redis was away",
            )
        )
    if state.set_aside:
        fact = f"{state.set_aside} events were set aside because they could not be counted"
        findings.append(
            Finding("set aside", "warning", fact, "see `relay events set-aside`, then replay or dismiss them")
        )
    return findings


def _workers(state: MachineState) -> Iterator[Finding]:
    if state.workers:
        yield Finding("worker", "ok", "one worker beats" if state.workers == 1 else f"{state.workers} workers beat")
        return
    seen = f"the last one was seen at {state.worker_seen_at:%F %T} UTC" if state.worker_seen_at else "none ever was"
    yield Finding("worker", "error", f"no worker runs ({seen}): events are kept, not counted", "start `relay worker`")


def _webhooks(state: MachineState, now_ms: int) -> Iterator[Finding]:
    if state.webhook_ms is None:
        yield Finding(
            "webhook",
            "warning",
            "no webhook of LiveKit has ever been counted here",
            "add Relay to livekit.yaml (docs/webhooks.md) and restart LiveKit; `relay doctor --livekit-config FILE` checks it",
        )
        return
    ago_s = max(0, now_ms - state.webhook_ms) // 1000
    yield Finding("webhook", "ok", f"the last counted webhook came {duration(ago_s)} ago")
