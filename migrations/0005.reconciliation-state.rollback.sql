DROP TABLE reconcile_run;
DROP TABLE proof;
DROP TABLE absence;
