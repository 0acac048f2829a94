DROP TABLE concurrency;
DROP FUNCTION forget_seconds();
DROP TABLE usage_change;
DROP TABLE media_hour;
DROP TABLE usage_group_count;
DROP TABLE usage_group;
DROP TABLE usage_day;
DROP TABLE usage_hour;
