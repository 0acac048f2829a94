-- What queries by room and identity sum up without looking into the state; NULL while the session is open.
ALTER TABLE session
    ADD COLUMN video_ms bigint,
    ADD COLUMN screen_share_ms bigint,
    -- When LiveKit last listed the participant. Changes with every poll, so it is no part of the state.
    ADD COLUMN confirmed_ms bigint;
ALTER TABLE session SET (fillfactor = 85);
CREATE INDEX session_by_room ON session (project_id, mode, room, started_ms, sid) WHERE started_ms IS NOT NULL;
CREATE INDEX session_by_identity ON session (project_id, mode, identity, started_ms, sid) WHERE started_ms IS NOT NULL;
-- Every query that used the shorter index is served by this one, and so are pages of sessions.
CREATE INDEX session_by_start ON session (project_id, mode, started_ms, sid) WHERE started_ms IS NOT NULL;
DROP INDEX session_started;

-- The sessions whose end hangs on their room: one that was found missing may turn out to have ended with it.
CREATE INDEX session_hanging ON session (room_sid) WHERE ended_by IS NULL OR ended_by IN ('room_finished', 'reconciled');
DROP INDEX session_of_room;

ALTER TABLE usage_hour
    ADD COLUMN screen_share_ms bigint NOT NULL DEFAULT 0,
    ADD COLUMN inferred_ms bigint NOT NULL DEFAULT 0,
    ADD COLUMN sessions bigint NOT NULL DEFAULT 0;

-- Pages of a project's events, and the events of one room or session among them.
ALTER TABLE event ADD COLUMN room_sid text, ADD COLUMN identity text;
CREATE INDEX event_of_project ON event (project_id, mode, created_at, id) WHERE project_id IS NOT NULL;

-- An egress, or one run of an ingress; as `session`, derived columns beside the state.
CREATE TABLE media_run (
    id text NOT NULL,
    meter text NOT NULL CHECK (meter IN ('egress', 'ingress')),
    type text,
    project_id text,
    mode text,
    room text,
    started_ms bigint,
    ended_ms bigint,
    inferred boolean NOT NULL,
    confirmed_ms bigint,
    state bytea NOT NULL,
    PRIMARY KEY (meter, id)
);
CREATE INDEX media_run_open ON media_run (project_id, mode) WHERE started_ms IS NOT NULL AND ended_ms IS NULL;
CREATE INDEX media_run_by_start ON media_run (project_id, mode, started_ms) WHERE started_ms IS NOT NULL;

-- The sum of usage_of_run over all runs that have ended.
CREATE TABLE media_hour (
    project_id text NOT NULL,
    mode text NOT NULL,
    hour bigint NOT NULL,
    meter text NOT NULL,
    type text NOT NULL,
    active_ms bigint NOT NULL,
    inferred_ms bigint NOT NULL,
    runs bigint NOT NULL,
    PRIMARY KEY (project_id, mode, hour, meter, type)
);

-- Days that changed after they were over: by how much at the last time, and in all.
CREATE TABLE usage_change (
    project_id text NOT NULL,
    mode text NOT NULL,
    day bigint NOT NULL,
    changed_ms bigint NOT NULL,
    participant_ms bigint NOT NULL,
    video_ms bigint NOT NULL,
    total_participant_ms bigint NOT NULL,
    total_video_ms bigint NOT NULL,
    PRIMARY KEY (project_id, mode, day)
);

-- What LiveKit did not list at the last poll and should have: a participant (track = ''), one of its tracks, or a run.
CREATE TABLE absence (
    sid text NOT NULL,
    track text NOT NULL,
    since_ms bigint NOT NULL,
    seen_ms bigint,
    PRIMARY KEY (sid, track)
);

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
    closed integer NOT NULL DEFAULT 0
);
