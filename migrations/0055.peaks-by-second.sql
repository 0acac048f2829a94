-- What the seconds of a minute came to, in parallel arrays: which of the 60 have any start or end of a session, and of each
-- what `change` and `peak` are of the minute. NULL: not known. A batch then reads the sessions of the seconds it touched only.
ALTER TABLE concurrency
    ADD COLUMN seconds smallint[],
    ADD COLUMN second_changes integer[],
    ADD COLUMN second_peaks integer[],
    ADD COLUMN revision integer NOT NULL DEFAULT 0;
ALTER TABLE concurrency SET (fillfactor = 80);

-- While a release is rolled out, workers of the one before change minutes and know nothing of seconds: those are forgotten.
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
