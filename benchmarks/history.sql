-- A history of bench.sessions ended sessions over the last bench.days days, with every rollup the worker would have kept: nine of
-- ten in the project of bench.project, the rest in fifty others. Settings are given by benchmarks/history.py.

-- Times are whole milliseconds; a session lasts up to 40 minutes, its camera the first half of it.
CREATE TEMPORARY TABLE plan AS
SELECT n,
    'PA_' || lpad(n::text, 12, '0') AS sid,
    CASE WHEN n % 10 < 9 THEN current_setting('bench.project') ELSE 'other' || lpad((n % 50)::text, 3, '0') END AS project_id,
    'room-' || (n * 7919 % current_setting('bench.rooms')::bigint) AS room,
    'user-' || (n * 104729 % current_setting('bench.identities')::bigint) AS identity,
    (ARRAY['STANDARD', 'STANDARD', 'STANDARD', 'AGENT', 'SIP', 'INGRESS'])[1 + n * 31 % 6] AS kind,
    s.started_ms,
    s.started_ms + 1000 * (n * 37 % 2400) AS ended_ms,
    s.started_ms + 1000 * (n * 37 % 2400) / 2 AS camera_off_ms
FROM generate_series(1, current_setting('bench.sessions')::bigint) AS n,
    LATERAL (SELECT current_setting('bench.until')::bigint - 3600000
        - (current_setting('bench.days')::bigint * 86400000 - 7200000) / current_setting('bench.sessions')::bigint * n AS started_ms) AS s;

INSERT INTO session (sid, project_id, mode, room, room_sid, identity, kind, started_ms, ended_ms, ended_by, video_ms,
    screen_share_ms, state)
SELECT sid, project_id, 'live', room, 'RM_' || room, identity, kind, started_ms, ended_ms, 'left', camera_off_ms - started_ms, 0,
    convert_to('{"sid":"' || sid || '","project_id":"' || project_id || '","mode":"live","room":"' || room || '","room_sid":"RM_'
        || room || '","identity":"' || identity || '","kind":"' || kind || '","joined_ms":' || started_ms || ',"active_ms":'
        || started_ms || ',"left_ms":' || ended_ms || ',"tracks":{"TR_1":["VIDEO","CAMERA",' || started_ms || ',' || camera_off_ms
        || ']}}', 'UTF8')
FROM plan;

CREATE TEMPORARY TABLE pieces AS
SELECT project_id, room, identity, kind, hour,
    least(ended_ms, hour + 3600000) - greatest(started_ms, hour) AS participant_ms,
    greatest(0, least(camera_off_ms, hour + 3600000) - greatest(started_ms, hour)) AS video_ms,
    (started_ms >= hour)::int AS begun, n
FROM plan, generate_series(started_ms - started_ms % 3600000, greatest(ended_ms - 1, started_ms), 3600000) AS hour;

INSERT INTO usage_hour (project_id, mode, hour, kind, participant_ms, video_ms, sessions)
SELECT project_id, 'live', hour, kind, sum(participant_ms), sum(video_ms), sum(begun) FROM pieces GROUP BY 1, 2, 3, 4;

INSERT INTO usage_day (project_id, mode, day, kind, participant_ms, video_ms, screen_share_ms, inferred_ms, sessions)
SELECT project_id, mode, hour - hour % 86400000, kind, sum(participant_ms), sum(video_ms), 0, 0, sum(sessions) FROM usage_hour
GROUP BY 1, 2, 3, 4;

INSERT INTO usage_group (project_id, mode, dimension, day, name, participant_ms, video_ms, screen_share_ms, inferred_ms,
    sessions, visits)
SELECT project_id, 'live', 'room', hour - hour % 86400000, room, sum(participant_ms), sum(video_ms), 0, 0, sum(begun),
    count(DISTINCT n) FROM pieces GROUP BY 1, 4, 5 ORDER BY 1, 4, 5;

INSERT INTO usage_group (project_id, mode, dimension, day, name, participant_ms, video_ms, screen_share_ms, inferred_ms,
    sessions, visits)
SELECT project_id, 'live', 'identity', hour - hour % 86400000, identity, sum(participant_ms), sum(video_ms), 0, 0, sum(begun),
    count(DISTINCT n) FROM pieces GROUP BY 1, 4, 5 ORDER BY 1, 4, 5;

INSERT INTO usage_group_count (project_id, mode, dimension, day, names)
SELECT project_id, mode, dimension, day, count(*) FROM usage_group GROUP BY 1, 2, 3, 4;

CREATE TEMPORARY TABLE levels AS
SELECT project_id, at, change, sum(change) OVER (PARTITION BY project_id ORDER BY at) AS level FROM (
    SELECT project_id, at, sum(change) AS change FROM (
        SELECT project_id, started_ms AS at, 1 AS change FROM plan WHERE ended_ms > started_ms
        UNION ALL SELECT project_id, ended_ms, -1 FROM plan WHERE ended_ms > started_ms) AS edges
    GROUP BY 1, 2) AS changes;

INSERT INTO concurrency (project_id, mode, length_ms, start_ms, change, peak)
SELECT project_id, 'live', length_ms, at - at % length_ms, sum(change),
    greatest(max(level) - min(before), CASE WHEN min(at) > at - at % length_ms THEN 0 END)
FROM (SELECT *, first_value(level - change) OVER (PARTITION BY project_id, length_ms, at - at % length_ms ORDER BY at) AS before
    FROM levels, unnest(ARRAY[3600000, 86400000]::bigint[]) AS length_ms) AS l
GROUP BY project_id, length_ms, at - at % length_ms;

-- The events that are kept: two a session of the last bench.event_days days.
INSERT INTO event (created_at, id, received_at, name, project_id, mode, room, room_sid, participant_sid, identity, body)
SELECT to_timestamp(at / 1000), left(name, 14) || n, to_timestamp(at / 1000), name, project_id, 'live', room, 'RM_' || room, sid,
    identity, convert_to(json_build_object('event', name, 'id', left(name, 14) || n, 'createdAt', (at / 1000)::text, 'room',
        json_build_object('sid', 'RM_' || room, 'name', 'p_' || project_id || '__' || room), 'participant',
        json_build_object('sid', sid, 'identity', identity, 'joinedAtMs', started_ms::text))::text, 'UTF8')
FROM plan, LATERAL (VALUES ('participant_joined', started_ms), ('participant_left', ended_ms)) AS e (name, at)
WHERE started_ms > current_setting('bench.until')::bigint - current_setting('bench.event_days')::bigint * 86400000;


