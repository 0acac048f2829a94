-- Which key replaced a key, and who made it: `key:<id>` over the API, else the name the maker gave (`cli`, `user:<id>`).
ALTER TABLE api_key
    ADD COLUMN rotated_to text REFERENCES api_key (id),
    ADD COLUMN created_by text;
-- A leaked key is revoked together with the keys it made.
CREATE INDEX api_key_maker ON api_key (created_by) WHERE created_by LIKE 'key:%';
-- Of a project there are few keys, but each revoked one stays: pages and counts go by this.
CREATE INDEX api_key_page ON api_key (project_id, mode, created_at, id);
DROP INDEX api_key_project;

-- Archiving a project stops its keys, so it is announced for each of them, in the transaction that does it.
CREATE FUNCTION tell_project_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('relay_keys', encode(digest, 'hex')) FROM api_key WHERE project_id = NEW.id;
    RETURN NULL;
END
$$;
CREATE TRIGGER project_archived
AFTER UPDATE OF archived_at ON project
FOR EACH ROW WHEN (OLD.archived_at IS DISTINCT FROM NEW.archived_at) EXECUTE FUNCTION tell_project_change();
