"""`make bench`: measures Relay beside its alternatives in one run. No test asserts these numbers."""
