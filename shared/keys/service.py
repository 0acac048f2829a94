"""Create, rotate, rename, list and revoke API keys, for the API, the portal and the command line.

Every function takes a connection inside the caller's transaction, and the current time.

``created_by`` names the author: ``cli``, ``user:<id>``, or ``key:<id>`` for a key used over the API. A key can create keys,
so a leaked key can create its own successor. This module limits that: the keys that it creates are recorded and can be
revoked with it (``revoke_key_and_made``), a revoked key creates none, and a key created by an expiring key expires no later
than that key (docs/decisions/0008).
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
# Usable keys of one project and mode. A client in a loop cannot fill the table, and people can still read the list of keys.
MAX_USABLE_KEYS: Final = 100
_BY_KEY = "key:"


def made_by_key(key_id: str) -> str:
    """Return ``created_by`` for actions with this key over the API."""
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
    """Create a key in a project.

    Raises ``ProjectNotFound``, ``ProjectArchived``, ``TooManyKeys``, ``KeyInactive`` if the creating key no longer works, and
    ``InvalidRequest`` for ``name`` or ``expiresAt``.
    """
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
    """Insert a new key. The caller holds the lock of the project and has checked everything."""
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
    """Return a key. Raises ``KeyNotFound``.

    The error is the same for a key of another project or mode, so it does not show that the key exists.
    """
    return _within(await queries.key_by_id(conn, key_id), key_id, project_id, mode)


async def list_keys(conn: Connection, project_id: str | None, mode: Mode | None = None) -> list[KeyInfo]:
    """Return the keys of a project (None: of all projects), oldest first. Raises ``ProjectNotFound``.

    Includes revoked and expired keys.
    """
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
    """Replace a key by a new one with the same name, mode and type.

    Both keys work for ``grace``, or until the old one expires. Without grace the old key is revoked at once. The new key gets
    the lifetime of the old one, counted from now.

    Raises ``KeyNotFound``, ``KeyInactive`` (revoked or expired), ``KeyRotated`` (has a successor already),
    ``ProjectArchived``, ``TooManyKeys``, ``InvalidRequest`` for ``graceSeconds``.
    """
    if not timedelta(0) <= grace <= MAX_GRACE:
        raise InvalidRequest(f"graceSeconds must be from 0 to {MAX_GRACE.total_seconds():.0f}", "graceSeconds")
    await _lock_open_project(conn, (await find_key(conn, key_id, project_id=project_id, mode=mode)).project_id)
    old = _within(await queries.lock_key(conn, key_id), key_id, project_id, mode)
    _require_active(old, now)
    if old.rotated_to is not None:
        raise KeyRotated(key_id, old.rotated_to)
    # Twice the limit, so that each key can be rotated once within a grace period, but not repeatedly.
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
        # Revoked instead of expired, because an expiry depends on the clock of each API process.
        await queries.revoke_keys(conn, [key_id], now)
    return new


async def revoke_key(
    conn: Connection, key_id: str, now: datetime, *, project_id: str | None = None, mode: Mode | None = None
) -> KeyInfo:
    """Revoke a key. Every API process refuses it within a second. Raises ``KeyNotFound``.

    Revoking a revoked key changes nothing.
    """
    if project_id is not None or mode is not None:
        await find_key(conn, key_id, project_id=project_id, mode=mode)
    revoked = await queries.revoke_keys(conn, [key_id], now)
    if not revoked:
        raise KeyNotFound(key_id)
    return revoked[0]


async def revoke_key_and_made(
    conn: Connection, key_id: str, now: datetime, *, project_id: str | None = None, mode: Mode | None = None
) -> list[KeyInfo]:
    """Revoke a key, the keys that were created with it, the keys created with those, and so on.

    This is the answer to a leaked key. Returns all revoked keys, the key itself first. Raises ``KeyNotFound``.
    """
    key = await find_key(conn, key_id, project_id=project_id, mode=mode)
    await project_queries.lock_project(conn, key.project_id)
    revoked: dict[str, KeyInfo] = {}
    wanted = [key_id]
    while wanted:
        # Creating a key locks the creating key's row. So this statement waits for it, and the next query finds the new key.
        revoked |= {info.key_id: info for info in await queries.revoke_keys(conn, wanted, now)}
        makers = [made_by_key(found) for found in wanted]
        wanted = [made for made in await queries.keys_made_by(conn, makers) if made not in revoked]
    return list(revoked.values())


async def rename_key(
    conn: Connection, key_id: str, name: str, *, project_id: str | None = None, mode: Mode | None = None
) -> KeyInfo:
    """Rename a key. Raises ``KeyNotFound``, ``InvalidRequest`` for ``name``."""
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
    """Return the expiry of a key that ``created_by`` creates.

    Locks the creating key until the transaction ends, so that revoking it with all that it created misses no key.
    """
    if created_by is None or not created_by.startswith(_BY_KEY):
        return expires_at
    maker_id = created_by.removeprefix(_BY_KEY)
    maker = await queries.lock_key(conn, maker_id)
    if maker is None:
        raise KeyNotFound(maker_id)
    _require_active(maker, now)
    return min((at for at in (expires_at, maker.expires_at) if at is not None), default=None)
