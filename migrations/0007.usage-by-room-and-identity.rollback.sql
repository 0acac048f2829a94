DROP TABLE usage_group_count;
DROP TABLE usage_group;
DROP INDEX session_open;
CREATE INDEX session_open ON session (project_id, mode) WHERE started_ms IS NOT NULL AND ended_ms IS NULL;
ALTER TABLE media_run DROP COLUMN last_sign_ms;
ALTER TABLE session DROP COLUMN video_edges, DROP COLUMN screen_share_edges, DROP COLUMN last_sign_ms;
