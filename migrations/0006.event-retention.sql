-- Everything LiveKit made before this instant may have been dropped: what rests on it can no longer be proven from events. No row
-- until something was dropped.
CREATE TABLE event_horizon (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    dropped_before_ms bigint NOT NULL
);

-- What names no room: track events of LiveKit 1.9.0, whose sessions an audit has to find them for. Few anywhere.
CREATE INDEX event_roomless ON event (participant_sid) WHERE project_id IS NULL AND room IS NULL;
