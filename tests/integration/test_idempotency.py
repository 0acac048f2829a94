"""`Idempotency-Key`: a request runs once, and each repetition gets the stored answer."""

import asyncio
from dataclasses import dataclass
from typing import Any

import httpx
import msgspec
import pytest

from services.api.http.idempotency import ABANDONED_MS, KEPT_MS, once, once_committed
from services.worker.forget_attempts import forget_attempts
from services.worker.periodic import JobContext
from shared.errors import AttemptUnderWay, IdempotencyKeyReused, ShownOnce
from shared.infra.ids import livekit_room
from shared.infra.postgres.pool import Connection, Pool
from shared.infra.settings import Settings
from shared.models.idempotency import Attempt
from shared.models.projects import CreatedProject
from shared.models.wire import Wire
from tests.fake_livekit import FakeLiveKit, twirp_failure
from tests.integration.conftest import key_of

NOW_MS = 1_800_000_000_000


@pytest.fixture
def livekit(module_livekit: FakeLiveKit) -> FakeLiveKit:
    module_livekit.reset()
    return module_livekit


@pytest.fixture(scope="module")
def module_settings(module_settings: Settings, module_livekit: FakeLiveKit) -> Settings:
    return msgspec.structs.replace(module_settings, livekit_api_url=module_livekit.url)


@pytest.fixture
def settings(shared_settings: Settings) -> Settings:
    return shared_settings


@pytest.fixture
def api(shared_api: httpx.AsyncClient) -> httpx.AsyncClient:
    return shared_api


class Made(Wire):
    number: int


@dataclass
class Maker:
    """Counts its calls."""

    count: int = 0

    async def make(self, _conn: Connection | None = None) -> Made:
        self.count += 1
        return Made(number=self.count)


@pytest.fixture
def attempt(project: CreatedProject) -> Attempt:
    return Attempt(project.project_id, "live", "POST /v1/things", b"key", b"request")


async def test_a_repeated_request_gets_the_stored_answer(
    api: httpx.AsyncClient, project: CreatedProject, livekit: FakeLiveKit
) -> None:
    headers = {**key_of(project), "Idempotency-Key": "order 1"}
    first = await api.post("/v1/rooms", json={"name": "lobby", "emptyTimeout": 60}, headers=headers)
    assert first.status_code == 201
    assert "idempotent-replayed" not in first.headers
    livekit.rooms.clear()
    # The same request in another spelling.
    body = b'{ "emptyTimeout": 60, "name": "lobby" }'
    again = await api.post("/v1/rooms", content=body, headers={**headers, "Content-Type": "application/json"})
    assert (again.status_code, again.content) == (201, first.content)
    assert again.headers["idempotent-replayed"] == "true"
    assert again.headers["content-type"] == "application/json"
    assert len(livekit.orders("CreateRoom")) == 1
    other = await api.post("/v1/rooms", json={"name": "hall"}, headers=headers)
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")
    assert len(livekit.orders("CreateRoom")) == 1
    for bad in ("", "x" * 256, "a\tb"):
        refused = await api.post("/v1/rooms", json={"name": "hall"}, headers={**headers, "Idempotency-Key": bad})
        assert (refused.status_code, refused.json()["param"]) == (400, "Idempotency-Key")


async def test_an_idempotency_key_belongs_to_one_project_and_mode(
    api: httpx.AsyncClient, project: CreatedProject, livekit: FakeLiveKit, settings: Settings
) -> None:
    from services.cli.projects import create_project

    other = await create_project(settings.database, "globex")
    for headers in (key_of(project), key_of(project, "test"), key_of(other)):
        answer = await api.post("/v1/rooms", json={"name": "lobby"}, headers={**headers, "Idempotency-Key": "1"})
        assert (answer.status_code, answer.headers.get("idempotent-replayed")) == (201, None)
    assert len(livekit.rooms) == 3


async def test_a_failed_answer_is_not_stored(
    api: httpx.AsyncClient, project: CreatedProject, livekit: FakeLiveKit
) -> None:
    headers = {**key_of(project), "Idempotency-Key": "1"}
    livekit.failure = twirp_failure(503, "unavailable")
    assert (await api.post("/v1/rooms", json={"name": "lobby"}, headers=headers)).status_code == 502
    livekit.failure = None
    answer = await api.post("/v1/rooms", json={"name": "lobby"}, headers=headers)
    assert (answer.status_code, answer.headers.get("idempotent-replayed")) == (201, None)


async def test_concurrent_requests_with_one_idempotency_key_run_once(
    api: httpx.AsyncClient, project: CreatedProject, livekit: FakeLiveKit
) -> None:
    headers = {**key_of(project), "Idempotency-Key": "1"}
    livekit.delay_s = 0.2
    requests = [api.post("/v1/rooms", json={"name": "lobby"}, headers=headers) for _ in range(10)]
    answers = await asyncio.gather(*requests)
    assert len(livekit.orders("CreateRoom")) == 1
    told = [(answer.status_code, answer.json().get("code")) for answer in answers]
    assert told.count((201, None)) >= 1
    assert set(told) <= {(201, None), (409, "attempt_under_way")}
    assert all("retry-after" in answer.headers for answer in answers if answer.status_code == 409)


