"""What is done with API keys, whoever asks. Every function takes a connection inside the caller's transaction and the time
as it is now.

``created_by`` says who acts: ``cli``, ``user:<id>``, or ``key:<id>`` for a key used over the API. A key can make keys, so a
leaked one can make itself a successor; what bounds that is here: what it makes is on record and revoked with it
(``revoke_key_and_made``), a revoked key makes none, and what an expiring key makes expires no later than itself
(docs/decisions/0008).
"""

from datetime import datetime, timedelta
from typing import Final

from shared.errors import (
    InvalidRequest,
    KeyInactive,
    KeyNotFound,
    KeyRotated,
    ProjectArchived,
    ProjectNotFound,
    TooManyKeys,
)
from shared.infra.display_names import checked_name
from shared.infra.ids import KeyType, Mode, new_id, new_key
from shared.infra.postgres.pool import Connection
from shared.keys import queries
from shared.models.projects import KeyInfo, NewKey
from shared.projects import queries as project_queries

DEFAULT_GRACE: Final = timedelta(hours=24)
MAX_GRACE: Final = timedelta(days=30)
MAX_LIFETIME: Final = timedelta(days=3650)
# Keys that work, of one project and mode. A client in a loop fills no table, and a page of keys stays one that a person reads.
MAX_USABLE_KEYS: Final = 100
_BY_KEY = "key:"


def made_by_key(key_id: str) -> str:
    """``created_by`` of what is done with this key over the API."""
    return _BY_KEY + key_id


async def create_key(
    conn: Connection,
    project_id: str,
    mode: Mode,
    key_type: KeyType,
    name: str,
    now: datetime,
    *,
    expires_at: datetime | None = None,
    created_by: str | None = None,
) -> NewKey:
    """Adds a key to a project. Raises ``ProjectNotFound``, ``ProjectArchived``, ``TooManyKeys``, ``KeyInactive`` if the key
    that makes it no longer works, ``InvalidRequest`` on ``name`` or ``expiresAt``."""
    name = checked_name(name)
    if expires_at is not None and not now < expires_at <= now + MAX_LIFETIME:
        raise InvalidRequest("expiresAt must lie in the future, by at most ten years", "expiresAt")
    await _lock_open_project(conn, project_id)
    expires_at = await _bounded_by_maker(conn, expires_at, created_by, now)
    if await queries.count_usable_keys(conn, project_id, mode, now) >= MAX_USABLE_KEYS:
        raise TooManyKeys(MAX_USABLE_KEYS)
    return await add_key(conn, project_id, mode, key_type, name, now, expires_at=expires_at, created_by=created_by)


async def add_key(
    conn: Connection,
    project_id: str,
    mode: Mode,
    key_type: KeyType,
    name: str,
    now: datetime,
    *,
    expires_at: datetime | None = None,
    created_by: str | None = None,
) -> NewKey:
    """``create_key`` for a caller that holds the project and has checked everything."""
    secret = new_key(mode, key_type)
    info = await queries.insert_key(
        conn,
        new_id(),
        project_id,
        secret,
        mode=mode,
        key_type=key_type,
        name=name,
        now=now,
        expires_at=expires_at,
        created_by=created_by,
    )
    fields = {name: getattr(info, name) for name in info.__struct_fields__}
    return NewKey(key=secret, **fields)


async def find_key(
    conn: Connection, key_id: str, *, project_id: str | None = None, mode: Mode | None = None
) -> KeyInfo:
    """One key. Raises ``KeyNotFound``, also for a key outside the project and mode asked for: that it exists elsewhere is
    nobody's business."""
    return _within(await queries.key_by_id(conn, key_id), key_id, project_id, mode)


async def list_keys(conn: Connection, project_id: str | None, mode: Mode | None = None) -> list[KeyInfo]:
    """All keys of a project, or of all with None, oldest first; revoked and expired ones too. Raises ``ProjectNotFound``."""
    if project_id is not None and not await project_queries.project_exists(conn, project_id):
        raise ProjectNotFound(project_id)
    return await queries.list_keys(conn, project_id, mode)


