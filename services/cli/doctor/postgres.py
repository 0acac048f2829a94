"""Checks of Postgres, and of the workers, webhooks and backlog that its tables show."""

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
    """Check that Postgres is reachable, new enough and migrated, then check what its tables show."""
    try:
        conn = await connect(settings.database, "relay doctor")
    except DatabaseUnusable as problem:
        return [Finding("postgres", "error", str(problem), "correct DATABASE_URL, or the server that it names")]
    try:
        return await _check_database(conn, now_ms)
    except (*UNAVAILABLE, asyncpg.PostgresError) as error:
        fact = f"Postgres answers, but a query failed: {error or type(error).__name__}"
        return [
            Finding(
                "postgres",
                "error",
                fact,
                "the user in DATABASE_URL must be allowed to read and write all of Relay's tables",
            )
        ]
    finally:
        conn.terminate()  # close() would wait for a server that hangs


async def _check_database(conn: Connection, now_ms: int) -> list[Finding]:
    version = await queries.server_version(conn)
    old = int(version.partition(".")[0]) < OLDEST_POSTGRES
    findings = [
        Finding(
            "postgres",
            "warning" if old else "ok",
            f"Postgres {version} answers",
            f"use Postgres {OLDEST_POSTGRES} or later; Relay is tested with those" if old else "",
        )
    ]
    missing = await missing_migrations(conn, known_migrations())
    if missing:
        fact = f"{len(missing)} migrations are not applied; the first is {missing[0]}"
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
                f"{state.inbox} events wait in the inbox in Postgres, because Redis did not accept them",
                "a running worker folds them within seconds; find out why Redis was unavailable",
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
        yield Finding("worker", "ok", "one worker runs" if state.workers == 1 else f"{state.workers} workers run")
        return
    seen = (
        f"the last one was seen at {state.worker_seen_at:%F %T} UTC" if state.worker_seen_at else "none was ever seen"
    )
    yield Finding(
        "worker", "error", f"no worker runs ({seen}): events are stored, but not counted", "start `relay worker`"
    )


def _webhooks(state: MachineState, now_ms: int) -> Iterator[Finding]:
    if state.webhook_ms is None:
        yield Finding(
            "webhook",
            "warning",
            "no webhook of LiveKit has been counted yet",
            "add Relay to livekit.yaml (docs/webhooks.md) and restart LiveKit; `relay doctor --livekit-config FILE` checks it",
        )
        return
    ago_s = max(0, now_ms - state.webhook_ms) // 1000
    yield Finding("webhook", "ok", f"the last counted webhook came {duration(ago_s)} ago")
