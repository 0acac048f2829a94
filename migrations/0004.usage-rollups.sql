-- Sums of usage_of (shared/metering/usage.py) over all ended sessions. Amounts are milliseconds; `hour` and `day` are the unix ms of
-- the start of the UTC hour or day. One statement writes hours and days.
CREATE TABLE usage_hour (
    project_id text NOT NULL,
    mode text NOT NULL,
    hour bigint NOT NULL,
    kind text NOT NULL,
    participant_ms bigint NOT NULL,
    video_ms bigint NOT NULL,
    screen_share_ms bigint NOT NULL DEFAULT 0,
    inferred_ms bigint NOT NULL DEFAULT 0,
    sessions bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (project_id, mode, hour, kind)
) WITH (fillfactor = 80);

CREATE TABLE usage_day (
    project_id text NOT NULL,
    mode text NOT NULL,
    day bigint NOT NULL,
    kind text NOT NULL,
    participant_ms bigint NOT NULL,
    video_ms bigint NOT NULL,
    screen_share_ms bigint NOT NULL,
    inferred_ms bigint NOT NULL,
    sessions bigint NOT NULL,
    PRIMARY KEY (project_id, mode, day, kind)
) WITH (fillfactor = 70);

-- The same sums by room and by identity. `visits` counts the sessions connected on the day, `sessions` those that began. The key
-- has the order of a page: the names after a cursor, day by day.
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

-- The number of rows of usage_group with visits: the distinct rooms and identities of a day.
CREATE TABLE usage_group_count (
    project_id text NOT NULL,
    mode text NOT NULL,
    dimension text NOT NULL,
    day bigint NOT NULL,
    names bigint NOT NULL,
    PRIMARY KEY (project_id, mode, dimension, day)
) WITH (fillfactor = 70);

-- Sums of usage_of_run over all ended runs.
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

-- Days that changed after they were over: the last change, and the total of all changes.
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

-- Stretches (shared/metering/peak.py) of a minute, an hour or a day: length_ms is 60000, 3600000 or 86400000.
CREATE TABLE concurrency (
    project_id text NOT NULL,
    mode text NOT NULL,
    length_ms bigint NOT NULL,
    start_ms bigint NOT NULL,
    change bigint NOT NULL,
    peak bigint NOT NULL,
    -- Of a minute, in parallel arrays: the seconds (0 to 59) in which a session starts or ends, with the change and the peak of
    -- each. NULL: not known. A batch then reads only the sessions of the seconds it touched.
    seconds smallint[],
    second_changes integer[],
    second_peaks integer[],
    revision integer NOT NULL DEFAULT 0,
    PRIMARY KEY (project_id, mode, length_ms, start_ms)
) WITH (fillfactor = 80);

-- An update that does not raise `revision` does not maintain the seconds. They are no longer valid and are removed.
CREATE FUNCTION forget_seconds() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.seconds := NULL;
    NEW.second_changes := NULL;
    NEW.second_peaks := NULL;
    RETURN NEW;
END
$$;
CREATE TRIGGER concurrency_changed
BEFORE UPDATE ON concurrency
FOR EACH ROW WHEN (NEW.revision = OLD.revision AND OLD.seconds IS NOT NULL) EXECUTE FUNCTION forget_seconds();
