"""Postgres, Redis, and what waits in them."""

import asyncio
from collections.abc import Iterator

import asyncpg
from redis.exceptions import AuthenticationError, RedisError, ResponseError

from services.cli.doctor.finding import Finding
from shared import event_stream
from shared.doorbell import create_broker, dead_messages
from shared.postgres import UNAVAILABLE, Connection, connect
from shared.queries import operations as queries
from shared.queries.migrations import missing_migrations
from shared.schema import known_migrations
from shared.settings import Settings

OLDEST_POSTGRES = 15
OLDEST_REDIS = (6, 2)
WAITED_TOO_LONG_S = 30
_FULL = 0.8


async def check_postgres(settings: Settings, now_ms: int) -> list[Finding]:
    """Reachable, new enough, migrated; then what its tables tell of the rest."""
    try:
        conn = await connect(settings.database, "relay doctor")
    except asyncpg.InvalidAuthorizationSpecificationError as error:
        return [Finding("postgres", "error", f"Postgres refuses the login: {error}", "correct DATABASE_URL")]
    except asyncpg.InvalidCatalogNameError as error:
        return [Finding("postgres", "error", f"Postgres answers, but {error}", "create it, or correct DATABASE_URL")]
    except (*UNAVAILABLE, asyncpg.PostgresError) as error:
        return [
            Finding(
                "postgres",
                "error",
                f"Postgres cannot be reached ({type(error).__name__})",
                "start it, or correct the host and port in DATABASE_URL",
            )
        ]
    try:
        return await _look_into(conn, now_ms)
    finally:
        await conn.close()


async def _look_into(conn: Connection, now_ms: int) -> list[Finding]:
    version = conn.get_server_version()
    old = version.major < OLDEST_POSTGRES
    findings = [
        Finding(
            "postgres",
            "warning" if old else "ok",
            f"Postgres {version.major}.{version.minor} answers",
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


def _workers(state: queries.MachineState) -> Iterator[Finding]:
    if state.workers:
        yield Finding("worker", "ok", "one worker beats" if state.workers == 1 else f"{state.workers} workers beat")
        return
    seen = f"the last one was seen at {state.worker_seen_at:%F %T} UTC" if state.worker_seen_at else "none ever was"
    yield Finding("worker", "error", f"no worker runs ({seen}): events are kept, not counted", "start `relay worker`")


def _webhooks(state: queries.MachineState, now_ms: int) -> Iterator[Finding]:
    if state.webhook_ms is None:
        yield Finding(
            "webhook",
            "warning",
            "no webhook of LiveKit has ever been counted here",
            "add Relay to livekit.yaml (docs/webhooks.md) and restart LiveKit; `relay doctor --livekit-config FILE` checks it",
        )
        return
    ago_s = max(0, now_ms - state.webhook_ms) // 1000
    yield Finding("webhook", "ok", f"the last counted webhook came {_duration(ago_s)} ago")


def _duration(seconds: int) -> str:
    for unit, size in (("days", 86_400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit}"
    return f"{seconds} seconds"


async def check_redis(settings: Settings, now_ms: int) -> list[Finding]:
    """Reachable, new enough, durable, not full; what waits in the streams and what failed for good."""
    redis, streams = event_stream.connect_redis(settings.redis_url), event_stream.connect_streams(settings)
    try:
        info = await redis.info()
        findings = [_version(info)]
        if settings.redis_streams_url is None:  # a cluster's nodes are many, and each is configured by itself
            findings += await _durability(redis, info)
        findings += _memory(info)
        findings += await _streams(streams, now_ms)
    except AuthenticationError as error:
        return [Finding("redis", "error", f"Redis refuses the login: {error}", "correct the password in REDIS_URL")]
    except event_stream.UNAVAILABLE as error:
        advice = "start it, or correct the host and port in REDIS_URL"
        return [Finding("redis", "error", f"Redis cannot be reached ({type(error).__name__})", advice)]
    finally:
        await redis.aclose()
        await streams.aclose()
    return findings + await asyncio.to_thread(_dead, settings)


def _version(info: dict[str, object]) -> Finding:
    text = str(info.get("valkey_version") or info.get("redis_version", "0"))
    name = "Valkey" if "valkey_version" in info else "Redis"
    old = name == "Redis" and tuple(int(part) for part in text.split(".")[:2]) < OLDEST_REDIS
    fact = f"{name} {text} answers"
    if info.get("role") == "slave":
        return Finding(
            "redis", "error", f"{fact}, but as a replica, which takes no writes", "point REDIS_URL at the primary"
        )
    return Finding("redis", "warning" if old else "ok", fact, "use Redis 6.2 or later" if old else "")


async def _durability(redis: event_stream.Redis, info: dict[str, object]) -> list[Finding]:
    durable = await event_stream.is_durable(redis)
    if durable is None:
        return [
            Finding(
                "redis durability",
                "note",
                "Redis does not let its configuration be read, as managed ones do",
                "see to it that it runs with appendonly yes, appendfsync always, maxmemory-policy noeviction",
            )
        ]
    findings = [Finding("redis durability", "ok", "the append-only file is synced before Redis answers")]
    if not durable:
        advice = "set `appendonly yes` and `appendfsync always`"
        findings = [Finding("redis durability", "error", "a crash of Redis can lose acknowledged webhooks", advice)]
    if info.get("maxmemory_policy") != "noeviction":
        advice = "set `maxmemory-policy noeviction`"
        findings.append(Finding("redis durability", "error", "a full Redis throws away events that wait", advice))
    if str(info.get("aof_last_write_status", "ok")) != "ok":
        fact, advice = "Redis could not write its append-only file", "look at its log and at the free space of its disk"
        findings.append(Finding("redis durability", "error", fact, advice))
    return findings


def _memory(info: dict[str, object]) -> Iterator[Finding]:
    limit, used = int(str(info.get("maxmemory", 0))), int(str(info.get("used_memory", 0)))
    if limit and used > limit * _FULL:
        yield Finding(
            "redis memory",
            "warning",
            f"Redis uses {used * 100 // limit} % of its maxmemory; full, it refuses webhooks (Postgres then keeps them)",
            "raise maxmemory, or look why the fold does not keep up",
        )


async def _streams(redis: event_stream.Redis, now_ms: int) -> list[Finding]:
    waiting, oldest_ms = sum(await event_stream.lengths(redis)), await event_stream.oldest_unfolded_ms(redis)
    if oldest_ms is None:
        return [Finding("backlog", "ok", "nothing waits to be counted")]
    waited_s = max(0, now_ms - oldest_ms) // 1000
    late = waited_s > WAITED_TOO_LONG_S
    fact = f"{waiting} events wait to be counted, the oldest for {_duration(waited_s)}"
    advice = "look whether workers run and what they log; add workers if they are busy" if late else ""
    return [Finding("backlog", "error" if late else "ok", fact, advice)]


def _dead(settings: Settings) -> list[Finding]:
    broker = create_broker(settings.redis_url, [])
    try:
        dead = dead_messages(broker)
    except (RedisError, ResponseError, OSError):
        return []  # told of already
    finally:
        broker.close()
    if not dead:
        return []
    fact = f"{dead} wake-up messages failed for good; the events themselves wait in the streams or are counted"
    return [Finding("dead messages", "warning", fact, "look for errors in the worker's log; they are kept for 30 days")]
