"""Many commands to Redis in one write, for the one place where redis-py's pipeline is what costs most.

A pipeline packs each command on its own, and waits for each answer with a time-out of its own: about 25 µs a command. The
answers come together, so one time-out does for all of them.

This is the one module that uses internals of redis-py's connections. It is written for redis-py 8 (pyproject.toml has the upper
bound). With another major version it falls back to the pipeline, and tests/integration/test_redis_batch.py fails.
"""

import asyncio
import math
from collections.abc import Callable, Sequence
from typing import Any

import hiredis
import redis as redis_py
from redis import asyncio as redis_asyncio
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError
from redis.exceptions import TimeoutError as RedisTimeout

WRITTEN_FOR = 8
INTERNALS_ARE_KNOWN = int(redis_py.__version__.split(".")[0]) == WRITTEN_FOR
Command = tuple[str | bytes | int, ...]
_packed: Callable[[Any], bytes] = hiredis.pack_command  # annotated for tuples of one
# Stands behind the others. A read without a time-out gives None where the kernel gave the connection up (ETIMEDOUT), which is
# also what Redis answers to some commands: only if the last answer is there were the others Redis' own. And only if it is this
# very answer were they those of these commands, not shifted by one that an earlier command had left to come.
_LAST = _packed(("PING",))
_LAST_ANSWERS = (b"PONG", "PONG")


async def execute_all(redis: "redis_asyncio.Redis", commands: Sequence[Command], timeout_s: float) -> list[Any]:
    """The answers in the order of the commands. On a connection of the client's pool, repeated as the client is told to repeat.
    Raises what a pipeline raises: the first error that Redis answered, once all answers are read; ``redis.RedisError``."""
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
    """The same by redis-py's public interface. Its time-out is the connection's own."""
    pipeline = redis.pipeline(transaction=False)
    for command in commands:
        pipeline.execute_command(*command)
    return list(await pipeline.execute())


async def _exchange(connection: AbstractConnection, packed: bytes, count: int, timeout_s: float) -> list[Any]:
    """A connection that is left with answers unread is closed: they would be taken for those of the next command."""
    await connection.send_packed_command(packed)
    answers: list[Any] = []
    try:
        async with asyncio.timeout(timeout_s):
            for _ in range(count):
                try:
                    answers.append(await connection.read_response(timeout=math.inf))  # this one's time-out is around it
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
        raise RedisConnectionError("Redis' answers were not those of these commands")
    return answers
