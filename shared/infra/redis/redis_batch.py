"""Send many commands in one write and read stream entries unchanged, with private parts of redis-py.

Written for redis-py 8. Its pipeline packs each command separately and waits for each answer with its own time-out, which costs
about 25 µs a command. The answers arrive together, so one time-out is enough for all of them.

pyproject.toml bounds the version. With another major version this module falls back to the pipeline, and
tests/unit/test_library_internals.py and tests/integration/test_redis_batch.py fail.
"""

import asyncio
import math
from collections.abc import Callable, Sequence
from typing import Any

import hiredis
import redis as redis_py
from redis import asyncio as redis_asyncio
from redis.asyncio.cluster import RedisCluster
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError
from redis.exceptions import TimeoutError as RedisTimeout

WRITTEN_FOR = 8
INTERNALS_ARE_KNOWN = int(redis_py.__version__.split(".")[0]) == WRITTEN_FOR
Command = tuple[str | bytes | int, ...]
_packed: Callable[[Any], bytes] = hiredis.pack_command  # its stubs allow tuples of one element only
# Sent after the other commands, to validate their answers. A read without a time-out also returns None if the kernel closes the
# connection (ETIMEDOUT), but some commands are answered with None too. If PONG arrives last, all answers came from Redis, and
# they belong to these commands, not to an earlier one whose answer was outstanding.
_LAST = _packed(("PING",))
_LAST_ANSWERS = (b"PONG", "PONG")


def keep_entries_as_sent(client: "redis_asyncio.Redis | RedisCluster") -> None:
    """Make the client return the entries of XRANGE as Redis sends them: (id, [name, value, …]).

    redis-py creates a dictionary for each entry, which is half the cost of reading a batch.
    """
    client.set_response_callback("XRANGE", _as_sent)


def _as_sent(response: Any, **_: Any) -> Any:
    return response


async def execute_all(redis: "redis_asyncio.Redis", commands: Sequence[Command], timeout_s: float) -> list[Any]:
    """Execute commands on one connection of the client's pool.

    Returns the answers in the order of the commands. Repeats as the client's settings say. Raises what a pipeline raises: the
    first error that Redis answered, after all answers are read; ``redis.RedisError``.
    """
    if not INTERNALS_ARE_KNOWN:
        return await execute_by_pipeline(redis, commands)
    packed = b"".join([*map(_packed, commands), _LAST])
    pool: Any = redis.connection_pool
    connection: AbstractConnection = await pool.get_connection()
    try:

        async def once() -> list[Any]:
            return await _exchange(connection, packed, len(commands), timeout_s)

        async def failed(_error: Exception) -> None:
            await connection.disconnect()

        answers: list[Any] = await connection.retry.call_with_retry(once, failed)
    finally:
        await pool.release(connection)
    for answer in answers:
        if isinstance(answer, ResponseError):
            raise answer
    return answers


async def execute_by_pipeline(redis: "redis_asyncio.Redis", commands: Sequence[Command]) -> list[Any]:
    """Execute commands by redis-py's public interface, with the time-out of the connection."""
    pipeline = redis.pipeline(transaction=False)
    for command in commands:
        pipeline.execute_command(*command)
    return list(await pipeline.execute())


async def _exchange(connection: AbstractConnection, packed: bytes, count: int, timeout_s: float) -> list[Any]:
    """Send the commands and read ``count`` answers.

    Closes a connection with unread answers: the next command would get them as its own.
    """
    await connection.send_packed_command(packed)
    answers: list[Any] = []
    try:
        async with asyncio.timeout(timeout_s):
            for _ in range(count):
                try:
                    answers.append(await connection.read_response(timeout=math.inf))  # the block has the time-out
                except ResponseError as error:
                    answers.append(error)
            last = await connection.read_response(timeout=math.inf)
    except TimeoutError:
        last = None
    if last is None:
        await connection.disconnect()
        raise RedisTimeout("Redis did not answer in time")
    if last not in _LAST_ANSWERS:
        await connection.disconnect()
        raise RedisConnectionError("the answers of Redis are not those of these commands")
    return answers
