"""Everything the worker does on a schedule."""

from services.worker.periodic import Job
from shared.settings import Settings


def periodic_jobs(settings: Settings) -> list[Job]:
    """The jobs of one worker; which of several workers runs one is decided when it is due."""
    return []
