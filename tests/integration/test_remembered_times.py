"""A connection that caches times sends and reads the same times as any other connection."""

from datetime import UTC, datetime, timedelta, timezone

import asyncpg
import pytest

from shared.infra.postgres.pool import connect, remember_times
from shared.infra.settings import Settings

TIMES = [
    datetime(1970, 1, 1, tzinfo=UTC),
    datetime(1999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
    datetime(2000, 1, 1, tzinfo=UTC),
    datetime(2026, 11, 18, 11, 6, 40, 123_456, tzinfo=UTC),
    datetime(2026, 11, 18, 13, 6, 40, 1, tzinfo=timezone(timedelta(hours=5, minutes=30))),
    datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
]


async def test_cached_times_equal_plain_times_when_copied_bound_and_read(settings: Settings) -> None:
    conn, plain = await connect(settings.database), await connect(settings.database)
    try:
        await remember_times(conn)
        await plain.execute("CREATE TABLE times (number integer, at timestamptz)")
        for number in range(2):  # the second pass uses the cache
            await conn.copy_records_to_table("times", records=[(number, at) for at in TIMES])
        assert {row["at"] for row in await plain.fetch("SELECT at FROM times")} == set(TIMES)
        assert [row["at"] for row in await conn.fetch("SELECT at FROM times WHERE number = 1 ORDER BY at")] == sorted(
            TIMES
        )
        assert await conn.fetchval("SELECT $1::timestamptz[]", [*TIMES, None]) == [*TIMES, None]
        assert await conn.fetchval("SELECT extract(epoch FROM $1::timestamptz)::text", TIMES[3]) == "1795000000.123456"
        assert await conn.fetchval("SELECT NULL::timestamptz") is None
    finally:
        await conn.close()
        await plain.close()


async def test_a_datetime_without_a_zone_is_refused(settings: Settings) -> None:
    conn = await connect(settings.database)
    try:
        await remember_times(conn)
        with pytest.raises(asyncpg.DataError):
            await conn.fetchval("SELECT $1::timestamptz", datetime(2026, 11, 18))  # noqa: DTZ001 - the value under test
    finally:
        await conn.close()
