DROP TABLE api_key;
DROP TABLE project;
DROP FUNCTION tell_project_change();
DROP FUNCTION tell_key_change();
