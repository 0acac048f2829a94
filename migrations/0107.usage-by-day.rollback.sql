DROP TABLE usage_day;
