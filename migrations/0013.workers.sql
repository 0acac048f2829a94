-- Heartbeats of worker processes, for probes and people: whose process ended without a word, and whether any is left.
CREATE TABLE worker (
    id text PRIMARY KEY,
    host text NOT NULL,
    pid integer NOT NULL,
    version text NOT NULL,
    started_at timestamptz NOT NULL,
    seen_at timestamptz NOT NULL,
    stopped_at timestamptz
) WITH (fillfactor = 50);
