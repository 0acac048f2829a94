-- When each of the worker's periodic jobs last began, whichever worker ran it: so that it runs once an interval however many
-- workers there are, and its health can be seen. error is NULL after a success.
CREATE TABLE periodic_job (
    name text PRIMARY KEY,
    started_ms bigint NOT NULL,
    finished_ms bigint,
    error text
);
