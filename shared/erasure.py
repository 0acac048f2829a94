"""Takes one identity's personal data out of everything that is stored, without changing a total.

A pseudonym takes the identity's place everywhere at once, in one transaction: sessions, usage by identity, kept events. So
sessions stay as distinct as they were and the kept events still prove them (`relay usage verify`). Why a pseudonym and no
deletion: docs/decisions/0113-erasing-an-identity.md.
"""

import secrets
from typing import Any

import msgspec

from shared.errors import ProjectNotFound, RelayError
from shared.postgres import Connection
from shared.queries import erasure as queries
from shared.queries import projects as project_queries
from shared.queries.usage import Scope, lock_scopes

# The greatest of two names wins when a session learns another (shared/metering/state.py). `~` is greater than every letter, so
# an event of an erased session that arrives late does not bring the identity back into it.
PSEUDONYM_PREFIX = "~erased-"
# Fields that tell who somebody is, beside the identity they stand next to.
_PERSONAL = {"name", "metadata", "attributes", "participantName", "participantMetadata"}
_IDENTITY = ("identity", "participantIdentity")


class IdentityConnected(RelayError):
    """Somebody of this identity is in a room: the next event would bring it back. ``count`` open sessions."""

    def __init__(self, identity: str, count: int) -> None:
        super().__init__(
            f"{identity!r} is connected ({count} open sessions): remove the participant from its rooms first, and see to it"
            " that it gets no token any more"
        )
        self.identity, self.count = identity, count


class Erased(msgspec.Struct, frozen=True, rename="camel"):
    """What was changed. ``pseudonym`` is random: nothing leads back from it."""

    pseudonym: str
    sessions: int
    events: int
    set_aside: int


async def erase_identity(conn: Connection, project_id: str, identity: str) -> Erased:
    """In the caller's transaction, for both modes of the project. Raises ``ProjectNotFound``, ``IdentityConnected``."""
    if not await project_queries.project_exists(conn, project_id):
        # Else a mistyped id would look like a person of whom nothing is stored.
        raise ProjectNotFound(project_id)
    pseudonym = PSEUDONYM_PREFIX + secrets.token_hex(8)
    quoted = msgspec.json.encode(identity)
    if count := await queries.count_open(conn, project_id, identity):
        raise IdentityConnected(identity, count)
    sessions = await queries.lock_sessions_of(conn, project_id, identity)
    renamed = [msgspec.structs.replace(session, identity=pseudonym, name=None) for session in sessions]
    await queries.rename_sessions(conn, renamed)
    await lock_scopes(conn, {Scope(project_id, "live"), Scope(project_id, "test")})
    await queries.rename_usage(conn, project_id, identity, pseudonym)
    events = [
        event._replace(body=without_person(event.body, identity, pseudonym) or b"{}")
        for event in await queries.events_about(conn, project_id, identity, quoted)
    ]
    await queries.rewrite_events(conn, events, identity, pseudonym)
    aside = [
        (number, without_person(body, identity, pseudonym))
        for number, body in await queries.set_aside_about(conn, project_id, quoted)
    ]
    await queries.rewrite_set_aside(conn, [(number, body) for number, body in aside if body is not None])
    await queries.drop_set_aside(conn, [number for number, body in aside if body is None])
    await queries.forget_answers_about(conn, project_id, quoted)
    return Erased(pseudonym, len(sessions), len(events), len(aside))


def without_person(body: bytes, identity: str, pseudonym: str) -> bytes | None:
    """A webhook's body with another name for this identity, and without what stood beside it; None for what is no JSON."""
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
