"""Checks of Redis: the server of the queue, the server or cluster of the streams, and their backlog."""

import asyncio
from collections.abc import Iterator, Mapping
from typing import Any

from redis.exceptions import AuthenticationError, RedisClusterException, RedisError, ResponseError

from services.cli.doctor.finding import Finding, duration
from services.cli.doctor.redis_commands import check_commands, info_denied
from shared.infra.redis import event_stream
from shared.infra.redis.doorbell import create_broker
from shared.infra.redis.dramatiq_internals import dead_messages
from shared.infra.settings import Settings

OLDEST_REDIS = (6, 2)
WAITED_TOO_LONG_S = 30
_FULL = 0.8
_CLUSTER = "redis cluster"


async def check_redis(settings: Settings, now_ms: int) -> list[Finding]:
    """Check that Redis is reachable, new enough, durable and not full, then its backlog and dead messages."""
    findings = await _check_single(settings, now_ms)
    if settings.redis_streams_url is not None:
        findings += await _check_cluster(settings, now_ms)
    return findings + await asyncio.to_thread(_check_dead_messages, settings)


async def _check_single(settings: Settings, now_ms: int) -> list[Finding]:
    redis = event_stream.connect_redis(settings.redis_url)
    try:
        holds_streams = settings.redis_streams_url is None  # otherwise it holds nothing that could be lost
        findings = await _check_server(redis, holds_streams)
        findings += await check_commands(redis, streams=holds_streams)
        if holds_streams:
            findings += await _backlog_if_allowed(redis, now_ms)
    except event_stream.UNAVAILABLE as error:
        return [_unreachable("redis", error, "REDIS_URL")]
    finally:
        await redis.aclose()
    return findings


async def _check_server(redis: event_stream.Redis, holds_streams: bool) -> list[Finding]:
    """Check version, memory and durability, as far as this user may read them."""
    await redis.ping()
    try:
        info = await redis.info()
    except ResponseError as error:
        return [info_denied(error)]
    findings = [_version(info), *_memory(info)]
    return findings + (await _durability(redis, {}, info) if holds_streams else [])


async def _backlog_if_allowed(redis: event_stream.Redis, now_ms: int) -> list[Finding]:
    try:
        return [await _backlog(redis, now_ms)]
    except ResponseError:
        return []  # ``check_commands`` reports the denied command


def _unreachable(check: str, error: Exception, name: str) -> Finding:
    # redis-py 8 turns an error reply to the login into a ConnectionError, with the reply as its cause.
    refusal = next(
        (each for each in (error, error.__cause__) if isinstance(each, ResponseError | AuthenticationError)), None
    )
    if refusal is not None:
        fact = f"Redis refuses the login, or the database number: {refusal}"
        return Finding(check, "error", fact, f"correct the user, password and database in {name}")
    if "CERTIFICATE_VERIFY_FAILED" in str(error):
        fact = "the certificate of Redis is not trusted"
        return Finding(
            check, "error", fact, f"name its certificate authority in {name}: `rediss://…?ssl_ca_certs=/path/to/ca.pem`"
        )
    fact = f"Redis cannot be reached ({type(error).__name__})"
    return Finding(check, "error", fact, f"start it, or correct the host and port in {name}")


async def _check_cluster(settings: Settings, now_ms: int) -> list[Finding]:
    """Check each node of the streams' cluster, and the cluster as a whole."""
    streams = event_stream.connect_streams(settings)
    try:
        nodes = await event_stream.nodes(streams)
        groups = await asyncio.gather(*(_check_node(streams, name, node) for name, node in nodes))
        findings = [finding for group in groups for finding in group]
        if not findings:
            fact = f"{len(nodes)} nodes answer, and each syncs its append-only file before it answers"
            findings = [Finding(_CLUSTER, "ok", fact)]
        return [*findings, await _cluster_backlog(streams, now_ms)]
    except AuthenticationError as error:
        advice = "correct the password in REDIS_STREAMS_URL"
        return [Finding(_CLUSTER, "error", f"the cluster refuses the login: {error}", advice)]
    except RedisClusterException as error:
        fact = f"the event streams' cluster does not work: {error}"
        advice = (
            "REDIS_STREAMS_URL names a node of a cluster that holds all slots; for a single Redis use REDIS_URL alone"
        )
        return [Finding(_CLUSTER, "error", fact, advice)]
    except event_stream.UNAVAILABLE as error:
        fact = f"no node of the event streams' cluster answers ({type(error).__name__})"
        return [Finding(_CLUSTER, "error", fact, "start it, or correct the host and port in REDIS_STREAMS_URL")]
    finally:
        await streams.aclose()


