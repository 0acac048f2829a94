-- Every event as received, by the day LiveKit created it, so that old days can be dropped whole. The default partition
-- takes the days that have no partition of their own.
CREATE TABLE event (
    created_at timestamptz NOT NULL,
    id text NOT NULL,
    received_at timestamptz NOT NULL,
    name text NOT NULL,
    project_id text,
    mode text,
    room text,
    participant_sid text,
    body bytea NOT NULL,
    PRIMARY KEY (created_at, id)
) PARTITION BY RANGE (created_at);
CREATE TABLE event_default PARTITION OF event DEFAULT;

-- Acknowledged while Redis was away; the worker folds and deletes them.
CREATE TABLE webhook_inbox (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    partition integer NOT NULL,
    received_ms bigint NOT NULL,
    body bytea NOT NULL
);
CREATE INDEX webhook_inbox_partition ON webhook_inbox (partition, id);

-- What LiveKit signed and the meter could not use. One row a body, however often it is delivered.
CREATE TABLE set_aside_event (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    body_sha256 bytea NOT NULL UNIQUE,
    received_at timestamptz NOT NULL,
    reason text NOT NULL,
    detail text NOT NULL,
    body bytea NOT NULL
);

-- How far each partition has been folded, by the time Relay received the events.
CREATE TABLE fold_progress (
    partition integer PRIMARY KEY,
    received_ms bigint NOT NULL
) WITH (fillfactor = 50);
