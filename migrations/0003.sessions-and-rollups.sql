-- A session is one participant sid. `state` is the whole of what is known (shared/metering/state.py); the columns are derived
-- from it for queries. started_ms and ended_ms bound the metered time: both NULL where nothing is metered.
CREATE TABLE session (
    sid text PRIMARY KEY,
    project_id text,
    mode text,
    room text,
    room_sid text,
    identity text,
    kind text NOT NULL,
    started_ms bigint,
    ended_ms bigint,
    ended_by text,
    state bytea NOT NULL
);
-- Open sessions, counted up to now whenever usage is asked for.
CREATE INDEX session_open ON session (project_id, mode) WHERE started_ms IS NOT NULL AND ended_ms IS NULL;
-- The sessions whose end hangs on their room.
CREATE INDEX session_of_room ON session (room_sid) WHERE ended_by IS NULL OR ended_by = 'room_finished';
-- Peaks are recomputed a minute at a time from the starts and ends inside it.
CREATE INDEX session_started ON session (project_id, mode, started_ms) WHERE started_ms IS NOT NULL;
CREATE INDEX session_ended ON session (project_id, mode, ended_ms) WHERE ended_ms IS NOT NULL;

CREATE TABLE room (
    sid text PRIMARY KEY,
    name text,
    project_id text,
    mode text,
    created_ms bigint,
    finished_ms bigint[] NOT NULL
);

-- The sum of usage_of over all ended sessions. Milliseconds; hour is unix ms of the UTC hour's start.
CREATE TABLE usage_hour (
    project_id text NOT NULL,
    mode text NOT NULL,
    hour bigint NOT NULL,
    kind text NOT NULL,
    participant_ms bigint NOT NULL,
    video_ms bigint NOT NULL,
    PRIMARY KEY (project_id, mode, hour, kind)
) WITH (fillfactor = 80);

-- Stretches of shared/metering/peak.py, by minute (60000), hour and day (length in ms).
CREATE TABLE concurrency (
    project_id text NOT NULL,
    mode text NOT NULL,
    length_ms bigint NOT NULL,
    start_ms bigint NOT NULL,
    change bigint NOT NULL,
    peak bigint NOT NULL,
    PRIMARY KEY (project_id, mode, length_ms, start_ms)
);