async def test_a_stored_answer_expires_after_a_day(pool: Pool, attempt: Attempt, settings: Settings) -> None:
    maker = Maker()

    async def ask(at_ms: int) -> Any:
        return (await once(pool, attempt, at_ms, maker.make)).content

    assert await ask(NOW_MS) == Made(number=1)
    assert await ask(NOW_MS + KEPT_MS) == b'{"number":1}'
    context = JobContext(pool, None, settings, None)  # type: ignore[arg-type]  # the job uses only its pool
    await forget_attempts(context, NOW_MS + KEPT_MS)
    assert await ask(NOW_MS + KEPT_MS) == b'{"number":1}'
    # An expired key is free even before the job deletes it.
    assert await ask(NOW_MS + KEPT_MS + 1) == Made(number=2)
    await forget_attempts(context, NOW_MS + 3 * KEPT_MS)
    assert await pool.fetchval("SELECT count(*) FROM attempt") == 0


async def test_an_attempt_of_a_dead_process_is_free_after_a_minute(pool: Pool, attempt: Attempt) -> None:
    maker = Maker()

    async def dies() -> Made:
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await once(pool, attempt, NOW_MS, dies)
    with pytest.raises(AttemptUnderWay):
        await once(pool, attempt, NOW_MS + ABANDONED_MS, maker.make)
    with pytest.raises(IdempotencyKeyReused):
        await once(pool, msgspec.structs.replace(attempt, request_digest=b"other"), NOW_MS, maker.make)
    assert (await once(pool, attempt, NOW_MS + ABANDONED_MS + 1, maker.make)).content == Made(number=1)


async def test_changes_in_postgres_commit_together_with_the_answer(pool: Pool, attempt: Attempt) -> None:
    async def rename(conn: Connection) -> Made:
        await conn.execute("UPDATE project SET name = name || '!'")
        return Made(number=1)

    async def fails(conn: Connection) -> Made:
        await rename(conn)
        raise ValueError("after the change")

    with pytest.raises(ValueError, match="after the change"):
        await once_committed(pool, attempt, NOW_MS, fails)
    assert await pool.fetchval("SELECT name FROM project") == "acme"
    first = await once_committed(pool, attempt, NOW_MS, rename)
    again = await once_committed(pool, attempt, NOW_MS, rename)
    replayed: Any = again.content
    assert (first.content, replayed) == (Made(number=1), b'{"number":1}')
    assert again.headers == {"Idempotent-Replayed": "true"}
    assert await pool.fetchval("SELECT name FROM project") == "acme!"
    unkeyed = await once_committed(pool, None, NOW_MS, rename)
    assert (unkeyed.content, await pool.fetchval("SELECT name FROM project")) == (Made(number=1), "acme!!")


async def test_concurrent_failures_on_all_connections_release_them(pool: Pool, attempt: Attempt) -> None:
    """A failed attempt is released on another connection.

    If each kept the connection on which it failed, the pool would stay empty.
    """
    size = pool.get_max_size()
    all_in = asyncio.Barrier(size)

    async def fails(_conn: Connection) -> Made:
        await all_in.wait()
        raise ValueError("after all of them had begun")

    attempts = [msgspec.structs.replace(attempt, key_digest=b"%d" % number) for number in range(size)]
    async with asyncio.timeout(20):
        failed = await asyncio.gather(
            *(once_committed(pool, one, NOW_MS, fails) for one in attempts), return_exceptions=True
        )
    assert [type(error) for error in failed] == [ValueError] * size
    assert await pool.fetchval("SELECT count(*) FROM attempt") == 0


async def test_an_answer_with_a_secret_is_not_stored(pool: Pool, attempt: Attempt) -> None:
    maker = Maker()

    def told(made: Made) -> str:
        return f"thing {made.number}"

    first = await once_committed(pool, attempt, NOW_MS, maker.make, told)
    assert first.content == Made(number=1)
    with pytest.raises(ShownOnce, match="thing 1"):
        await once_committed(pool, attempt, NOW_MS, maker.make, told)
    assert maker.count == 1
    row = await pool.fetchrow("SELECT body, shown_once FROM attempt")
    assert row is not None
    assert tuple(row) == (None, "thing 1")


async def test_an_idempotency_key_is_refused_without_postgres(
    settings: Settings, project: CreatedProject, livekit: FakeLiveKit, api: httpx.AsyncClient, pool: Pool
) -> None:
    """The API key is cached: a room can be created, but not with an Idempotency-Key."""
    headers = key_of(project)
    assert (await api.get("/v1/rooms", headers=headers)).status_code == 200
    await pool.execute("ALTER TABLE attempt RENAME TO away")
    keyed = await api.post("/v1/rooms", json={"name": "lobby"}, headers={**headers, "Idempotency-Key": "1"})
    assert (keyed.status_code, keyed.json()["code"]) == (503, "store_unavailable")
    assert livekit.orders("CreateRoom") == []
    plain = await api.post("/v1/rooms", json={"name": "lobby"}, headers=headers)
    assert plain.status_code == 201
    assert list(livekit.rooms) == [livekit_room(project.project_id, "live", "lobby")]
