-- Before a table has statistics all indexes that start alike look alike to the planner, and recomputing peaks walked a project's
-- whole history in the wrong one. An index whose predicate a query does not imply cannot be taken for it: those by room
-- and by identity now serve only the queries that name one.
CREATE INDEX session_in_room ON session (project_id, mode, room, started_ms, sid)
    WHERE room IS NOT NULL AND started_ms IS NOT NULL;
DROP INDEX session_by_room;
CREATE INDEX session_of_identity ON session (project_id, mode, identity, started_ms, sid)
    WHERE identity IS NOT NULL AND started_ms IS NOT NULL;
DROP INDEX session_by_identity;
