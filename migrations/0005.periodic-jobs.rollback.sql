DROP TABLE periodic_job;
