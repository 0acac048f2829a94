"""Many commands in one write keep what callers of a pipeline rely on."""

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


async def test_answers_are_in_the_order_of_the_commands(redis: event_stream.Redis) -> None:
    commands: list[Command] = [("SET", "one", b"\x00\r\n\xff"), ("GET", "one"), ("INCRBY", "two", 7), ("GET", "three")]
    assert await execute_all(redis, commands, 2.0) == [b"OK", b"\x00\r\n\xff", 7, None]


async def test_the_first_error_is_raised_and_the_connection_stays_usable(redis: event_stream.Redis) -> None:
    with pytest.raises(ResponseError, match="not an integer"):
        await execute_all(redis, [("SET", "word", "a"), ("INCR", "word"), ("NONSENSE",), ("SET", "word", "b")], 2.0)
    # All commands ran and all answers were read, so the next commands get their own answers.
    assert await execute_all(redis, [("GET", "word"), ("PING",)], 2.0) == [b"b", b"PONG"]


async def test_a_late_answer_is_never_taken_for_the_next_command(redis: event_stream.Redis) -> None:
    with pytest.raises(TimeoutError):
        await execute_all(redis, [("GET", "word"), ("BLPOP", "nothing", 1)], 0.1)
    assert await execute_all(redis, [("ECHO", "mine")], 5.0) == [b"mine"]


async def test_an_outstanding_answer_of_another_command_is_an_error(
    redis: event_stream.Redis, settings: Settings
) -> None:
    """The answer arrives after the pool has checked the connection for unread data."""
    pool: Any = redis.connection_pool
    [number] = await execute_all(redis, [("CLIENT", "ID")], 5.0)
    connection = await pool.get_connection()
    await connection.send_command("BLPOP", "something", 0)
    await pool.release(connection)
    asked = asyncio.create_task(execute_all(redis, [("ECHO", "one"), ("ECHO", "two")], 15.0))
    other = event_stream.connect_redis(settings.redis_url)
    # Wait until both commands are queued behind it.
    while not int((await other.client_list(client_id=[number]))[0]["qbuf"]):  # noqa: ASYNC110  # what changes is in Redis
        await asyncio.sleep(0.005)
    await other.rpush("something", "late")
    await other.aclose()
    with pytest.raises(ConnectionError, match="not those of these commands"):
        await asked
    assert await execute_all(redis, [("ECHO", "three")], 5.0) == [b"three"]


async def test_a_connection_lost_before_the_answer_is_an_error(
    redis: event_stream.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """redis-py takes the kernel's time-out error for its own time-out, and answers None."""

    async def given_up(*_: object, **__: object) -> None:
        raise OSError(errno.ETIMEDOUT, "Connection timed out")

    await execute_all(redis, [("PING",)], 2.0)  # connected
    with monkeypatch.context() as patch:
        patch.setattr(Connection, "_read_response_from_parser", given_up)
        patch.setattr(UnixDomainSocketConnection, "_read_response_from_parser", given_up)
        with pytest.raises((TimeoutError, ConnectionError)):
            await execute_all(redis, [("SET", "word", "a", "NX")], 2.0)
    assert await execute_all(redis, [("ECHO", "mine")], 5.0) == [b"mine"]


async def test_a_cancelled_caller_leaves_no_answer_to_the_next_one(redis: event_stream.Redis) -> None:
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


async def test_the_pipeline_of_redis_py_gives_the_same_results(
    redis: event_stream.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is used with another major version of redis-py, whose internals are unknown."""
    commands: list[Command] = [("SET", "one", b"\x00\r\n\xff"), ("GET", "one"), ("INCRBY", "three", 7), ("GET", "none")]
    by_internals = await execute_all(redis, commands, 2.0)
    await redis.delete("one", "three")
    monkeypatch.setattr(redis_batch, "INTERNALS_ARE_KNOWN", False)
    assert [answer in (b"OK", True) or answer for answer in await execute_all(redis, commands, 2.0)] == [
        answer in (b"OK", True) or answer for answer in by_internals
    ]
    with pytest.raises(ResponseError, match="not an integer"):
        await execute_all(redis, [("SET", "word", "a"), ("INCR", "word")], 2.0)


def test_redis_py_has_the_version_that_redis_batch_supports() -> None:
    """The internals that redis_batch.py uses are those of the installed redis-py.

    For a new major version: check `redis_batch.py` against it, then raise WRITTEN_FOR and the bound in pyproject.toml.
    """
    assert redis_batch.INTERNALS_ARE_KNOWN
    bound = re.search(r'"redis\[hiredis\]>=(\d+),<(\d+)"', (Path(__file__).parents[2] / "pyproject.toml").read_text())
    assert bound is not None
    assert (int(bound[1]), int(bound[2])) == (redis_batch.WRITTEN_FOR, redis_batch.WRITTEN_FOR + 1)
    assert {"timeout"} <= set(inspect.signature(AbstractConnection.read_response).parameters)
    assert list(inspect.signature(AbstractConnection.send_packed_command).parameters)[1] == "command"
    assert list(inspect.signature(Retry.call_with_retry).parameters)[1:3] == ["do", "fail"]
