"""Errors of the configuration."""

from shared.errors.base import RelayError


class SettingsInvalid(RelayError):
    """The environment is incomplete or malformed. ``lines`` holds one sentence a variable."""

    def __init__(self, lines: list[str]) -> None:
        super().__init__("\n".join(lines))
        self.lines = lines
