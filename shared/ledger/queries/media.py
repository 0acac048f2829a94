"""SQL of egresses and runs of ingresses, and of their rollups by hour."""

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from shared.infra.postgres.pool import Connection
from shared.metering.run_usage import RunUsage
from shared.metering.state import MediaRun
from shared.models.usage.rollups import MediaKey

_decode = msgspec.json.Decoder(MediaRun).decode


async def lock_runs(conn: Connection, keys: Sequence[tuple[str, str]]) -> dict[tuple[str, str], MediaRun]:
    """Load and lock the runs of these (meter, id) pairs, in the order of the pairs."""
    rows = await conn.fetch(
        """
        SELECT state
        FROM media_run
        WHERE (meter, id) IN (
            SELECT keys.meter, keys.id
            FROM unnest($1::text[], $2::text[]) AS keys (meter, id)
        )
        ORDER BY meter, id
        FOR UPDATE
        """,
        [meter for meter, _ in keys],
        [run_id for _, run_id in keys],
    )
    runs = (_decode(row["state"]) for row in rows)
    return {(run.meter, run.id): run for run in runs}


# The columns derived from a state (shared/ledger/rows.py). ``state`` is the last column of a row.
DERIVED = ("id", "meter", "type", "project_id", "mode", "room", "started_ms", "ended_ms", "inferred", "last_sign_ms")
# A row as ``run_row`` returns it.
RunRow = tuple[object, ...]

_UNNEST: Final = """unnest(
            $1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[],
            $7::bigint[], $8::bigint[], $9::boolean[], $10::bigint[], $11::bytea[]
        ) AS n (id, meter, type, project_id, mode, room, started_ms, ended_ms, inferred, last_sign_ms, state)"""


async def insert_runs(conn: Connection, rows: Sequence[RunRow]) -> int:
    """Store new runs, at least one, and return how many were stored.

    Fewer than given means that another transaction stored one of them first.
    """
    status = await conn.execute(
        f"""
        INSERT INTO media_run (
            id, meter, type, project_id, mode, room, started_ms, ended_ms, inferred, last_sign_ms, state
        )
        SELECT id, meter, type, project_id, mode, room, started_ms, ended_ms, inferred, last_sign_ms, state
        FROM {_UNNEST}
        ON CONFLICT DO NOTHING
        """,
        *zip(*rows, strict=True),
    )
    return int(status.rpartition(" ")[2])


async def update_runs(conn: Connection, rows: Sequence[RunRow]) -> None:
    """Replace stored runs."""
    if not rows:
        return
    await conn.execute(
        f"""
        UPDATE media_run
        SET
            type = n.type,
            project_id = n.project_id,
            mode = n.mode,
            room = n.room,
            started_ms = n.started_ms,
            ended_ms = n.ended_ms,
            inferred = n.inferred,
            last_sign_ms = n.last_sign_ms,
            state = n.state
        FROM {_UNNEST}
        WHERE media_run.meter = n.meter
          AND media_run.id = n.id
        """,
        *zip(*rows, strict=True),
    )


async def add_usage(conn: Connection, changes: Mapping[MediaKey, RunUsage]) -> None:
    """Add differences (which may be negative) to the rollups. The scopes must be locked."""
    keys = sorted(changes)
    await conn.execute(
        """
        INSERT INTO media_hour AS h (project_id, mode, hour, meter, type, active_ms, inferred_ms, runs)
        SELECT project_id, mode, hour, meter, type, active_ms, inferred_ms, runs
        FROM unnest(
            $1::text[], $2::text[], $3::bigint[], $4::text[], $5::text[], $6::bigint[], $7::bigint[], $8::bigint[]
        ) AS n (project_id, mode, hour, meter, type, active_ms, inferred_ms, runs)
        ON CONFLICT (project_id, mode, hour, meter, type)
        DO UPDATE SET
            active_ms = h.active_ms + excluded.active_ms,
            inferred_ms = h.inferred_ms + excluded.inferred_ms,
            runs = h.runs + excluded.runs
        """,
        [key.project_id for key in keys],
        [key.mode for key in keys],
        [key.hour for key in keys],
        [key.meter for key in keys],
        [key.type for key in keys],
        [changes[key].active_ms for key in keys],
        [changes[key].inferred_ms for key in keys],
        [changes[key].runs for key in keys],
    )


async def delete_run(conn: Connection, meter: str, run_id: str) -> None:
    await conn.execute("DELETE FROM media_run WHERE meter = $1 AND id = $2", meter, run_id)
