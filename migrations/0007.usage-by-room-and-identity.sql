-- When an open session has had video, and a screen shared: the instants it went on, off, on, … An odd number of them: still on.
-- And the last sign of it in its events. What is open is summed up from these whenever usage is asked for; NULL where it ended.
ALTER TABLE session
    ADD COLUMN video_edges bigint[],
    ADD COLUMN screen_share_edges bigint[],
    ADD COLUMN last_sign_ms bigint;
ALTER TABLE media_run ADD COLUMN last_sign_ms bigint;

-- Open sessions by name, for a page of groups.
DROP INDEX session_open;
CREATE INDEX session_open ON session (project_id, mode, started_ms, sid) WHERE started_ms IS NOT NULL AND ended_ms IS NULL;

-- The sum of usage_of over all ended sessions, by room and by identity. day is unix ms of the UTC day's start; visits counts the
-- sessions that were connected in it. The order of the key is that of a page: for each day, the names after a cursor.
CREATE TABLE usage_group (
    project_id text NOT NULL,
    mode text NOT NULL,
    dimension text NOT NULL CHECK (dimension IN ('room', 'identity')),
    day bigint NOT NULL,
    name text COLLATE "C" NOT NULL,
    participant_ms bigint NOT NULL,
    video_ms bigint NOT NULL,
    screen_share_ms bigint NOT NULL,
    inferred_ms bigint NOT NULL,
    sessions bigint NOT NULL,
    visits bigint NOT NULL,
    PRIMARY KEY (project_id, mode, dimension, day, name)
) WITH (fillfactor = 85);

-- How many rows of usage_group with visits a day has: the distinct rooms and identities of the day.
CREATE TABLE usage_group_count (
    project_id text NOT NULL,
    mode text NOT NULL,
    dimension text NOT NULL,
    day bigint NOT NULL,
    names bigint NOT NULL,
    PRIMARY KEY (project_id, mode, dimension, day)
) WITH (fillfactor = 70);
