"""SQL of reconciliation: read sessions and runs, store confirmations, absences and proofs."""

from collections.abc import Mapping, Sequence

import msgspec

from shared.infra.postgres.pool import Connection
from shared.metering.reconcile import Absence, Known, Proof
from shared.metering.reconcile_runs import KnownRun, RunKey
from shared.metering.state import MediaRun, Session
from shared.models.operations import Pass

_session = msgspec.json.Decoder(Session).decode
_run = msgspec.json.Decoder(MediaRun).decode
# Rows confirmed in one transaction. A fold that needs one of them waits for the transaction.
_CHUNK = 1000
_KEPT_MS = 7 * 24 * 3_600_000


async def open_sessions(conn: Connection) -> dict[str, Known]:
    """Return every open session of every project, by sid."""
    rows = await conn.fetch(
        """
        SELECT sid, state, confirmed_ms
        FROM session
        WHERE started_ms IS NOT NULL
          AND ended_ms IS NULL
        """
    )
    return {row["sid"]: Known(_session(row["state"]), row["confirmed_ms"]) for row in rows}


async def other_sessions(conn: Connection, sids: Sequence[str]) -> dict[str, Known]:
    """Return the stored sessions of these sids that are not open.

    A session without a project is left out until an event names its project. A session that is never metered (a recorder, an
    aborted connection) has ``ended_by`` "aborted".
    """
    rows = await conn.fetch(
        """
        SELECT sid, state, confirmed_ms, coalesce(ended_by, 'aborted') AS ended_by
        FROM session
        WHERE sid = ANY ($1::text[])
          AND project_id IS NOT NULL
          AND (started_ms IS NULL OR ended_ms IS NOT NULL)
        """,
        list(sids),
    )
    return {row["sid"]: Known(_session(row["state"]), row["confirmed_ms"], row["ended_by"]) for row in rows}


async def known_runs(conn: Connection, keys: Sequence[RunKey]) -> dict[RunKey, KnownRun]:
    """Return every open run, and the stored runs of these (meter, id) pairs."""
    rows = await conn.fetch(
        """
        SELECT state, confirmed_ms, started_ms IS NOT NULL AND ended_ms IS NULL AS is_open
        FROM media_run
        WHERE (started_ms IS NOT NULL AND ended_ms IS NULL)
           OR (meter, id) IN (
              SELECT keys.meter, keys.id
              FROM unnest($1::text[], $2::text[]) AS keys (meter, id)
           )
        """,
        [meter for meter, _ in keys],
        [run_id for _, run_id in keys],
    )
    known = (KnownRun(_run(row["state"]), row["confirmed_ms"], row["is_open"]) for row in rows)
    return {(entry.run.meter, entry.run.id): entry for entry in known}


async def confirm_sessions(conn: Connection, confirmed: Mapping[str, int]) -> None:
    """Record when LiveKit listed these sessions (unix ms by sid).

    Rows are locked in the order of the fold, so that the two never deadlock.
    """
    sids = sorted(confirmed)
    for start in range(0, len(sids), _CHUNK):
        chunk = sids[start : start + _CHUNK]
        async with conn.transaction():
            await conn.execute(
                """
                WITH locked AS (
                    SELECT sid
                    FROM session
                    WHERE sid = ANY ($1::text[])
                    ORDER BY sid
                    FOR NO KEY UPDATE
                )
                UPDATE session
                SET confirmed_ms = greatest(session.confirmed_ms, n.at)
                FROM locked, unnest($1::text[], $2::bigint[]) AS n (sid, at)
                WHERE session.sid = locked.sid
                  AND n.sid = locked.sid
                """,
                chunk,
                [confirmed[sid] for sid in chunk],
            )


