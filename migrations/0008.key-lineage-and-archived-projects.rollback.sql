DROP TRIGGER project_archived ON project;
DROP FUNCTION tell_project_change();
CREATE INDEX api_key_project ON api_key (project_id, created_at);
DROP INDEX api_key_page;
DROP INDEX api_key_maker;
ALTER TABLE api_key
    DROP COLUMN created_by,
    DROP COLUMN rotated_to;
