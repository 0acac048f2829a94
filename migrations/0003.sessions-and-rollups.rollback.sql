DROP TABLE concurrency;
DROP TABLE usage_hour;
DROP TABLE room;
DROP TABLE session;
