"""The meter over Postgres: fold events, bill sessions, reconcile, verify, rebuild and erase."""
