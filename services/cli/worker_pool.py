"""`relay worker --processes N`: several workers under one supervisor."""

from services.cli.supervisor import Supervisor
from services.cli.up import service
from shared.settings import load_settings


async def run_workers(processes: int) -> int:
    """Runs ``processes`` workers until SIGINT or SIGTERM, and restarts those that crash. Returns the exit code. Raises
    ``SettingsInvalid`` before any is started, instead of letting each of them fail for ever."""
    if processes < 1:
        raise ValueError("processes must be at least 1")
    load_settings()
    supervisor = Supervisor()
    with supervisor.handling_signals():
        async with supervisor:
            for number in range(1, processes + 1):
                await supervisor.start(service(f"worker-{number}", "worker", None))
            await supervisor.stop_requested.wait()
    return 0
