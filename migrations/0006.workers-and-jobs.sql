-- Heartbeats of worker processes. stopped_at is set only by an orderly stop.
CREATE TABLE worker (
    id text PRIMARY KEY,
    host text NOT NULL,
    pid integer NOT NULL,
    version text NOT NULL,
    started_at timestamptz NOT NULL,
    seen_at timestamptz NOT NULL,
    stopped_at timestamptz
) WITH (fillfactor = 50);

-- The last run of each periodic job, by any worker: a job runs once an interval, however many workers there are. `error` is NULL
-- after a success.
CREATE TABLE periodic_job (
    name text PRIMARY KEY,
    started_ms bigint NOT NULL,
    finished_ms bigint,
    error text
);
