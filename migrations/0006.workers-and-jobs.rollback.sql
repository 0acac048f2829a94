DROP TABLE periodic_job;
DROP TABLE worker;
