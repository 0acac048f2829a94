"""Relay beside what it could be replaced with, in one run: `make bench`. None of it is a test or asserted in one."""
