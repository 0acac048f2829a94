"""Egresses and runs of ingresses, and their rollups by hour."""

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from shared.infra.postgres.pool import Connection
from shared.metering.run_usage import RunUsage, interval_of_run
from shared.metering.state import MediaRun, latest
from shared.models.usage.rollups import MediaKey

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(MediaRun).decode


async def lock_runs(conn: Connection, keys: Sequence[tuple[str, str]]) -> dict[tuple[str, str], MediaRun]:
    """Loads and locks, in a fixed order, the runs of these (meter, id) pairs."""
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


DERIVED = ("id", "meter", "type", "project_id", "mode", "room", "started_ms", "ended_ms", "inferred", "last_sign_ms")


def derived_columns(run: MediaRun) -> dict[str, object]:
    """What the columns beside a run's state must hold."""
    return {name: column[0] for name, column in zip(DERIVED, _columns([run])[:-1], strict=True)}


def _columns(runs: Sequence[MediaRun]) -> list[list[object]]:
    columns: list[list[object]] = [[] for _ in range(11)]
    for run in runs:
        interval = interval_of_run(run) if run.project_id is not None else None
        values = (
            run.id,
            run.meter,
            run.type,
            run.project_id,
            run.mode,
            run.room,
            interval.start_ms if interval else None,
            interval.end_ms if interval else None,
            interval.inferred if interval else False,
            latest(interval.start_ms, run.sighted_ms) if interval and interval.end_ms is None else None,
            _encode(run),
        )
        for column, value in zip(columns, values, strict=True):
            column.append(value)
    return columns


_UNNEST: Final = """unnest(
            $1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[],
            $7::bigint[], $8::bigint[], $9::boolean[], $10::bigint[], $11::bytea[]
        ) AS n (id, meter, type, project_id, mode, room, started_ms, ended_ms, inferred, last_sign_ms, state)"""


async def insert_runs(conn: Connection, runs: Sequence[MediaRun]) -> int:
    """Stores new runs; returns how many. Fewer than given means that another transaction knew one of them first."""
    status = await conn.execute(
        f"""
        INSERT INTO media_run (
            id, meter, type, project_id, mode, room, started_ms, ended_ms, inferred, last_sign_ms, state
        )
        SELECT id, meter, type, project_id, mode, room, started_ms, ended_ms, inferred, last_sign_ms, state
        FROM {_UNNEST}
        ON CONFLICT DO NOTHING
        """,
        *_columns(runs),
    )
    return int(status.rpartition(" ")[2])


async def update_runs(conn: Connection, runs: Sequence[MediaRun]) -> None:
    if not runs:
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
        *_columns(runs),
    )


async def add_usage(conn: Connection, changes: Mapping[MediaKey, RunUsage]) -> None:
    """Adds differences (which may be negative) to the rollups. The scopes must be locked."""
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
