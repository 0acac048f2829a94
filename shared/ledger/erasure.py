"""Erase one identity's personal data from everything stored, without changing a total.

One transaction replaces the identity by a pseudonym in sessions, usage by identity and stored events. So sessions stay
distinct, and the stored events still prove them (`relay usage verify`). docs/decisions/0014-erasing-an-identity.md explains
why the identity is replaced and not deleted.
"""

import secrets
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from shared.errors import ProjectNotFound, RelayError
from shared.infra.postgres.pool import Connection
from shared.ledger.queries import erasure as queries
from shared.ledger.queries.sessions import lock_rooms
from shared.ledger.queries.usage import lock_scopes
from shared.ledger.rollups import LongStays, group_rows, pieces_of
from shared.metering.hours import Usage, days_of
from shared.metering.state import Session
from shared.metering.usage import bill_of
from shared.models.scope import Scope
from shared.models.usage.rollups import GroupKey, GroupUsage
from shared.projects import queries as project_queries
from shared.usage.queries.groups import add_group_usage

# If a session gets two names, the greater one wins (shared/metering/state.py). `~` is greater than every letter, so a late
# event of an erased session does not restore the identity.
PSEUDONYM_PREFIX = "~erased-"
# Fields with personal data, in the same JSON object as the identity.
_PERSONAL = {"name", "metadata", "attributes", "participantName", "participantMetadata"}
_IDENTITY = ("identity", "participantIdentity")


class IdentityConnected(RelayError):
    """The identity is in a room, so the next event would restore it. ``count``: its open sessions."""

    def __init__(self, identity: str, count: int) -> None:
        super().__init__(
            f"{identity!r} is connected ({count} open sessions): remove the participant from its rooms first, and see to it"
            " that it gets no token any more"
        )
        self.identity, self.count = identity, count


class Erased(msgspec.Struct, frozen=True, rename="camel"):
    """The rows that an erasure changed. ``pseudonym`` is random and cannot be traced back."""

    pseudonym: str
    sessions: int
    events: int
    set_aside: int


async def erase_identity(conn: Connection, project_id: str, identity: str) -> Erased:
    """Replace the identity in both modes of the project, inside the caller's transaction.

    The fold continues meanwhile. The existing sessions are locked and renamed, together with their events and their share of
    the usage. A session that is created meanwhile keeps its name in all places; a second erasure renames it. Raises
    ``ProjectNotFound`` and ``IdentityConnected``.
    """
    if not await project_queries.project_exists(conn, project_id):
        # Otherwise a mistyped project id would look like an identity without stored data.
        raise ProjectNotFound(project_id)
    pseudonym = PSEUDONYM_PREFIX + secrets.token_hex(8)
    if not identity:  # the empty identity names no person
        return Erased(pseudonym, 0, 0, 0)
    quoted = msgspec.json.encode(identity)
    if count := await queries.count_open(conn, project_id, identity):
        raise IdentityConnected(identity, count)
    await queries.hold_events(conn)
    sessions = await queries.lock_sessions_of(conn, project_id, identity, PSEUDONYM_PREFIX)
    names = {session.sid: pseudonym if session.identity == identity else session.identity or "" for session in sessions}
    renamed = [msgspec.structs.replace(session, identity=names[session.sid], name=None) for session in sessions]
    await queries.rename_sessions(conn, renamed)
    events = await _rewrite_events(conn, project_id, identity, pseudonym, names)
    aside = [
        (number, without_person(body, identity, pseudonym))
        for number, body in await queries.set_aside_about(conn, project_id, quoted)
    ]
    await queries.rewrite_set_aside(conn, [(number, body) for number, body in aside if body is not None])
    await queries.drop_set_aside(conn, [number for number, body in aside if body is None])
    await queries.forget_answers_about(conn, project_id, quoted)
    await queries.rename_in_audit_log(conn, project_id, identity, pseudonym)
    await _move_usage(conn, project_id, identity, sessions, renamed)
    return Erased(pseudonym, list(names.values()).count(pseudonym), events, len(aside))


async def _rewrite_events(
    conn: Connection, project_id: str, identity: str, pseudonym: str, names: Mapping[str, str]
) -> int:
    """Rewrite the events of an identity and return how many there were.

    ``names``: the new identity of each locked session, by sid. A session that was erased before keeps its earlier pseudonym.
    """
    count = 0
    async for event in queries.events_about(conn, project_id, identity, msgspec.json.encode(identity), list(names)):
        name = pseudonym
        if event.own:
            called = event.called or ""
            if event.sid not in names and (called == identity or called.startswith(PSEUDONYM_PREFIX)):
                continue  # its session was created after the others were locked
            name = names.get(event.sid or "", pseudonym)
        await queries.rewrite_event(conn, event, without_person(event.body, identity, name) or b"{}", name)
        count += 1
    return count


async def _move_usage(
    conn: Connection, project_id: str, identity: str, before: Sequence[Session], after: Sequence[Session]
) -> None:
    """Move the share of these sessions in the usage by identity.

    Locks rooms and scopes in the order of the fold.
    """
    rooms = await lock_rooms(conn, sorted({session.room_sid for session in before if session.room_sid}))
    changes: dict[GroupKey, GroupUsage] = {}
    stays = LongStays()
    for sessions, sign in ((before, -1), (after, 1)):
        for session in sessions:
            bill = bill_of(session, rooms.get(session.room_sid or ""))
            parts, days = days_of(bill.whole)
            stays.add(session, (), days, sign)
            for key, (amounts, visits) in group_rows(session, bill.usage, parts):
                if key.dimension == "identity":
                    known, seen = changes.get(key, GroupUsage(Usage(0, 0), 0))
                    sums = Usage(*(have + sign * more for have, more in zip(known, amounts, strict=True)))
                    changes[key] = GroupUsage(sums, seen + sign * visits)
    await lock_scopes(conn, {Scope(project_id, "live"), Scope(project_id, "test")})
    if changes:
        await add_group_usage(conn, changes)
    for rows in pieces_of((key, row) for key, row in stays.group_rows() if key.dimension == "identity"):
        await add_group_usage(conn, rows)
    await queries.forget_usage(conn, project_id, identity)


def without_person(body: bytes, identity: str, pseudonym: str) -> bytes | None:
    """Return a webhook's body with the pseudonym instead of the identity and its personal data.

    None if the body is not JSON.
    """
    try:
        event = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    return msgspec.json.encode(_renamed(event, identity, pseudonym))


def _renamed(value: Any, identity: str, pseudonym: str) -> Any:
    if isinstance(value, list):
        return [_renamed(item, identity, pseudonym) for item in value]
    if not isinstance(value, dict):
        return value
    if any(value.get(field) == identity for field in _IDENTITY):
        value = {name: item for name, item in value.items() if name not in _PERSONAL}
        value |= {field: pseudonym for field in _IDENTITY if value.get(field) == identity}
    return {name: _renamed(item, identity, pseudonym) for name, item in value.items()}
