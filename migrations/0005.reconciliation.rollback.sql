DROP INDEX room_by_name;
ALTER TABLE room DROP COLUMN superseded_ms;
ALTER TABLE reconcile_run DROP COLUMN unproven;
DROP TABLE proof;
