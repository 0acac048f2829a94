"""The version of Relay."""

# Equal to the one in pyproject.toml (a test compares them). The images run from source and have no package metadata.
VERSION = "0.1.0"
