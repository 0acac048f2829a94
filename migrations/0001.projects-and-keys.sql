-- Projects and their API keys. A key is known only by the SHA-256 of its secret.
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
    last_used_at timestamptz
);
CREATE INDEX api_key_project ON api_key (project_id, created_at);

-- Whatever changes a key tells every API process, in the transaction that changes it: a cache cannot miss a committed change.
CREATE FUNCTION tell_key_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('relay_keys', encode(OLD.digest, 'hex'));
    RETURN NULL;
END
$$;
CREATE TRIGGER api_key_changed
AFTER UPDATE OF revoked_at, expires_at OR DELETE ON api_key
FOR EACH ROW EXECUTE FUNCTION tell_key_change();
