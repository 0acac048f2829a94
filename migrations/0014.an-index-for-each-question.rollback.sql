CREATE INDEX session_by_identity ON session (project_id, mode, identity, started_ms, sid) WHERE started_ms IS NOT NULL;
DROP INDEX session_of_identity;
CREATE INDEX session_by_room ON session (project_id, mode, room, started_ms, sid) WHERE started_ms IS NOT NULL;
DROP INDEX session_in_room;
