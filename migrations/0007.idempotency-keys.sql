-- Requests with an Idempotency-Key, kept for a day. The key is stored as its SHA-256, because clients may put anything into it.
CREATE TABLE attempt (
    project_id text NOT NULL REFERENCES project (id) ON DELETE CASCADE,
    mode text NOT NULL CHECK (mode IN ('live', 'test')),
    -- Method and path, such as `POST /v1/rooms`.
    endpoint text NOT NULL,
    key_digest bytea NOT NULL,
    request_digest bytea NOT NULL,
    started_ms bigint NOT NULL,
    -- NULL while the request runs.
    status smallint,
    -- The answer as it was sent. NULL if it held a secret; shown_once then describes the answer.
    body bytea,
    shown_once text,
    PRIMARY KEY (project_id, mode, endpoint, key_digest),
    CHECK (status IS NULL OR (body IS NULL) <> (shown_once IS NULL))
);
CREATE INDEX attempt_by_age ON attempt (started_ms);
