DROP TABLE sign_in_attempt;
DROP TABLE audit_log;
DROP TABLE invitation;
DROP TABLE membership;
DROP TABLE portal_session;
DROP TABLE account;
