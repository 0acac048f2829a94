-- What LiveKit should have listed at the last pass and did not: a participant (track = ''), one of its tracks, or a run.
CREATE TABLE absence (
    sid text NOT NULL,
    track text NOT NULL,
    since_ms bigint NOT NULL,
    seen_ms bigint,
    PRIMARY KEY (sid, track)
);

-- When the node of a listed participant was last asked for it, and when it last confirmed it. LiveKit's list survives a crash
-- of the node, so a list without a confirmation is believed only for a limited time.
CREATE TABLE proof (
    sid text PRIMARY KEY,
    asked_ms bigint NOT NULL,
    answered_ms bigint
) WITH (fillfactor = 80);

-- One row a pass of reconciliation, kept for a week.
CREATE TABLE reconcile_run (
    started_ms bigint PRIMARY KEY,
    finished_ms bigint,
    error text,
    rooms integer NOT NULL DEFAULT 0,
    rooms_failed integer NOT NULL DEFAULT 0,
    participants integer NOT NULL DEFAULT 0,
    confirmed integer NOT NULL DEFAULT 0,
    opened integer NOT NULL DEFAULT 0,
    corrected integer NOT NULL DEFAULT 0,
    closed integer NOT NULL DEFAULT 0,
    -- Participants that LiveKit lists but no node confirms.
    unproven integer NOT NULL DEFAULT 0
);
