"""Which commands this Redis user may use: managed services and access lists deny some, and rename others."""

from collections.abc import Mapping
from typing import Final, NamedTuple

from redis.exceptions import NoPermissionError, OutOfMemoryError, ReadOnlyError, ResponseError

from services.cli.doctor.finding import Finding, Level
from shared.infra.redis.event_stream import Redis

CHECK: Final = "redis commands"
# Within the names that Relay uses, `relay:*`, and gone after a minute whatever happens.
_KEY, _HASH, _LIST, _SORTED, _SET, _STREAM = (
    f"relay:{{doctor}}:{kind}" for kind in ("key", "hash", "list", "sorted", "set", "events")
)
# The access list that is enough, for the documentation and the tests.
ACCESS_LIST: Final = (
    "~relay:*", "resetchannels", "-@all", "+ping", "+select", "+info", "+config|get", "+set", "+get", "+del", "+exists",
    "+incrby", "+pexpire", "+xadd", "+xrange", "+xlen", "+xdel", "+evalsha", "+script|load", "+hset", "+hget", "+hdel",
    "+hexists", "+hlen", "+hmget", "+keys",
    "+rpush", "+lpush", "+lpop", "+llen", "+lrange", "+lrem", "+sadd",
    "+srem", "+scard", "+sismember",
    "+smembers", "+zadd", "+zrem", "+zcard", "+zrange", "+zrangebyscore", "+zremrangebyscore", "+time",
)  # fmt: skip


class Use(NamedTuple):
    """Commands that are tried one after the other, and what does not work where one is denied."""

    without: str
    commands: tuple[tuple[str | int, ...], ...]
    level: Level = "error"


_EVENTS: Final = Use(
    "webhooks go to Postgres instead, and usage is late",
    (
        ("XADD", _STREAM, "1-1", "t", 0),
        ("XRANGE", _STREAM, "-", "+", "COUNT", 1),
        ("XLEN", _STREAM),
        ("XDEL", _STREAM, "1-1"),
        ("SET", _KEY, 0, "PX", 60_000),
        ("DEL", _STREAM),
    ),
)
_LIMITS: Final = Use(
    "each API process counts its rate limits alone",
    (("INCRBY", _KEY, 1), ("PEXPIRE", _KEY, 60_000)),
)
_QUEUE: Final = Use(
    "nothing wakes the workers, and usage is up to a minute late",
    (
        ("SCRIPT", "LOAD", "return 1"),
        ("EVALSHA", "e0e1f9fabfc9d4800c877a703b823ac0578ff8db", 0),
        ("HSET", _HASH, "a", 0),
        ("HGET", _HASH, "a"),
        ("HMGET", _HASH, "a"),
        ("HDEL", _HASH, "a"),
        ("RPUSH", _LIST, 0),
        ("LPOP", _LIST),
        ("LLEN", _LIST),
        ("SADD", _SET, 0),
        ("SMEMBERS", _SET),
        ("SREM", _SET, 0),
        ("ZADD", _SORTED, 0, "a"),
        ("ZCARD", _SORTED),
        ("ZRANGEBYSCORE", _SORTED, 0, 0),
        ("ZREM", _SORTED, "a"),
        ("DEL", _KEY),
    ),
)
# Dramatiq's script asks for the keys of a worker that is gone (dramatiq 2.2, dispatch.lua).
_DEAD_WORKERS: Final = Use(
    "after a worker was killed, the queue is not cleaned up and wake-ups can be lost until the sweep, up to a minute later",
    (("KEYS", _KEY),),
    "warning",
)


async def check_commands(redis: Redis, *, streams: bool) -> list[Finding]:
    """What is denied and whether it matters; nothing where all is allowed. ``streams``: whether the event streams are here.
    Raises one of ``event_stream.UNAVAILABLE`` where Redis does not answer at all."""
    findings = []
    for use in (*((_EVENTS,) if streams else ()), _LIMITS, _QUEUE, _DEAD_WORKERS):
        denied: dict[str, str] = {}
        for command in use.commands:
            try:
                await redis.execute_command(*command)  # type: ignore[no-untyped-call]  # redis-py has no annotation for it
            except ReadOnlyError:
                return [
                    Finding(
                        CHECK, "error", "Redis takes no writes here: it is a replica", "name the primary in REDIS_URL"
                    )
                ]
            except OutOfMemoryError:
                fact = "Redis is full and takes no writes; webhooks go to Postgres meanwhile"
                return [Finding(CHECK, "error", fact, "raise maxmemory, or look why the fold does not keep up")]
            except ResponseError as error:
                if str(error).startswith("MISCONF"):
                    fact = "Redis takes no writes, because it cannot save to its disk"
                    return [Finding(CHECK, "error", fact, "look at its log and at the free space of its disk")]
                denied.setdefault(" ".join(map(str, command[: 2 if command[0] == "SCRIPT" else 1])), reason_of(error))
        if denied:
            findings.append(_finding(denied, use))
    return findings


def _finding(denied: Mapping[str, str], use: Use) -> Finding:
    fact = f"Redis denies {', '.join(denied)} ({next(iter(denied.values()))}): {use.without}"
    advice = "allow them on the keys `relay:*`; docs/self-hosting.md has the access list that is enough"
    return Finding(CHECK, use.level, fact, advice)


def reason_of(error: ResponseError) -> str:
    """Why a command was refused. Redis' own text can repeat the arguments, so only what it begins with is told."""
    if isinstance(error, NoPermissionError):
        return "no permission for these keys" if "key" in str(error) else "no permission for this command"
    return "this Redis has no command of that name" if "unknown command" in str(error).lower() else "refused"


def info_denied(error: ResponseError) -> Finding:
    """INFO is only for looking: everything works without it."""
    fact = f"Redis denies INFO ({reason_of(error)}): its version, memory and persistence cannot be looked at; all else works"
    advice = (
        "see to it that it is Redis 6.2 or later with appendonly yes, appendfsync always, maxmemory-policy noeviction"
    )
    return Finding("redis", "note", fact, advice)
