"""Audit a whole instance, one scope at a time, each on its own snapshot."""

from collections.abc import AsyncIterator, Callable

from shared.events.queries import partitions
from shared.infra.postgres.pool import Connection
from shared.ledger import audit_rollups, proof
from shared.ledger.difference import Found
from shared.ledger.proof import Checked
from shared.ledger.queries import audit as queries
from shared.models.scope import AuditScope, DayRange


async def verify_states(
    conn: Connection, scope: AuditScope, span: DayRange | None, checked: Checked
) -> AsyncIterator[Found]:
    """Yield the sessions, rooms and runs that differ from the fold of their stored events.

    Call it inside a snapshot.
    """
    horizon_ms = await partitions.horizon(conn)
    parts = [proof.audit_sessions(conn, scope, span, horizon_ms, checked)]
    if scope.owned is not None:
        parts.insert(0, proof.audit_rooms(conn, scope, span, horizon_ms, checked))
    parts.append(proof.audit_runs(conn, scope, horizon_ms, checked))
    for part in parts:
        async for found in part:
            yield found


async def verify_rollups(
    conn: Connection, scope: AuditScope, span: DayRange | None, checked: Checked
) -> AsyncIterator[Found]:
    """Yield the rollups that are not the sum of the stored states. Call it inside a snapshot."""
    if scope.owned is None:
        return
    for audit in (audit_rollups.audit_usage, audit_rollups.audit_media, audit_rollups.audit_peaks):
        async for found in audit(conn, scope.owned, span, checked):
            yield found


async def verify(
    conn: Connection, span: DayRange | None, checked: Checked, progress: Callable[[AuditScope], None]
) -> AsyncIterator[Found]:
    """Yield everything that is wrong, one scope at a time. ``progress`` is called after each scope.

    The fold continues meanwhile. Events, states and rollups of a scope change in the same transaction, so each snapshot is
    consistent.
    """
    for scope in await queries.scopes(conn):
        async with queries.snapshot(conn):
            for audit in (verify_states, verify_rollups):
                async for found in audit(conn, scope, span, checked):
                    yield found
        progress(scope)
