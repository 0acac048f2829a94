-- When the node that serves a listed participant was last asked for it, and when it last answered: LiveKit's listing survives
-- a crash of the node, and is believed only for a while without.
CREATE TABLE proof (
    sid text PRIMARY KEY,
    asked_ms bigint NOT NULL,
    answered_ms bigint
) WITH (fillfactor = 80);

-- Participants that are listed and that no node answers for.
ALTER TABLE reconcile_run ADD COLUMN unproven integer NOT NULL DEFAULT 0;
