"""The scope of a query: the project and mode whose rows it reads."""

from typing import NamedTuple


class Scope(NamedTuple):
    """One project in one mode (`live` or `test`)."""

    project_id: str
    mode: str


class AuditScope(NamedTuple):
    """The rows that an audit reads: those of a project and mode, or those of no project (None, None)."""

    project_id: str | None
    mode: str | None

    @property
    def owned(self) -> Scope | None:
        """The project and mode; None for the rows without a project."""
        return None if self.project_id is None or self.mode is None else Scope(self.project_id, self.mode)


class DayRange(NamedTuple):
    """Whole UTC days: ``[from_ms, to_ms)``, both midnights in unix ms."""

    from_ms: int
    to_ms: int
