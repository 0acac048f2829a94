"""Plans that must not depend on statistics: a fresh table has none, and the fold's queries ran for seconds on it."""

from shared.clock import MINUTE_MS
from shared.models.projects import CreatedProject
from shared.postgres import Pool
from shared.queries import usage as usage_queries


async def test_peaks_take_the_starts_and_the_ends_from_their_own_indexes(pool: Pool, project: CreatedProject) -> None:
    """Any index that begins with project and mode looked as good to the planner; the wrong one walks the whole history."""
    async with pool.acquire() as conn:
        await conn.execute(
            "INSERT INTO session (sid, project_id, mode, room, identity, kind, started_ms, ended_ms, state)"
            " SELECT 'PA_' || n, $1, 'live', 'r', 'i' || n, 'STANDARD', n * 1000, n * 1000 + 500, ''"
            " FROM generate_series(1, 5000) AS n",
            project.project_id,
        )
        minutes = usage_queries.minutes_statement()
        arguments = ([project.project_id] * 50, ["live"] * 50, [n * MINUTE_MS for n in range(50)])
        plan = "\n".join(row[0] for row in await conn.fetch(f"EXPLAIN {minutes}", *arguments))
    assert "Index Scan using session_by_start on session s" in plan
    assert "Index Scan using session_ended on session s" in plan
    for other in ("Seq Scan on session", "session_in_room", "session_of_identity", "Hash Join", "Merge Join"):
        assert other not in plan
