-- When the node that serves a listed participant was last asked for it, and when it last answered: LiveKit's listing survives
-- a crash of the node, and is believed only for a while without.
CREATE TABLE proof (
    sid text PRIMARY KEY,
    asked_ms bigint NOT NULL,
    answered_ms bigint
) WITH (fillfactor = 80);

-- Participants that are listed and that no node answers for.
ALTER TABLE reconcile_run ADD COLUMN unproven integer NOT NULL DEFAULT 0;

-- When the next room of the same name was created: this one was over by then.
ALTER TABLE room ADD COLUMN superseded_ms bigint;
CREATE INDEX room_by_name ON room (name, created_ms) WHERE name IS NOT NULL AND created_ms IS NOT NULL;
