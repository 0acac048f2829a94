ALTER TABLE reconcile_run DROP COLUMN unproven;
DROP TABLE proof;
