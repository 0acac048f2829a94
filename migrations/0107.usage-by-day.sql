-- The same sums as usage_hour, by UTC day: thirty days of four kinds are 120 rows and not 2,880. Written by the very statement that
-- writes the hours.
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
INSERT INTO usage_day (project_id, mode, day, kind, participant_ms, video_ms, screen_share_ms, inferred_ms, sessions)
SELECT project_id, mode, hour - hour % 86400000, kind, sum(participant_ms), sum(video_ms), sum(screen_share_ms), sum(inferred_ms),
    sum(sessions) FROM usage_hour GROUP BY 1, 2, 3, 4;
