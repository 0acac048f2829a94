-- Every event as received, partitioned by the UTC day LiveKit created it, so that a day can be dropped as a whole.
-- The default partition takes the days without a partition of their own.
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
    room_sid text,
    identity text,
    PRIMARY KEY (created_at, id)
) PARTITION BY RANGE (created_at);
CREATE TABLE event_default PARTITION OF event DEFAULT;
-- Serves pages of a project's events.
CREATE INDEX event_of_project ON event (project_id, mode, created_at, id) WHERE project_id IS NOT NULL;
-- Track events of LiveKit 1.9.0 name no room. An audit finds them by their session. They are few.
CREATE INDEX event_roomless ON event (participant_sid) WHERE project_id IS NULL AND room IS NULL;

-- Events that LiveKit created before this time may have been dropped, so states that rest on them can no longer be verified.
-- One row at most; none until an event is dropped.
CREATE TABLE event_horizon (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    dropped_before_ms bigint NOT NULL
);

-- Events acknowledged while Redis was unavailable. The worker folds and deletes them.
CREATE TABLE webhook_inbox (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    partition integer NOT NULL,
    received_ms bigint NOT NULL,
    body bytea NOT NULL
);
CREATE INDEX webhook_inbox_partition ON webhook_inbox (partition, id);

-- Events with a valid signature that the meter cannot use. One row a body, however often it is delivered.
CREATE TABLE set_aside_event (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    body_sha256 bytea NOT NULL UNIQUE,
    received_at timestamptz NOT NULL,
    reason text NOT NULL,
    detail text NOT NULL,
    body bytea NOT NULL
);

-- How far each partition of the streams is folded, by the time Relay received the events.
CREATE TABLE fold_progress (
    partition integer PRIMARY KEY,
    received_ms bigint NOT NULL
) WITH (fillfactor = 50);
