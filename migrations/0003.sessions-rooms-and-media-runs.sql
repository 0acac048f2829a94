-- One row a participant sid. `state` holds everything known (shared/metering/state.py). All other columns are derived from it for
-- queries, except confirmed_ms. started_ms and ended_ms bound the metered time; both are NULL if nothing is metered.
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
    state bytea NOT NULL,
    -- Sums of an ended session; NULL while it is open.
    video_ms bigint,
    screen_share_ms bigint,
    -- When LiveKit last listed the participant. It changes with every pass of reconciliation, so it is not part of the state.
    confirmed_ms bigint,
    -- Of an open session: the times (unix ms) video or a screen share went on, off, on, … (an odd number: still on), and the
    -- last sign of life in its events. NULL after its end.
    video_edges bigint[],
    screen_share_edges bigint[],
    last_sign_ms bigint
) WITH (fillfactor = 85);
-- Open sessions are counted up to now by every usage request.
CREATE INDEX session_open ON session (project_id, mode, started_ms, sid) WHERE started_ms IS NOT NULL AND ended_ms IS NULL;
-- Sessions whose end depends on their room. A session that was found missing may turn out to have ended with its room.
CREATE INDEX session_hanging ON session (room_sid) WHERE ended_by IS NULL OR ended_by IN ('room_finished', 'reconciled');
-- Serve the recomputation of peaks, and pages of sessions.
CREATE INDEX session_by_start ON session (project_id, mode, started_ms, sid) WHERE started_ms IS NOT NULL;
CREATE INDEX session_ended ON session (project_id, mode, ended_ms) WHERE ended_ms IS NOT NULL;
-- The predicates keep these two out of plans for queries that name no room or identity. Without statistics the planner could
-- not tell them from session_by_start and read a project's whole history.
CREATE INDEX session_in_room ON session (project_id, mode, room, started_ms, sid)
    WHERE room IS NOT NULL AND started_ms IS NOT NULL;
CREATE INDEX session_of_identity ON session (project_id, mode, identity, started_ms, sid)
    WHERE identity IS NOT NULL AND started_ms IS NOT NULL;

CREATE TABLE room (
    sid text PRIMARY KEY,
    name text,
    project_id text,
    mode text,
    created_ms bigint,
    finished_ms bigint[] NOT NULL,
    -- When the next room of the same name was created. This room was over by then.
    superseded_ms bigint
);
CREATE INDEX room_by_name ON room (name, created_ms) WHERE name IS NOT NULL AND created_ms IS NOT NULL;

-- One row an egress, or one run of an ingress. As in `session`, the other columns are derived from `state`.
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
    last_sign_ms bigint,
    PRIMARY KEY (meter, id)
);
CREATE INDEX media_run_open ON media_run (project_id, mode) WHERE started_ms IS NOT NULL AND ended_ms IS NULL;
CREATE INDEX media_run_by_start ON media_run (project_id, mode, started_ms) WHERE started_ms IS NOT NULL;
