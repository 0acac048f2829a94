DROP TRIGGER concurrency_changed ON concurrency;
DROP FUNCTION forget_seconds();
ALTER TABLE concurrency RESET (fillfactor);
ALTER TABLE concurrency
    DROP COLUMN seconds,
    DROP COLUMN second_changes,
    DROP COLUMN second_peaks,
    DROP COLUMN revision;
