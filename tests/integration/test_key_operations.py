"""Operations of shared/keys/service.py and shared/projects/service.py, in a real Postgres."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from shared.errors import InvalidRequest, KeyInactive, KeyNotFound, KeyRotated, ProjectArchived, TooManyKeys
from shared.infra.ids import parse_key
from shared.infra.postgres.pool import Connection, Pool
from shared.keys import queries
from shared.keys import service as keys
from shared.models.projects import CreatedProject, NewKey
from shared.projects import service as projects

NOW = datetime(2026, 6, 18, 12, 0, tzinfo=UTC)
DAY = timedelta(days=1)


async def made(conn: Connection, project: CreatedProject, name: str = "server", **extra: object) -> NewKey:
    return await keys.create_key(conn, project.project_id, "live", "secret", name, NOW, **extra)  # type: ignore[arg-type]  # passed on


async def test_a_key_is_shown_by_its_prefix_and_last_four(pool: Pool, project: CreatedProject) -> None:
    async with pool.acquire() as conn:
        key = await made(conn, project, "  server ", expires_at=NOW + DAY, created_by="cli")
        info = await keys.find_key(conn, key.key_id)
    assert parse_key(key.key) is not None
    assert (info.name, info.prefix, info.last_four) == ("server", "sk_live_", key.key[-4:])
    assert (info.created_at, info.expires_at, info.created_by) == (NOW, NOW + DAY, "cli")
    assert (info.last_used_at, info.revoked_at, info.rotated_to) == (None, None, None)
    assert not hasattr(info, "key")


@pytest.mark.parametrize("name", ["", "   ", "x" * 201, "a\0b", "a\nb", "\x1b[31m", "\ud800"])
async def test_a_name_must_be_printable(pool: Pool, project: CreatedProject, name: str) -> None:
    async with pool.acquire() as conn:
        for attempt in (
            made(conn, project, name),
            projects.rename_project(conn, project.project_id, name),
            keys.rename_key(conn, project.keys[0].key_id, name),
        ):
            with pytest.raises(InvalidRequest) as refused:
                await attempt
            assert refused.value.param == "name"


async def test_both_keys_work_during_the_grace_period(pool: Pool, project: CreatedProject) -> None:
    async with pool.acquire() as conn:
        old = await made(conn, project)
        new = await keys.rotate_key(conn, old.key_id, NOW + DAY, created_by="cli")
        before = await keys.find_key(conn, old.key_id)
    assert (new.name, new.mode, new.type, new.expires_at) == (old.name, old.mode, old.type, None)
    assert (before.expires_at, before.rotated_to, before.revoked_at) == (NOW + 2 * DAY, new.key_id, None)
    assert before.state(NOW + 2 * DAY - timedelta(seconds=1)) == "active"
    assert before.state(NOW + 2 * DAY) == "expired"


async def test_rotation_never_extends_a_key_and_its_successor_lives_as_long(
    pool: Pool, project: CreatedProject
) -> None:
    async with pool.acquire() as conn:
        old = await made(conn, project, expires_at=NOW + 10 * DAY)
        new = await keys.rotate_key(conn, old.key_id, NOW + 9 * DAY, grace=5 * DAY)
        assert (await keys.find_key(conn, old.key_id)).expires_at == NOW + 10 * DAY
    assert new.expires_at == NOW + 19 * DAY


async def test_rotation_without_grace_revokes_the_key_immediately(pool: Pool, project: CreatedProject) -> None:
    async with pool.acquire() as conn:
        old = await made(conn, project)
        await keys.rotate_key(conn, old.key_id, NOW, grace=timedelta(0))
        assert (await keys.find_key(conn, old.key_id)).revoked_at == NOW
        for grace in (timedelta(seconds=-1), timedelta(days=31)):
            with pytest.raises(InvalidRequest):
                await keys.rotate_key(conn, old.key_id, NOW, grace=grace)


async def test_an_inactive_key_cannot_be_rotated(pool: Pool, project: CreatedProject) -> None:
    async with pool.acquire() as conn:
        revoked, expired, rotated = [await made(conn, project, expires_at=NOW + DAY) for _ in range(3)]
        await keys.revoke_key(conn, revoked.key_id, NOW)
        for key, state in ((revoked, "revoked"), (expired, "expired")):
            with pytest.raises(KeyInactive) as refused:
                await keys.rotate_key(conn, key.key_id, NOW + DAY)
            assert refused.value.state == state
        new = await keys.rotate_key(conn, rotated.key_id, NOW)
        with pytest.raises(KeyRotated) as again:
            await keys.rotate_key(conn, rotated.key_id, NOW)
        assert again.value.rotated_to == new.key_id


async def test_concurrent_rotations_create_one_successor(pool: Pool, project: CreatedProject) -> None:
    """A second successor would be a working key that nobody knows about."""
    async with pool.acquire() as conn:
        old = await made(conn, project)

    async def rotate() -> NewKey:
        async with pool.acquire() as conn, conn.transaction():
            return await keys.rotate_key(conn, old.key_id, NOW)

    results = await asyncio.gather(*(rotate() for _ in range(5)), return_exceptions=True)
    assert sum(isinstance(result, NewKey) for result in results) == 1
    assert sum(isinstance(result, KeyRotated) for result in results) == 4


async def test_a_key_of_another_project_or_mode_is_not_found(pool: Pool, project: CreatedProject) -> None:
    async with pool.acquire() as conn:
        other = await projects.create_project(conn, "other", NOW)
        key = await made(conn, project)
        for scope in ({"project_id": other.project_id}, {"project_id": project.project_id, "mode": "test"}):
            for attempt in (
                keys.find_key(conn, key.key_id, **scope),  # type: ignore[arg-type]  # a dict loses the literal's type
                keys.rotate_key(conn, key.key_id, NOW, **scope),  # type: ignore[arg-type]
                keys.revoke_key(conn, key.key_id, NOW, **scope),  # type: ignore[arg-type]
                keys.revoke_key_and_made(conn, key.key_id, NOW, **scope),  # type: ignore[arg-type]
                keys.rename_key(conn, key.key_id, "mine", **scope),  # type: ignore[arg-type]
            ):
                with pytest.raises(KeyNotFound):
                    await attempt
        assert (await keys.find_key(conn, key.key_id)).state(NOW) == "active"


async def test_revoking_a_leaked_key_revokes_every_key_it_created(pool: Pool, project: CreatedProject) -> None:
    async with pool.acquire() as conn:
        leaked, other = await made(conn, project), await made(conn, project)
        child = await made(conn, project, created_by=keys.made_by_key(leaked.key_id))
        grandchild = await keys.rotate_key(conn, child.key_id, NOW, created_by=keys.made_by_key(child.key_id))
        async with conn.transaction():
            revoked = await keys.revoke_key_and_made(conn, leaked.key_id, NOW)
        assert [key.key_id for key in revoked] == [leaked.key_id, child.key_id, grandchild.key_id]
        assert (await keys.find_key(conn, other.key_id)).state(NOW) == "active"
        with pytest.raises(KeyInactive):
            await made(conn, project, created_by=keys.made_by_key(grandchild.key_id))


async def test_a_key_created_during_the_revocation_is_revoked_too(pool: Pool, project: CreatedProject) -> None:
    async with pool.acquire() as conn:
        leaked = await made(conn, project)

    async def revoke() -> None:
        async with pool.acquire() as conn, conn.transaction():
            await keys.revoke_key_and_made(conn, leaked.key_id, NOW)

    async with pool.acquire() as conn:
        async with conn.transaction():
            child = await made(conn, project, created_by=keys.made_by_key(leaked.key_id))
            revoking = asyncio.create_task(revoke())
            async with asyncio.timeout(20):
                while not await conn.fetchval("SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)"):
                    assert not revoking.done(), "the revocation did not wait for the key that is being made"
                    await asyncio.sleep(0.01)
        await revoking
        assert (await keys.find_key(conn, child.key_id)).state(NOW) == "revoked"


async def test_a_created_key_never_outlives_its_creator(pool: Pool, project: CreatedProject) -> None:
    async with pool.acquire() as conn:
        maker = await made(conn, project, expires_at=NOW + DAY)
        by = keys.made_by_key(maker.key_id)
        for wish in (None, NOW + 2 * DAY):
            assert (await made(conn, project, expires_at=wish, created_by=by)).expires_at == NOW + DAY
        sooner = NOW + DAY / 2
        assert (await made(conn, project, expires_at=sooner, created_by=by)).expires_at == sooner
        itself = await keys.rotate_key(conn, maker.key_id, NOW + DAY / 2, created_by=by)
        assert itself.expires_at == NOW + DAY


@pytest.mark.parametrize("expires_at", [NOW, NOW - DAY, NOW + 4000 * DAY])
async def test_an_expiry_in_the_past_or_too_far_ahead_is_refused(
    pool: Pool, project: CreatedProject, expires_at: datetime
) -> None:
    async with pool.acquire() as conn:
        with pytest.raises(InvalidRequest) as refused:
            await made(conn, project, expires_at=expires_at)
    assert refused.value.param == "expiresAt"


async def test_the_number_of_working_keys_is_bounded(
    pool: Pool, project: CreatedProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keys, "MAX_USABLE_KEYS", 3)
    async with pool.acquire() as conn:
        extra = await made(conn, project)  # in addition to the first secret and publishable key
        with pytest.raises(TooManyKeys):
            await made(conn, project)
        await keys.create_key(conn, project.project_id, "test", "publishable", "x", NOW - DAY, expires_at=NOW)
        await keys.revoke_key(conn, extra.key_id, NOW)
        await made(conn, project)


async def test_repeated_rotation_within_the_grace_period_is_bounded(
    pool: Pool, project: CreatedProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each rotation leaves one more working key. A client in a loop would create them without limit."""
    monkeypatch.setattr(keys, "MAX_USABLE_KEYS", 2)
    async with pool.acquire() as conn:
        key_id = project.keys[0].key_id
        for _ in range(2):
            key_id = (await keys.rotate_key(conn, key_id, NOW)).key_id
        with pytest.raises(TooManyKeys):
            await keys.rotate_key(conn, key_id, NOW)
        await keys.rotate_key(conn, key_id, NOW, grace=timedelta(0))


