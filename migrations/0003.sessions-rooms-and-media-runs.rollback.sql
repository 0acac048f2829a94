DROP TABLE media_run;
DROP TABLE room;
DROP TABLE session;
