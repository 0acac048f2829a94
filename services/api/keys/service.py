"""Manage the API keys of a project with one of them.

A live key manages live keys and a test key manages test keys. A key that leaks from a test machine must not reach customers
(docs/decisions/0008).
"""

from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta

from litestar import Response

from services.api.http.access.authentication import Authentication
from services.api.http.cursors import read_cursor, write_cursor
from services.api.http.idempotency import once_committed
from services.api.http.transaction import transaction
from services.api.keys import schemas as wire
from shared.accounts.service import api_key, record_key
from shared.errors import InvalidRequest, KeyNotFound
from shared.infra.clock import Clock
from shared.infra.postgres.pool import Connection, Pool
from shared.keys import queries
from shared.keys import service as keys
from shared.models.idempotency import Attempt
from shared.models.projects import KeyInfo, KeyRecord


class ProjectKeys:
    """Manages the keys of a project and mode on behalf of ``key``, which is one of them.

    Methods raise ``KeyNotFound`` for all other keys, ``StoreUnavailable`` and what shared/keys/service.py raises.
    """

    def __init__(self, pool: Pool, authentication: Authentication, key: KeyRecord, clock: Clock) -> None:
        self._pool, self._authentication, self._key = pool, authentication, key
        self._now_ms = clock.now_ms()
        self._now = datetime.fromtimestamp(self._now_ms / 1000, UTC)
        self._by, self._actor = keys.made_by_key(key.key_id), api_key(key.key_id)

    async def page(self, limit: int, cursor: str | None) -> wire.KeyPage:
        """Read a page of keys, newest first. Raises ``InvalidRequest`` too."""
        request = ("keys", self._key.project_id, self._key.mode)
        position = read_cursor(cursor, request, (str,))
        async with transaction(self._pool) as conn:
            try:
                after = None if position is None else await self._find(conn, position[0])
            except KeyNotFound:
                raise InvalidRequest(
                    "`cursor` names no key of this project. Start again without it.", "cursor", "invalid_cursor"
                ) from None
            found = await queries.key_page(conn, self._key.project_id, self._key.mode, limit + 1, after)
        following = write_cursor(request, (found[limit - 1].key_id,)) if len(found) > limit else None
        return wire.KeyPage(keys=self._answers(found[:limit]), next_cursor=following)

    async def get(self, key_id: str) -> wire.KeyAnswer:
        async with transaction(self._pool) as conn:
            return self._answer(await self._find(conn, key_id))

    async def create(self, request: wire.CreateKey, attempt: Attempt | None = None) -> Response[wire.NewKeyAnswer]:
        async def perform(conn: Connection) -> wire.NewKeyAnswer:
            made = await keys.create_key(
                conn,
                self._key.project_id,
                self._key.mode,
                request.type,
                request.name,
                self._now,
                expires_at=request.expires_at,
                created_by=self._by,
            )
            await record_key(conn, self._actor, "key_created", made, self._now)
            return wire.new_key_answer(made, self._key.key_id, self._now)

        return await self._once(attempt, perform)

    async def rotate(
        self, key_id: str, request: wire.RotateKey, attempt: Attempt | None = None
    ) -> Response[wire.NewKeyAnswer]:
        async def perform(conn: Connection) -> wire.NewKeyAnswer:
            made = await keys.rotate_key(
                conn,
                key_id,
                self._now,
                grace=timedelta(seconds=request.grace_seconds),
                project_id=self._key.project_id,
                mode=self._key.mode,
                created_by=self._by,
            )
            await record_key(conn, self._actor, "key_rotated", made, self._now)
            return wire.new_key_answer(made, self._key.key_id, self._now)

        answer = await self._once(attempt, perform)
        self._authentication.changed(key_ids=[key_id])
        return answer

    async def _once(
        self, attempt: Attempt | None, perform: Callable[[Connection], Awaitable[wire.NewKeyAnswer]]
    ) -> Response[wire.NewKeyAnswer]:
        """Create a key once. The secret is not stored, so a repeated request gets only the id of the key."""
        return await once_committed(
            self._pool, attempt, self._now_ms, perform, shown_once=lambda made: f"key {made.key_id}"
        )

    async def rename(self, key_id: str, request: wire.RenameKey) -> wire.KeyAnswer:
        project_id, mode = self._key.project_id, self._key.mode
        async with transaction(self._pool) as conn:
            return self._answer(await keys.rename_key(conn, key_id, request.name, project_id=project_id, mode=mode))

    async def revoke(self, key_id: str, and_made: bool) -> wire.RevokedKeys:
        project_id, mode = self._key.project_id, self._key.mode
        async with transaction(self._pool) as conn:
            if and_made:
                revoked = await keys.revoke_key_and_made(conn, key_id, self._now, project_id=project_id, mode=mode)
            else:
                revoked = [await keys.revoke_key(conn, key_id, self._now, project_id=project_id, mode=mode)]
            for one in revoked:
                await record_key(conn, self._actor, "key_revoked", one, self._now)
        self._authentication.changed(key_ids={info.key_id for info in revoked})
        return wire.RevokedKeys(revoked=self._answers(revoked))

    async def _find(self, conn: Connection, key_id: str) -> KeyInfo:
        return await keys.find_key(conn, key_id, project_id=self._key.project_id, mode=self._key.mode)

    def _answer(self, info: KeyInfo) -> wire.KeyAnswer:
        return wire.key_answer(info, self._key.key_id, self._now)

    def _answers(self, infos: Sequence[KeyInfo]) -> list[wire.KeyAnswer]:
        return [self._answer(info) for info in infos]