async def confirm_runs(conn: Connection, confirmed: Mapping[RunKey, int]) -> None:
    """Record when LiveKit listed these egresses and runs of ingresses (unix ms by key)."""
    keys = sorted(confirmed)
    if keys:
        await conn.execute(
            """
            WITH n AS (
                SELECT meter, id, at
                FROM unnest($1::text[], $2::text[], $3::bigint[]) AS n (meter, id, at)
            ),
            locked AS (
                SELECT meter, id
                FROM media_run
                WHERE (meter, id) IN (SELECT meter, id FROM n)
                ORDER BY meter, id
                FOR NO KEY UPDATE
            )
            UPDATE media_run
            SET confirmed_ms = greatest(media_run.confirmed_ms, n.at)
            FROM locked
            JOIN n USING (meter, id)
            WHERE media_run.meter = locked.meter
              AND media_run.id = locked.id
            """,
            [meter for meter, _ in keys],
            [run_id for _, run_id in keys],
            [confirmed[key] for key in keys],
        )


async def absences(conn: Connection) -> dict[tuple[str, str], Absence]:
    """Return the stored absences by (sid, track sid or '')."""
    rows = await conn.fetch("SELECT sid, track, since_ms, seen_ms FROM absence")
    return {(row["sid"], row["track"]): Absence(row["since_ms"], row["seen_ms"]) for row in rows}


async def replace_absences(conn: Connection, found: Mapping[tuple[str, str], Absence]) -> None:
    """Replace the stored absences by exactly these."""
    keys = sorted(found)
    columns = [sid for sid, _ in keys], [track for _, track in keys]
    async with conn.transaction():
        await conn.execute(
            """
            DELETE FROM absence AS a
            WHERE NOT EXISTS (
                SELECT FROM unnest($1::text[], $2::text[]) AS f (sid, track)
                WHERE f.sid = a.sid
                  AND f.track = a.track
            )
            """,
            *columns,
        )
        await conn.execute(
            """
            INSERT INTO absence (sid, track, since_ms, seen_ms)
            SELECT sid, track, since_ms, seen_ms
            FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[]) AS n (sid, track, since_ms, seen_ms)
            ON CONFLICT DO NOTHING
            """,
            *columns,
            [found[key].since_ms for key in keys],
            [found[key].seen_ms for key in keys],
        )


async def proofs(conn: Connection) -> dict[str, Proof]:
    """Return the stored answers of nodes about participants, by sid."""
    rows = await conn.fetch("SELECT sid, asked_ms, answered_ms FROM proof")
    return {row["sid"]: Proof(row["asked_ms"], row["answered_ms"]) for row in rows}


async def record_proofs(conn: Connection, proofs: Mapping[str, Proof], listed: Sequence[str] | None) -> None:
    """Store the answers of nodes. Drop those about participants that are not ``listed`` (None: keep all)."""
    sids = sorted(proofs)
    await conn.execute(
        """
        INSERT INTO proof AS p (sid, asked_ms, answered_ms)
        SELECT sid, asked_ms, answered_ms
        FROM unnest($1::text[], $2::bigint[], $3::bigint[]) AS n (sid, asked_ms, answered_ms)
        ON CONFLICT (sid)
        DO UPDATE SET
            asked_ms = excluded.asked_ms,
            answered_ms = greatest(p.answered_ms, excluded.answered_ms)
        """,
        sids,
        [proofs[sid].asked_ms for sid in sids],
        [proofs[sid].answered_ms for sid in sids],
    )
    if listed is not None:
        await conn.execute(
            """
            DELETE FROM proof
            WHERE NOT EXISTS (
                SELECT FROM unnest($1::text[]) AS l (sid)
                WHERE l.sid = proof.sid
            )
            """,
            list(listed),
        )


_COLUMNS = ", ".join(Pass._fields)


async def record_pass(conn: Connection, done: Pass) -> None:
    """Store a pass. Passes are dropped after a week."""
    values = ", ".join(f"${number}" for number in range(1, len(Pass._fields) + 1))
    await conn.execute(
        f"""
        INSERT INTO reconcile_run ({_COLUMNS})
        VALUES ({values})
        ON CONFLICT (started_ms) DO NOTHING
        """,
        *done,
    )
    await conn.execute("DELETE FROM reconcile_run WHERE started_ms < $1", done.started_ms - _KEPT_MS)


async def last_passes(conn: Connection, limit: int) -> list[Pass]:
    """Return the last passes, newest first."""
    rows = await conn.fetch(f"SELECT {_COLUMNS} FROM reconcile_run ORDER BY started_ms DESC LIMIT $1", limit)
    return [Pass(**row) for row in rows]
