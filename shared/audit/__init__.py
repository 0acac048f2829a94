"""Proves what is stored: states from the kept events, rollups from the states."""
