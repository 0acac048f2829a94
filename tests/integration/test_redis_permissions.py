"""Redis with access lists, renamed commands, as a replica, or full.

Relay runs with it, or the doctor reports why not.
"""

import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
import pytest
import redis as redis_py

from services.cli.doctor.finding import Finding
from services.cli.doctor.redis_commands import ACCESS_LIST
from services.cli.doctor.redis_servers import check_redis
from services.local.embedded import prepare_redis
from shared.infra.redis import doorbell, dramatiq_internals, event_stream
from shared.infra.settings import Settings
from shared.models.received import Received
from tests.ports import free_port

NOW_MS = 1_795_000_000_000
USER, PASSWORD = "relay", "pass"


@pytest.fixture
async def admin(settings: Settings) -> AsyncIterator[event_stream.Redis]:
    client = event_stream.connect_redis(settings.redis_url)
    yield client
    await client.acl_deluser(USER)
    await client.aclose()


async def as_user(settings: Settings, admin: event_stream.Redis, *rules: str) -> Settings:
    await admin.execute_command(*("ACL", "SETUSER", USER, "reset", "on", f">{PASSWORD}"), *rules)  # type: ignore[no-untyped-call]  # redis-py has no annotation for it
    parts = urlsplit(settings.redis_url)
    where = parts.netloc.rpartition("@")[2]
    return msgspec.structs.replace(settings, redis_url=parts._replace(netloc=f"{USER}:{PASSWORD}@{where}").geturl())


def told(findings: list[Finding]) -> set[tuple[str, str]]:
    return {(finding.check, finding.level) for finding in findings if finding.level != "ok"}


async def use_redis_as_relay_does(settings: Settings) -> None:
    """Use Redis as the API and the worker do."""
    redis = event_stream.connect_redis(settings.redis_url)
    try:
        assert await event_stream.append(redis, [(3, Received(NOW_MS, b"{}"))]) == [3]
        assert await event_stream.unfolded(redis) == [3]
        await event_stream.silence_bell(redis, 3)
        (entry,) = await event_stream.read_batch(redis, 3, 10)
        await event_stream.acknowledge(redis, 3, [entry[0]])
        assert await event_stream.ring(redis, [3]) == [3]
        await event_stream.silence_bell(redis, 3)
        assert await event_stream.is_durable(redis) in (True, None)
    finally:
        await redis.aclose()
    broker = doorbell.create_broker(settings.redis_url, [])
    try:
        await doorbell.wake(broker, [3])
        consumer = broker.consume(doorbell.QUEUE, prefetch=1, timeout=100)
        message = next(consumer)
        assert message is not None
        consumer.ack(message)
        assert dramatiq_internals.dead_messages(broker) == 0
    finally:
        broker.close()


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        (("~*", "&*", "+@all"), set()),
        (("~relay:*", "&*", "+@all"), set()),
        (("~relay:*", "resetchannels", "+@all", "-@dangerous"), {("redis", "note"), ("redis commands", "warning")}),
        (("~*", "+@all", "-keys"), {("redis commands", "warning")}),
        (("~*", "+@all", "-config"), {("redis durability", "note")}),
        (("~*", "+@all", "-info"), {("redis", "note")}),
        (ACCESS_LIST, set()),
    ],
)
async def test_a_user_with_enough_rights_runs_relay(
    settings: Settings, admin: event_stream.Redis, rules: tuple[str, ...], expected: set[tuple[str, str]]
) -> None:
    restricted = await as_user(settings, admin, *rules)
    await use_redis_as_relay_does(restricted)
    assert told(await check_redis(restricted, NOW_MS)) == expected


@pytest.mark.parametrize(
    ("rules", "named", "consequence"),
    [
        (("~*", "+@all", "-xadd"), "XADD", "Postgres"),
        (("~*", "+@all", "-xrange", "-xlen"), "XRANGE, XLEN", "Postgres"),
        (("~*", "+@all", "-incrby"), "INCRBY", "rate limits"),
        (("~*", "+@all", "-@scripting"), "SCRIPT LOAD, EVALSHA", "workers"),
        (("~*", "+@all", "-zadd"), "ZADD", "workers"),
        (("~other:*", "+@all"), "XADD", "Postgres"),
        (("~*", "+@read", "+ping"), "XADD", "Postgres"),
    ],
)
async def test_a_denied_command_is_reported_with_its_consequence(
    settings: Settings, admin: event_stream.Redis, rules: tuple[str, ...], named: str, consequence: str
) -> None:
    findings = await check_redis(await as_user(settings, admin, *rules), NOW_MS)
    errors = [finding for finding in findings if finding.check == "redis commands"]
    assert any(finding.fact.startswith(f"Redis denies {named}") and consequence in finding.fact for finding in errors)
    assert not any("cannot be reached" in finding.fact for finding in findings)


async def test_a_wrong_password_is_not_reported_as_an_outage(settings: Settings, admin: event_stream.Redis) -> None:
    restricted = await as_user(settings, admin, "~*", "+@all")
    wrong = msgspec.structs.replace(restricted, redis_url=restricted.redis_url.replace(f":{PASSWORD}@", ":wrong@"))
    (finding,) = [each for each in await check_redis(wrong, NOW_MS) if each.level == "error"]
    assert "refuses the login" in finding.fact


@contextmanager
def server(directory: Path, *options: str) -> Iterator[str]:
    """Start a Redis with further options and yield its URL."""
    program = prepare_redis(directory).child.argv[0]
    port = free_port()
    argv = [program, "--port", str(port), "--bind", "127.0.0.1", "--dir", str(directory), "--save", "", *options]
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL) as process:
        try:
            with redis_py.Redis(port=port, socket_timeout=5) as client:
                _wait_for(client)
            yield f"redis://127.0.0.1:{port}/0"
        finally:
            process.terminate()
            process.wait(30)


def _wait_for(client: redis_py.Redis) -> None:
    deadline = time.monotonic() + 15
    while time.monotonic() < deadline:
        try:
            client.ping()
        except redis_py.ConnectionError:
            time.sleep(0.02)
        else:
            return
    raise AssertionError("Redis did not start")


@pytest.mark.parametrize(
    ("options", "check", "level", "words"),
    [
        (("--rename-command", "CONFIG", ""), "redis durability", "note", "does not let its configuration be read"),
        (("--rename-command", "INFO", ""), "redis", "note", "no command of that name"),
        (("--rename-command", "XADD", ""), "redis commands", "error", "no command of that name"),
        (("--maxmemory", "1"), "redis commands", "error", "full"),
        (("--appendonly", "no"), "redis durability", "error", "can lose acknowledged webhooks"),
    ],
)
async def test_problems_of_other_redis_servers_are_reported(
    settings: Settings, tmp_path: Path, options: tuple[str, ...], check: str, level: str, words: str
) -> None:
    with server(tmp_path, *options) as url:
        findings = await check_redis(msgspec.structs.replace(settings, redis_url=url), NOW_MS)
    assert any((each.check, each.level) == (check, level) and words in each.fact for each in findings), findings


async def test_a_replica_is_reported_as_an_error(settings: Settings, tmp_path: Path) -> None:
    with server(tmp_path, "--replicaof", "127.0.0.1", str(free_port())) as url:
        findings = await check_redis(msgspec.structs.replace(settings, redis_url=url), NOW_MS)
    assert any(each.level == "error" and "replica" in each.fact for each in findings)