async def test_an_archived_project_gets_no_keys(pool: Pool, project: CreatedProject) -> None:
    async with pool.acquire() as conn:
        first = await projects.archive_project(conn, project.project_id, NOW)
        again = await projects.archive_project(conn, project.project_id, NOW + DAY)
        assert first.archived_at == again.archived_at == NOW
        with pytest.raises(ProjectArchived):
            await made(conn, project)
        with pytest.raises(ProjectArchived):
            await keys.rotate_key(conn, project.keys[0].key_id, NOW)
        assert (await projects.restore_project(conn, project.project_id)).archived_at is None
        await made(conn, project)


async def test_last_use_never_goes_back_and_skips_locked_keys(pool: Pool, project: CreatedProject) -> None:
    one, two = project.keys[0].key_id, project.keys[1].key_id
    async with pool.acquire() as conn, pool.acquire() as other:
        assert await queries.mark_used(conn, {one: NOW, two: NOW}) == {one, two}
        async with other.transaction():
            await keys.revoke_key(other, two, NOW)
            async with asyncio.timeout(20):
                settled = await queries.mark_used(conn, {one: NOW - DAY, two: NOW + DAY})
            assert settled == {one}
        assert (await keys.find_key(conn, one)).last_used_at == NOW
        assert await queries.mark_used(conn, {two: NOW + DAY}) == {two}
        assert (await keys.find_key(conn, two)).last_used_at == NOW + DAY