async def _cluster_backlog(streams: event_stream.Redis, now_ms: int) -> Finding:
    try:
        return await _backlog(streams, now_ms)
    except event_stream.UNAVAILABLE as error:
        fact = f"some of the streams cannot be read ({type(error).__name__}); their webhooks go to Postgres until then"
        return Finding(_CLUSTER, "error", fact, "start the node that is down; `redis-cli cluster nodes` shows it")


async def _check_node(streams: event_stream.Redis, name: str, node: dict[str, Any]) -> list[Finding]:
    """Report what is wrong with one node. Every finding names the node."""
    try:
        info = await streams.info(**node)
        findings = [_version({**info, "role": ""}), *await _durability(streams, node, info), *_memory(info)]
    except ResponseError as error:
        findings = [info_denied(error)]
    except event_stream.UNAVAILABLE as error:
        fact, advice = f"cannot be reached ({type(error).__name__})", "start it, or let a replica take its slots"
        findings = [Finding(_CLUSTER, "error", fact, advice)]
    return [
        Finding(finding.check, finding.level, f"node {name}: {finding.fact}", finding.advice)
        for finding in findings
        if finding.level != "ok"
    ]


def _version(info: Mapping[str, object]) -> Finding:
    text = str(info.get("valkey_version") or info.get("redis_version", "0"))
    name = "Valkey" if "valkey_version" in info else "Redis"
    old = name == "Redis" and tuple(int(part) for part in text.split(".")[:2]) < OLDEST_REDIS
    fact = f"{name} {text} answers"
    if info.get("role") == "slave":
        return Finding(
            "redis", "error", f"{fact}, but as a replica, which accepts no writes", "set REDIS_URL to the primary"
        )
    return Finding("redis", "warning" if old else "ok", fact, "use Redis 6.2 or later" if old else "")


async def _durability(redis: event_stream.Redis, node: dict[str, Any], info: Mapping[str, object]) -> list[Finding]:
    durable = await event_stream.node_is_durable(redis, node)
    if durable is None:
        return [
            Finding(
                "redis durability",
                "note",
                "Redis does not let its configuration be read, which is usual for a managed Redis",
                "make sure that it runs with appendonly yes, appendfsync always, maxmemory-policy noeviction",
            )
        ]
    findings = [Finding("redis durability", "ok", "the append-only file is synced before Redis answers")]
    if not durable:
        advice = "set `appendonly yes` and `appendfsync always`"
        findings = [Finding("redis durability", "error", "a crash of Redis can lose acknowledged webhooks", advice)]
    # Some managed Redis services leave these fields out.
    if info.get("maxmemory_policy", "noeviction") != "noeviction":
        advice = "set `maxmemory-policy noeviction`"
        findings.append(Finding("redis durability", "error", "when Redis is full, it deletes waiting events", advice))
    if str(info.get("aof_last_write_status", "ok")) != "ok":
        fact, advice = "Redis could not write its append-only file", "look at its log and at the free space on its disk"
        findings.append(Finding("redis durability", "error", fact, advice))
    return findings


def _memory(info: Mapping[str, object]) -> Iterator[Finding]:
    limit, used = int(str(info.get("maxmemory", 0))), int(str(info.get("used_memory", 0)))
    if limit and used > limit * _FULL:
        yield Finding(
            "redis memory",
            "warning",
            f"Redis uses {used * 100 // limit} % of its maxmemory; when it is full, webhooks go to Postgres",
            "raise maxmemory, or find out why the fold does not keep up",
        )


async def _backlog(redis: event_stream.Redis, now_ms: int) -> Finding:
    waiting, oldest_ms = sum(await event_stream.lengths(redis)), await event_stream.oldest_unfolded_ms(redis)
    if oldest_ms is None:
        return Finding("backlog", "ok", "no event waits to be counted")
    waited_s = max(0, now_ms - oldest_ms) // 1000
    late = waited_s > WAITED_TOO_LONG_S
    fact = f"{waiting} events wait to be counted, the oldest for {duration(waited_s)}"
    advice = "check that workers run, and read their log; add workers if they are busy" if late else ""
    return Finding("backlog", "error" if late else "ok", fact, advice)


def _check_dead_messages(settings: Settings) -> list[Finding]:
    broker = create_broker(settings.redis_url, [])
    try:
        dead = dead_messages(broker)
    except (RedisError, OSError):
        return []  # reported by the other checks
    finally:
        broker.close()
    if not dead:
        return []
    fact = f"{dead} wake-up messages failed permanently; their events are still in the streams, or counted already"
    return [
        Finding(
            "dead messages",
            "warning",
            fact,
            "look for errors in the worker's log; these messages are deleted after 30 days",
        )
    ]
