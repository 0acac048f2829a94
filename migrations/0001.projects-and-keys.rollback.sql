DROP TABLE api_key;
DROP FUNCTION tell_key_change();
DROP TABLE project;
