"""Check which commands this Redis user may use.

Managed services and access lists deny some commands, and rename others.
"""

from collections.abc import Mapping
from typing import Final, NamedTuple

from redis.exceptions import NoPermissionError, OutOfMemoryError, ReadOnlyError, ResponseError

from services.cli.doctor.finding import Finding, Level
from shared.infra.redis.event_stream import Redis

CHECK: Final = "redis commands"
# Keys within the names that Relay uses, `relay:*`. They expire after a minute if they are not deleted.
_KEY, _HASH, _LIST, _SORTED, _SET, _STREAM = (
    f"relay:{{doctor}}:{kind}" for kind in ("key", "hash", "list", "sorted", "set", "events")
)
# The smallest access list with which everything works. The documentation and the tests use it.
ACCESS_LIST: Final = (
    "~relay:*", "resetchannels", "-@all", "+ping", "+select", "+info", "+config|get", "+set", "+get", "+del", "+exists",
    "+incrby", "+pexpire", "+xadd", "+xrange", "+xlen", "+xdel", "+evalsha", "+script|load", "+hset", "+hget", "+hdel",
    "+hexists", "+hlen", "+hmget", "+keys",
    "+rpush", "+lpush", "+lpop", "+llen", "+lrange", "+lrem", "+sadd",
    "+srem", "+scard", "+sismember",
    "+smembers", "+zadd", "+zrem", "+zcard", "+zrange", "+zrangebyscore", "+zremrangebyscore", "+time",
)  # fmt: skip


class Use(NamedTuple):
    """Commands that are tried one after the other, and what fails if one of them is denied."""

    without: str
    commands: tuple[tuple[str | int, ...], ...]
    level: Level = "error"


_EVENTS: Final = Use(
    "webhooks go to Postgres instead, and usage is counted later",
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
    "each API process counts its rate limits by itself",
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
# Dramatiq's script lists the keys of a worker that ended (dramatiq 2.2, dispatch.lua).
_DEAD_WORKERS: Final = Use(
    "after a worker was killed, its wake-ups can be lost; the sweep repeats them within a minute",
    (("KEYS", _KEY),),
    "warning",
)


async def check_commands(redis: Redis, *, streams: bool) -> list[Finding]:
    """Try every command and report the denied ones.

    ``streams``: whether this Redis holds the event streams. Raises one of ``event_stream.UNAVAILABLE`` if Redis does not
    answer.
    """
    findings = []
    for use in (*((_EVENTS,) if streams else ()), _LIMITS, _QUEUE, _DEAD_WORKERS):
        denied: dict[str, str] = {}
        for command in use.commands:
            try:
                await redis.execute_command(*command)  # type: ignore[no-untyped-call]  # redis-py has no annotation for it
            except ReadOnlyError:
                return [
                    Finding(
                        CHECK,
                        "error",
                        "Redis accepts no writes, because it is a replica",
                        "set REDIS_URL to the primary",
                    )
                ]
            except OutOfMemoryError:
                fact = "Redis is full and accepts no writes; webhooks go to Postgres until then"
                return [Finding(CHECK, "error", fact, "raise maxmemory, or find out why the fold does not keep up")]
            except ResponseError as error:
                if str(error).startswith("MISCONF"):
                    fact = "Redis accepts no writes, because it cannot save to its disk"
                    return [Finding(CHECK, "error", fact, "look at its log and at the free space on its disk")]
                denied.setdefault(" ".join(map(str, command[: 2 if command[0] == "SCRIPT" else 1])), reason_of(error))
        if denied:
            findings.append(_finding(denied, use))
    return findings


def _finding(denied: Mapping[str, str], use: Use) -> Finding:
    fact = f"Redis denies {', '.join(denied)} ({next(iter(denied.values()))}): {use.without}"
    advice = "allow them on the keys `relay:*`; docs/self-hosting.md has a complete access list"
    return Finding(CHECK, use.level, fact, advice)


def reason_of(error: ResponseError) -> str:
    """Say why a command was refused, without Redis' own text, which can repeat the arguments."""
    if isinstance(error, NoPermissionError):
        return "no permission for these keys" if "key" in str(error) else "no permission for this command"
    return "this Redis has no command of that name" if "unknown command" in str(error).lower() else "refused"


def info_denied(error: ResponseError) -> Finding:
    """Report that INFO is denied. Relay works without it; only the doctor reads it."""
    fact = (
        f"Redis denies INFO ({reason_of(error)}): its version, memory and persistence cannot be checked; all else works"
    )
    advice = (
        "make sure that it is Redis 6.2 or later with appendonly yes, appendfsync always, maxmemory-policy noeviction"
    )
    return Finding("redis", "note", fact, advice)
