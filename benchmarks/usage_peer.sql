-- The answer of GET /v1/usage by day, by aggregating sessions: first their minutes and their number, then everything that a day of
-- the answer tells. In this history no session is longer than a day, so none that began earlier reaches into the range; and its
-- video is one interval, from its start on.
WITH s AS NOT MATERIALIZED (
    SELECT started_ms, ended_ms, video_ms FROM session WHERE project_id = %(project)s AND mode = 'live' AND started_ms IS NOT NULL
    AND started_ms >= %(from)s - 86400000 AND started_ms < %(to)s),
parts AS (
    SELECT started_ms / 86400000 * 86400000 AS day, ended_ms - started_ms AS ms, video_ms, 1 AS begun FROM s
    WHERE started_ms / 86400000 = (ended_ms - 1) / 86400000 OR ended_ms = started_ms
    -- Past midnight: a part in each day.
    UNION ALL SELECT day, least(ended_ms, day + 86400000) - greatest(started_ms, day),
    greatest(0, least(started_ms + video_ms, day + 86400000) - greatest(started_ms, day)), (started_ms >= day)::int
    FROM s, generate_series(started_ms / 86400000 * 86400000, ended_ms - 1, 86400000) AS day
    WHERE started_ms / 86400000 <> (ended_ms - 1) / 86400000 AND ended_ms > started_ms)
SELECT day, sum(ms)::bigint, sum(video_ms)::bigint, sum(begun)::bigint FROM parts
WHERE day >= %(from)s AND day < %(to)s GROUP BY day ORDER BY day;

WITH s AS MATERIALIZED (
    SELECT started_ms, ended_ms, video_ms, room, identity FROM session WHERE project_id = %(project)s AND mode = 'live'
    AND started_ms IS NOT NULL AND started_ms >= %(from)s - 86400000 AND started_ms < %(to)s),
parts AS MATERIALIZED (
    SELECT started_ms / 86400000 * 86400000 AS day, ended_ms - started_ms AS ms, video_ms, 1 AS begun, room, identity FROM s
    WHERE started_ms / 86400000 = (ended_ms - 1) / 86400000 OR ended_ms = started_ms
    UNION ALL SELECT day, least(ended_ms, day + 86400000) - greatest(started_ms, day),
    greatest(0, least(started_ms + video_ms, day + 86400000) - greatest(started_ms, day)), (started_ms >= day)::int, room, identity
    FROM s, generate_series(started_ms / 86400000 * 86400000, ended_ms - 1, 86400000) AS day
    WHERE started_ms / 86400000 <> (ended_ms - 1) / 86400000 AND ended_ms > started_ms),
sums AS (
    SELECT day, sum(ms)::bigint AS ms, sum(video_ms)::bigint AS video_ms, sum(begun)::bigint AS begun FROM parts
    WHERE day >= %(from)s AND day < %(to)s GROUP BY day),
rooms AS (SELECT day, count(*) AS rooms FROM (SELECT DISTINCT day, room FROM parts) AS r GROUP BY day),
identities AS (SELECT day, count(*) AS identities FROM (SELECT DISTINCT day, identity FROM parts) AS i GROUP BY day),
edges AS (
    SELECT at, sum(change) AS change FROM (
        SELECT started_ms AS at, 1 AS change FROM s WHERE ended_ms > started_ms
        UNION ALL SELECT ended_ms, -1 FROM s WHERE ended_ms > started_ms) AS e GROUP BY at),
levels AS (SELECT at / 86400000 * 86400000 AS day, at, change, sum(change) OVER (ORDER BY at) AS level FROM edges),
-- A day's peak is the greatest level inside it, or the one that it began with.
peaks AS (SELECT day, max(level) AS inside FROM levels GROUP BY day),
begins AS (
    SELECT DISTINCT ON (day) day, CASE WHEN at > day THEN level - change ELSE 0 END AS before FROM levels ORDER BY day, at)
SELECT day, ms, video_ms, begun, rooms, identities, greatest(inside, before)::bigint
FROM sums JOIN rooms USING (day) JOIN identities USING (day) LEFT JOIN peaks USING (day) LEFT JOIN begins USING (day) ORDER BY day;