async def rotate_key(
    conn: Connection,
    key_id: str,
    now: datetime,
    *,
    grace: timedelta = DEFAULT_GRACE,
    project_id: str | None = None,
    mode: Mode | None = None,
    created_by: str | None = None,
) -> NewKey:
    """Replaces a key by one of the same name, mode and type. Both work for ``grace``, or until the old one would have expired
    anyway; with no grace the old one is revoked at once. The new key gets the old one's lifetime, counted from now.

    Raises ``KeyNotFound``, ``KeyInactive`` (revoked or expired), ``KeyRotated`` (has a successor already),
    ``ProjectArchived``, ``TooManyKeys``, ``InvalidRequest`` on ``graceSeconds``."""
    if not timedelta(0) <= grace <= MAX_GRACE:
        raise InvalidRequest(f"graceSeconds must be from 0 to {MAX_GRACE.total_seconds():.0f}", "graceSeconds")
    await _lock_open_project(conn, (await find_key(conn, key_id, project_id=project_id, mode=mode)).project_id)
    old = _within(await queries.lock_key(conn, key_id), key_id, project_id, mode)
    _require_active(old, now)
    if old.rotated_to is not None:
        raise KeyRotated(key_id, old.rotated_to)
    # Beside what may be made, so that each of those keys can be rotated once; not again and again within its grace.
    most = 2 * MAX_USABLE_KEYS
    if grace and await queries.count_usable_keys(conn, old.project_id, old.mode, now) >= most:
        raise TooManyKeys(most)
    lifetime = None if old.expires_at is None else old.expires_at - old.created_at
    expires_at = await _bounded_by_maker(conn, None if lifetime is None else now + lifetime, created_by, now)
    new = await add_key(
        conn, old.project_id, old.mode, old.type, old.name, now, expires_at=expires_at, created_by=created_by
    )
    await queries.end_key(conn, key_id, now + grace, new.key_id)
    if not grace:
        # Not by expiry: that would wait for the slowest clock of the API processes.
        await queries.revoke_keys(conn, [key_id], now)
    return new


async def revoke_key(
    conn: Connection, key_id: str, now: datetime, *, project_id: str | None = None, mode: Mode | None = None
) -> KeyInfo:
    """Revokes a key; every API process refuses it within a second. Revoking again changes nothing. Raises ``KeyNotFound``."""
    if project_id is not None or mode is not None:
        await find_key(conn, key_id, project_id=project_id, mode=mode)
    revoked = await queries.revoke_keys(conn, [key_id], now)
    if not revoked:
        raise KeyNotFound(key_id)
    return revoked[0]


async def revoke_key_and_made(
    conn: Connection, key_id: str, now: datetime, *, project_id: str | None = None, mode: Mode | None = None
) -> list[KeyInfo]:
    """Revokes a key and every key that was made with it, with those, and so on: what to do about a leaked one. Returns all
    of them, the key itself first. Raises ``KeyNotFound``."""
    key = await find_key(conn, key_id, project_id=project_id, mode=mode)
    await project_queries.lock_project(conn, key.project_id)
    revoked: dict[str, KeyInfo] = {}
    wanted = [key_id]
    while wanted:
        # Whoever makes keys holds its own row meanwhile, so this waits, and the next look sees what was made.
        revoked |= {info.key_id: info for info in await queries.revoke_keys(conn, wanted, now)}
        makers = [made_by_key(found) for found in wanted]
        wanted = [made for made in await queries.keys_made_by(conn, makers) if made not in revoked]
    return list(revoked.values())


async def rename_key(
    conn: Connection, key_id: str, name: str, *, project_id: str | None = None, mode: Mode | None = None
) -> KeyInfo:
    """Raises ``KeyNotFound``, ``InvalidRequest`` on ``name``."""
    await find_key(conn, key_id, project_id=project_id, mode=mode)
    return _within(await queries.rename_key(conn, key_id, checked_name(name)), key_id, project_id, mode)


def _within(key: KeyInfo | None, key_id: str, project_id: str | None, mode: Mode | None) -> KeyInfo:
    if key is None or project_id not in (None, key.project_id) or mode not in (None, key.mode):
        raise KeyNotFound(key_id)
    return key


def _require_active(key: KeyInfo, now: datetime) -> None:
    state = key.state(now)
    if state != "active":
        raise KeyInactive(key.key_id, state)


async def _lock_open_project(conn: Connection, project_id: str) -> None:
    project = await project_queries.lock_project(conn, project_id)
    if project is None:
        raise ProjectNotFound(project_id)
    if project.archived_at is not None:
        raise ProjectArchived(project_id)


async def _bounded_by_maker(
    conn: Connection, expires_at: datetime | None, created_by: str | None, now: datetime
) -> datetime | None:
    """The expiry of what ``created_by`` makes. Holds the making key until the transaction ends, so that revoking it and all
    it made misses nothing."""
    if created_by is None or not created_by.startswith(_BY_KEY):
        return expires_at
    maker_id = created_by.removeprefix(_BY_KEY)
    maker = await queries.lock_key(conn, maker_id)
    if maker is None:
        raise KeyNotFound(maker_id)
    _require_active(maker, now)
    return min((at for at in (expires_at, maker.expires_at) if at is not None), default=None)
