"""Many commands in one write: what a caller of a pipeline relies on holds as well."""

import asyncio
import errno
import inspect
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio.connection import AbstractConnection, Connection, UnixDomainSocketConnection
from redis.asyncio.retry import Retry
from redis.exceptions import ConnectionError, ResponseError, TimeoutError

from shared.infra.redis import event_stream, redis_batch
from shared.infra.redis.redis_batch import Command, execute_all
from shared.infra.settings import Settings


@pytest.fixture
async def redis(settings: Settings) -> AsyncIterator[event_stream.Redis]:
    client = event_stream.connect_redis(settings.redis_url)
    yield client
    await client.aclose()


async def test_answers_come_in_the_order_of_the_commands(redis: event_stream.Redis) -> None:
    commands: list[Command] = [("SET", "one", b"\x00\r\n\xff"), ("GET", "one"), ("INCRBY", "two", 7), ("GET", "three")]
    assert await execute_all(redis, commands, 2.0) == [b"OK", b"\x00\r\n\xff", 7, None]


async def test_the_first_error_is_raised_and_the_connection_goes_on(redis: event_stream.Redis) -> None:
    with pytest.raises(ResponseError, match="not an integer"):
        await execute_all(redis, [("SET", "word", "a"), ("INCR", "word"), ("NONSENSE",), ("SET", "word", "b")], 2.0)
    # All commands were carried out and all answers read: the next ones get their own.
    assert await execute_all(redis, [("GET", "word"), ("PING",)], 2.0) == [b"b", b"PONG"]


async def test_a_late_answer_is_never_taken_for_the_next_command(redis: event_stream.Redis) -> None:
    with pytest.raises(TimeoutError):
        await execute_all(redis, [("GET", "word"), ("BLPOP", "nothing", 1)], 0.1)
    assert await execute_all(redis, [("ECHO", "mine")], 5.0) == [b"mine"]


async def test_an_answer_that_another_command_left_to_come_shifts_none(
    redis: event_stream.Redis, settings: Settings
) -> None:
    """It comes after the pool has looked whether anything is there to be read."""
    pool: Any = redis.connection_pool
    [number] = await execute_all(redis, [("CLIENT", "ID")], 5.0)
    connection = await pool.get_connection()
    await connection.send_command("BLPOP", "something", 0)
    await pool.release(connection)
    asked = asyncio.create_task(execute_all(redis, [("ECHO", "one"), ("ECHO", "two")], 15.0))
    other = event_stream.connect_redis(settings.redis_url)
    # Until both wait behind it.
    while not int((await other.client_list(client_id=[number]))[0]["qbuf"]):  # noqa: ASYNC110  # what changes is in Redis
        await asyncio.sleep(0.005)
    await other.rpush("something", "late")
    await other.aclose()
    with pytest.raises(ConnectionError, match="not those of these commands"):
        await asked
    assert await execute_all(redis, [("ECHO", "three")], 5.0) == [b"three"]


async def test_what_was_never_answered_is_no_answer(redis: event_stream.Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel gives up a connection with an error that redis-py takes for its own time-out, and answers None."""

    async def given_up(*_: object, **__: object) -> None:
        raise OSError(errno.ETIMEDOUT, "Connection timed out")

    await execute_all(redis, [("PING",)], 2.0)  # connected
    with monkeypatch.context() as patch:
        patch.setattr(Connection, "_read_response_from_parser", given_up)
        patch.setattr(UnixDomainSocketConnection, "_read_response_from_parser", given_up)
        with pytest.raises((TimeoutError, ConnectionError)):
            await execute_all(redis, [("SET", "word", "a", "NX")], 2.0)
    assert await execute_all(redis, [("ECHO", "mine")], 5.0) == [b"mine"]


async def test_a_cancelled_caller_leaves_no_answer_behind(redis: event_stream.Redis) -> None:
    with pytest.raises(asyncio.TimeoutError):
        async with asyncio.timeout(0.1):
            await execute_all(redis, [("BLPOP", "nothing", 1)], 5.0)
    assert await execute_all(redis, [("ECHO", "mine")], 5.0) == [b"mine"]


async def test_a_connection_that_redis_closed_is_opened_again(redis: event_stream.Redis, settings: Settings) -> None:
    [number] = await execute_all(redis, [("CLIENT", "ID")], 2.0)
    other = event_stream.connect_redis(settings.redis_url)
    await other.client_kill_filter(_id=str(number))
    await other.aclose()
    assert await execute_all(redis, [("PING",)], 2.0) == [b"PONG"]
    assert await execute_all(redis, [("CLIENT", "ID")], 2.0) != [number]


async def test_the_pipeline_does_the_same(redis: event_stream.Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a redis-py of another major version, whose internals are not known."""
    commands: list[Command] = [("SET", "one", b"\x00\r\n\xff"), ("GET", "one"), ("INCRBY", "three", 7), ("GET", "none")]
    by_internals = await execute_all(redis, commands, 2.0)
    await redis.delete("one", "three")
    monkeypatch.setattr(redis_batch, "INTERNALS_ARE_KNOWN", False)
    assert [answer in (b"OK", True) or answer for answer in await execute_all(redis, commands, 2.0)] == [
        answer in (b"OK", True) or answer for answer in by_internals
    ]
    with pytest.raises(ResponseError, match="not an integer"):
        await execute_all(redis, [("SET", "word", "a"), ("INCR", "word")], 2.0)


def test_redis_py_is_the_version_that_this_is_written_for() -> None:
    """For a new major version: check `redis_batch.py` against it, then raise WRITTEN_FOR and the bound in pyproject.toml."""
    assert redis_batch.INTERNALS_ARE_KNOWN
    bound = re.search(r'"redis\[hiredis\]>=(\d+),<(\d+)"', (Path(__file__).parents[2] / "pyproject.toml").read_text())
    assert bound is not None
    assert (int(bound[1]), int(bound[2])) == (redis_batch.WRITTEN_FOR, redis_batch.WRITTEN_FOR + 1)
    assert {"timeout"} <= set(inspect.signature(AbstractConnection.read_response).parameters)
    assert list(inspect.signature(AbstractConnection.send_packed_command).parameters)[1] == "command"
    assert list(inspect.signature(Retry.call_with_retry).parameters)[1:3] == ["do", "fail"]
