-- Projects and their API keys. Relay stores the SHA-256 of a key, never the key.
CREATE TABLE project (
    id text PRIMARY KEY,
    name text NOT NULL,
    created_at timestamptz NOT NULL,
    archived_at timestamptz
);

CREATE TABLE api_key (
    id text PRIMARY KEY,
    project_id text NOT NULL REFERENCES project (id),
    mode text NOT NULL CHECK (mode IN ('live', 'test')),
    type text NOT NULL CHECK (type IN ('secret', 'publishable')),
    name text NOT NULL,
    last_four text NOT NULL,
    digest bytea NOT NULL UNIQUE,
    created_at timestamptz NOT NULL,
    expires_at timestamptz,
    revoked_at timestamptz,
    last_used_at timestamptz,
    -- The key that replaced this one.
    rotated_to text REFERENCES api_key (id),
    -- `key:<id>` for a key created over the API, else a name such as `cli` or `user:<id>`.
    created_by text
);
-- Revoking a leaked key also revokes the keys it created.
CREATE INDEX api_key_maker ON api_key (created_by) WHERE created_by LIKE 'key:%';
-- Serves pages and counts. Revoked keys stay in the table.
CREATE INDEX api_key_page ON api_key (project_id, mode, created_at, id);

-- Announces a changed key to every API process in the transaction that changes it. Caches cannot miss a committed change.
CREATE FUNCTION tell_key_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('relay_keys', encode(OLD.digest, 'hex'));
    RETURN NULL;
END
$$;
CREATE TRIGGER api_key_changed
AFTER UPDATE OF revoked_at, expires_at OR DELETE ON api_key
FOR EACH ROW EXECUTE FUNCTION tell_key_change();

-- Archiving a project stops its keys, so every key of the project is announced.
CREATE FUNCTION tell_project_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('relay_keys', encode(digest, 'hex')) FROM api_key WHERE project_id = NEW.id;
    RETURN NULL;
END
$$;
CREATE TRIGGER project_archived
AFTER UPDATE OF archived_at ON project
FOR EACH ROW WHEN (OLD.archived_at IS DISTINCT FROM NEW.archived_at) EXECUTE FUNCTION tell_project_change();
