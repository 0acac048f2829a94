"""The meter over Postgres: folds a batch, bills the difference, reconciles, verifies, rebuilds, erases."""
