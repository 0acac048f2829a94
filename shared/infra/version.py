"""Which Relay this is."""

# The same as in pyproject.toml (a test compares): the images run from source and have no package metadata to ask.
VERSION = "0.1.0"
